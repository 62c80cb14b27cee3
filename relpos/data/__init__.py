"""Text in, batches out: corpora, tokenizers and Grain pipelines."""

from relpos.data.corpus import Corpus, load
from relpos.data.errors import DataError
from relpos.data.files import read_documents
from relpos.data.pipeline import eval_batches, text_bytes, train_batches
from relpos.data.splits import SPLITS

__all__ = [
    "SPLITS",
    "Corpus",
    "DataError",
    "eval_batches",
    "load",
    "read_documents",
    "text_bytes",
    "train_batches",
]
