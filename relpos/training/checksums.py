"""Checksums of all files in a folder, to detect damage before reading them."""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from relpos.errors import UserError
from relpos.files import parse_json, write_atomically

NAME = "checksums.json"


class ChecksumError(UserError):
    """Raised when files have changed since they were written, or cannot be read. The message names one file."""

    exit_code = 1


def write(folder: Path) -> None:
    """Write ``checksums.json``: the SHA-256 of each file below the folder, and of the list itself.

    Raises:
      OSError: a file cannot be read or written.
    """
    write_atomically(folder / NAME, _text(_digests(folder)))


def verify(folder: Path) -> None:
    """Verify a folder's checksums.

    Raises:
      ChecksumError: a file was damaged, removed or added, or cannot be read.
    """
    try:
        if not (folder / NAME).exists():
            raise ChecksumError(f"{NAME!r} is missing, restore it")
        found, wanted = _digests(folder), _parse((folder / NAME).read_bytes())
    except OSError as error:
        raise ChecksumError(f"cannot read {error.filename!r}: {error.strerror}") from error
    wrong = [name for name in {**wanted, **found} if wanted.get(name) != found.get(name)]
    if wrong:
        name, *others = wrong
        what = "is damaged" if name in wanted else "was added"
        what = what if name in found else "is missing"
        more = f" (and {len(others)} more files are wrong)" if others else ""
        raise ChecksumError(f"{name!r} {what}{more}")


def _text(digests: dict[str, str]) -> bytes:
    total = hashlib.sha256(json.dumps(digests).encode()).hexdigest()
    return json.dumps({"sha256": total, "files": digests}, indent=1).encode()


def _parse(text: bytes) -> dict[str, str]:
    try:
        digests = parse_json(text)["files"]
        intact = isinstance(digests, dict) and _text(digests) == text  # to the last byte
    except (ValueError, TypeError, KeyError):
        intact = False
    if not intact:
        raise ChecksumError(f"{NAME!r} is damaged")
    return digests


def _digests(folder: Path) -> dict[str, str]:
    digests = {}
    for path in sorted(_files(folder)):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        digests[path.relative_to(folder).as_posix()] = digest
    digests.pop(NAME, None)  # it cannot contain its own hash
    return digests


def _files(folder: Path) -> Iterator[Path]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _files(Path(entry.path))
            elif entry.is_file():
                yield Path(entry.path)
            else:  # reading a pipe would block
                raise ChecksumError(f"{entry.name!r} is neither a file nor a directory")
