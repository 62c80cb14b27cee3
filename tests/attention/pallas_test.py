"""The GPU kernels, where no GPU is: what they lower to, what they refuse, how they say that they are interpreted."""

import logging
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from relpos import attention, encodings, positions
from relpos.attention import Slots, choices, pallas, tabulate
from relpos.attention.pallas_bands import Block, Frame
from relpos.attention.reference import Rules, Tokens, mask
from relpos.attention.regions import Layout
from relpos.attention.slot_use import SlotUse
from tests.attending import (
    B,
    EverySlot,
    N,
    assert_trees_close,
    attend,
    carried,
    inputs,
    make,
    value_and_grads,
)
from tests.kinds import OF_EACH_KIND

T, H = 80, 64  # no other test has these: programs of interpreted kernels are cached


def lowered(encoding, dtype=jnp.float32, N=2, T=T, implementation="pallas", **kw):
    """The program of a gradient, for CUDA."""
    graphdef, state = nnx.split(encoding)
    q = jax.ShapeDtypeStruct((1, T, N, H), dtype)
    x = jax.ShapeDtypeStruct((1, T, N * H), dtype)

    def loss(state, q, k, v, x):
        encoding = nnx.merge(graphdef, state)
        out = attend(encoding, q, k, v, x, causal=True, implementation=implementation, **kw)
        return out.astype(jnp.float32).sum()

    gradient = jax.jit(jax.grad(loss, (0, 1, 2, 3, 4)))
    return gradient.trace(state, q, q, q, x).lower(lowering_platforms=("cuda",)).as_text()


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    monkeypatch.setattr(choices, "_capability", lambda: "9.0")
    monkeypatch.setattr(choices, "interpreted", lambda: False)


def created(name):
    return encodings.create(name, num_heads=2, head_dim=H, rngs=nnx.Rngs(0))


PLACES = jnp.arange(T)[::-1] ** 2 % 60
DOCUMENTS = jnp.arange(T)[None] // 30
REFUSED = {
    "fire", "cpb", "cpb_2d", "irpe", "table_2d",  # a network, or a table, of pairs
    "cope", "path", "stick_breaking", "wall", "grape_a", "grape_ap", "tapa", "xpos",  # walk along the row
    "dape", "sink",  # mix heads; one more term in the softmax
}  # fmt: skip
CALLS = {
    "plain": {},
    "scattered": {"q_positions": PLACES, "k_positions": PLACES, "window": 50, "softcap": 9.0},
    "packed": {"q_segments": DOCUMENTS, "k_segments": DOCUMENTS, "dropout_rate": 0.1},
}


# A table, vectors by row and by column, a bias of features, one evaluated for each pair; a refusal.
EVERYWHERE = ("t5", "shaw", "deberta", "fox", "kerple", "fire")


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize(
    ("name", "call", "dtype"),
    [
        pytest.param(name, call, dtype, marks=() if is_quick else pytest.mark.long)
        for name in encodings.names()
        for call, dtype, is_quick in (
            ("plain", "bfloat16", name in OF_EACH_KIND or name in EVERYWHERE),
            ("scattered", "bfloat16", name in EVERYWHERE),
            ("packed", "float32", name in EVERYWHERE),
            ("plain", "float32", False),
        )
    ],
)
def test_every_scheme_lowers_for_cuda_or_says_that_it_does_not(name, call, dtype):
    encoding = created(name)
    kw = CALLS[call]
    if "dropout_rate" in kw:
        kw = kw | {"dropout_key": jax.random.key(0)}
    if not encoding.normalized:
        kw = {name: value for name, value in kw.items() if name != "softcap"}
    try:
        text = lowered(encoding, dtype, **kw)
    except ValueError as error:
        assert 'use implementation="auto"' in str(error)  # noqa: PT017
        assert name in REFUSED
    else:
        assert name not in REFUSED
        assert text.count("xla.gpu.triton") == 3


class Sorted(Slots):
    """Something that Triton has no instruction for."""

    def block_bias(self, q_positions, k_positions, q_features, k_features):
        return jnp.sort(1.0 * (q_positions[:, None] - k_positions[None]), axis=0)


@pytest.mark.usefixtures("as_on_a_gpu")
def test_what_does_not_lower_is_refused():
    with pytest.raises(ValueError, match=r'Sorted evaluates .* use implementation="auto"'):
        lowered(Sorted())
    with pytest.raises(ValueError, match=r"powers of two from 16 on, got \(8, 24\)"):
        lowered(Slots(), block_sizes=(8, 24))


class Constant(Slots):
    """A table that is no variable."""

    def __init__(self, keep):
        self.kept = nnx.Variable(jnp.linspace(0, 1, 9)) if keep else None

    def bias(self, d):
        table = np.linspace(0, 1, 9, dtype=np.float32) if self.kept is None else self.kept[...]
        return jnp.asarray(table)[jnp.clip(d, 0, 8)]


def test_constants_are_refused_by_name_and_variables_taken():
    q, k, v, _ = inputs(T=16, N=1, K=1, B=1, dtype=np.float32)
    call = lambda keep, path: attention(  # noqa: E731
        q, k, v, encoding=Constant(keep), causal=True, implementation=path
    )
    with pytest.raises(
        ValueError, match=r"Constant computes with a constant float32\[9\] .*Variable"
    ):
        call(False, "pallas")
    np.testing.assert_allclose(call(True, "pallas"), call(False, "reference"), atol=1e-6)


class Vectors(Slots):
    def key_vectors(self, d):
        return jnp.sin(1.0 * d)[:, None] * jnp.ones((1, H))


def test_vectors_without_a_band_are_refused():
    with pytest.raises(ValueError, match="Vectors: it has a vector for every distance"):
        lowered(Vectors())


def test_interpreting_is_said_once(caplog):
    pallas._log_interpreted.cache_clear()
    q, k, v, _ = inputs(dtype=np.float32)
    with caplog.at_level(logging.WARNING):
        for window in (3, 4):
            attention(q, k, v, window=window, implementation="pallas")
    assert [record.name for record in caplog.records] == ["relpos.attention.pallas"]
    assert "interpreted" in caplog.text


def test_without_its_triton_backend_pallas_alone_is_refused(monkeypatch):
    package = sys.modules["relpos.attention"]
    for name in ("pallas", "pallas_kernels", "pallas_blocks", "pallas_bands"):
        monkeypatch.delitem(sys.modules, f"relpos.attention.{name}")
        monkeypatch.delattr(package, name)
    monkeypatch.setitem(sys.modules, "jax.experimental.pallas.triton", None)
    monkeypatch.delattr(sys.modules["jax.experimental.pallas"], "triton")
    q, k, v, _ = inputs(dtype=np.float32)
    assert attention(q, k, v).shape == q.shape
    with pytest.raises(ValueError, match=r"needs Pallas' Triton backend.*use \"auto\" or"):
        attention(q, k, v, implementation="pallas")


ON_A_GPU = {
    "none": True,
    "t5": True,
    "rope:1/alibi:1": True,
    "fire": False,  # refused when it is lowered
    "sink": False,
}


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize(("name", "in_kernels"), ON_A_GPU.items())
def test_auto_takes_kernels_on_a_gpu_where_they_carry_a_call(name, in_kernels):
    text = lowered(created(name), implementation="auto", T=136)
    assert ("xla.gpu.triton" in text) == in_kernels


@pytest.mark.parametrize(
    ("platform", "capability", "count", "kw"),
    [
        ("gpu", "9.0", 1, {"T": 120}),  # few pairs
        ("gpu", "9.0", 1, {"T": 137, "block_sizes": (24, 24)}),
        ("gpu", "9.0", 2, {"T": 138}),
        ("gpu", "7.5", 1, {"T": 139}),
        ("cpu", "9.0", 1, {"T": 140}),  # told to compute there
    ],
)
def test_auto_takes_no_kernels_elsewhere(platform, capability, count, kw, monkeypatch):
    """Each length is its own: what was traced once is not asked again."""
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    monkeypatch.setattr(jax, "device_count", lambda: count)
    monkeypatch.setattr(choices, "_capability", lambda: capability)
    assert "xla.gpu.triton" not in lowered(created("none"), implementation="auto", **kw)


@pytest.mark.usefixtures("as_on_a_gpu")
def test_auto_takes_no_kernels_where_factors_fill_their_memory(monkeypatch):
    kernels = {}
    for limit in (127, 128):
        monkeypatch.setattr(choices, "FEW_FACTORS", limit)
        text = lowered(created("transformer_xl"), implementation="auto", T=136 + limit)
        kernels[limit] = "xla.gpu.triton" in text
    assert kernels == {127: False, 128: True}


def test_where_jax_is_told_to_compute_kernels_are_interpreted_or_not(monkeypatch):
    assert choices.interpreted()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert not choices.interpreted()
    with jax.default_device(jax.devices("cpu")[0]):
        assert choices.interpreted()


def has_tables(name):
    """Whether a cache has any for it; the step of others is a step of the contract of decoders."""
    encoding = created(name)
    return encoding.constant_beyond is None and SlotUse.of(encoding).vectors


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if has_tables(name) else pytest.mark.long)
        for name in encodings.names()
    ],
)
def test_a_step_of_decoding_reads_tables_out_of_a_cache(name):
    encoding = make(name, dtype=jnp.float32)
    _, k, v, x = inputs(dtype=np.float32)
    q = jnp.asarray(np.random.default_rng(0).normal(size=(B, 1, N, k.shape[-1])), jnp.float32)
    S = k.shape[1]
    kw = {"causal": True, "tables": tabulate(encoding, S)}
    kw |= {"q_positions": jnp.full((1,), S - 1), "k_positions": jnp.arange(S)}
    paths = carried(encoding, ("reference", "blockwise", "pallas"))
    first, *others = (attend(encoding, q, k, v, x, implementation=path, **kw) for path in paths)
    for other in others:
        np.testing.assert_allclose(other, first, atol=1e-5)


@pytest.mark.parametrize("sizes", [(16, 8), pytest.param((24, 16), marks=pytest.mark.long)])
def test_blocks_far_beyond_the_band_on_both_sides_hide_nothing(sizes):
    """Whole blocks, so that none is masked; larger ones of queries than of keys."""
    with jax.enable_x64(True):
        encoding, arrays = EverySlot(1), inputs(T=48, S=64, B=1, K=1)
        weight = jnp.asarray(np.random.default_rng(9).normal(size=arrays[0].shape))
        found, expected = (
            value_and_grads(encoding, arrays, weight, implementation=path, block_sizes=sizes)
            for path in ("pallas", "reference")
        )
        assert_trees_close(found, expected, 1e-10)


RISING = np.repeat((1, 2, 3, 4), (64, 40, 64, 88))
NOT_RISING = np.repeat((3, 1, 2, 4), (64, 64, 40, 88))


@pytest.mark.parametrize("segments", [RISING, NOT_RISING, None], ids=["rising", "not", "one"])
@pytest.mark.parametrize(
    ("rows", "columns", "causal", "band", "window"),
    [
        (16, 16, False, 8, None),
        (32, 16, True, 40, None),
        (16, 32, False, 0, 50),
        (16, 64, True, 1, (70, None)),
        (64, 16, False, 300, None),
    ],
)
def test_runs_visit_what_is_seen_and_near_tiles_lie_inside(
    rows, columns, causal, band, window, segments
):
    n = 256
    rules = Rules(1.0, causal=causal, window=positions.Window.of(window))
    layout, W = Layout(rows, columns, True, band), band + 1 + (0 if causal else band)
    ids = None if segments is None else jnp.asarray(segments)
    tokens = Tokens(jnp.arange(n), jnp.arange(n), ids)
    runs, hides_far, visits = pallas._visits(rules, layout, tokens, tokens)
    shape = n // rows, rows, n // columns, columns
    seen = np.asarray(mask(rules, tokens, tokens)).reshape(shape).transpose(0, 2, 1, 3)
    d = (np.arange(n)[:, None] - np.arange(n)).reshape(shape).transpose(0, 2, 1, 3)
    sides = ((visits.keys, runs, False), (visits.queries, runs[::-1], True))
    for bounds, names, from_keys in sides:
        visited = np.zeros(seen.shape[:2], int)
        for number, row in enumerate(np.asarray(bounds)):
            for name, begin, end in zip(names, row[:-1], row[1:], strict=True):
                for other in range(begin, end):
                    q, k = (other, number) if from_keys else (number, other)
                    visited[q, k] += 1
                    visible = d[q, k][seen[q, k]]
                    if name == "near":
                        for axis, size in ((1, columns), (0, rows)):
                            tile = Block(layout, W, axis, 0).tile(k * columns - q * rows)[axis]
                            assert 0 <= tile.start <= Frame.of(layout, W, axis).width - size
                    else:
                        assert (
                            (visible >= band).all() if name == "past" else (visible <= -band).all()
                        )
                        assert hides_far or seen[q, k].all()
        assert visited.max() == 1
        assert (visited[seen.any((2, 3))] == 1).all()
