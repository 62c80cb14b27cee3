"""Algorithmic tasks: accuracy at the trained lengths and beyond."""

import dataclasses
import functools
import hashlib
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from relpos.data import algorithmic
from relpos.errors import UserError, did_you_mean
from relpos.metrics.symbols import METRICS, Scored
from relpos.nn import Decoder, Sampling, TokenEncoder, continue_rows, most_probable
from relpos.sections import Options, Positive, name_in, options_of
from relpos.training import memory, model_section
from relpos.training.run_config import TokenRunConfig
from relpos.training.stored_run import check_provenance
from relpos.training.task import Case, Metrics, Record, Task, together

Model = Decoder | TokenEncoder

MOST_OPTION = 10**4  # more letters, digits or tokens take minutes or exhaust the memory
MOST_LENGTH = 10**5  # longer examples take minutes to draw
MOST_TOKENS = 20_000  # tokens of a question and its answer; more take minutes to answer

# Evaluation seeds do not depend on the run's seed, so all runs of a task are tested on the same examples.
_SEEDS = {"validation": 0, "test": 1}


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The examples.

    Attributes:
      source: the task, the `name` of a class in `relpos/data/algorithmic/sources`.
      sources: name -> options.
      shortest: the shortest length in training; None uses the task's minimum.
      one_length: whether all examples of a batch have the same length.
      presentation: "placeholder": an encoder fills in the answer; "causal": a decoder generates it; None: as in the
        task's paper.
    """

    source: Annotated[str, name_in(algorithmic)] = "flip_flop"
    sources: Options = options_of(algorithmic)
    shortest: Positive | None = None
    one_length: bool = False
    presentation: Literal["placeholder", "causal"] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(TokenRunConfig):
    """The config of an algorithmic task.

    Attributes:
      sequence_length: the longest length in training, as the task measures it.
      data: the examples.
      eval_lengths: lengths to test; those above sequence_length are shown separately.
      eval_examples: examples per length during training.
      test_examples: examples per length at the end.
    """

    data: DataConfig = DataConfig()
    eval_lengths: tuple[int, ...] = (10, 20, 30, 40, 60, 80)
    eval_examples: Positive = 64
    test_examples: Positive = 512


class Algorithmic(Task):
    """A task of `relpos.data.algorithmic`; see `relpos.training.task.Task`."""

    formats = METRICS.attributes("FORMAT")
    progress = METRICS.attributes("PROGRESS")

    def __init__(self, config: Config):
        self.config = config
        self.trained_length = config.sequence_length
        chosen = config.data
        self._options = options = chosen.sources[chosen.source]
        for option, value in options.items():
            if value > MOST_OPTION:
                raise UserError(
                    f"config key 'data.sources.{chosen.source}.{option}' must be at most {MOST_OPTION}, got {value}"
                )
        self.symbols = algorithmic.create(chosen.source, **options)
        self.title = f"{self.symbols.name}, {config.encoding}"
        self._variants = {
            name: algorithmic.create(chosen.source, **{**options, **changed})
            for name, changed in self.symbols.variants.items()
        }
        self._presentation = chosen.presentation or self.symbols.presentation
        self._check_lengths()
        # Report invalid model sizes early, too.
        model_section.check_shapes(config, self.init_model)

    def prepare(self, workdir: Path) -> None:
        """Keep the run directory. Examples are generated, so no files are stored."""
        self._workdir = workdir

    @property
    def _shortest(self) -> int:
        return self.config.data.shortest or self.symbols.min_length

    def _check_lengths(self) -> None:
        longest = self.config.sequence_length
        if self._shortest > longest:
            why = (
                "data.shortest"
                if self.config.data.shortest
                else f"the shortest of {self.symbols.name}"
            )
            raise UserError(
                f"config key 'sequence_length' is {longest}, less than {why}, {self._shortest}"
            )
        asked = {"data.shortest": [self._shortest], "sequence_length": [longest]}
        for key, lengths in (asked | {"eval_lengths": self.config.eval_lengths}).items():
            for length in lengths:
                try:
                    _refuse_too_long(length)
                    self.symbols.example(np.random.default_rng(0), length)
                except UserError as error:
                    raise UserError(f"config key {key!r}: {error}") from error

    def describe(self) -> Record:
        """Return the task's name and a hash of its options and of examples, to detect changes to the generator."""
        drawn = self._examples("test", self.config.sequence_length, 16)
        digest = hashlib.sha256(b"".join(batch["targets"].tobytes() for batch in drawn))
        digest.update(repr(sorted(self._options.items())).encode())
        return {"corpus": {"name": self.symbols.name, "sha256": digest.hexdigest()}}

    def init_model(self, rngs: nnx.Rngs) -> Model:
        """Return an untrained encoder or decoder."""
        kind: Any = Decoder if self._presentation == "causal" else TokenEncoder
        digits = [i for i, s in enumerate(self.symbols.alphabet) if s in tuple(string.digits)]
        return model_section.token_model(
            kind,
            self.config,
            self.symbols.vocab_size,
            length=self._tokens(self.config.sequence_length),
            digits=digits,
            rngs=rngs,
        )

    def activation_bytes(self) -> int:
        """Return a lower bound on the activation memory of a training batch, in bytes."""
        tokens = self.config.batch_size * self._tokens(self.config.sequence_length)
        return memory.activation_bytes(self.config, tokens, self.symbols.vocab_size)

    def train_batches(self) -> Any:
        """Return the iterator of training batches."""
        config = self.config
        return iter(
            algorithmic.train_batches(
                self.symbols,
                lengths=(self._shortest, config.sequence_length),
                batch_size=config.batch_size,
                seed=config.seed,
                presentation=self._presentation,
                one_length=config.data.one_length,
            )
        )

    def metrics(self, model: Model, batch, key) -> Metrics:
        """Compute the cross-entropy of the scored symbols in nats, and the symbol metrics."""
        logits_BTV = model(batch["inputs"], segments=batch["segments"], key=key)
        nats_BT = optax.softmax_cross_entropy_with_integer_labels(logits_BTV, batch["targets"])
        scored_BT = batch["scored"]
        loss = (nats_BT * scored_BT).sum(), scored_BT.sum().astype(jnp.float32)
        scored = Scored(logits_BTV, batch["targets"], scored_BT, batch["segments"].any(1))
        return {"loss": loss, **METRICS.measure(scored)}

    def tokens(self, batch) -> int:
        """Return the number of scored symbols."""
        return int(batch["scored"].sum())

    def test_splits(self) -> list[str]:
        """Return "test" and the task's additional test splits."""
        return ["test", *self._variants]

    def cases(self, model: Model, split: str, *, lengths: Sequence[int], brief: bool) -> list[Case]:
        """Return a case for each length."""
        known = [*_SEEDS, *self._variants]
        if split not in known:
            raise UserError(f"unknown split {split!r}{did_you_mean(split, known)}")
        for length in lengths:
            _refuse_too_long(length)
            self.symbols.check_length(length)
            self._check_fits(model, split, length)
        if not brief:
            check_provenance(self._workdir, self.describe())
        examples = self.config.eval_examples if brief else self.config.test_examples
        return [
            Case(
                {"length": length}, functools.partial(self._fitting, model, split, length, examples)
            )
            for length in sorted(set(lengths or self.config.eval_lengths))
        ]

    def _fitting(self, model: Model, split: str, length: int, examples: int):
        self._check_fits(model, split, length)
        return self._examples(split, length, examples)

    def _check_fits(self, model: Model, split: str, length: int) -> None:
        tokens = self._tokens(length, split)
        if model.max_length is not None and tokens > model.max_length:
            raise UserError(
                f"{self.symbols.name} of length {length} takes {tokens} tokens, more than the "
                f"{model.max_length} positions of {self.config.encoding}"
            )

    def predict_lines(self, model: Model, lines: Sequence[bytes]) -> list[bytes | UserError]:
        """Return the answer, or an error, for each line, which holds a question's symbols, separated by spaces."""
        return together(
            functools.partial(self._question, model), functools.partial(self._answers, model), lines
        )

    def _question(self, model: Model, line: bytes) -> tuple[list[int], int]:
        """Parse a line into the input symbols and the number of answer symbols."""
        try:
            question = self.symbols.ids(line.decode())
        except UnicodeDecodeError as error:
            raise UserError(f"not UTF-8: {error.reason} at byte {error.start}") from error
        if not question:
            raise UserError(
                f"empty; a question consists of symbols, separated by spaces, from {', '.join(self.symbols.alphabet)}"
            )
        _refuse_too_many(len(question))
        size = self.symbols.answer_size(question)
        marked = isinstance(model, Decoder) and self.symbols.answer_mark
        shown = question + ([self.symbols.blank] if marked else [])
        tokens = len(shown) + size
        _refuse_too_many(tokens)
        if model.max_length is not None and tokens > model.max_length:
            raise UserError(
                f"the question and its answer take {tokens} tokens, more than the {model.max_length} positions "
                f"of {self.config.encoding}"
            )
        return shown, size

    def _answers(self, model: Model, questions: Sequence[tuple[list[int], int]]) -> list[bytes]:
        write = self._continued if isinstance(model, Decoder) else self._filled_in
        answers, end = [], self.symbols.end
        for (_, size), answer in zip(questions, write(model, questions), strict=True):
            text = self.symbols.text(answer[:size]).split(" ")
            answers.append(" ".join(text[: text.index(end)] if end in text else text).encode())
        return answers

    def _continued(
        self, model: Any, questions: Sequence[tuple[list[int], int]]
    ) -> list[np.ndarray]:
        end = self.symbols.end
        groups: dict[int, list[int]] = {}
        for i, (_, size) in enumerate(questions):
            # Round up to a power of two, so that each size is compiled once, not each question.
            most = size if model.max_length is not None else 1 << max(4, (size - 1).bit_length())
            if size:
                groups.setdefault(most, []).append(i)
        answers = [np.zeros(0, np.int32)] * len(questions)
        for most, numbers in groups.items():
            found = continue_rows(
                model,
                [questions[i][0] for i in numbers],
                max_new_tokens=most,
                stop=-1 if end is None else self.symbols.alphabet.index(end),
                sampling=Sampling(temperature=0),
                key=jax.random.key(0),
            )
            for i, answer in zip(numbers, found, strict=True):
                answers[i] = answer
        return answers

    def _filled_in(
        self, model: Any, questions: Sequence[tuple[list[int], int]]
    ) -> list[np.ndarray]:
        rows = [shown + size * [self.symbols.blank] for shown, size in questions]
        best = most_probable(model, rows)
        return [best_T[len(shown) :] for (shown, _), best_T in zip(questions, best, strict=True)]

    def _tokens(self, length: int, split: str = "train") -> int:
        return algorithmic.size_for(
            self._variants.get(split, self.symbols), length, self._presentation
        )

    def _examples(self, split: str, length: int, examples: int) -> list[dict[str, np.ndarray]]:
        trained, tokens = self._tokens(self.config.sequence_length), self._tokens(length, split)
        return algorithmic.eval_batches(
            self._variants.get(split, self.symbols),
            length=length,
            examples=examples,
            batch_size=min(examples, max(1, self.config.batch_size * trained // tokens)),
            seed=_SEEDS.get(split, _SEEDS["test"]),
            presentation=self._presentation,
        )


create = Algorithmic


def _refuse_too_long(length: int) -> None:
    if length > MOST_LENGTH:
        raise UserError(f"length {length} is too long to draw examples: {MOST_LENGTH} is the most")


def _refuse_too_many(tokens: int) -> None:
    if tokens > MOST_TOKENS:
        raise UserError(
            f"it takes {tokens} tokens, too many to be answered: {MOST_TOKENS} are the most"
        )
