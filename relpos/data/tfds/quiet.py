"""Keep the progress bars and messages of tensorflow-datasets out of the program's output."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator

import tensorflow_datasets as tfds


@contextlib.contextmanager
def quiet_tfds() -> Iterator[None]:
    """Silence what tfds prints on standard output, its progress bars and its log messages."""
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
