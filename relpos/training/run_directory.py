"""The run directory: one run's config, records and checkpoints, used by one process at a time."""

import fcntl
import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from relpos import config as config_lib
from relpos.errors import UserError
from relpos.files import write_atomically

# Keys that change what is reported or kept, not what is computed: a run may go on with others.
FREE_KEYS = ("log_every", "eval_every", "checkpoint_every")
_PACKAGES = ("relpos", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
_MISSING = "(nothing)"
# What a start that fails takes away again, unless it was there before.
_OURS = ("config.json", "metrics.jsonl", "tokenizer.*")


class RunDirectory:
    """A directory claimed for one config and locked while this object is open.

    Args:
      workdir: made with its parents when it is missing.
      config: the config of the run.

    Raises:
      UserError: workdir is no directory or not writable, another process uses it, or it belongs to
        a run with another config (the message lists the keys that differ).
    """

    def __init__(self, workdir: Path, config: ConfigDict):
        self.path = workdir
        _make_writable(workdir)
        self._lock = _lock(workdir)
        self._there = set(os.listdir(workdir))
        try:
            self.stored = read_run(workdir) if (workdir / "config.json").exists() else None
            self._run = {"config": config_lib.to_plain(config)}
            if self.stored is not None:
                self._refuse_another_config()
        except BaseException:
            self.close()
            raise

    def describe(self, facts: Mapping[str, Any]) -> None:
        """Write config.json with the facts on the data, or compare them with those there.

        Raises:
          UserError: the data are not those that the run began with.
        """
        self._run |= json.loads(json.dumps(facts))
        if self.stored is None:
            text = json.dumps(self._run | {"versions": _versions()}, indent=2)
            write_atomically(self.path / "config.json", text + "\n")
        else:
            for name in facts:
                _refuse_other_data(self.path, name, self.stored, self._run)

    def forget(self) -> None:
        """Withdraw the claim, for a run that failed before it had anything to keep."""
        if self.stored is None:
            for path in [path for pattern in _OURS for path in self.path.glob(pattern)]:
                if path.name not in self._there:
                    path.unlink()

    def close(self) -> None:
        """Release the lock."""
        os.close(self._lock)

    def _refuse_another_config(self) -> None:
        assert self.stored is not None
        if differing := _differences("config", self.stored, self._run, FREE_KEYS):
            raise UserError(
                f"{str(self.path)!r} belongs to a run with another config:\n{differing}\n"
                "Give these values to resume that run, or another --workdir to start a new one."
            )


def made_once(workdir: Path, name: str) -> tuple[Path, bool]:
    """Return the path of a file that a run makes before it begins, and whether it has to be made now.

    What a start has left that was killed before it had a config.json may be of other data, and what lies in a
    directory without one may be the user's: it is put aside as old.NAME.

    Raises:
      UserError: the run has begun and the file is gone.
    """
    path = workdir / name
    begun = (workdir / "config.json").exists()
    if not begun:
        if path.exists():
            path.replace(path.with_name(f"old.{name}"))
    elif not path.exists():
        raise UserError(
            f"{str(path)!r} is missing: this run was trained with it. Restore it; a new one would number "
            "its pieces in another way"
        )
    return path, not begun


def refuse_other_facts(workdir: Path, facts: Mapping[str, Any]) -> None:
    """Check that a run's data are those it began with; a directory without a run has nothing to say.

    Raises:
      UserError: they are not, with what differs.
    """
    if (workdir / "config.json").exists():
        for name in facts:
            _refuse_other_data(workdir, name, read_run(workdir), facts)


def _refuse_other_data(workdir: Path, name: str, there: Mapping, here: Mapping) -> None:
    if differing := _differences(name, there, json.loads(json.dumps(dict(here)))):
        raise UserError(
            f"{str(workdir)!r} belongs to a run with another {name}:\n{differing}\n"
            f"Restore the {name} to go on with that run, or give another --workdir to start a new one."
        )


def _differences(part: str, there: Mapping, here: Mapping, free: tuple[str, ...] = ()) -> str:
    """Return a line for every value that is not the same in both; "" where all are."""
    old = config_lib.flatten({part: there.get(part, _MISSING)})
    new = config_lib.flatten({part: here[part]})
    return "\n".join(
        f"  {key.removeprefix('config.')}: {old.get(key, _MISSING)!r} there, "
        f"{new.get(key, _MISSING)!r} asked for"
        for key in {**old, **new}
        if old.get(key, _MISSING) != new.get(key, _MISSING)
        and key.removeprefix("config.") not in free
    )


def read_run(workdir: Path) -> dict[str, Any]:
    """Return config.json: ``{"config": ..., the task's facts, "versions": ...}``.

    Raises:
      UserError: there is none, or it is damaged.
    """
    path = workdir / "config.json"
    try:
        run: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(run, dict) or not isinstance(run.get("config"), dict):
            raise ValueError("no config in it")
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{str(workdir)!r} is no run directory: it has no config.json") from None
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {str(path)!r}: {error}") from None
    return run


def _make_writable(workdir: Path) -> None:
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"--workdir {str(workdir)!r}: a file is in its place") from None
    except OSError as error:
        raise UserError(f"cannot make --workdir {str(workdir)!r}: {error.strerror}") from None
    try:  # what os.access promises need not hold on a full or read-only disk
        write_atomically(workdir / ".writable", "")
        (workdir / ".writable").unlink()
    except OSError as error:
        raise UserError(f"cannot write to --workdir {str(workdir)!r}: {error.strerror}") from None


def _lock(workdir: Path) -> int:
    handle = os.open(workdir / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.pread(handle, 100, 0).decode().strip()
        os.close(handle)
        raise UserError(
            f"{str(workdir)!r} is in use by another process ({owner}): wait for it or stop it, "
            "or give another --workdir"
        ) from None
    os.ftruncate(handle, 0)
    os.pwrite(handle, f"process {os.getpid()} on {platform.node()}".encode(), 0)
    return handle


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    return versions | {name: importlib.metadata.version(name) for name in _PACKAGES}
