"""Reading and checking config.json and the tokenizer files that belong to it."""

import contextlib
import hashlib
import importlib.metadata
import itertools
import json
import os
import platform
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

import relpos
from relpos.errors import UserError
from relpos.files import read_file, read_json
from relpos.sections import flatten
from relpos.terminal import printable

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
_MISSING = "(nothing)"


def read_run(workdir: Path) -> dict[str, Any]:
    """Return config.json: ``{"config": ..., the task's facts, "tokenizers": ...}`` and the keys of `environment`.

    Older runs lack the latter.

    Raises:
      UserError: the file is missing or damaged.
    """
    path = workdir / "config.json"
    try:
        run = read_json(path)
    except FileNotFoundError:
        raise UserError(f"{str(workdir)!r} is not a run directory: it has no config.json") from None
    if not isinstance(run, dict) or not isinstance(run.get("config"), dict):
        raise UserError(f"cannot read {str(path)!r}, restore it: no config in it")
    for name, is_right in _SECTIONS.items():
        if name in run and not is_right(run[name]):
            raise UserError(
                f"cannot read {str(path)!r}, restore it: {name!r} is not what relpos writes"
            )
    return run


def find_run(workdir: Path) -> dict[str, Any] | None:
    """Return config.json as `read_run` does, or None before the run has begun."""
    return read_run(workdir) if (workdir / "config.json").exists() else None


def _are_facts(value: Any) -> bool:
    splits = value.get("splits", {}) if isinstance(value, dict) else None
    return isinstance(splits, dict) and all(
        isinstance(split, dict) and all(isinstance(n, int) for n in split.values())
        for split in splits.values()
    )


def _are_texts(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())


_SECTIONS: dict[str, Callable[[Any], bool]] = {
    "corpus": _are_facts,
    "tokenizers": _are_texts,
    "versions": _are_texts,
    "x64": lambda value: isinstance(value, bool),
    "devices": lambda value: isinstance(value, int),
}


def environment() -> dict[str, Any]:
    """Return the environment to record in config.json: package versions, devices, and whether JAX uses 64 bits.

    Packages importable but not installed have no version.
    """
    versions = {"python": platform.python_version(), "relpos": relpos.__version__}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    x64 = bool(jax.config.read("jax_enable_x64"))
    return {"versions": versions, "x64": x64, "devices": jax.local_device_count()}


def notes_on_environment(run: Mapping[str, Any]) -> list[str]:
    """Return a line for each change of the environment since the run began."""
    here = environment()
    there = run.get("versions", {})
    others = {
        name: (there[name], version)
        for name, version in here["versions"].items()
        if there.get(name, version) != version
    }
    notes = []
    if others:
        changes = ", ".join(f"{name} {old} -> {new}" for name, (old, new) in others.items())
        notes.append(f"other versions than the run began with: {changes}")
    if run.get("x64", here["x64"]) != here["x64"]:
        notes.append(f"the run began with jax_enable_x64={run['x64']}, now it is {here['x64']}")
    return notes


def hash_tokenizers(workdir: Path) -> dict[str, str]:
    """Return name -> SHA-256 of the tokenizer files."""
    return {path.name: _sha256(path) for path in sorted(workdir.glob("tokenizer.*"))}


def _sha256(path: Path) -> str:
    return hashlib.sha256(read_file(path)).hexdigest()


def artefact_path(workdir: Path, name: str) -> tuple[Path, bool]:
    """Return the path of a tokenizer file, and whether it still has to be created.

    Before config.json exists, an existing file may be stale or the user's, so it is renamed to old.NAME (or old2.NAME,
    ...). `RunDirectory.forget` restores it.

    Raises:
      UserError: the run has begun, and the file is missing or has changed.
    """
    path, run = workdir / name, find_run(workdir)
    if run is None:
        if os.path.lexists(path):
            numbers = itertools.chain([""], itertools.count(2))
            asides = (path.with_name(f"old{number}.{name}") for number in numbers)
            path.rename(next(aside for aside in asides if not os.path.lexists(aside)))
        return path, True
    try:
        found = _sha256(path)
    except FileNotFoundError:
        raise UserError(
            f"{str(path)!r} is missing: this run was trained with it. Restore it; a new one would number pieces "
            "differently"
        ) from None
    # Older runs have no hash of the file.
    if run.get("tokenizers", {}).get(name, found) != found:
        raise UserError(
            f"{str(path)!r} is not the file that this run was trained with: its sha256 is {found}. Restore it; "
            "another numbers pieces differently"
        )
    return path, False


def check_provenance(workdir: Path, facts: Mapping[str, Any]) -> None:
    """Check that a run's data have not changed since it began. A directory without a run passes.

    A corpus may be renamed if its hash is the same.

    Raises:
      UserError: the data have changed. The message lists the differences.
    """
    if (stored := find_run(workdir)) is None:
        return
    for name, here in json.loads(json.dumps(dict(facts))).items():
        there = stored.get(name, _MISSING)
        if same_bytes(there, here):
            there = there | {"name": here.get("name")}
        if others := differences({name: there}, {name: here}):
            raise UserError(
                f"{str(workdir)!r} belongs to a run with another {name}:\n{listed(others)}\n"
                f"Restore the {name} to resume that run, or give another --workdir to start a new one."
            )


def same_bytes(there: Any, here: Any) -> bool:
    """Return whether two corpora have the same hash."""
    both = isinstance(there, dict) and isinstance(here, dict)
    return both and there.get("sha256") is not None and there["sha256"] == here.get("sha256")


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return dotted key -> both values, for every value that differs."""
    old, new = flatten(there), flatten(here)
    pairs = {key: (old.get(key, _MISSING), new.get(key, _MISSING)) for key in {**old, **new}}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def listed(others: Mapping[str, tuple[Any, Any]]) -> str:
    """Format `differences`, one per line."""
    return "\n".join(
        f"  {printable(key, keep='')}: {old!r} there, {new!r} asked for"
        for key, (old, new) in others.items()
    )
