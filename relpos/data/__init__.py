"""Text in, batches out: corpora, tokenizers and Grain pipelines."""

from relpos.data.corpus import Corpus, load
from relpos.data.errors import DataError
from relpos.data.files import read_documents
from relpos.data.parallel import ParallelCorpus, load_parallel
from relpos.data.pipeline import eval_batches, text_bytes, train_batches
from relpos.data.question_corpus import QuestionCorpus, load_questions
from relpos.data.questions import Question
from relpos.data.splits import SPLITS

__all__ = [
    "SPLITS",
    "Corpus",
    "DataError",
    "ParallelCorpus",
    "Question",
    "QuestionCorpus",
    "eval_batches",
    "load",
    "load_parallel",
    "load_questions",
    "read_documents",
    "text_bytes",
    "train_batches",
]
