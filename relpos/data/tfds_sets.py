"""Open any tensorflow-datasets set: from disk if it is prepared, else by download if possible."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import logging
import os
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from relpos.data import paths
from relpos.data.errors import DataError, nearest

HASHED_BYTES = 64_000_000  # a larger set is identified by its description, not by its documents
_ANSWER_SECONDS = 4  # how long to wait for a server's answer before a download

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def quiet_tfds() -> Iterator[None]:
    """Silence tfds: its standard output, progress bars and log messages."""
    absl_logger = logging.getLogger("absl")
    level = absl_logger.level
    bars = tfds.core.utils.tqdm_utils._active  # tfds has no other way to tell whether bars are on
    tfds.disable_progress_bar()
    absl_logger.setLevel(logging.CRITICAL)
    try:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            yield
    finally:
        absl_logger.setLevel(level)
        tfds.display_progress_bar(bars)


def open_sources(
    name: str, data_dir: str = ""
) -> tuple[tfds.core.DatasetBuilder, dict[str, Sequence[Mapping[str, Any]]]]:
    """Return the builder and the splits' records of a set, such as "lm1b", "wiki40b/en" or "wiki40b/en:1.3.0".

    Raises:
      DataError: the set does not exist, is not on disk and cannot be downloaded, or is not stored as array_record.
    """
    root = str(paths.expanded(data_dir or str(tfds.core.constants.DATA_DIR)))
    builder = _prepared(name, root) or _prepare(name, root)
    try:
        with quiet_tfds():
            return builder, {split: builder.as_data_source(split) for split in builder.info.splits}
    except (NotImplementedError, ValueError) as error:
        found = builder.info.file_format.value if builder.info.file_format else "an unknown format"
        raise DataError(
            f"{name} in {builder.data_dir} is stored as {found}, not as array_record. "
            "Convert it: python -m tensorflow_datasets.scripts.convert_format "
            f"--root_data_dir={root} --out_file_format=array_record"
        ) from error


def _prepared(name: str, root: str) -> tfds.core.DatasetBuilder | None:
    """Return the builder of the set on disk, or None if there is none."""
    try:
        with quiet_tfds():
            return tfds.core.read_only_builder.builder_from_files(name, data_dir=root)
    except tfds.core.registered.DatasetNotFoundError:
        return None
    except (ValueError, OSError) as error:  # not a valid name, or a damaged folder
        raise DataError(f"Cannot open {name!r} in {root}: {_first_line(error)}") from error


def _prepare(name: str, root: str) -> tfds.core.DatasetBuilder:
    """Download and prepare a dataset, or raise an error that says why not, within seconds if a server is silent."""
    bare = name.split("/")[0].split(":")[0]
    try:
        with quiet_tfds():
            builder = tfds.builder(name, data_dir=root, file_format="array_record")
    except tfds.core.registered.DatasetNotFoundError as error:
        if bare in _shipped():
            raise _cannot(name, root, "its builder needs TensorFlow") from error
        prepared = {path.name for path in Path(root).glob("[a-z]*") if path.is_dir()}
        raise DataError(
            f"There is no tensorflow-datasets set {name!r}, neither prepared in {root} nor known "
            f"to tensorflow-datasets.{nearest(bare, _shipped() | prepared)}"
        ) from error
    except Exception as error:  # a set's code may raise anything: for its config, an import, ...
        raise _cannot(name, root, _first_line(error)) from error

    module = sys.modules[type(builder).__module__]
    if hasattr(module, "tf") and importlib.util.find_spec("tensorflow") is None:
        raise _cannot(name, root, "its builder needs TensorFlow")
    try:
        silent = _silent_server(builder.url_infos or {})
        if not silent:
            _log.info("Downloading and preparing %s in %s.", name, root)
            builder.download_and_prepare()
            return builder
    except Exception as error:  # networks, disks and the set's own code fail in many ways
        raise _cannot(name, root, _first_line(error)) from error
    raise _cannot(name, root, f"{silent} does not answer")


def _cannot(name: str, root: str, reason: str) -> DataError:
    return DataError(
        f"The tensorflow-datasets set {name!r} is not prepared in {root}, and cannot be prepared "
        f"here: {reason}. Prepare it where there is a network and TensorFlow, with\n"
        f"    tfds build {name} --file_format=array_record --data_dir=DIR\n"
        f"and bring DIR here: as {root}, or named by data_dir or $TFDS_DATA_DIR."
    )


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"


def _shipped() -> set[str]:
    """Return the names of all sets that tensorflow-datasets ships, including those that need TensorFlow."""
    package = Path(tfds.__file__).parent
    folders = ("datasets", "text", "summarization", "translate", "question_answering", "structured")
    names = {p.stem for folder in folders for p in (package / folder).glob("[a-z]*")}
    return names | set(tfds.list_builders(with_community_datasets=False))


def _silent_server(urls: Iterable[str]) -> str | None:
    """Return a server of the URLs that does not answer at all, or None if all do."""
    servers = {urllib.parse.urlsplit(url)[:2]: url for url in urls if url.startswith("http")}
    for (_, server), url in servers.items():
        try:
            request = urllib.request.Request(url, method="HEAD")
            urllib.request.urlopen(request, timeout=_ANSWER_SECONDS).close()
        except urllib.error.HTTPError:
            continue  # this is an answer too: a server may forbid HEAD but not GET
        except OSError:
            return str(server)
    return None


def text_feature(builder: tfds.core.DatasetBuilder, name: str) -> str:
    """Return "text", or the name of the only text feature.

    Raises:
      DataError: there is no text feature, or there are several.
    """
    features = builder.info.features or {}
    found = [key for key, feature in features.items() if _is_text(feature)]
    if "text" in found:
        return "text"
    only_texts = [key for key in found if isinstance(features[key], tfds.features.Text)]
    for candidates in (only_texts, found):
        if len(candidates) == 1:
            return candidates[0]
    raise DataError(
        f"{name} has no feature 'text', and not one text feature alone: its features are "
        f"{', '.join(sorted(features)) or 'none'}."
    )


def texts(builder: tfds.core.DatasetBuilder) -> list[tuple[str, ...]]:
    """Return the path of every text in a record, including nested ones: ("en",), ("translation", "en")."""

    def within(features: Mapping[str, Any], above: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        for key, feature in features.items():
            if isinstance(feature, tfds.features.FeaturesDict):
                yield from within(feature, (*above, key))
            elif _is_text(feature):
                yield (*above, key)

    return list(within(builder.info.features or {}, ()))


def _is_text(feature: tfds.features.FeatureConnector) -> bool:
    """Return whether a feature is a single text."""
    return isinstance(feature, tfds.features.Text) or (
        feature.shape == () and np.dtype(feature.np_dtype) == np.dtype(object)
    )


def text_at(record: Mapping[str, Any], path: Sequence[str]) -> bytes:
    """Return the text at a path of a record, as UTF-8."""
    text: Any = record
    for key in path:
        text = text[key]
    return text.encode() if isinstance(text, str) else bytes(text)


def description_hash(builder: tfds.core.DatasetBuilder) -> str:
    """Return the SHA-256 of a large set's name, version, bytes of each split and number of records in each shard.

    Return "" for a set small enough to be read and hashed whole.
    """
    if int(builder.info.dataset_size) <= HASHED_BYTES:
        return ""
    digest = hashlib.sha256(builder.info.full_name.encode())
    for split, info in sorted(builder.info.splits.items()):
        digest.update(f"\n{split} {info.num_bytes} {list(info.shard_lengths)}".encode())
    return digest.hexdigest()
