"""Print the docstrings of all standard modules written in C, as JSON: {module: text}.

documents.py runs this file in a fresh interpreter; it needs only the standard library.
"""

import importlib
import importlib.machinery
import importlib.util
import inspect
import json
import sys
import types
import warnings
from collections.abc import Iterator

# Modules with side effects on import (readline may write to the terminal), or meant for tests.
_SKIPPED_MODULES = ("readline", "_tkinter", "_test", "_xx", "xx", "_ctypes_test")
_C_KINDS = (
    type,
    types.BuiltinFunctionType,
    types.MethodDescriptorType,
    types.ClassMethodDescriptorType,
    types.GetSetDescriptorType,
    types.MemberDescriptorType,
    staticmethod,
)


def collect() -> dict[str, str]:
    """Return each C module's docstrings, sorted by module name."""
    texts = {}
    for name in sorted(sys.stdlib_module_names):
        if name.startswith(_SKIPPED_MODULES) or not _is_c_module(name):
            continue
        try:
            module = importlib.import_module(name)
        except ImportError:  # built without the library that it wraps
            continue
        texts[name] = "\n".join(_docstrings(name, module, depth=0))
    return texts


def _is_c_module(name: str) -> bool:
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return False
    loaders = (importlib.machinery.BuiltinImporter, importlib.machinery.ExtensionFileLoader)
    return spec is not None and (spec.loader in loaders or isinstance(spec.loader, loaders))


def _docstrings(name: str, thing: object, depth: int) -> Iterator[str]:
    """Yield a heading and docstring for a C object, then for its members, recursively."""
    doc = getattr(thing, "__doc__", None)
    if isinstance(doc, str) and doc.strip():
        signature = getattr(thing, "__text_signature__", None) or ""
        yield f"{name}{signature}\n\n{inspect.cleandoc(doc)}\n"
    if depth == 2 or not isinstance(thing, types.ModuleType | type):
        return
    for member, value in sorted(vars(thing).items()):
        if member.startswith("__") or not isinstance(value, _C_KINDS):
            continue
        inner = vars(value).values() if isinstance(value, type) else ()
        if any(isinstance(each, types.FunctionType | property) for each in inner):
            continue  # functions or properties come from a class statement, so it is not defined in C
        yield from _docstrings(f"{name}.{member}", value, depth + 1)


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # some modules are deprecated
    json.dump(collect(), sys.stdout)
