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
    """Raised when the files of a folder have changed since they were written. The message names one."""

    exit_code = 1


def write(folder: Path) -> None:
    """Write ``checksums.json``: the SHA-256 of each file below the folder, and of the list itself.

    Raises:
      OSError: a file cannot be read or written.
    """
    write_atomically(folder / NAME, _text(_digests(folder)))


def verify(folder: Path) -> bool:
    """Verify a folder's checksums, or return False if it has none.

    Raises:
      ChecksumError: a file was damaged, removed or added.
      OSError: a file cannot be read.
    """
    found = _digests(folder)
    try:
        text = (folder / NAME).read_bytes()
    except FileNotFoundError:
        return False
    wanted = _parse(text)
    wrong = (
        *(f"{name!r} is missing" for name in wanted if name not in found),
        *(
            f"{name!r} {'is damaged' if name in wanted else 'was added'}"
            for name, digest in found.items()
            if wanted.get(name) != digest
        ),
    )
    if wrong:
        more = f" (and {len(wrong) - 1} more files are wrong)" if len(wrong) > 1 else ""
        raise ChecksumError(f"{wrong[0]}{more}")
    return True


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
