"""The text that every Python installation carries; needs no download."""

from __future__ import annotations

from relpos.data.corpus import Corpus
from relpos.data.text.corpus import text_corpus
from relpos.data.text.stdlib import documents


def load(*, data_dir: str = "") -> Corpus[bytes]:
    """Load library_text, see `relpos.data.text.stdlib`.

    Args:
      data_dir: the tensorflow-datasets folder in which it is kept; "" means $TFDS_DATA_DIR or
        ~/tensorflow_datasets.

    Raises:
      DataError: the folder cannot be used.
    """
    # Takes a second, which other sources need not wait for.
    from relpos.data.text.stdlib import builder

    return text_corpus("library_text", documents.VERSION, builder.prepare(data_dir))
