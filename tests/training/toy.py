"""A tiny real task for the tests of the loop: bigrams of a noisy counting sequence."""

import dataclasses
import os
import signal
from typing import ClassVar

import grain
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from relpos.training.run_config import RunConfig
from relpos.training.task import Case, Task

VOCABULARY = 13


@dataclasses.dataclass(frozen=True, kw_only=True)
class ToyConfig:
    width: int = 7
    corpus: str = "abc"
    nan: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(RunConfig):
    toy: ToyConfig = ToyConfig()


class Bigram(nnx.Module):
    def __init__(self, width, rngs):
        self.embed = nnx.Embed(VOCABULARY, width, rngs=rngs)
        self.out = nnx.Linear(width, VOCABULARY, rngs=rngs)
        self.dropout = nnx.Dropout(0.1)

    def __call__(self, tokens_BT, key):
        hidden_BTD = self.embed(tokens_BT)
        if key is not None:
            hidden_BTD = self.dropout(hidden_BTD, rngs=nnx.Rngs(dropout=key))
        return self.out(hidden_BTD)


class DyingIterator(grain.DatasetIterator):
    """Passes everything on; kill -9 strikes before a batch or within a save."""

    def __init__(self, inner):
        super().__init__()
        self._inner = inner
        self._given = 0

    def __next__(self):
        self._given += 1
        die_at(f"batch {self._given}")
        return next(self._inner)

    def get_state(self):
        die_at("save")
        return self._inner.get_state()

    def set_state(self, state):
        self._inner.set_state(state)


def die_at(moment):
    if os.environ.get("TOY_KILL") == moment:
        os.kill(os.getpid(), signal.SIGKILL)


class Toy(Task):
    formats: ClassVar = {"loss": "{:.4f}"}
    progress: ClassVar = {"bits_per_byte": "{:.3f} bpb"}

    def __init__(self, config):
        self.config = config

    def describe(self):
        return {"corpus": {"name": "counting", "sha256": self.config.toy.corpus}}

    def init_model(self, rngs):
        return Bigram(self.config.toy.width, rngs)

    def train_batches(self):
        length = self.config.sequence_length + 1

        def sequence(index):
            random = np.random.default_rng((self.config.seed, index))
            jumps = 1 + (random.random(length) < 0.1)
            return {
                "tokens": ((index + np.cumsum(jumps)) % VOCABULARY).astype(np.int32),
                "planted": np.float32(np.nan if self.config.toy.nan and index == 31 else 0),
            }

        dataset = grain.MapDataset.range(64).seed(self.config.seed).map(sequence).shuffle()
        dataset = dataset.repeat().batch(self.config.batch_size)
        no_threads = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
        dataset = dataset.to_iter_dataset(no_threads)
        return DyingIterator(iter(dataset)) if "TOY_KILL" in os.environ else iter(dataset)

    def metrics(self, model, batch, key):
        die_at("compile")  # this line runs when the step is traced, not when it is taken
        tokens = batch["tokens"]
        logits = model(tokens[:, :-1], key)
        logits += jnp.sum(batch["planted"])  # zeros; a NaN where a test asks for one
        targets = jax.nn.one_hot(tokens[:, 1:], VOCABULARY)
        nats = -jnp.sum(targets * jax.nn.log_softmax(logits), axis=-1)
        return {
            "loss": (nats.sum(), nats.size),
            "bits_per_byte": (nats.sum() / jnp.log(2.0), nats.size),
        }

    def tokens(self, batch):
        return batch["tokens"].shape[0] * (batch["tokens"].shape[1] - 1)

    def cases(self, model, split, *, lengths, brief):
        return [Case({"length": self.config.sequence_length}, lambda: [next(self.train_batches())])]

    def conclude(self, model, console):
        console.print("that was all")


def create(config):
    return Toy(config)
