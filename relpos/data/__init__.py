"""Text in, batches out: corpora, tokenizers and Grain pipelines, by kind of work.

`text` for language models, `pairs` for translation, `questions` for question answering, `algorithmic`. A file in
`sources/` is a source of data; in `algorithmic`, each class in it is a task.
"""

from relpos.data.corpus import Corpus as Corpus
from relpos.data.errors import DataError as DataError
from relpos.data.splits import SPLITS as SPLITS
