"""Provenance of figures: commit and machine."""

import platform
import subprocess
from pathlib import Path

from relpos.process import cores

ROOT = Path(__file__).parents[2]


def commit() -> str:
    """Return the commit of the checkout, with "-dirty" if files differ from it; "" outside a checkout."""
    if not (ROOT / ".git").exists():  # installed, perhaps inside another repository
        return ""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    except FileNotFoundError:  # git is not installed
        return ""
    return done.stdout.strip()


def machine() -> str:
    """Return the CPU's name and the number of cores that this process may use."""
    number, facts = len(cores()), Path("/proc/cpuinfo")
    names = [
        line.partition(":")[2].strip()
        for line in (facts.read_text().splitlines() if facts.exists() else ())
        if line.startswith("model name")
    ]
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name}, {number} core{'s' if number > 1 else ''}"
