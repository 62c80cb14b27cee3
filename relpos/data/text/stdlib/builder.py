"""The tensorflow-datasets builder of library_text: prepared once per Python installation, and read as array_record.

The prepared folder is DATA_DIR/library_text/CONFIG/VERSION. CONFIG names the Python release and a digest of the text
found, so another installation never reads stale text. TensorFlow is not imported.
"""

from __future__ import annotations

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

from relpos.data import paths, splits, tfds_sets
from relpos.data.errors import DataError
from relpos.data.mapped import Mapped
from relpos.data.splits import SPLITS
from relpos.data.text.stdlib import documents as library_text
from relpos.data.text.stdlib import passages

_log = logging.getLogger(__name__)


class LibraryText(tfds.core.GeneratorBasedBuilder):
    """The source files, topics and docstrings of the running Python. Build it with `prepare`."""

    VERSION = tfds.core.Version(library_text.VERSION)
    RELEASE_NOTES: ClassVar = {
        library_text.VERSION: "Source files, pydoc topics, docstrings of C modules."
    }
    url_infos = None  # nothing is downloaded, so tfds need not look for a checksum file

    def __init__(self, *, found: dict[str, bytes], **kwargs: object) -> None:
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
        splits = library_text.build(self._found)
        return {split: self._generate_examples(splits[split]) for split in SPLITS}

    def _generate_examples(
        self, documents: Mapping[str, bytes]
    ) -> Iterator[tuple[int, dict[str, bytes]]]:
        for i, (name, text) in enumerate(documents.items()):
            yield i, {"name": name.encode(), "text": text}


def prepare(data_dir: str = "") -> dict[str, Sequence[bytes]]:
    """Prepare library_text unless it is prepared, and return the documents of each split.

    Args:
      data_dir: the tensorflow-datasets folder; "" means $TFDS_DATA_DIR or ~/tensorflow_datasets.
        If it is not writable, a private temporary folder is used, with a warning.

    Raises:
      DataError: the path names an unknown user, or the temporary folder may be another user's.
    """
    found = library_text.documents()
    config = tfds.core.BuilderConfig(name=_config_name(found))
    root = _writable(paths.expanded(data_dir or str(tfds.core.constants.DATA_DIR)), config.name)

    def open_builder() -> LibraryText:
        with tfds_sets.quiet_tfds():
            return LibraryText(
                found=found, config=config, data_dir=os.fspath(root), file_format="array_record"
            )

    builder = open_builder()
    if not Path(builder.data_dir).is_dir():
        _log.info("Preparing library_text in %s, once for this Python.", builder.data_dir)
        try:
            with tfds_sets.quiet_tfds():
                builder.download_and_prepare()
        except OSError:
            # Another process was faster: tfds writes to a temporary name and renames, and the first one wins.
            builder = open_builder()
            if not Path(builder.data_dir).is_dir():
                raise
    return {
        split: Mapped(
            builder.as_data_source(split), lambda record: tfds_sets.text_at(record, ("text",))
        )
        for split in SPLITS
    }


def _config_name(found: Mapping[str, bytes]) -> str:
    """Return the release and a digest of text and rules, such as "cpython-3.11.7-1a2b3c4d5e6f".

    The rules are the code that cuts and splits: a change to it makes a new folder.
    """
    rules = (library_text, passages, splits)
    code = b"".join(Path(str(rule.__file__)).read_bytes() for rule in rules)
    digest = hashlib.sha256(hashlib.sha256(code).digest())
    for name, text in found.items():
        digest.update(f"{name} {len(text)}\n".encode())
        digest.update(text)
    release = platform.python_version().replace("+", "")
    return f"{sys.implementation.name}-{release}-{digest.hexdigest()[:12]}"


def _writable(root: Path, config: str) -> Path:
    """Return `root`, or a private temporary folder if `root` neither holds the text nor is writable.

    Raises:
      DataError: another user could have put text into the temporary folder, whose parent is public.
    """
    folder = root / "library_text"
    if (folder / config / library_text.VERSION).is_dir():
        return root
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return root
    except OSError as error:
        why = f"{root} cannot be written ({error.strerror})"
    fallback = Path(tempfile.gettempdir()) / f"tensorflow_datasets-{os.getuid()}"
    if fault := _make_private(fallback):
        raise DataError(
            f"{why}, and {fallback} in its place {fault}: name a folder of yours by the option data_dir of the source "
            "library_text or by $TFDS_DATA_DIR."
        )
    _log.warning("%s; using %s instead.", why, fallback)
    return fallback


def _make_private(folder: Path) -> str:
    """Make a folder that only this user can write to; return what is wrong if that fails, or ""."""
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        return f"cannot be made ({error.strerror})"
    if not stat.S_ISDIR(found.st_mode):
        return "is a link or a file, no folder"
    if found.st_uid != os.getuid():
        return f"belongs to another user ({found.st_uid})"
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"can be written by others (mode {stat.S_IMODE(found.st_mode):o})"
    return ""
