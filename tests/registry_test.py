"""A folder as a registry: what a file in it lacks is said with its name."""

import importlib
import sys

import pytest

from relpos import registry


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Makes a package of files; returns its dotted name."""

    def make(**files):
        folder = tmp_path / "shelf"
        folder.mkdir()
        for name, text in {"__init__": "", **files}.items():
            (folder / f"{name}.py").write_text(text)
        monkeypatch.syspath_prepend(tmp_path)
        return "shelf"

    yield make
    for name in [name for name in sys.modules if name.split(".")[0] == "shelf"]:
        del sys.modules[name]


def test_a_file_is_a_function_with_its_options(package):
    base = "def helper(): ..."
    found = registry.Functions(
        package(one="def make(x, *, n=3): return x * n", base=base), "make", "toy"
    )
    assert found.names() == ("one",)
    assert found.options("one") == {"n": 3}
    assert found.call("one", 2, n=5) == 10
    with pytest.raises(ValueError, match=r"unknown toy 'on': did you mean 'one'\?"):
        found.call("on", 2)
    with pytest.raises(ValueError, match=r"one\.n must be a whole number, got 'x'"):
        found.call("one", 2, n="x")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def made(): ...", r"shelf\.one must define a function make"),
        ("def make(*, path, n=3): ...", "toy one: no default for path"),
    ],
)
def test_a_file_that_is_no_such_function_is_named(package, text, message):
    found = registry.Functions(package(one=text), "make", "toy")
    with pytest.raises(TypeError, match=message):
        found.options("one")


@pytest.mark.parametrize(("text", "count"), [("", 0), ("class A(int): ...\nclass B(int): ...", 2)])
def test_a_file_has_one_class(package, text, count):
    shelf = importlib.import_module(
        package(one=text, two="from shelf.one import *\nclass C(int): ...")
    )
    assert registry.member(shelf, "two", int, "toy").__name__ == "C"  # not what it imports
    with pytest.raises(TypeError, match=rf"shelf\.one must define one int, defines {count}"):
        registry.member(shelf, "one", int, "toy")


@pytest.mark.parametrize(
    ("least", "most", "told"),
    [
        (1, float("inf"), "at least 1"),
        (2, 2**20, "from 2 to 1048576"),
        (1e-15, 1e15, r"from 1e-15 to 1e\+15"),
    ],
)
def test_a_range_is_told_with_its_option(least, most, told):
    registry.check_range("a.b", least, least, most)
    with pytest.raises(ValueError, match=rf"^a\.b must be {told}, got 0$"):
        registry.check_range("a.b", 0, least, most)
