import importlib
import sys
from pathlib import Path

SCRIPTS = Path(__file__).parents[2] / "scripts"


def script(name):
    """Imports a script, which finds those beside it as it does when it is run."""
    if str(SCRIPTS) not in sys.path:
        sys.path.append(str(SCRIPTS))
    return importlib.import_module(name)
