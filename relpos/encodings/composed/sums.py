"""Sums of several encodings."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from relpos.attention.slot_use import SlotUse
from relpos.encodings.base import Encoding


class Sum(Encoding, fills_slots=False):
    """logit = scale * (query(q_i) . key(k_j) + the parts' products with vectors) + the sum of the parts' biases.

    Queries, keys and values pass through the parts' `query`, `key` and `value` in turn, outputs through their `finish`
    in reverse order. A part's vectors of distances are multiplied with its own vector query (or key), made from the
    projected one: in rope + shaw, Shaw's vectors are multiplied with queries that are not rotated. In blocks each part
    has its own band, so that a part without constant_beyond does not make others more expensive.
    """

    def __init__(self, *summands: Encoding):
        """Sum encodings of the same heads; a sum among them is split into parts.

        Raises:
          ValueError: they cannot be summed: one adds to the model's input, one walks along the row while another walks,
            adds vectors to values or mixes heads, or their scales differ.
        """
        parts = [part for summand in summands for part in summand.parts]
        told = " + ".join(type(part).__name__ for part in parts)
        for part in parts:
            _check(part, parts, told)
        self.summands = nnx.List(parts)
        filled = [(part, SlotUse.of(part)) for part in parts]
        self.with_key_vectors = tuple(f.key_vectors for _, f in filled)
        self.with_query_vectors = tuple(f.query_vectors for _, f in filled)
        overridden = frozenset[str]().union(*(part.overridden for part in parts))
        # Vectors of several parts are concatenated, and so must be the queries and keys for them.
        if sum(self.with_key_vectors) > 1:
            overridden |= {"vector_query"}
        if sum(self.with_query_vectors) > 1:
            overridden |= {"vector_key"}
        self.overridden = overridden - {"factored_query", "factored_key"}  # blocks use the parts'
        self.walks = any(part.walks for part in parts)
        self.walk_rows = min(part.walk_rows for part in parts)
        self.mixes = any(part.mixes for part in parts)
        self.normalized = all(part.normalized for part in parts)
        self.sees_itself = all(part.sees_itself for part in parts)
        beyonds = [part.constant_beyond for part, f in filled if f.distances]
        known = [beyond for beyond in beyonds if beyond is not None]
        self.constant_beyond = max(known) if known and len(known) == len(beyonds) else None
        self.shift_invariant = all(part.shift_invariant for part in parts)
        self.causal_only = any(part.causal_only for part in parts)
        self.needs_tokens = any(part.needs_tokens for part in parts)
        self.scaled_vectors = all(part.scaled_vectors for part, f in filled if f.key_vectors)
        reading = [part for part in parts if part.reads_positions]
        axes = {part.axes for part in reading if part.axes is not None}
        self.axes = 1 if 1 in axes else max(axes, default=None)  # each part is checked separately
        self.reals = all(part.reals for part in reading)
        self.head_dim = _one("head sizes", told, [part.head_dim for part in parts])
        self.logit_scale = _one("scales", told, [part.logit_scale for part in parts])
        lengths = [part.max_length for part in parts if part.max_length is not None]
        self.max_length = min(lengths, default=None)

    @property
    def parts(self) -> tuple[Encoding, ...]:
        """The summands."""
        return tuple(self.summands)

    def features_of_parts(self, features: Any) -> tuple[Any, ...]:
        """Return each part's features."""
        return (None,) * len(self.summands) if features is None else features

    def _with(self, features: Any) -> list[tuple[Encoding, Any]]:
        """Return each part with its features, or with its state."""
        return list(zip(self.parts, self.features_of_parts(features), strict=True))

    def tokens(self, x_TD, valid_T, state=None):
        """Return the features of each part, and the state of each part."""
        found = [
            part.tokens(x_TD, valid_T, of_part) if part.needs_tokens else (None, None)
            for part, of_part in self._with(state)
        ]
        return tuple(features for features, _ in found), tuple(state for _, state in found)

    def query(self, q_TH, positions_T, features_T):
        """Pass queries through the parts."""
        return self._in_turn("query", q_TH, positions_T, features_T)

    def key(self, k_SH, positions_S, features_S):
        """Pass keys through the parts."""
        return self._in_turn("key", k_SH, positions_S, features_S)

    def value(self, v_SH, positions_S, features_S):
        """Pass values through the parts."""
        return self._in_turn("value", v_SH, positions_S, features_S)

    def finish(self, out_TH, positions_T, features_T):
        """Pass outputs through the parts, the last one first."""
        return self._in_turn("finish", out_TH, positions_T, features_T, backward=True)

    def _in_turn(self, slot, x_TH, positions_T, features_T, *, backward=False):
        pairs = self._with(features_T)
        width, last = x_TH.shape[-1], None
        for part, of_part in reversed(pairs) if backward else pairs:
            if slot not in part.overridden:
                continue
            if x_TH.shape[-1] != width:
                _refuse_width(slot, last, width, x_TH.shape[-1], part, "name it last in the sum")
            x_TH, last = getattr(part, slot)(x_TH, positions_T, of_part), part
        if self.walks and slot in ("query", "key") and x_TH.shape[-1] != width:
            walking, _ = self._walking(features_T)
            if walking.head_dim is not None:
                hint = "a walk takes heads of the projected width"
                _refuse_width(slot, last, width, x_TH.shape[-1], walking, hint)
        return x_TH

    def vector_query(self, q_TH, positions_T, features_T):
        """Return the queries for the parts' key vectors, concatenated."""
        return self._vectors("vector_query", self.with_key_vectors, q_TH, positions_T, features_T)

    def vector_key(self, k_SH, positions_S, features_S):
        """Return the keys for the parts' query vectors, concatenated."""
        return self._vectors("vector_key", self.with_query_vectors, k_SH, positions_S, features_S)

    def _vectors(self, slot, filled, x_TH, positions_T, features_T):
        each = zip(self._with(features_T), filled, strict=True)
        return _side_by_side(
            getattr(part, slot)(x_TH, positions_T, of_part) for (part, of_part), has in each if has
        )

    def bias(self, d):
        """Return the sum of the parts' biases."""
        return _total(part.bias(d) for part in self.parts)

    def key_vectors(self, d):
        """Return the parts' key vectors, concatenated."""
        return _side_by_side(part.key_vectors(d) for part in self.parts)

    def query_vectors(self, d):
        """Return the parts' query vectors, concatenated."""
        return _side_by_side(part.query_vectors(d) for part in self.parts)

    def value_vectors(self, d):
        """Return the sum of the parts' value vectors."""
        return _total(part.value_vectors(d) for part in self.parts)

    def block_bias(self, q_positions, k_positions, q_features, k_features):
        """Return the sum of the parts' `block_bias`."""
        each = zip(self._with(q_features), self.features_of_parts(k_features), strict=True)
        return _total(
            part.block_bias(q_positions, k_positions, of_queries, of_keys)
            for (part, of_queries), of_keys in each
        )

    def sink(self):
        """Return the logit of one sink that stands for all parts' sinks."""
        found = [sink for part in self.parts if (sink := part.sink()) is not None]
        return jax.nn.logsumexp(jnp.stack(found)) if found else None

    def mix(self, logits_NCK, bias_NCK):
        """Mix the logits and the sum of all biases by the part that mixes."""
        (part,) = (part for part in self.parts if part.mixes)
        return part.mix(logits_NCK, bias_NCK)

    def _walking(self, features: Any) -> tuple[Encoding, Any]:
        """Return the part that walks, and its features."""
        (found,) = (pair for pair in self._with(features) if pair[0].walks)
        return found

    def begin(self, q_TH, q_features):
        """Return the carry of the part that walks."""
        part, of_part = self._walking(q_features)
        return part.begin(q_TH, of_part)

    def query_block(self, q_CH, q_features):
        """Return the features of a block of queries for the part that walks."""
        part, of_part = self._walking(q_features)
        return part.query_block(q_CH, of_part)

    def key_block(self, k_KH, k_features):
        """Return the features of a block of keys for the part that walks."""
        part, of_part = self._walking(k_features)
        return part.key_block(k_KH, of_part)

    def walk(
        self, carry, q_CH, k_KH, q_positions, k_positions, q_features, k_features, seen_CK, scale
    ):
        """Walk with the part that walks."""
        part, _ = self._walking(None)
        return part.walk(
            carry, q_CH, k_KH, q_positions, k_positions, q_features, k_features, seen_CK, scale
        )


def _refuse_width(slot: str, part: Any, width: int, found: int, other: Encoding, hint: str) -> None:
    raise ValueError(
        f"{type(part).__name__}.{slot} changes the width of heads from {width} to {found}, which "
        f"{type(other).__name__} does not expect: {hint}"
    )


def _check(part: Encoding, parts: Sequence[Encoding], told: str) -> None:
    """Check that a part may be in this sum."""
    name = type(part).__name__
    if part.adds_to_input():
        raise ValueError(
            f"{told}: {name} adds positions to the model's input, not to attention: name it in the sum for a model, "
            "which applies it before the layers, but leave it out for a single layer"
        )
    for other in parts:
        if not part.normalized and "sink" in other.overridden:
            raise ValueError(
                f"{told}: {name} has no softmax, which {type(other).__name__} needs; they cannot be summed"
            )
        if part.mixes and other.mixes and other is not part:
            raise ValueError(f"{told}: two of them mix the heads' logits; they cannot be summed")
        if not part.walks or other is part:
            continue
        if other.walks or other.mixes or SlotUse.of(other).value_vectors:
            does = (
                "walks too" if other.walks else "mixes heads" if other.mixes else "adds to values"
            )
            raise ValueError(
                f"{told}: {name} walks along the row; it cannot be summed with {type(other).__name__}, which {does}"
            )
    vectors = {p.scaled_vectors for p in parts if SlotUse.of(p).key_vectors}
    if len(vectors) > 1:
        raise ValueError(
            f"{told}: some of their key vectors are scaled in the logits, others not; they cannot be summed"
        )


def _one(what: str, told: str, values: Sequence[Any]) -> Any:
    """Return the one value that is not None; None if there is none."""
    found = {value for value in values if value is not None}
    if len(found) > 1:
        raise ValueError(f"{told}: their {what} differ: {', '.join(map(str, sorted(found)))}")
    return found.pop() if found else None


def _side_by_side(arrays):
    found = [x for x in arrays if x is not None]
    return jnp.concatenate(found, -1) if found else None


def _total(arrays):
    found = [x for x in arrays if x is not None]
    return sum(found[1:], found[0]) if found else None
