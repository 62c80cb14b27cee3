"""Translation by an encoder-decoder, scored by BLEU, chrF and exact match, overall and by source length."""

import codecs
import functools
import itertools
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from rich.console import Console

from relpos import cores
from relpos.data import pairs as pairs_data
from relpos.data import tokenizers
from relpos.data.pairs import Pair
from relpos.data.pairs import batches as pair_batches
from relpos.data.pairs.batches import Tokenized, sentences
from relpos.data.pairs.corpus import strip
from relpos.data.tokenizers import words
from relpos.errors import UserError
from relpos.metrics.translations import METRICS, scores
from relpos.nn import Beams, EncoderDecoder, beam_search
from relpos.nn.beam_search import Found
from relpos.tasks.translation.config import Config
from relpos.training import memory, model_section
from relpos.training.corpus_task import CorpusTask
from relpos.training.progress import counted, say
from relpos.training.task import Case, Metrics, Record, together

Pairs = Sequence[Pair]
NOTED_PAIRS = 10_000  # pairs checked for excessive length
TRANSLATED_AT_ONCE = 64  # sentences per batch, whatever the training batch size


class Translation(CorpusTask[Pair]):
    """Translation by an encoder-decoder; see `relpos.training.task.Task`."""

    sources = pairs_data
    formats = METRICS.attributes("FORMAT") | {
        "oracle_exact_match": "{:.2f}",
        "tokens_per_second": "{:.0f}",
    }

    def __init__(self, config: Config):
        self.config: Config = config
        self.title = config.encoding
        search, most = config.search, _most_tokens(config)
        # Report invalid sizes before reading the corpus.
        model_section.check_shapes(config, functools.partial(_model, config, 2, 2))
        memory.check_cache(
            lambda: _model(config, 2, 2, nnx.Rngs(0)).decoder.init_caches(search.beams, most),
            most,
            f"search.max_length={search.max_length}, sequence_length={config.sequence_length} or "
            f"search.beams={search.beams}",
        )
        self.beams = Beams(search.beams, search.length_penalty)

    def prepare(self, workdir: Path) -> None:
        """Load the tokenizers, or create them. They are the same object for a joint vocabulary."""
        super().prepare(workdir)
        if self.config.data.joint_vocabulary:
            self.source = self.target = self._tokenizer("joint", (0, 1))
        else:
            self.source = self._tokenizer("source", (0,))
            self.target = self._tokenizer("target", (1,))

    def _tokenizer(self, name: str, sides: Sequence[int]) -> Any:
        stored, pairs = self.stored_tokenizer(f"tokenizer.{name}")
        texts: Any = sentences(pairs, sides)
        if self.config.data.tokenizer == "words":
            return words.load_or_make(stored["path"], texts)
        return tokenizers.create(self.config.data.tokenizer, corpus=texts, **stored)

    def notes(self) -> list[str]:
        """Return warnings about pairs that are dropped, held out, in two splits or too long."""
        train = self.corpus.splits["train"]
        first = Tokenized(train, self.source, self.target)
        looked_at = min(len(first), NOTED_PAIRS)
        length = self.config.sequence_length
        too_long = sum(not pair_batches.fits(first[i], length) for i in range(looked_at))
        notes = list(self.corpus.notes)
        if too_long:
            notes.append(
                f"{too_long} of the first {looked_at} training pairs do not fit into sequence_length={length} "
                "tokens: such pairs are left out"
            )
        return notes

    def init_model(self, rngs: nnx.Rngs) -> EncoderDecoder:
        """Return an untrained model."""
        return _model(self.config, self.source.vocab_size, self.target.vocab_size, rngs)

    def activation_bytes(self) -> int:
        """Return a lower bound on the activation memory of a training batch, in bytes. Its pairs may be short."""
        tokens = self.config.batch_size * pair_batches.padded_length(0, self.config.sequence_length)
        of_source = memory.activation_bytes(self.config, tokens)
        return of_source + memory.activation_bytes(self.config, tokens, self.target.vocab_size)

    def train_batches(self) -> Any:
        """Return the iterator of training batches of pairs of similar length."""
        pairs = Tokenized(self.corpus.splits["train"], self.source, self.target)
        return iter(
            pair_batches.train_batches(
                pairs,
                sequence_length=self.config.sequence_length,
                batch_size=self.config.batch_size,
                seed=self.config.seed,
            )
        )

    def metrics(self, model: EncoderDecoder, batch, key) -> Metrics:
        """Compute the cross-entropy, and with label smoothing the smoothed one as the objective."""
        logits_BTV = model(
            batch["source"], batch["inputs"],
            source_segments=batch["source_segments"], target_segments=batch["segments"], key=key,
        )  # fmt: skip
        log_total_BT = jax.nn.logsumexp(logits_BTV, -1)
        nats_BT = optax.softmax_cross_entropy_with_integer_labels(logits_BTV, batch["targets"])
        uniform_BT = log_total_BT - logits_BTV.mean(-1)  # the cross-entropy of a uniform target
        weight_BT = batch["segments"].astype(jnp.float32)
        count = weight_BT.sum()
        metrics = {"loss": ((nats_BT * weight_BT).sum(), count)}
        if smoothing := self.config.label_smoothing:
            mixed_BT = (1 - smoothing) * nats_BT + smoothing * uniform_BT
            metrics["objective"] = (mixed_BT * weight_BT).sum(), count
        return metrics

    def tokens(self, batch) -> int:
        """Return the number of target tokens."""
        return int(batch["segments"].sum())

    def cases(
        self, model: EncoderDecoder, split: str, *, lengths: Sequence[int], brief: bool
    ) -> list[Case]:
        """Return the single case of a split. `metrics` computes its loss, `score` its translations."""
        if lengths:
            raise UserError(
                "translations are scored by source length already: --lengths does not apply"
            )
        most = self.config.eval_pairs or None if brief else self.config.search.most_pairs
        return [self.case(self._pairs(split, most), brief)]

    def case(self, pairs: Pairs, brief: bool) -> Case:
        """Return a case of some pairs. Pairs that are too long have no loss and are counted in `too_long`."""
        tokenized = Tokenized(pairs, self.source, self.target)
        length = self.config.sequence_length
        usable = [
            pair for i in range(len(pairs)) if pair_batches.fits(pair := tokenized[i], length)
        ]
        too_long = len(pairs) - len(usable)

        def batches():
            return (batch for _, batch in self._batches(usable, self.config.batch_size))

        return Case({"too_long": too_long} if too_long else {}, batches, (pairs, brief))

    def score(self, model: EncoderDecoder, case: Case, record: Record, outputs) -> list[Record]:
        """Return scores of greedy search and, unless brief, of beam search and by source length."""
        pairs, brief = case.items
        if not pairs or (brief and not self.config.eval_pairs):
            return [record]
        searches = {"greedy": Beams(1)}
        if self.beams.size > 1 and not brief:
            searches[f"beam {self.beams.size}"] = self.beams
        sources, wanted = [s for s, _ in pairs], _text(t for _, t in pairs)
        records, found = [], []
        for name, beams in searches.items():
            began = time.perf_counter()
            translated, tokens = self.translate(model, sources, beams)
            seconds = time.perf_counter() - began
            found = _text(translated)
            scored = {**record, **self._scores(found, wanted)}
            if brief:
                return [scored]
            scored |= {"search": name, "tokens_per_second": tokens / seconds, "seconds": seconds}
            if self.config.search.oracle_length and name == "greedy":
                scored["oracle_exact_match"] = self._oracle(model, sources, wanted)
            records.append(scored)
        return [*records, *self._by_length(list(searches)[-1], sources, found, wanted)]

    def _scores(self, found: Sequence[str], wanted: Sequence[str]) -> Record:
        _, language = self.corpus.languages
        return scores(found, wanted, language)

    def _batches(self, pairs, batch_size: int):
        return pair_batches.eval_batches(
            pairs,
            sequence_length=self.config.sequence_length,
            batch_size=batch_size,
            separators=(self.source.separator, self.target.separator),
        )

    def translate(
        self,
        model: EncoderDecoder,
        sources: Sequence[bytes],
        beams: Beams,
        lengths: Sequence[int] | None = None,
    ) -> tuple[list[bytes], float]:
        """Return the translations of sentences, in order, and their total number of tokens.

        A sentence that does not fit the model gets an empty translation. With `lengths`, each translation has exactly
        that many tokens; otherwise the model decides when to stop.
        """
        graphdef, state = nnx.split(model)
        static = graphdef, beams, _most_tokens(self.config), self.target.separator
        nothing = np.zeros(0, np.int32)
        tokens = [self.source.encode(source) for source in sources]
        longest = self.config.sequence_length
        usable = [i for i, ids in enumerate(tokens) if 0 < len(ids) < longest]
        found, total = [b""] * len(sources), 0
        shown = [(tokens[i], nothing) for i in usable]
        batches = self._batches(shown, TRANSLATED_AT_ONCE)
        of_batch = lambda batch: len(batch[0])  # noqa: E731
        for numbers, batch in counted(batches, "translated", len(shown), of_batch):
            # Padding rows are decoded too, so pad only to the next power of two.
            rows = min(len(batch["source"]), 1 << (len(numbers) - 1).bit_length())
            asked = {name: batch[name][:rows] for name in ("source", "source_segments")}
            if lengths is not None:
                wanted = [lengths[usable[n]] for n in numbers]
                asked["lengths"] = np.array(wanted + [0] * (rows - len(wanted)), np.int32)
            best = cores.by_rows(_search, static, state, asked)
            ids, sizes = np.asarray(best.tokens[:, 0]), np.asarray(best.lengths[:, 0])
            for row, number in enumerate(numbers):
                found[usable[number]] = self.target.decode(ids[row, : sizes[row]])
                total += int(sizes[row])
        return found, float(total)

    def conclude(self, model: EncoderDecoder, console: Console) -> None:
        """Print sample translations."""
        sources = [source for source, _ in self._pairs("test", 3)]
        found, _ = self.translate(model, sources, self.beams)
        for source, target in zip(_text(sources), _text(found), strict=True):
            say(console, f"{source}\n  -> {target}")

    def _oracle(self, model, sources, wanted: Sequence[str]) -> float:
        lengths = [len(self.target.encode(target.encode())) for target in wanted]
        most = _most_tokens(self.config)
        found, _ = self.translate(model, sources, Beams(1), [min(n, most) for n in lengths])
        return float(self._scores(_text(found), wanted)["exact_match"])

    def _by_length(self, search: str, sources, found, wanted) -> list[Record]:
        """Return scores by source length in words."""
        sizes = [len(source.split()) for source in sources]
        bounds = [0, 5, 10, 15, 20, 30, 50, 10**9]
        records = []
        for low, high in itertools.pairwise(bounds):
            if chosen := [i for i, size in enumerate(sizes) if low < size <= high]:
                words = f"{low + 1}-{high}" if high < 10**9 else f"over {low}"
                scored = self._scores([found[i] for i in chosen], [wanted[i] for i in chosen])
                records.append({"search": search, "source_words": words, **scored})
        return records

    def predict_lines(
        self, model: EncoderDecoder, lines: Sequence[bytes]
    ) -> list[bytes | UserError]:
        """Return the translation of each line, or an error."""

        def answer(sources: Sequence[bytes]) -> list[bytes]:
            found, _ = self.translate(model, sources, self.beams)
            return [translation.replace(b"\n", b" ") for translation in found]

        return together(self._sentence, answer, lines)

    def _sentence(self, line: bytes) -> bytes:
        """Parse a line into a sentence, stripped as training pairs are."""
        line = strip(line.removeprefix(codecs.BOM_UTF8))
        try:
            line.decode()
        except UnicodeDecodeError as error:
            raise UserError(f"not UTF-8: {error.reason} at byte {error.start}") from error
        size = len(self.source.encode(line))
        if not size:
            raise UserError("an empty line has no translation")
        if isinstance(self.source, words.Words) and (unknown := self.source.unknown(line)):
            raise UserError(f"words that the model has not seen: {', '.join(unknown)}")
        if size >= self.config.sequence_length:
            raise UserError(
                f"{size} tokens are more than the {self.config.sequence_length - 1} that sequence_length leaves"
            )
        return line

    def _pairs(self, split: str, most: int | None) -> list[Pair]:
        """Return `most` pairs spread over a split, always the same ones; None returns all."""
        pairs = self.items(split)
        if most is None or most >= len(pairs):
            return list(pairs)
        drawn = np.random.default_rng(0).choice(len(pairs), size=most, replace=False)
        return [pairs[i] for i in sorted(drawn.tolist())]


def _model(config: Config, source_vocab: int, target_vocab: int, rngs: nnx.Rngs) -> EncoderDecoder:
    key = "decoder_encoding" if config.decoder_encoding else "encoding"
    of_decoder = config.decoder_encoding or config.encoding
    model_section.check_cross_encoding(config.cross_encoding)
    with model_section.blame("config section 'model'"):
        model = EncoderDecoder(
            encoder=model_section.layers(config, config.encoding, causal=False),
            decoder=model_section.layers(config, of_decoder, causal=True, key=key),
            source_vocab=source_vocab,
            target_vocab=target_vocab,
            cross_encoding=config.cross_encoding,
            share_embeddings=config.data.joint_vocabulary,
            encoding_options=config.encodings,
            rngs=rngs,
        )
    needed = max(config.sequence_length, _most_tokens(config) + 1)
    model_section.check_length(model.encoder.max_length, needed, config)
    model_section.check_length(model.decoder.max_length, needed, config, of_decoder)
    return model


def _most_tokens(config: Config) -> int:
    """Return the maximum number of tokens in a translation, by default that of the training targets."""
    return config.search.max_length or config.sequence_length - 1


def _text(sentences: Iterable[bytes]) -> list[str]:
    return [sentence.decode("utf-8", "replace") for sentence in sentences]


def _search(graphdef, beams: Beams, most: int, separator: int, state, batch) -> Found:
    return beam_search(
        nnx.merge(graphdef, state), batch["source"], batch["source_segments"], beams=beams,
        max_length=most, begin=separator, end=separator, lengths_B=batch.get("lengths"),
    )  # fmt: skip
