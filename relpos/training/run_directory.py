"""The run directory: config, records and checkpoints of a run, used by one process at a time."""

import fcntl
import json
import os
import platform
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from relpos.errors import UserError
from relpos.files import open_regular, write_atomically
from relpos.sections import to_plain
from relpos.terminal import printable
from relpos.training.checkpoints import is_step
from relpos.training.run_config import RunConfig, read_stored
from relpos.training.stored_run import (
    check_provenance,
    differences,
    environment,
    find_run,
    hash_tokenizers,
    listed,
    notes_on_environment,
    same_bytes,
)

# Keys that affect reports and storage but not results; they may change when a run is resumed.
FREE_KEYS = ("log_every", "eval_every", "checkpoint_every")
# Keys that locate the data; they may change when a run is resumed if the data have the same hash.
_DATA_KEYS = re.compile(r"data\.(source|sources\..*)")
# Files that a failed start removes, unless they were there before. The config goes last: without it, the others are
# refused.
_OURS = ("metrics.jsonl", "tokenizer.*", "config.json")


class InUseError(UserError):
    """Raised when another process has the run directory open."""

    exit_code = 3


def may_change(key: str) -> bool:
    """Return whether a key may change when a run is resumed; a data key only if the data have the same hash."""
    return key in FREE_KEYS or _DATA_KEYS.fullmatch(key) is not None


class RunDirectory:
    """A directory, created if missing, that is claimed for one config and locked while this object is open.

    Attributes:
      moved: data keys that have changed since the run began; `describe` then checks the data.
      notes: lines about changes since the run began, set by `describe`.

    Raises:
      UserError: workdir is not a writable directory, is in use by another process, has lost its config.json, or
        belongs to a run with another config (the message lists the differing keys).
    """

    def __init__(self, workdir: Path, config: RunConfig):
        self.path = workdir
        _make_writable(workdir)
        self._lock = _lock(workdir)
        self._there = set(os.listdir(workdir))
        self.moved: dict[str, tuple[Any, Any]] = {}
        self.notes: list[str] = []
        self._config = to_plain(config)
        try:
            self.stored = find_run(workdir)
            if self.stored is None:
                _refuse_lost_config(workdir)
            else:
                self._refuse_another_config(config, self.stored["config"])
        except BaseException:
            self.close()
            raise

    def describe(self, facts: Mapping[str, Any]) -> None:
        """Write config.json with facts about the data, or compare them with an existing one.

        If the data have moved, config.json is updated.

        Raises:
          UserError: the data differ from those that the run began with.
        """
        if self.stored is None:
            tokenizers = {"tokenizers": hash_tokenizers(self.path)}
            self._write({"config": self._config, **facts, **tokenizers, **environment()})
            return
        check_provenance(self.path, facts)
        self.notes = notes_on_environment(self.stored)
        if (before := self.stored.get("devices", here := jax.local_device_count())) != here:
            self.notes.append(
                f"the run began on {before} devices, now it has {here}: random draws such as dropout differ"
            )
        if self.moved:
            if not same_bytes(self.stored.get("corpus"), facts.get("corpus")):
                raise self._another_config(self.moved)
            for key, (old, new) in self.moved.items():
                self.notes.append(f"{key} was {old!r}, now {new!r}: the same data")
            self.stored["config"]["data"] = self._config["data"]
            self._write(self.stored)

    def _write(self, run: Mapping[str, Any]) -> None:
        write_atomically(self.path / "config.json", json.dumps(run, indent=2) + "\n")

    def forget(self) -> None:
        """Restore the directory's original content, for a run that failed before it had anything to keep."""
        if self.stored is None:
            # Restore files that `artefact_path` renamed; the first one renamed is the original.
            for aside in sorted(self.path.glob("old*.tokenizer.*"), reverse=True):
                if aside.name not in self._there:
                    aside.replace(self.path / aside.name.partition(".")[2])
            for path in [path for pattern in _OURS for path in self.path.glob(pattern)]:
                if path.name not in self._there:
                    path.unlink()

    def close(self) -> None:
        """Release the lock."""
        os.close(self._lock)

    def _refuse_another_config(self, config: RunConfig, there: Mapping[str, Any]) -> None:
        if there.get("task") == config.task:  # fill in keys that older versions did not store
            there = to_plain(read_stored(there, type(config), str(self.path / "config.json")))
        others = differences(there, self._config)
        self.moved = {key: pair for key, pair in others.items() if _DATA_KEYS.fullmatch(key)}
        refused = {key: pair for key, pair in others.items() if key not in FREE_KEYS}
        if refused.keys() - self.moved.keys():
            raise self._another_config(refused)

    def _another_config(self, others: Mapping[str, tuple[Any, Any]]) -> UserError:
        return UserError(
            f"{str(self.path)!r} belongs to a run with another config:\n{listed(others)}\n"
            "Give its values to resume that run, or another --workdir to start a new one."
        )


def _refuse_lost_config(workdir: Path) -> None:
    kept = [name for name in ("metrics.jsonl", "summary.txt") if (workdir / name).exists()]
    found = workdir.glob("checkpoints/*")
    kept += [f"checkpoints/{path.name}" for path in found if is_step(path.name)]
    if kept:
        raise UserError(
            f"{str(workdir)!r} has {kept[0]} of a run but no config.json: restore it, or give another --workdir"
        )


def _make_writable(workdir: Path) -> None:
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=workdir) as file:  # os.access is unreliable on full disks
            file.write(b"x")
            file.flush()
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"--workdir {str(workdir)!r}: a file is in its place") from None
    except OSError as error:
        raise UserError(f"cannot write to --workdir {str(workdir)!r}: {error.strerror}") from None


def is_locked(workdir: Path) -> bool:
    """Return whether a process has the run directory open."""
    try:
        handle = open_regular(workdir / ".lock")
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def _lock(workdir: Path) -> int:
    path = workdir / ".lock"
    try:
        handle = open_regular(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW)
    except OSError as error:
        why = "it is a link" if path.is_symlink() else error.strerror
        raise UserError(f"cannot open {str(path)!r} ({why}): remove it") from error
    try:
        if os.fstat(handle).st_nlink != 1:
            raise UserError(f"{str(path)!r} is a file of another name too: remove it")
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = printable(os.pread(handle, 100, 0).decode("utf-8", "replace").strip(), keep="")
            raise InUseError(
                f"{str(workdir)!r} is in use by another process ({owner}): wait for it or stop it, "
                "or give another --workdir"
            ) from None
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"process {os.getpid()} on {platform.node()}".encode(), 0)
    except BaseException:
        os.close(handle)
        raise
    return handle
