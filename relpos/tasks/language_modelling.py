"""Language modelling: predict the next token of a text (scored in bits per byte), or masked tokens."""

import abc
import copy
import dataclasses
import functools
import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from rich.console import Console
from rich.markup import escape

from relpos.data import text, tokenizers
from relpos.data.text import packing
from relpos.data.text.sources.files import read_documents
from relpos.errors import UserError
from relpos.metrics.text import METRICS, Scored
from relpos.nn import Decoder, Sampling, TokenEncoder, continue_rows, most_probable
from relpos.nn.generate import check_new_tokens
from relpos.sections import Options, Positive, at_least, name_in, options_of
from relpos.terminal import printable
from relpos.training import dropping, memory, model_section
from relpos.training.corpus_task import CorpusTask
from relpos.training.masking import Masking, Objective, next_tokens
from relpos.training.progress import say
from relpos.training.run_config import TokenRunConfig
from relpos.training.task import Case, Metrics, Record, together

_log = logging.getLogger(__name__)

_DIGITS = tuple(b"%d" % digit for digit in range(10))
MASK = b"[MASK]"  # marks a token to predict in an input line


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The text.

    Attributes:
      source: one of `relpos/data/text/sources`.
      sources: name -> options.
      tokenizer: bytes, or sentencepiece, trained on the corpus and stored in the run directory.
      vocab_size: vocabulary size of sentencepiece.
    """

    source: Annotated[str, name_in(text)] = "library_text"
    sources: Options = options_of(text)
    tokenizer: Literal["bytes", "sentencepiece"] = "bytes"
    vocab_size: Positive = 4096


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """The samples that a causal model generates at the end of training.

    Attributes:
      prompts: texts to continue.
      max_tokens: maximum number of tokens per continuation.
      temperature: see `relpos.nn.Sampling`.
      top_k: see `relpos.nn.Sampling`; None keeps all tokens.
      top_p: see `relpos.nn.Sampling`; 1 keeps all tokens.
    """

    prompts: tuple[str, ...] = ("def main(", '"""Return the ', "The ")
    max_tokens: Annotated[int, at_least(0)] = 160
    temperature: float = 0.7
    top_k: Positive | None = None
    top_p: float = 0.95

    def __post_init__(self):
        self.sampling  # noqa: B018 (raises if the settings are invalid)
        if self.max_tokens:
            check_new_tokens(self.max_tokens)

    @property
    def sampling(self) -> Sampling:
        """The sampling settings."""
        return Sampling(self.temperature, self.top_k or 0, self.top_p)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(TokenRunConfig):
    """The config of language modelling.

    Attributes:
      objective: "causal", or "masked": predict 15% of the tokens from both sides. Masked models report the perplexity
        of these tokens, and predict fills in every [MASK] of a line.
      drop_encoding_at: the step at which the layers lose their encoding (DroPE, see configs/drope.py); None: never.
      data: the text.
      eval_bytes: bytes of validation text to score during training; None: all.
      eval_multiples: multiples of sequence_length at which to score the test text.
      sample: samples to generate at the end of training.
    """

    objective: Literal["causal", "masked"] = "causal"
    drop_encoding_at: Positive | None = None
    data: DataConfig = DataConfig()
    eval_bytes: Positive | None = 50_000
    eval_multiples: tuple[Positive, ...] = (1, 2, 4, 8)
    sample: SampleConfig = SampleConfig()


def create(config: Config) -> "LanguageModelling":
    """Return the task for a config's objective."""
    return {"causal": Causal, "masked": Masked}[config.objective](config)


class LanguageModelling(CorpusTask[bytes], abc.ABC):
    """Language modelling on packed documents; see `relpos.training.task.Task`. Each objective is a subclass.

    Attributes:
      model_class: `Decoder` or `TokenEncoder`.
      extra_symbols: number of symbols that the model has in addition to the tokenizer's.
      tokenizer: the tokenizer, set by `prepare`.
    """

    model_class: ClassVar[Any]
    extra_symbols: ClassVar[int] = 0
    sources = text
    formats = METRICS.attributes("FORMAT")
    progress = METRICS.attributes("PROGRESS")

    def __init__(self, config: Config):
        self.config: Config = config
        self.title, self.trained_length = config.encoding, config.sequence_length
        # Report invalid sizes before reading the corpus.
        model_section.check_shapes(config, functools.partial(self._model, 1))
        dropping.check(config)

    def prepare(self, workdir: Path) -> None:
        """Load the tokenizer, or train it."""
        super().prepare(workdir)
        stored, documents = self.stored_tokenizer()
        kind = self.config.data.tokenizer
        self.tokenizer = tokenizers.create(kind, corpus=documents, **stored)

    def without_encoding(self) -> "LanguageModelling":
        """Return the task with models without an encoding."""
        alike = copy.copy(self)
        alike.config = dropping.without_encoding(self.config)
        alike.title = alike.config.encoding
        return alike

    @property
    def longest_evaluated(self) -> int:
        """The length of the longest evaluation windows, in tokens."""
        return int(max(self.config.eval_multiples, default=1) * self.config.sequence_length)

    @property
    @abc.abstractmethod
    def objective(self) -> Objective:
        """A hashable function from a batch and a key to the inputs, the targets, their weights and the next key."""

    def init_model(self, rngs: nnx.Rngs) -> Any:
        """Return an untrained model."""
        size = self.tokenizer.vocab_size
        digits = [i for i in range(size) if self.tokenizer.decode([i]) in _DIGITS]
        return self._model(self._symbols, rngs, digits)

    def _model(self, symbols: int, rngs: nnx.Rngs, digits: Sequence[int] = ()) -> Any:
        return model_section.token_model(
            self.model_class, self.config, symbols, length=self.config.sequence_length, digits=digits, rngs=rngs
        )  # fmt: skip

    def activation_bytes(self) -> int:
        """Return a lower bound on the activation memory of a training batch, in bytes."""
        tokens = self.config.batch_size * self.config.sequence_length
        return memory.activation_bytes(self.config, tokens, self._symbols)

    @property
    def _symbols(self) -> int:
        return self.tokenizer.vocab_size + self.extra_symbols

    def train_batches(self) -> Any:
        """Return the iterator of packed batches."""
        return iter(
            packing.train_batches(
                self.corpus.splits["train"],
                self.tokenizer,
                sequence_length=self.config.sequence_length,
                batch_size=self.config.batch_size,
                seed=self.config.seed,
            )
        )

    def metrics(self, model, batch, key) -> Metrics:
        """Compute the cross-entropy of the scored tokens in nats, and the text metrics."""
        inputs_BT, targets_BT, weights_BT, key = self.objective(batch, key)
        logits_BTV = model(inputs_BT, segments=batch["segments"], key=key)
        nats_BT = optax.softmax_cross_entropy_with_integer_labels(logits_BTV, targets_BT)
        scored = Scored(logits_BTV, targets_BT, nats_BT, weights_BT, self.text_bytes(targets_BT))
        return {"loss": ((nats_BT * weights_BT).sum(), weights_BT.sum()), **METRICS.measure(scored)}

    def text_bytes(self, targets_BT: jax.Array) -> jax.Array | None:
        """Return the number of bytes per target, or None if the loss is not a code length of the text."""
        return None

    def tokens(self, batch) -> int:
        """Return the number of tokens, excluding padding."""
        return int((batch["segments"] > 0).sum())

    def cases(self, model, split: str, *, lengths: Sequence[int], brief: bool) -> list[Case]:
        """Return a case for each window length."""
        documents = self._documents(split, self.config.eval_bytes if brief else None)
        return self._cases(model, documents, [self.config.sequence_length] if brief else lengths)

    def text_cases(self, model, path: str, *, lengths: Sequence[int]) -> list[Case]:
        """Return the cases of a file, glob or folder."""
        field = self.config.data.sources["files"]["field"]
        return self._cases(model, read_documents(path, field), lengths)

    def _cases(self, model, documents: Sequence[bytes], lengths: Sequence[int]) -> list[Case]:
        for length in lengths:
            self._check_length(model, length)
        trained = self.config.sequence_length
        lengths = lengths or [n * trained for n in self.config.eval_multiples]
        text_bytes = sum(map(len, documents))
        return [
            Case(
                {"length": length, "bytes": text_bytes},
                functools.partial(self._windows, model, documents, length),
            )
            for length in lengths
        ]

    def _windows(self, model, documents: Sequence[bytes], length: int) -> Iterator[Any]:
        """Return batches of windows in which every token and every document end is a target once."""
        self._check_length(model, length)
        rows = memory.rows(self.config, length)
        return packing.eval_batches(
            documents, self.tokenizer, sequence_length=length, batch_size=rows
        )

    def _check_length(self, model, length: int) -> None:
        model_section.check_length(model.max_length, length, self.config)
        memory.check_reading(self.config, length, self._symbols)

    def _documents(self, split: str, most_bytes: int | None) -> list[bytes]:
        """Return whole documents of a split until their size reaches `most_bytes`; None returns all."""
        chosen: list[bytes] = []
        total = 0
        for document in self.items(split):
            if most_bytes and total >= most_bytes:
                break
            chosen.append(document)
            total += len(document)
        return chosen


class Causal(LanguageModelling):
    """Causal language modelling: a decoder predicts each token from those before it."""

    model_class = Decoder
    objective = staticmethod(next_tokens)

    def text_bytes(self, targets_BT: jax.Array) -> jax.Array:
        """Return the number of bytes per target; the end of a document has none."""
        return jnp.asarray(self.tokenizer.byte_lengths, jnp.float32)[targets_BT]

    def conclude(self, model: Decoder, console: Console) -> None:
        """Print samples."""
        sample = self.config.sample
        if sample.prompts and sample.max_tokens:
            try:
                self._show_samples(model, console)
            except UserError as error:  # the run itself has succeeded
                say(console, f"no samples: {error}")

    def _show_samples(self, model: Decoder, console: Console) -> None:
        sample = self.config.sample
        prompts = [prompt.encode() for prompt in sample.prompts]
        for both in self.predict(
            model, [prompts], sample.sampling, sample.max_tokens, self.config.seed
        ):
            shown = (escape(printable(part.decode("utf-8", "replace"))) for part in both)
            console.print("\n[bold]{}[/bold]{}".format(*shown), highlight=False, soft_wrap=True)

    def predict(
        self,
        model: Decoder,
        chunks: Iterable[Sequence[bytes]],
        sampling: Sampling,
        max_tokens: int,
        seed: int,
        context: int = 0,
    ) -> Iterator[tuple[bytes, bytes]]:
        """Yield each prompt and its continuation of at most `max_tokens` tokens, independent of the other prompts.

        Each chunk is one batch. Random draws depend on `seed` and on the prompt's number. Only the last `context`
        tokens of a prompt are read; 0 stands for the longest evaluation window.

        Raises:
          UserError: a prompt and max_tokens do not fit the model. All prompts before it have been continued.
        """
        context, separator = context or self.longest_evaluated, self.tokenizer.separator
        first, told = 0, False
        for chunk in chunks:
            rows, fault = [], None
            for number, prompt in enumerate(chunk, first + 1):
                ids = np.concatenate([[separator], self.tokenizer.encode(prompt)])
                kept = ids[-context:]
                if model.max_length is not None and len(kept) + max_tokens > model.max_length:
                    fault = UserError(
                        f"prompt {number} ({len(kept)} tokens) and {max_tokens} more do not fit the "
                        f"{model.max_length} positions of {', '.join(model.config.encodings)}: "
                        "--context=N reads fewer of its last tokens"
                    )
                    break
                if len(ids) > context and not told:
                    told = True
                    _log.warning(
                        "prompt %d has %d tokens; only its last %d are read; --context=N changes that number",
                        number, len(ids), context,
                    )  # fmt: skip
                rows.append(kept)
            found = continue_rows(
                model, rows, max_new_tokens=max_tokens, stop=separator,
                sampling=sampling, key=jax.random.key(seed), first=first,
            )  # fmt: skip
            for prompt, new in zip(chunk, found, strict=False):  # up to the first that does not fit
                yield prompt, self.tokenizer.decode(new)
            if fault is not None:
                raise fault
            first += len(chunk)


class Masked(LanguageModelling):
    """Masked language modelling: an encoder predicts masked tokens from both sides.

    The loss is not a code length of the text, so bits per byte are undefined.
    """

    model_class = TokenEncoder
    extra_symbols = 1
    formats = METRICS.attributes("FORMAT") | {"perplexity": "{:.4f}"}

    @property
    def objective(self) -> Masking:
        """The masking, with a mask symbol that follows all of the tokenizer's symbols."""
        size = self.tokenizer.vocab_size
        return Masking(mask=size, separator=self.tokenizer.separator, vocab_size=size)

    def score(self, model, case: Case, record: Record, outputs) -> list[Record]:
        """Return the record with the perplexity of the masked tokens."""
        return [{**record, "perplexity": float(np.exp(record["loss"]))}]

    def predict_lines(self, model: TokenEncoder, lines: Sequence[bytes]) -> list[bytes | UserError]:
        """Return each line with every [MASK] replaced by its most probable token, or an error."""
        return together(
            functools.partial(self._masked, model), functools.partial(self._filled, model), lines
        )

    def _masked(self, model: TokenEncoder, line: bytes) -> np.ndarray:
        first, *others = (self.tokenizer.encode(part).tolist() for part in line.split(MASK))
        if not others:
            raise UserError(
                f"it has no {MASK.decode()}, which stands for one token to be filled in"
            )
        ids = np.array(functools.reduce(lambda a, b: [*a, self.objective.mask, *b], others, first))
        model_section.check_length(model.max_length, len(ids), self.config)
        if len(ids) > (most := self.longest_evaluated):
            raise UserError(
                f"it has {len(ids)} tokens, more than the {most} that the run is evaluated at"
            )
        return ids

    def _filled(self, model: TokenEncoder, rows: Sequence[np.ndarray]) -> list[bytes]:
        best = most_probable(model, rows, self._fit_a_line)
        return [
            self.tokenizer.decode(np.where(ids == self.objective.mask, best_T, ids))
            for ids, best_T in zip(rows, best, strict=True)
        ]

    @functools.cached_property
    def _fit_a_line(self) -> jax.Array:
        """Return a mask of the symbols allowed as replacements: text without line breaks."""
        spelt = [self.tokenizer.decode([i]) for i in range(self.tokenizer.vocab_size)]
        return jnp.array([bool(s) and not set(s) & set(b"\r\n") for s in spelt] + [False])
