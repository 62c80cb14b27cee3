"""The tensorflow-datasets builder of library_text: prepared once per Python, and read as array_record.

The prepared folder is DATA_DIR/library_text/CONFIG/VERSION. CONFIG names the Python release and a digest of the text
found, so another installation never reads stale text. TensorFlow is not imported.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import platform
import stat
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import tensorflow_datasets as tfds

from relpos.data import paths, splits
from relpos.data.errors import DataError
from relpos.data.splits import SPLITS
from relpos.data.text.stdlib import documents as library_text
from relpos.data.text.stdlib import passages
from relpos.data.tfds.quiet import quiet_tfds
from relpos.data.tfds.records import Records, as_bytes

_log = logging.getLogger(__name__)


class LibraryText(tfds.core.GeneratorBasedBuilder):
    """The source files, topics and docstrings of the running Python. Build it with `prepare`."""

    VERSION = tfds.core.Version(library_text.VERSION)
    RELEASE_NOTES: ClassVar = {
        library_text.VERSION: "Source files, pydoc topics, docstrings of C modules."
    }
    url_infos = None  # nothing is downloaded, so tfds need not look for a checksum file

    def __init__(self, *, found: Mapping[str, bytes] | None = None, **kwargs: object) -> None:
        self._found = found
        super().__init__(**kwargs)

    @classmethod
    def get_metadata(cls) -> tfds.core.DatasetMetadata:
        """Return no metadata, so that tfds does not look for README.md and TAGS.txt."""
        return tfds.core.DatasetMetadata(description="", citation="", tags=[])

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="The text that every Python installation carries.",
            features=tfds.features.FeaturesDict(
                {"name": tfds.features.Text(), "text": tfds.features.Text()}
            ),
            disable_shuffling=True,  # keep the documents' order, on which the hash depends
        )

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator[tuple[int, dict[str, bytes]]]]:
        del dl_manager
        found = library_text.documents() if self._found is None else dict(self._found)
        splits = library_text.build(found)
        return {split: self._generate_examples(splits[split]) for split in SPLITS}

    def _generate_examples(
        self, documents: Mapping[str, bytes]
    ) -> Iterator[tuple[int, dict[str, bytes]]]:
        for i, (name, text) in enumerate(documents.items()):
            yield i, {"name": name.encode(), "text": text}


def prepare(data_dir: str = "") -> dict[str, Sequence[bytes]]:
    """Prepare library_text unless it is prepared, and open it.

    Args:
      data_dir: the tensorflow-datasets folder; "" means $TFDS_DATA_DIR or ~/tensorflow_datasets.
        If it is not writable, a private temporary folder is used, with a warning.

    Returns:
      The documents of each split.

    Raises:
      DataError: the path names an unknown user, or the temporary folder may be another user's.
    """
    found = library_text.documents()
    config = tfds.core.BuilderConfig(name=_config_name(found))
    root = _writable(paths.expanded(data_dir or str(tfds.core.constants.DATA_DIR)), config.name)
    with quiet_tfds():
        builder = LibraryText(
            found=found, config=config, data_dir=os.fspath(root), file_format="array_record"
        )
    if not Path(builder.data_dir).is_dir():
        _log.info("Preparing library_text in %s, once for this Python.", builder.data_dir)
        try:
            with quiet_tfds():
                builder.download_and_prepare()
        except OSError:
            # Another process was faster: tfds writes to a temporary name and renames, and the first one wins.
            with quiet_tfds():
                builder = LibraryText(found=found, config=config, data_dir=os.fspath(root))
            if not Path(builder.data_dir).is_dir():
                raise
    return {
        split: Records(builder.as_data_source(split=split), lambda record: as_bytes(record["text"]))
        for split in SPLITS
    }


def _config_name(found: Mapping[str, bytes]) -> str:
    """Return the release and a digest of text and rules, such as "cpython-3.11.7-1a2b3c4d5e6f"."""
    digest = hashlib.sha256(_rules_digest())
    for name, text in found.items():
        digest.update(f"{name} {len(text)}\n".encode())
        digest.update(text)
    release = platform.python_version().replace("+", "")
    return f"{sys.implementation.name}-{release}-{digest.hexdigest()[:12]}"


@functools.cache
def _rules_digest() -> bytes:
    """Return a digest of the code that cuts and splits, so that a changed rule makes a new folder."""
    rules = (library_text, passages, splits)
    return hashlib.sha256(
        b"".join(Path(str(rule.__file__)).read_bytes() for rule in rules)
    ).digest()


def _writable(root: Path, config: str) -> Path:
    """Return `root`, or a temporary folder if `root` neither holds the text nor is writable."""
    if (root / "library_text" / config / library_text.VERSION).is_dir():
        return root
    try:
        (root / "library_text").mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root / "library_text"):
            return root
    except OSError as error:
        fallback = Path(tempfile.gettempdir()) / f"tensorflow_datasets-{_user()}"
        _make_private(fallback, f"{root} cannot be written ({error.strerror})")
        _log.warning("%s cannot be written (%s); using %s instead.", root, error.strerror, fallback)
        return fallback


def _make_private(folder: Path, why: str) -> None:
    """Make a folder that only this user can write to, or check that an existing one is; its parent is public.

    Raises:
      DataError: another user could have put text there.
    """
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        fault = f"cannot be made ({error.strerror})"
    else:
        if not stat.S_ISDIR(found.st_mode):
            fault = "is a link or a file, no folder"
        elif hasattr(os, "getuid") and found.st_uid != os.getuid():
            fault = f"belongs to another user ({found.st_uid})"
        elif found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            fault = f"can be written by others (mode {stat.S_IMODE(found.st_mode):o})"
        else:
            return
    raise DataError(
        f"{why}, and {folder} in its place {fault}: name a folder of yours by --config.data.data_dir or "
        "$TFDS_DATA_DIR."
    )


def _user() -> str:
    return str(os.getuid()) if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")
