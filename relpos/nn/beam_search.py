"""The most probable targets of an encoder-decoder, by beam search."""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from relpos.nn.encoder_decoder import Decoding, EncoderDecoder


@dataclasses.dataclass(frozen=True)
class Beams:
    """Options of a beam search.

    Attributes:
      size: the number of beams; 1 is greedy search.
      length_penalty: alpha. Log probabilities are divided by ((5 + length) / 6)^alpha; the length includes the end
        mark (Wu et al. 2016, arXiv:1609.08144, sec. 7).
    """

    size: int = 4
    length_penalty: float = 0.6

    def __post_init__(self):
        if self.size < 1:
            raise ValueError(f"beams must be at least 1, got {self.size}")
        if not 0 <= self.length_penalty < float("inf"):
            raise ValueError(
                f"length_penalty must be at least 0 and finite, got {self.length_penalty}"
            )

    def score(self, log_probability, length):
        """Return the score that ranks beams."""
        return log_probability / ((5 + length) / 6) ** self.length_penalty


class Found(NamedTuple):
    """The targets that a search finds, best first.

    Attributes:
      tokens: [B, E, M], padded with the end mark.
      lengths: [B, E], without the end mark.
      scores: [B, E]; -1e30 where no target was found.
    """

    tokens: Int[Array, "B E M"]
    lengths: Int[Array, "B E"]
    scores: Float[Array, "B E"]


class _Search(NamedTuple):
    step: Array
    decoding: Decoding
    last: Array  # [B, E]
    alive: Array  # log probabilities, [B, E]
    tokens: Array  # [B, E, M]
    done: Found

    def settled(self, beams: Beams, longest: int) -> Array:
        """Return which rows are done, [B]: those with all their targets, the best of which no live beam can beat.

        Log probabilities only fall, so a live beam scores at most its present one at the largest length.
        """
        full = (self.done.scores > LOWEST / 2).all(-1)
        if beams.size == 1:  # greedy: the most probable token was the end mark
            return full
        within_reach = beams.score(self.alive.max(-1), longest)
        return full & (self.done.scores.max(-1) >= within_reach)


LOWEST = -1e30


def beam_search(
    model: EncoderDecoder,
    source_BS: Int[Array, "B S"],
    segments_BS: Int[Array, "B S"] | None = None,
    *,
    beams: Beams,
    max_length: int,
    begin: int,
    end: int,
    lengths_B: Int[Array, "B"] | None = None,
) -> Found:
    """Search for the targets of sources, in one program.

    A source is done when it has as many finished targets as beams, and no live beam could score higher than the best of
    them, even at length M. Finished targets alone are no stopping rule: confident models rank the end mark second, and
    truncated targets would fill the beams before the right one ends.

    Args:
      model: an encoder-decoder.
      source_BS: source tokens.
      segments_BS: 1 for tokens, 0 for padding; None: no padding.
      beams: the number of beams and how they are ranked.
      max_length: M, the largest number of tokens of a target; longer ones are cut.
      begin: the token before every target.
      end: the token after every target.
      lengths_B: the length of each target ("oracle length"); None: the model decides.
    """
    if max_length < 1:
        raise ValueError(f"max_length must be at least 1, got {max_length}")
    graphdef, state = nnx.split(model)
    return _search(
        graphdef, beams, max_length, begin, end, state, source_BS, segments_BS, lengths_B
    )


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3, 4))
def _search(graphdef, beams: Beams, M, begin, end, state, source_BS, segments_BS, lengths_B):
    model: EncoderDecoder = nnx.merge(graphdef, state).apart()
    B, E = source_BS.shape[0], beams.size
    each_B1 = jnp.arange(B)[:, None]
    # Do not wait for rows of padding.
    empty_B = jnp.zeros(B, bool) if segments_BS is None else (segments_BS == 0).all(-1)

    def one_step(search: _Search) -> _Search:
        step = search.step
        logits, decoding = model.step(search.last.reshape(B * E, 1), search.decoding)
        log_BEV = jax.nn.log_softmax(logits[:, 0].reshape(B, E, -1))
        V = log_BEV.shape[-1]
        # Every live beam ends at the last step.
        must_B = jnp.full((B,), step == M)
        if lengths_B is not None:
            must_B |= lengths_B == step
        may_B = jnp.ones((B,), bool) if lengths_B is None else must_B
        is_end_V = jnp.arange(V) == end
        allowed_BV = jnp.where(is_end_V[None], may_B[:, None], ~must_B[:, None])
        total_BEV = jnp.where(allowed_BV[:, None], search.alive[..., None] + log_BEV, LOWEST)

        # Enough candidates for all beams to end now and as many others to go on.
        best_BC, chosen_BC = jax.lax.top_k(total_BEV.reshape(B, E * V), 2 * E)
        parent_BC, token_BC = chosen_BC // V, chosen_BC % V
        ends_BC = (token_BC == end) & (best_BC > LOWEST / 2)
        among_first = jnp.arange(2 * E)[None] < E
        now_BC = jnp.where(ends_BC & among_first, beams.score(best_BC, step + 1), LOWEST)
        now = Found(search.tokens[each_B1, parent_BC], jnp.full((B, 2 * E), step), now_BC)
        both = jax.tree.map(lambda a, b: jnp.concatenate([a, b], 1), search.done, now)
        _, kept_BE = jax.lax.top_k(both.scores, E)
        better = jax.tree.map(lambda x: x[each_B1, kept_BE], both)
        settled_B = search.settled(beams, M + 1)
        done = jax.tree.map(
            lambda old, new: jnp.where(settled_B.reshape(-1, *[1] * (new.ndim - 1)), old, new),
            search.done, better,
        )  # fmt: skip

        alive, kept_BE = jax.lax.top_k(jnp.where(token_BC == end, LOWEST, best_BC), E)
        parent_BE, last = parent_BC[each_B1, kept_BE], token_BC[each_B1, kept_BE]
        rows = (each_B1 * E + parent_BE).reshape(-1)
        caches = tuple(cache.take(rows) for cache in decoding.caches)
        decoding = decoding._replace(caches=caches)
        tokens = search.tokens[each_B1, parent_BE].at[:, :, step].set(last, mode="drop")
        return _Search(step + 1, decoding, last, alive, tokens, done)

    def goes_on(search: _Search):
        return (search.step <= M) & ~(search.settled(beams, M + 1) | empty_B).all()

    nothing_BEM = jnp.full((B, E, M), end, jnp.int32)
    search = _Search(
        jnp.int32(0),
        model.start(source_BS, segments_BS, max_length=M + 1, beams=E),
        jnp.full((B, E), begin, jnp.int32),
        # All beams start alike, so only the first is live.
        jnp.where(jnp.arange(E)[None] == 0, jnp.zeros((B, E)), LOWEST),
        nothing_BEM,
        Found(nothing_BEM, jnp.zeros((B, E), jnp.int32), jnp.full((B, E), LOWEST)),
    )
    return jax.lax.while_loop(goes_on, one_step, search).done
