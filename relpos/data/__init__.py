"""Text in, batches out: corpora, tokenizers and Grain pipelines, by kind of work.

`text` for language models, `pairs` for translation, `questions` for question answering, `algorithmic`. In each, a file
in `sources/` is a source of data.
"""

from relpos.data.corpus import Corpus as Corpus
from relpos.data.errors import DataError as DataError
from relpos.data.splits import SPLITS as SPLITS
