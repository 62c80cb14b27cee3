"""Imports go down only: the layers of the library, and a reading of every import in it."""

import ast
import graphlib
import importlib.metadata
import re
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "relpos"
LAYERS = {
    "errors": 0,
    "process": 0,
    "device_memory": 0,
    "sharding": 0,
    "terminal": 0,
    "cores": 1,
    "files": 1,
    "positions": 1,
    "registry": 1,
    "config_files": 2,
    "metrics": 2,
    "sections": 2,
    "overrides": 3,
    "attention": 2,
    "places": 2,
    "data": 3,
    "encodings": 3,
    "nn": 4,
    "linen": 5,
    "training": 5,
    "tasks": 5,
    "cli": 6,
    "config_help": 6,
    "runs": 6,
    "experiments": 7,
    "train": 8,
    "evaluate": 8,
    "predict": 8,
    "sweep": 8,
    "report": 8,
    "__main__": 9,
}
# What `import relpos` reads: it works where `pip install relpos` brought no more than pyproject's dependencies.
CORE = {
    "errors",
    "device_memory",
    "cores",
    "registry",
    "sharding",
    "positions",
    "places",
    "attention",
    "encodings",
    "nn",
    "linen",
}
FILES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def part(path):
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(path):
    """The parts of relpos that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "relpos":
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("relpos."):
            yield node.module.split(".")[1]
        elif isinstance(node, ast.Import):
            yield from (n.name.split(".")[1] for n in node.names if n.name.startswith("relpos."))


def test_every_part_has_a_layer():
    assert {part(path) for path in FILES} == set(LAYERS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down(path):
    here = part(path)
    for name in imported(path):
        down = LAYERS[name] < LAYERS[here]
        # A task may use the training tools; training knows tasks by protocol only.
        beside = name == here or (here, name) == ("tasks", "training")
        assert down or beside, f"{here} (layer {LAYERS[here]}) imports {name} ({LAYERS[name]})"


PROJECT = tomllib.loads((ROOT.parent / "pyproject.toml").read_text())["project"]
DISTRIBUTIONS = importlib.metadata.packages_distributions()


def names(requirements):
    return {re.split(r"[<>=\[ ;]", line)[0].lower().replace("_", "-") for line in requirements}


# What one function alone needs, which says so where it is missing.
IN_FUNCTIONS = {"matplotlib", "pandas"}


def from_elsewhere(path):
    """The distributions whose modules a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            modules = [node.module]
        else:
            modules = [n.name for n in node.names] if isinstance(node, ast.Import) else []
        for module in {module.partition(".")[0] for module in modules}:
            if module in IN_FUNCTIONS:
                assert node.col_offset > 0, f"{path.name} imports {module} outside of a function"
            elif module not in sys.stdlib_module_names and module != "relpos":
                yield names(DISTRIBUTIONS.get(module, [module]))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_are_what_pip_brings(path):
    brought = names(PROJECT["dependencies"])
    if part(path) in CORE:
        assert set(imported(path)) <= CORE
    else:
        brought |= names(PROJECT["optional-dependencies"]["train"])
    for distributions in from_elsewhere(path):
        assert distributions & brought, f"{path.name} imports {distributions}"


def module(path):
    parts = ("relpos", *path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module(path): path for path in FILES}


def read_at_import(path):
    """The modules of relpos that a file needs before its own code has run."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and (node.module in MODULES or node.module == "relpos"):
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                if full in MODULES or node.module in MODULES:
                    yield full if full in MODULES else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)


def test_no_imports_go_in_circles():
    graph = {name: set(read_at_import(path)) - {name} for name, path in MODULES.items()}
    assert len([name for name, needed in graph.items() if needed]) > 100
    order = list(graphlib.TopologicalSorter(graph).static_order())  # else it raises the circle
    assert set(order) == set(MODULES)


def test_the_kinds_of_data_do_not_read_one_another():
    """What they share, they share from the modules beside them."""
    folders = {path.parent.name for path in (ROOT / "data").glob("*/__init__.py")}
    assert {"text", "pairs", "questions", "algorithmic", "tokenizers"} <= folders
    graph = {folder: set() for folder in folders}
    for name, path in MODULES.items():
        if name.startswith("relpos.data.") and (here := name.split(".")[2]) in folders:
            graph[here] |= {other.split(".")[2] for other in read_at_import(path)
                            if other.startswith("relpos.data.")} & folders - {here}  # fmt: skip
    assert graph["questions"] == {"tokenizers"}
    list(graphlib.TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_has_one_reason_to_exist(path):
    assert len(path.read_text().splitlines()) <= 400
