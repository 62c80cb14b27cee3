"""Continue token sequences with a decoder and its cache."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from relpos.nn.decoder import Decoder

MOST_NEW_TOKENS = 1 << 16  # the cache has room for all of them from the start


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    Attributes:
      temperature: what logits are divided by; 0: take the most probable token.
      top_k: draw only from the k most probable tokens; 0: from all.
      top_p: draw only from the smallest set of most probable tokens whose probabilities sum to at least p (Holtzman
        et al. 2020, arXiv:1904.09751, sec. 3.1); 1: from all.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self):
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature must be at least 0 and finite, got {self.temperature}")
        if not 0 <= self.top_k < 2**31:
            raise ValueError(f"top_k must be from 1 to 2**31 - 1, or 0 for all, got {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1], got {self.top_p}")

    def choose(self, logits_BV: Float[Array, "B V"], keys_B: Array) -> Int[Array, "B"]:
        """Draw a token for each row, with its own random key."""
        if self.temperature == 0:
            return logits_BV.argmax(-1).astype(jnp.int32)
        logits_BV = logits_BV / self.temperature
        if self.top_k or self.top_p < 1:
            order_BV = jnp.argsort(-logits_BV, axis=-1)
            sorted_BV = jnp.take_along_axis(logits_BV, order_BV, -1)
            mass_BV = jax.nn.softmax(sorted_BV, -1)
            # The mass before a token decides, so that the most probable token always stays.
            kept_BV = jnp.cumsum(mass_BV, -1) - mass_BV < self.top_p
            if self.top_k:
                kept_BV &= jnp.arange(logits_BV.shape[-1]) < self.top_k
            sorted_BV = jnp.where(kept_BV, sorted_BV, -jnp.inf)
            choice = _draw(keys_B, sorted_BV)[:, None]
            return jnp.take_along_axis(order_BV, choice, -1)[:, 0].astype(jnp.int32)
        return _draw(keys_B, logits_BV).astype(jnp.int32)


_draw = jax.vmap(jax.random.categorical)


def check_new_tokens(count: int) -> None:
    """Check the number of new tokens; raise a ValueError if there is no room for them."""
    if not 1 <= count <= MOST_NEW_TOKENS:
        raise ValueError(
            f"max_tokens must be from 1 to {MOST_NEW_TOKENS}, for the cache has room for all of them from the "
            f"start; got {count}"
        )


def generate(
    model: Decoder,
    prompts_BT: Int[Array, "B T"],
    lengths_B: Int[Array, "B"],
    *,
    max_new_tokens: int,
    stop: int,
    sampling: Sampling,
    key: Array,
) -> tuple[Int[Array, "B M"], Int[Array, "B"]]:
    """Continue each prompt until `stop` or for max_new_tokens.

    Args:
      model: a decoder.
      prompts_BT: the prompts, each padded at its end with any tokens.
      lengths_B: the number of tokens of each prompt, at least 1.
      max_new_tokens: M, at most MOST_NEW_TOKENS.
      stop: the token that ends a continuation, not part of it.
      sampling: how tokens are chosen.
      key: a random key, or one for each row, [B]. The draws of a row depend only on its own key and the step.

    Returns:
      The new tokens, and their number in each row.

    Raises:
      ValueError: max_new_tokens is below 1 or too large.
    """
    check_new_tokens(max_new_tokens)
    keys_B = key if key.ndim else jax.random.split(key, len(prompts_BT))
    graphdef, state = nnx.split(model)
    asked = {"prompts": prompts_BT, "lengths": lengths_B, "keys": keys_B}
    return _generate(graphdef, max_new_tokens, stop, sampling, state, asked)


_fold_in = jax.vmap(jax.random.fold_in, in_axes=(0, None))


def continued(
    graphdef: Any, max_new_tokens: int, stop: int, sampling: Sampling, state: Any, asked: Mapping
) -> tuple[Int[Array, "B M"], Int[Array, "B"]]:
    """Do what `generate` does, uncompiled: from a model in two parts, and a dict of prompts, lengths and keys."""
    prompts_BT, lengths_B, keys_B = (asked[name] for name in ("prompts", "lengths", "keys"))
    model = nnx.merge(graphdef, state).apart()
    B, T = prompts_BT.shape
    segments = (jnp.arange(T) < lengths_B[:, None]).astype(jnp.int32)
    placed, places = model.places.begin(prompts_BT, segments, more=max_new_tokens)
    caches = model.init_caches(B, T + max_new_tokens, positions=placed.positions)
    logits_BTV, caches = model.decode(prompts_BT, caches, segments=segments, **placed._asdict())
    logits_BV = jnp.take_along_axis(logits_BTV, (lengths_B - 1)[:, None, None], 1)[:, 0]

    def unfinished(carry):
        step, _, _, _, done_B, *_ = carry
        return (step < max_new_tokens) & ~done_B.all()

    def one_token(carry):
        step, logits_BV, caches, places, done_B, tokens_BM, counts_B = carry
        chosen_B = sampling.choose(logits_BV, _fold_in(keys_B, step))
        done_B = done_B | (chosen_B == stop)
        tokens_BM = tokens_BM.at[:, step].set(jnp.where(done_B, stop, chosen_B))
        counts_B = counts_B + ~done_B
        placed, places = model.places.follow(places, chosen_B[:, None])
        logits_BTV, caches = model.decode(chosen_B[:, None], caches, **placed._asdict())
        return step + 1, logits_BTV[:, 0], caches, places, done_B, tokens_BM, counts_B

    tokens_BM = jnp.full((B, max_new_tokens), stop, jnp.int32)
    nobody, none_yet = jnp.zeros((B,), bool), jnp.zeros((B,), jnp.int32)
    carry = (jnp.int32(0), logits_BV, caches, places, nobody, tokens_BM, none_yet)
    *_, tokens_BM, counts_B = jax.lax.while_loop(unfinished, one_token, carry)
    return tokens_BM, counts_B


_generate = jax.jit(continued, static_argnums=(0, 1, 2, 3))
