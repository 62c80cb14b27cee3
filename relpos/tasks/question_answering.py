"""Question answering: find the span of a text that answers a question, as in SQuAD."""

import contextlib
import dataclasses
import functools
import json
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from rich.console import Console

from relpos import cores
from relpos.data import DataError
from relpos.data import questions as questions_data
from relpos.data.questions import Question, batches
from relpos.data.questions import answers as answers_lib
from relpos.data.questions.answers import Answer
from relpos.data.questions.lines import read_line
from relpos.data.questions.rows import NOT_TRAINED, PADDING, Prepared, RowFormat
from relpos.data.tokenizers import offsets
from relpos.errors import UserError
from relpos.files import read_json, write_atomically
from relpos.metrics.answers import METRICS
from relpos.nn import SpanEncoder
from relpos.sections import NOT_EMPTY, Options, Positive, at_least, name_in, options_of
from relpos.training import memory, model_section
from relpos.training.corpus_task import CorpusTask
from relpos.training.evaluation import means
from relpos.training.progress import say
from relpos.training.run_config import TokenRunConfig
from relpos.training.stored_run import find_run
from relpos.training.task import Case, Metrics, Record, one_by_one

# SQuAD 2.0 also scores questions with and without an answer separately.
SCORES = METRICS.attributes("FORMAT") | dict.fromkeys(
    [*(f"answerable_{name}" for name in METRICS.names()), "impossible_accuracy"], "{:.2f}"
)
MOST_WINDOWS = 32  # windows of one context per batch
_THRESHOLD = "no_answer.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The questions.

    Attributes:
      source: one of `relpos/data/questions/sources`.
      sources: name -> options.
      tokenizer: words, bytes or sentencepiece, learned from the train split and stored in the run directory.
      vocab_size: vocabulary size of sentencepiece, maximum vocabulary size of words.
    """

    source: Annotated[str, name_in(questions_data)] = "stories"
    sources: Options = options_of(questions_data)
    tokenizer: Literal["words", "bytes", "sentencepiece"] = "words"
    vocab_size: Positive = 8192


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(TokenRunConfig):
    """The config of question answering.

    Attributes:
      sequence_length: maximum tokens of a question and a window of its context, in training.
      data: the questions.
      overlap: tokens shared by consecutive windows of a long context.
      longest_answer: maximum answer length in tokens.
      eval_questions: number of validation questions to score during training; None: all.
      eval_multiples: window lengths of the final test, as multiples of sequence_length.
    """

    data: DataConfig = DataConfig()
    overlap: Annotated[int, at_least(0)] = 32
    longest_answer: Positive = 16
    eval_questions: Positive | None = 500
    eval_multiples: Annotated[tuple[Positive, ...], NOT_EMPTY] = (2,)


class QuestionAnswering(CorpusTask[Question]):
    """Question answering by an encoder with a span head; see `relpos.training.task.Task`."""

    sources = questions_data
    formats = SCORES

    def __init__(self, config: Config):
        self.config: Config = config
        self.title = config.encoding
        # Report invalid sizes before reading the questions.
        model_section.check_shapes(config, functools.partial(self._model, 1))
        for length in self._lengths():
            memory.check_reading(config, length)

    def prepare(self, workdir: Path) -> None:
        """Load the tokenizer, or create it."""
        super().prepare(workdir)
        stored, train = self.stored_tokenizer()
        texts = [*{question.context: None for question in train}, *(q.question for q in train)]
        self.tokenizer = offsets.create(self.config.data.tokenizer, texts=texts, **stored)

    @functools.cached_property
    def has_impossible(self) -> bool:
        """Whether questions may have no answer. Training and scores then follow SQuAD 2.0."""
        run = find_run(self.workdir)
        facts = self.corpus.describe() if run is None else run.get("corpus", {})
        if "splits" not in facts:
            raise UserError(
                f"{str(self.workdir / 'config.json')!r} does not describe the questions: restore it"
            )
        return any(split.get("impossible", 0) for split in facts["splits"].values())

    def notes(self) -> list[str]:
        """Return warnings about the data to print before training."""
        problems = (*self.corpus.problems, *self._training_rows.problems)
        return [*(f"problem: {problem}" for problem in problems), *self.corpus.notes]

    def init_model(self, rngs: nnx.Rngs) -> SpanEncoder:
        """Return an untrained model."""
        spelt = [self.tokenizer.tokens(digit).ids.tolist() for digit in string.digits]
        digits = sorted({ids[0] for ids in spelt if len(ids) == 1})
        return self._model(self.tokenizer.vocab_size, rngs, digits)

    def _model(self, vocab_size: int, rngs: nnx.Rngs, digits: Sequence[int] = ()) -> SpanEncoder:
        return model_section.token_model(
            SpanEncoder, self.config, vocab_size, length=max(self._lengths()), digits=digits, rngs=rngs
        )  # fmt: skip

    def activation_bytes(self) -> int:
        """Return a lower bound on the activation memory of a training batch, in bytes."""
        return memory.activation_bytes(
            self.config, self.config.batch_size * self.config.sequence_length
        )

    def _row_format(self, length: int) -> RowFormat:
        return RowFormat(
            self.tokenizer,
            length,
            self.config.overlap,
            self.config.longest_answer,
            self.has_impossible,
        )

    @functools.cached_property
    def _training_rows(self) -> batches.TrainingRows:
        row_format = self._row_format(self.config.sequence_length)
        return batches.TrainingRows(self.corpus.splits["train"], row_format)

    def train_batches(self) -> Any:
        """Return the iterator of shuffled batches."""
        return iter(
            batches.train_batches(
                self._training_rows, batch_size=self.config.batch_size, seed=self.config.seed
            )
        )

    def metrics(self, model: SpanEncoder, batch, key) -> Metrics:
        """Compute the cross-entropy of the answers' first and last tokens in nats, and whether both are correct."""
        return self.metrics_and_outputs(model, batch, key)[0]

    def metrics_and_outputs(self, model: SpanEncoder, batch, key) -> tuple[Metrics, jax.Array]:
        """Return the metrics, and the logits of the first and last token, [B, 2, T]."""
        logits_B2T = _logits(model, batch, key)
        weight_B2 = (batch["target"] != NOT_TRAINED).astype(jnp.float32)
        loss_B2 = optax.softmax_cross_entropy_with_integer_labels(
            logits_B2T, jnp.maximum(batch["target"], 0)
        )
        total, count = (loss_B2 * weight_B2).sum(), weight_B2.sum()
        right_B = (logits_B2T.argmax(-1) == batch["target"]).all(-1)
        right = right_B.astype(jnp.float32).sum(), count / 2
        return {"loss": (total, count), "exact_span": right}, logits_B2T

    def tokens(self, batch) -> int:
        """Return the number of input tokens."""
        return int((batch["parts"] != PADDING).sum())

    def cases(
        self, model: SpanEncoder, split: str, *, lengths: Sequence[int], brief: bool
    ) -> list[Case]:
        """Return a case for each window length."""
        questions = self.items(split)[: self.config.eval_questions if brief else None]
        lengths = [self.config.sequence_length] if brief else lengths or self._lengths()
        return [self._case(model, questions, length, brief) for length in lengths]

    def _case(
        self, model: SpanEncoder, questions: Sequence[Question], length: int, brief: bool
    ) -> Case:
        """Return a case. A question that is too long for its windows gets no answer."""
        model_section.check_length(model.max_length, length, self.config)
        memory.check_reading(self.config, length)
        row_format = self._row_format(length)
        read: list[tuple[Question, Prepared]] = []
        for question in questions:
            with contextlib.suppress(DataError):
                read.append((question, row_format.prepare(question.context, question.question)))
        size = memory.rows(self.config, length)
        batches_of = functools.partial(batches.eval_batches, read, row_format, batch_size=size)
        return Case({"length": length}, batches_of, (questions, read, brief))

    def score(self, model: SpanEncoder, case: Case, record: Record, outputs) -> list[Record]:
        """Return exact match and F1 in percent, overall and by the distance of the facts."""
        questions, read, brief = case.items
        answers = self._answers(read, outputs)
        threshold = None
        if self.has_impossible and brief:
            threshold = answers_lib.threshold(answers, questions)
        elif self.has_impossible:
            threshold = self._threshold(model, record["length"])
        record = {
            **record,
            **answers_lib.scores(answers, questions, threshold),
            "questions": len(questions),
            "unread": len(questions) - len(answers),
        }
        if brief:
            return [record]
        trained = max(question.group for question in self.corpus.splits["train"])
        found = answers_lib.by_distance(answers, questions, threshold, trained)
        near = [{"length": record["length"], **each} for each in found]
        return [{**record, **({} if threshold is None else {"threshold": threshold})}, *near]

    def _answers(
        self, read: Sequence[tuple[Question, Prepared]], logits: Sequence[np.ndarray]
    ) -> dict[str, Answer]:
        """Return question id -> best span over the logits of all windows."""
        answers, first = {}, 0
        for question, prepared in read:
            logits_W2T = np.stack(logits[first : first + len(prepared.windows)])
            first += len(prepared.windows)
            answers[question.id] = self._best(question.context, prepared, logits_W2T)
        return answers

    def _best(self, context: str, prepared: Prepared, logits_W2T: np.ndarray) -> Answer:
        return answers_lib.best_answer(
            context,
            prepared,
            logits_W2T,
            longest=self.config.longest_answer,
            no_answer=self.has_impossible,
        )

    def conclude(self, model: SpanEncoder, console: Console) -> None:
        """Store the no-answer threshold, and print warnings about the data."""
        if self.has_impossible:
            kept = {"threshold": float(self._threshold(model, max(self._lengths())))}
            write_atomically(self.workdir / _THRESHOLD, json.dumps(kept))
        for note in self.notes():
            say(console, note)

    def _lengths(self) -> list[int]:
        return [n * self.config.sequence_length for n in self.config.eval_multiples]

    def _threshold(self, model: SpanEncoder, length: int) -> float:
        """Return the no-answer threshold that scores best on validation."""
        questions = self.corpus.splits["validation"]
        case = self._case(model, questions, length, brief=True)
        _, outputs = means(self, model, case)
        return answers_lib.threshold(self._answers(case.items[1], outputs), questions)

    def predict_lines(self, model: SpanEncoder, lines: Sequence[bytes]) -> list[bytes | UserError]:
        """Return the answer as JSON, or an error, for each line: JSON {"context", "question"}.

        Contexts are read in windows of the longest length tested at the end of training. ``score`` is the answer's
        probability, ``start`` the index of its first character. No answer is "" with start null.
        """
        row_format = self._row_format(max(self._lengths()))
        threshold = _kept_threshold(self.workdir)
        graphdef, state = nnx.split(model)

        def answer(line: bytes) -> bytes:
            context, question = read_line(line)
            prepared = row_format.prepare(context, question)
            rows = row_format.rows(prepared)
            found = []
            for start in range(0, len(rows), MOST_WINDOWS):
                some = rows[start : start + MOST_WINDOWS]
                # Round up to a power of two, so that each size is compiled once, not each line.
                batch = batches.padded(some, 1 << (len(some) - 1).bit_length())
                logits_W2T = cores.by_rows(_evaluate, (graphdef,), state, batch)
                found.append(np.asarray(logits_W2T)[: len(some)])
            best = self._best(context, prepared, np.concatenate(found))
            shown = {"answer": best.text, "start": best.start, "score": best.score}
            if best.no_answer > threshold:
                shown = {"answer": "", "start": None, "score": best.no_answer_score}
            return json.dumps(shown, ensure_ascii=False).encode()

        return one_by_one(answer, lines)


create = QuestionAnswering


def _kept_threshold(workdir: Path) -> float:
    """Return the no-answer threshold chosen at the end of training; 0 before then."""
    path = workdir / _THRESHOLD
    try:
        kept = read_json(path)
    except FileNotFoundError:
        return 0.0
    threshold = kept.get("threshold") if isinstance(kept, dict) else None
    # An infinite threshold is valid: always answer, or never.
    if not isinstance(threshold, float) or np.isnan(threshold):
        raise UserError(f"{str(path)!r} has no number as its threshold: restore it")
    return threshold


def _logits(model: SpanEncoder, batch, key) -> jax.Array:
    """Return the logits of the first and last token, [B, 2, T]."""
    ends = model(batch["inputs"], batch["parts"], batch["candidates"], key=key)
    return jnp.stack(ends, axis=1)


def _evaluate(graphdef, state, batch):
    return _logits(nnx.merge(graphdef, state), batch, None)
