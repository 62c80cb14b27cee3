"""Sums and heads of several kinds, against loops in float64 and on every path."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from relpos import encodings
from relpos.encodings.composed import ByHeads, Sum
from relpos.encodings.composed.expressions import counts, parse
from tests import oracle
from tests.attending import (
    BLOCKS,
    B,
    H,
    K,
    N,
    T,
    assert_trees_close,
    attend,
    inputs,
    make,
    value_and_grads,
)
from tests.contract_attention_test import (
    PACKED,
    SCATTERED,
    STRETCHED,
    assert_as_in_the_paper,
    assert_paths_agree,
    oracles_of,
)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


class SumOracle(oracle.Oracle):
    """Each part says what it adds to the content of the logit and to the value, of a query that is not rotated."""

    def __init__(self, parts):
        self.parts = parts

    def logits(self, q, keys, i, js, scale, x, row, columns):
        found = [np.array(p.logits(q, keys, i, js, scale, x, row, columns)) for p in self.parts]
        return list(sum(found) - (len(found) - 1) * scale * (keys @ q))

    def sink(self):
        found = [sink for part in self.parts if (sink := part.sink()) is not None]
        return np.log(np.exp(found).sum()) if found else None

    def value(self, v, i, j):
        return v + sum(part.value(v, i, j) - v for part in self.parts)


def oracles_of_parts(text, encoding):
    """One oracle for each head."""
    found, heads = [], parse(text)
    made = [part for part, _ in encoding.of_heads] or [encoding]
    for kind, count, one in zip(heads, counts(heads, N), made, strict=True):
        parts = [
            oracles_of(scheme.name, part, count, **dict(scheme.options))
            for scheme, part in zip(kind.summands, one.parts, strict=True)
        ]
        found += map(SumOracle, zip(*parts, strict=True))
    return found


SUMS = ["rope+t5+sink", "shaw+kerple+fox", "rope+fox", "rope+shaw", "shaw(k=3)+transformer_xl"]
WALKS = ["path+fox", "cope+t5", "wall+alibi", "cope+sink+kerple"]
HEADS = ["rope:2/kerple:4", "pope:2/fox+t5:2/none"]

KINDS = {
    "packed": {"causal": True, "segments": PACKED},
    "rows": {"causal": True, "B": 1},
    "stretched": {"causal": True, "positions": STRETCHED[:1], "B": 1},
    "scattered": {"causal": True, "positions": SCATTERED[:1], "window": 30, "B": 1},
}
MORE = ["rope+cope", "rope+dape", "deberta+fox", "wall+deberta"]
# Parts of each kind are quick in one kind of call; all texts are long in the others.
LEFT = ("rope+fox", "rope+shaw", "wall+alibi")  # their parts are quick in other sums
CASES = [(text, "stretched") for text in (*SUMS, *WALKS, HEADS[0]) if text not in LEFT]
CASES += [(text, "scattered") for text in ("rope+dape", "wall+deberta")]
CASES += [(text, "packed") for text in (HEADS[1], "deberta+fox")]
OTHERS = [(text, kind) for kind in KINDS for text in (*SUMS, *WALKS, *HEADS, *MORE)]
CASES += [pytest.param(*case, marks=pytest.mark.long) for case in OTHERS if case not in CASES]


@pytest.mark.parametrize(("text", "kind"), CASES)
def test_paths_agree_with_each_other_and_with_the_parts_loops(text, kind):
    encoding = make(text)
    arrays, out, kw = assert_paths_agree(encoding, KINDS[kind], [BLOCKS], ["blockwise"])
    # cope and dape see products that rope has rotated, which is no sum of the parts' loops.
    if kind == "stretched" and text not in ("rope+cope", "rope+dape"):
        assert_as_in_the_paper(out, oracles_of_parts(text, encoding), encoding, arrays, **kw)


@pytest.mark.parametrize("text", ["rope+t5+shaw(k=3)", "rope:1/t5:1"])
def test_kernels_take_sums_and_heads_of_several_kinds(text):
    encoding = make(text, heads=2)
    arrays = inputs(N=2, K=2, T=16, B=1)
    weight = jnp.ones((1, 16, 2, H))
    expected, found = (
        value_and_grads(encoding, arrays, weight, causal=True, implementation=path)
        for path in ("reference", "pallas")
    )
    assert_trees_close(found, expected, 1e-10)


@pytest.mark.parametrize("text", ["path+pope", "pope+wall", "cope+tupe"])
def test_a_walk_takes_heads_as_they_are_projected(text):
    with pytest.raises(ValueError, match=r"the width of heads .* which \w+ does not expect"):
        attend(make(text), *inputs(B=1), causal=True)


def test_heads_of_two_kinds_are_the_heads_of_two_calls():
    encoding = make("rope:4/alibi:2")
    q, k, v, x = inputs()
    both = attend(encoding, q, k, v, x, causal=True)
    (rope, _), (alibi, _) = encoding.of_heads
    first = attend(rope, q[:, :, :4], k[:, :, :2], v[:, :, :2], x, causal=True)
    last = attend(alibi, q[:, :, 4:], k[:, :, 2:], v[:, :, 2:], x, causal=True)
    np.testing.assert_allclose(both, jnp.concatenate([first, last], 2), atol=1e-12)


def test_heads_drop_the_same_weights_in_one_kind_or_two():
    q, k, v, x = inputs()
    kw = {"causal": True, "dropout_rate": 0.3, "dropout_key": jax.random.key(7)}
    whole = attend(make("none"), q, k, v, x, **kw)
    np.testing.assert_allclose(attend(make("none:2/none:4"), q, k, v, x, **kw), whole, atol=1e-12)


def test_an_order_alone_leaves_each_token_at_its_place_in_the_row():
    """Keys are sorted for a walk; the other parts of the sum still see where they stood."""
    order, at = jnp.asarray(np.random.default_rng(4).permutation(T))[None], jnp.arange(T)[None]
    encoding, arrays = make("path+alibi"), inputs(B=1)
    kw = {"causal": True, "q_order": order, "k_order": order}
    found = attend(encoding, *arrays, **kw)
    expected = attend(encoding, *arrays, q_positions=at, k_positions=at, **kw)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_keys_of_several_kinds_are_kept_once_where_they_can_be():
    """A cache has the layer's key heads, or a head for each query where kinds share one key head."""
    _, k, _, _ = inputs()
    at = jnp.arange(T)
    kept = lambda text, k: encodings.transform_keys(make(text), k, at, N).shape  # noqa: E731
    assert kept("rope:2/alibi:4", k) == (B, T, K, H)
    assert kept("pope:2/alibi:4", k) == (B, T, K, 2 * H)
    assert kept("rope:2/alibi:4", k[:, :, :1]) == (B, T, N, H)
    assert kept("rope+t5+fox", k) == (B, T, K, H)


def test_biases_are_those_of_all_heads():
    d = jnp.arange(20)
    t5, alibi = make("t5", heads=2), make("alibi", heads=4)
    together = encodings.biases(ByHeads((t5, 2), (alibi, 4)), d)
    np.testing.assert_array_equal(
        together, jnp.concatenate([encodings.biases(t5, d), encodings.biases(alibi, d)])
    )
    kerple = make("kerple", heads=2)
    np.testing.assert_allclose(
        encodings.biases(Sum(t5, kerple), d),
        encodings.biases(t5, d) + encodings.biases(kerple, d),
    )


def test_a_sum_says_of_itself_what_its_parts_say():
    found = make("rope+t5")
    assert found.constant_beyond == 128
    assert found.causal_only
    assert found.shift_invariant
    assert make("shaw+kerple").constant_beyond is None
    assert make("fox+tupe").logit_scale == make("tupe").logit_scale
    assert not make("fox+tupe").shift_invariant
    assert make("fox+t5").needs_tokens
    assert not found.needs_tokens


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("rope+sinusoidal", "adds positions to the model's input"),
        ("cope+shaw", "Shaw, which adds to values"),
        ("path+cope", "CoPE, which walks too"),
        ("wall+dape", "DAPE, which mixes heads"),
        ("shaw+inkling", "scaled in the logits, others not"),
        ("tupe+deberta", "scales differ"),
        ("rope:2/sinusoidal:4", "all heads see"),
        ("rope:5/alibi:2", "6 heads together"),
        ("rop+t5", "did you mean 'rope'"),
        ("rope(bas=2.0)+t5", "did you mean 'base'"),
    ],
)
def test_what_cannot_be_put_together_is_named(text, told):
    with pytest.raises(ValueError, match=told):
        make(text)


def test_a_kind_may_not_cut_through_groups():
    q, k, v, x = inputs()
    with pytest.raises(ValueError, match="share key heads with others"):
        attend(make("rope:3/alibi:3"), q, k, v, x, causal=True)


def test_one_kind_alone_is_that_kind():
    q, k, v, x = inputs()
    at = np.linspace(0, 9, T)  # reals, which rope takes
    kw = {"causal": True, "q_positions": at, "k_positions": at}
    rope = make("rope")
    expected = attend(rope, q, k, v, x, **kw)
    for whole in (ByHeads((rope, N)), Sum(rope)):
        np.testing.assert_allclose(attend(whole, q, k, v, x, **kw), expected, atol=1e-12)


def test_options_of_several_schemes_stand_beside_their_names():
    with pytest.raises(ValueError, match="after their names"):
        make("rope+t5", base=3.0)
    assert make("rope(base=3.0)+t5").parts[0].base == 3.0
