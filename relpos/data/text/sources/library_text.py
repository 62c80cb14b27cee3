"""The text in every Python installation; needs no download."""

from __future__ import annotations

from relpos.data.corpus import Corpus
from relpos.data.text.corpus import text_corpus
from relpos.data.text.stdlib import documents


def load(*, data_dir: str = "") -> Corpus[bytes]:
    """Load library_text, see `relpos.data.text.stdlib`.

    Args:
      data_dir: the tensorflow-datasets folder to store it in; "" means $TFDS_DATA_DIR or
        ~/tensorflow_datasets.

    Raises:
      DataError: the folder cannot be used.
    """
    # This import takes a second, so it is done only when this source is used.
    from relpos.data.text.stdlib import builder

    return text_corpus("library_text", documents.VERSION, builder.prepare(data_dir))
