"""Language modelling: predict the next token of a text, measured in bits per byte."""

import functools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from ml_collections import ConfigDict
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from relpos import data
from relpos.config import require_at_least
from relpos.data import tokenizers
from relpos.errors import UserError, did_you_mean
from relpos.nn import Decoder, DecoderConfig, Sampling, generate
from relpos.training import model_section
from relpos.training.progress import track
from relpos.training.run_directory import refuse_other_facts

Record = dict[str, Any]


def create(config: ConfigDict, workdir: Path) -> "LanguageModelling":
    """Read the corpus and check what the config asks of it."""
    return LanguageModelling(config, workdir)


def model_config(config: ConfigDict, vocab_size: int) -> DecoderConfig:
    """Return the decoder's sizes from a config."""
    sizes = model_section.layer_sizes(config)
    return model_section.build(lambda: DecoderConfig(vocab_size=vocab_size, **sizes), "model")


class LanguageModelling:
    """A decoder on packed documents; see `relpos.training.task.Task`."""

    def __init__(self, config: ConfigDict, workdir: Path):
        self.config = config
        self._workdir = workdir
        self._check(config)
        # Mistakes are told before the corpus is read.
        jax.eval_shape(lambda: nnx.state(self._decoder(model_config(config, 1), nnx.Rngs(0))))
        self.tokenizer = self._tokenizer()

    @functools.cached_property
    def corpus(self) -> data.Corpus:
        """The text, read when it is first needed: a trained model continues prompts without it."""
        chosen = self.config.data
        corpus = data.load(path=chosen.path, tfds=chosen.tfds, data_dir=chosen.data_dir)
        refuse_other_facts(self._workdir, {"corpus": corpus.describe()})
        return corpus

    def _tokenizer(self) -> tokenizers.Bytes | tokenizers.SentencePiece:
        chosen, path = self.config.data, self._workdir / "tokenizer.model"
        wanted = chosen.tokenizer == "sentencepiece" and not path.exists()
        if wanted and (self._workdir / "config.json").exists():
            raise UserError(
                f"{str(path)!r} is missing: this run was trained with it. Restore it; a new one would number "
                "its pieces in another way"
            )
        return tokenizers.create(
            chosen.tokenizer,
            corpus=self.corpus.splits["train"] if wanted else (),
            path=path,
            vocab_size=chosen.vocab_size,
        )

    @staticmethod
    def _check(config: ConfigDict) -> None:
        require_at_least(config, {"eval_bytes": 0, "sample.max_tokens": 0})
        if any(n < 1 for n in config.eval_multiples):
            raise UserError(
                f"config key 'eval_multiples' must hold positive numbers, got {config.eval_multiples}"
            )
        model_section.encoding_options(config)
        try:
            Sampling(config.sample.temperature, config.sample.top_k, config.sample.top_p)
        except ValueError as error:
            raise UserError(f"sample.{error}") from error

    def describe(self) -> Record:
        """Return the corpus' name, version and hash."""
        return {"corpus": self.corpus.describe()}

    def init_model(self, rngs: nnx.Rngs) -> Decoder:
        """Return an untrained decoder."""
        return self._decoder(model_config(self.config, self.tokenizer.vocab_size), rngs)

    def _decoder(self, chosen: DecoderConfig, rngs: nnx.Rngs) -> Decoder:
        options = model_section.encoding_options(self.config)
        try:
            model = Decoder(chosen, encoding_options=options, rngs=rngs)
        except ValueError as error:
            raise UserError(str(error)) from error
        model_section.check_length(model.max_length, self.config.sequence_length, self.config)
        return model

    def train_batches(self) -> Any:
        """Return the iterator of packed batches."""
        return iter(
            data.train_batches(
                self.corpus.splits["train"],
                self.tokenizer,
                sequence_length=self.config.sequence_length,
                batch_size=self.config.batch_size,
                seed=self.config.seed,
            )
        )

    def loss(self, model: Decoder, batch, key):
        """Return the mean cross-entropy of the targets in nats, padding left out."""
        loss_BT, weight_BT = _token_losses(model, batch, key)
        total, count = loss_BT.sum(), weight_BT.sum()
        bytes_V = jnp.asarray(self.tokenizer.byte_lengths, jnp.float32)
        text_bytes = (bytes_V[batch["targets"]] * weight_BT).sum()
        metrics = {
            "loss": (total, count),
            "bits_per_byte": (total / jnp.log(2.0), text_bytes),
        }
        return total / jnp.maximum(count, 1), metrics

    def tokens(self, batch) -> int:
        """Return the number of targets."""
        return int((batch["segments"] > 0).sum())

    def evaluate(self, model: Decoder, split: str) -> list[Record]:
        """Return bits per byte of a split at the trained length."""
        documents = self._documents(split, self.config.eval_bytes)
        return [{"split": split, **self.score(model, documents, self.config.sequence_length)}]

    def score(self, model: Decoder, documents: Sequence[bytes], length: int) -> Record:
        """Return the code length of documents that are read in windows of `length` tokens.

        Every byte and every document's end is predicted exactly once whatever the length; the bits of all of them
        are divided by the bytes of text.
        """
        if model.max_length is not None and length > model.max_length:
            raise UserError(
                f"{length} tokens are more than the {model.max_length} positions of {self.config.encoding}"
            )
        rows = max(1, self.config.batch_size * self.config.sequence_length // length)
        batches = data.eval_batches(
            documents, self.tokenizer, sequence_length=length, batch_size=rows
        )
        graphdef, state = nnx.split(model)
        nats, tokens, text_bytes = 0.0, 0, 0
        for batch in batches:
            nats += float(_sum_of_losses(graphdef, state, jax.device_put(batch)))
            tokens += self.tokens(batch)
            text_bytes += data.text_bytes(batch, self.tokenizer)
        return {
            "length": length,
            "loss": nats / tokens,
            "bits_per_byte": nats / np.log(2) / max(text_bytes, 1),
            "bytes": text_bytes,
        }

    def finish(self, model: Decoder, console: Console) -> list[Record]:
        """Print bits per byte of the test text at several lengths, and what the model writes."""
        lengths = [n * self.config.sequence_length for n in self.config.eval_multiples]
        records = self.evaluate_lengths(model, self._documents("test", 0), "test", lengths, console)
        sample = self.config.sample
        if sample.prompts and sample.max_tokens:
            try:
                self._show_samples(model, console)
            except UserError as error:  # the run is good all the same
                console.print(f"no samples: {error}", highlight=False, markup=False)
        return records

    def _show_samples(self, model: Decoder, console: Console) -> None:
        sample = self.config.sample
        sampling = Sampling(sample.temperature, sample.top_k, sample.top_p)
        prompts = [prompt.encode() for prompt in sample.prompts]
        for prompt, text in self.predict(
            model, prompts, sampling, sample.max_tokens, self.config.seed
        ):
            shown = (escape(part.decode("utf-8", "replace")) for part in (prompt, text))
            console.print("\n[bold]{}[/bold]{}".format(*shown), highlight=False, soft_wrap=True)

    def evaluate_lengths(
        self,
        model: Decoder,
        documents: Sequence[bytes],
        split: str,
        lengths: Sequence[int],
        console: Console,
    ) -> list[Record]:
        """Score documents at several lengths and print the table."""
        records: list[Record] = []
        table = Table(title=f"{self.config.encoding} on {split}")
        for column in ("length", "times trained", "bits per byte"):
            table.add_column(column, justify="right")
        for length in track(console, lengths, "evaluating"):
            times = f"{length / self.config.sequence_length:g}x"
            try:
                record = self.score(model, documents, length)
            except UserError as error:
                table.add_row(str(length), times, "-")
                table.caption = str(error)
                continue
            records.append({"split": split, **record})
            table.add_row(str(length), times, f"{record['bits_per_byte']:.4f}")
        console.print(table)
        return records

    def evaluate_text(
        self, model: Decoder, *, split: str, path: str, lengths: Sequence[int], console: Console
    ) -> list[Record]:
        """Score a split of the corpus, or any text at `path`, at several lengths."""
        if model.max_length is not None and max(lengths, default=0) > model.max_length:
            raise UserError(
                f"length {max(lengths)} is more than the {model.max_length} positions of {self.config.encoding}"
            )
        if path:
            documents, name = data.read_documents(path), path
        elif split in data.SPLITS:
            documents, name = self._documents(split, 0), split
        else:
            raise UserError(f"unknown split {split!r}{did_you_mean(split, data.SPLITS)}")
        trained = self.config.sequence_length
        lengths = lengths or [n * trained for n in self.config.eval_multiples]
        return self.evaluate_lengths(model, documents, name, lengths, console)

    def predict(
        self,
        model: Decoder,
        prompts: Iterable[bytes],
        sampling: Sampling,
        max_tokens: int,
        seed: int,
    ) -> Iterator[tuple[bytes, bytes]]:
        """Yield each prompt and its continuation."""
        for number, prompt in enumerate(prompts):
            ids = np.concatenate([[self.tokenizer.separator], self.tokenizer.encode(prompt)])
            length = len(ids)
            if model.max_length is not None and length + max_tokens > model.max_length:
                raise UserError(
                    f"prompt {number + 1} ({length} tokens) and {max_tokens} more do not fit the "
                    f"{model.max_length} positions of {self.config.encoding}"
                )
            # Whole powers of two: a program is compiled for each size, not for each prompt.
            room = 1 << max(4, (length - 1).bit_length())
            if model.max_length is not None:
                room = min(room, model.max_length - max_tokens)
            padded = np.zeros((1, room), np.int32)
            padded[0, :length] = ids
            tokens, counts = generate(
                model,
                jnp.asarray(padded),
                jnp.array([length]),
                max_new_tokens=max_tokens,
                stop=self.tokenizer.separator,
                sampling=sampling,
                key=jax.random.fold_in(jax.random.key(seed), number),
            )
            yield prompt, self.tokenizer.decode(np.asarray(tokens)[0, : int(counts[0])])

    def _documents(self, split: str, most_bytes: int) -> list[bytes]:
        """Return whole documents of a split until `most_bytes` are reached; 0: all."""
        chosen: list[bytes] = []
        total = 0
        for document in self.corpus.splits[split]:
            if most_bytes and total >= most_bytes:
                break
            chosen.append(document)
            total += len(document)
        return chosen


def _token_losses(model: Decoder, batch, key):
    logits_BTV = model(batch["inputs"], segments=batch["segments"], key=key)
    weight_BT = (batch["segments"] > 0).astype(jnp.float32)
    loss_BT = optax.softmax_cross_entropy_with_integer_labels(logits_BTV, batch["targets"])
    return loss_BT * weight_BT, weight_BT


@functools.partial(jax.jit, static_argnums=0)
def _sum_of_losses(graphdef, state, batch):
    return _token_losses(nnx.merge(graphdef, state), batch, None)[0].sum()
