"""Whole models for bench_train.py, ours and other libraries': each function makes a training step or a generation.

It returns a call without arguments that returns when its work is done, or raises ImportError if a library is missing.
"""

import dataclasses
import functools
import importlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from relpos.nn import Decoder, EncoderDecoder, Sampling, TransformerConfig, continue_rows
from relpos.training.step import init_state, make_train_step

Call = Callable[[], Any]
Makers = dict[str, Callable[[], Call]]  # of contestants, by name
RATE = 1e-3


@dataclasses.dataclass(frozen=True)
class Size:
    """A model and its batch.

    Attributes:
      L, D, N, V: layers (of encoder and decoder each), features, heads, vocabulary.
      B, T: rows and tokens of a batch.
      pairs: whether it is an encoder-decoder.
    """

    L: int
    D: int
    N: int
    V: int
    B: int
    T: int
    pairs: bool = False

    def tokens(self) -> np.ndarray:
        """Return a batch of random tokens, one more than T, none of them 0."""
        drawn = np.random.default_rng(0).integers(1, self.V, (self.B, self.T + 1))
        return drawn.astype(np.int32)


SIZES = {
    "4 x 256": Size(4, 256, 4, 256, B=8, T=512),
    "8 x 512": Size(8, 512, 8, 256, B=2, T=1024),
    "2 + 2 x 256": Size(2, 256, 4, 4096, B=32, T=64, pairs=True),
}
SMALL = {L: Size(L, 64, 2, 256, B=2, T=128) for L in (2, 8, 16, 32, 64)}
PROMPT, NEW = 128, 256


def import_for(name: str) -> None:
    """Import a contestant's libraries, so that their memory is not counted as the model's."""
    if not name.startswith(("relpos", "plain Flax")):
        importlib.import_module("torch")
        importlib.import_module("x_transformers" if name.startswith("x-") else "transformers")


def relpos_model(size: Size, encoding: str, rngs: nnx.Rngs) -> nnx.Module:
    """Return a decoder, or an encoder-decoder, as its defaults are."""
    config = TransformerConfig(
        num_layers=size.L, features=size.D, num_heads=size.N, encodings=(encoding,)
    )
    if not size.pairs:
        return Decoder(config, vocab_size=size.V, rngs=rngs)
    return EncoderDecoder(
        encoder=config, decoder=config, source_vocab=size.V, target_vocab=size.V,
        share_embeddings=True, rngs=rngs,
    )  # fmt: skip


class PlainDecoder(nnx.Module):
    """The simplest decoder: nnx.Linear, dense attention by jax.nn, no positions."""

    def __init__(self, size: Size, rngs: nnx.Rngs):
        D, self.N = size.D, size.N
        linear = functools.partial(nnx.Linear, use_bias=False, rngs=rngs)
        self.embed = nnx.Embed(size.V, D, rngs=rngs)
        self.norms = nnx.List([nnx.RMSNorm(D, rngs=rngs) for _ in range(2 * size.L + 1)])
        self.qkv = nnx.List([linear(D, 3 * D) for _ in range(size.L)])
        self.out = nnx.List([linear(D, D) for _ in range(size.L)])
        self.mlp_in = nnx.List([linear(D, 4 * D) for _ in range(size.L)])
        self.mlp_out = nnx.List([linear(4 * D, D) for _ in range(size.L)])

    def __call__(self, tokens_BT):
        x = self.embed(tokens_BT)
        for i in range(len(self.qkv)):
            q, k, v = jnp.split(self.qkv[i](self.norms[2 * i](x)), 3, -1)
            q, k, v = (y.reshape(*y.shape[:2], self.N, -1) for y in (q, k, v))
            attended = jax.nn.dot_product_attention(q, k, v, is_causal=True)
            x += self.out[i](attended.reshape(x.shape))
            x += self.mlp_out[i](jax.nn.gelu(self.mlp_in[i](self.norms[2 * i + 1](x))))
        return self.embed.attend(self.norms[-1](x))


@dataclasses.dataclass(frozen=True)
class _Task:
    """The part of a task that a training step needs."""

    size: Size
    encoding: str

    def init_model(self, rngs: nnx.Rngs) -> nnx.Module:
        return relpos_model(self.size, self.encoding, rngs)

    def metrics(self, model, batch, key):
        before, after = batch["tokens"][:, :-1], batch["tokens"][:, 1:]
        logits = model(before, before) if self.size.pairs else model(before)
        nats = optax.softmax_cross_entropy_with_integer_labels(logits, after)
        return {"loss": (nats.sum(), jnp.float32(nats.size))}


def relpos_step(size: Size, encoding: str) -> Call:
    """Return a step of our training loop, including its metrics."""
    task: Any = _Task(size, encoding)
    graphdef, state = init_state(task, optax.adamw(RATE), jax.random.key(0))
    step = make_train_step(task, graphdef, lambda done: RATE)
    batch, key = {"tokens": size.tokens()}, jax.random.key(1)

    def run():
        nonlocal state
        state, metrics = step(state, batch, key)
        return float(metrics["loss"][0])

    return run


def plain_step(size: Size) -> Call:
    """Return a step of the plain Flax decoder, which donates its state."""
    tokens, model = jnp.asarray(size.tokens()), PlainDecoder(size, nnx.Rngs(0))
    graphdef, state = nnx.split((model, nnx.Optimizer(model, optax.adamw(RATE), wrt=nnx.Param)))

    def loss(model):
        logits = model(tokens[:, :-1])
        return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean()

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state):
        model, optimizer = nnx.merge(graphdef, state)
        value, gradients = nnx.value_and_grad(loss)(model)
        optimizer.update(model, gradients)
        return nnx.state((model, optimizer)), value

    def run():
        nonlocal state
        state, value = step(state)
        return float(value)

    return run


def _torch_step(size: Size, model: Any, logits: Callable) -> Call:
    """Return a step of AdamW by PyTorch, for a model and a function that gives the logits of tokens."""
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), RATE)
    tokens = torch.tensor(size.tokens(), dtype=torch.long)

    def run():
        optimizer.zero_grad()
        out = logits(tokens[:, :-1])
        loss = torch.nn.functional.cross_entropy(out.flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        return loss.item()

    return run


def x_transformers_step(size: Size, **positions: Any) -> Call:
    """Return a step of x-transformers' decoder, with its flash attention if the positions allow it."""
    from x_transformers import Decoder, TransformerWrapper

    flash = "rel_pos_bias" not in positions
    layers = Decoder(dim=size.D, depth=size.L, heads=size.N, attn_flash=flash, **positions)
    model = TransformerWrapper(
        num_tokens=size.V, max_seq_len=size.T, use_abs_pos_emb=False, attn_layers=layers
    )
    return _torch_step(size, model, model)


def _neox(size: Size, attention: str) -> Any:
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    config = GPTNeoXConfig(
        vocab_size=size.V, hidden_size=size.D, num_hidden_layers=size.L, num_attention_heads=size.N,
        intermediate_size=4 * size.D, max_position_embeddings=2048, attn_implementation=attention,
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    return GPTNeoXForCausalLM(config)


def neox_step(size: Size, attention: str, compiled: bool = False) -> Call:
    """Return a step of Hugging Face's GPT-NeoX."""
    import torch

    model = _neox(size, attention)
    call = torch.compile(model) if compiled else model
    return _torch_step(size, model, lambda tokens: call(tokens).logits)


def t5_step(size: Size) -> Call:
    """Return a step of Hugging Face's T5: its decoder stack or, for pairs, the whole model."""
    import torch
    from transformers import T5Config, T5ForConditionalGeneration
    from transformers.models.t5.modeling_t5 import T5Stack

    config = T5Config(
        vocab_size=size.V, d_model=size.D, d_kv=size.D // size.N, d_ff=4 * size.D,
        num_layers=size.L, num_heads=size.N, dropout_rate=0.0, use_cache=False,
        is_decoder=not size.pairs, decoder_start_token_id=0,
    )  # fmt: skip
    if size.pairs:
        pairs: Any = T5ForConditionalGeneration(config)
        return _torch_step(size, pairs, lambda x: pairs(input_ids=x, decoder_input_ids=x).logits)
    stack, embed = T5Stack(config), torch.nn.Embedding(size.V, size.D)
    stack.set_input_embeddings(embed)
    return _torch_step(size, stack, lambda x: stack(input_ids=x).last_hidden_state @ embed.weight.T)


def relpos_generation(size: Size, encoding: str, batch: int) -> Call:
    """Return a greedy generation by our decoder."""
    model: Any = relpos_model(size, encoding, nnx.Rngs(0))
    prompts = list(np.resize(size.tokens(), (batch, PROMPT)))

    def run():
        tokens = continue_rows(
            model, prompts, max_new_tokens=NEW, stop=-1,
            sampling=Sampling(temperature=0.0), key=jax.random.key(0),
        )  # fmt: skip
        return np.stack(tokens)

    return run


def neox_generation(size: Size, batch: int) -> Call:
    """Return a greedy generation by Hugging Face's GPT-NeoX."""
    import torch

    model = _neox(size, "sdpa").eval()
    prompts = torch.tensor(np.resize(size.tokens(), (batch, PROMPT)), dtype=torch.long)

    def run():
        with torch.no_grad():
            return model.generate(
                prompts, attention_mask=torch.ones_like(prompts), do_sample=False,
                min_new_tokens=NEW, max_new_tokens=NEW, pad_token_id=0,
            )  # fmt: skip

    return run


OURS = ("none", "rope", "alibi", "t5", "kerple", "shaw", "fire", "fox", "transformer_xl")


def steps(size: Size) -> Makers:
    """Return the maker of each contestant's training step."""
    found: Makers = {
        f"relpos {name}": functools.partial(relpos_step, size, name)
        for name in OURS
        if not (size.pairs and name == "fox")  # it looks only back
    }
    if size.pairs:
        return found | {"Hugging Face T5": functools.partial(t5_step, size)}
    return found | {
        "plain Flax": functools.partial(plain_step, size),
        "x-transformers rotary": functools.partial(x_transformers_step, size, rotary_pos_emb=True),
        "x-transformers ALiBi": functools.partial(x_transformers_step, size, alibi_pos_bias=True),
        "x-transformers T5 bias": functools.partial(x_transformers_step, size, rel_pos_bias=True),
        "GPT-NeoX eager": functools.partial(neox_step, size, "eager"),
        "GPT-NeoX sdpa": functools.partial(neox_step, size, "sdpa"),
        "GPT-NeoX compiled": functools.partial(neox_step, size, "sdpa", compiled=True),
        "Hugging Face T5 stack": functools.partial(t5_step, size),
    }


def contest(part: str, title: str) -> tuple[Makers, int]:
    """Return the maker of each contestant of a table, and the tokens of one call."""
    if part == "step":
        size = SIZES[title]
        return steps(size), size.B * size.T
    if part == "depth":
        makers: Makers = {
            f"relpos rope, {layers} layers": functools.partial(relpos_step, SMALL[layers], "rope")
            for layers in SMALL
        }
        return makers, SMALL[2].B * SMALL[2].T
    size, batch = SIZES["4 x 256"], int(title)
    makers = {
        "relpos rope": functools.partial(relpos_generation, size, "rope", batch),
        "relpos t5": functools.partial(relpos_generation, size, "t5", batch),
        "GPT-NeoX sdpa": functools.partial(neox_generation, size, batch),
    }
    return makers, batch * NEW
