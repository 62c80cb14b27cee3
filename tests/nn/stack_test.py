import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from relpos import encodings
from relpos.encodings import Encoding
from relpos.nn import Decoder, TransformerConfig, block, stack

ONES = jnp.ones((4, 50, 64))


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_dropped_activations_keep_their_mean(rate):
    found = np.asarray(block.dropped(ONES, rate, jax.random.key(0)))
    kept = found != 0
    np.testing.assert_allclose(found[kept], 1 / (1 - rate), rtol=1e-6)
    for axes in ((0, 1), (0, 2), (1, 2)):  # no row, token or feature is better off
        spread = (rate * (1 - rate) / np.prod([ONES.shape[axis] for axis in axes])) ** 0.5
        assert np.abs(kept.mean(axes) - (1 - rate)).max() < 5 * spread


def test_what_is_dropped_is_the_keys_doing():
    def kept(seed):
        return np.asarray(block.dropped(ONES, 0.5, jax.random.key(seed))) != 0

    np.testing.assert_array_equal(kept(1), kept(1))
    assert abs((kept(1) == kept(2)).mean() - 0.5) < 0.05
    assert abs((kept(1)[0] == kept(1)[1]).mean() - 0.5) < 0.05


def test_nothing_is_dropped_without_a_key_or_a_rate():
    assert block.dropped(ONES, 0.5, None) is ONES
    assert block.dropped(ONES, 0.0, jax.random.key(0)) is ONES


def test_float64_that_would_be_float32_is_refused():
    sizes = {"num_layers": 1, "features": 4, "num_heads": 1, "dtype": "float64"}
    with pytest.raises(ValueError, match="needs jax_enable_x64"):
        TransformerConfig(**sizes)
    with jax.enable_x64(True):
        assert TransformerConfig(**sizes).dtype == "float64"


def test_the_longest_sequence_is_also_that_of_encodings_which_layers_own(monkeypatch):
    class Limited(encodings.Encoding):
        max_length = 4

    known = encodings.scheme
    monkeypatch.setattr(
        encodings, "scheme", lambda name: Limited if name == "limited" else known(name)
    )
    config = TransformerConfig(num_layers=2, features=8, num_heads=2, encodings=("limited",))
    made = stack.Stack(config, causal=True, rngs=nnx.Rngs(0))
    assert made.max_length == 4
    with pytest.raises(ValueError, match="5 tokens are more than the 4 positions of limited"):
        made(jnp.ones((1, 5, 8)))
    with pytest.raises(ValueError, match="5 tokens are more than the 4 positions"):
        made.init_caches(1, 5)


def made(encodings, **sizes):
    config = {"num_layers": 4, "features": 16, "num_heads": 4} | sizes
    return created(TransformerConfig(encodings=encodings, **config), 7)


def created(config, vocab_size):
    """Return a decoder that one program makes; operation by operation it would take one for each."""
    return nnx.jit(lambda: Decoder(config, vocab_size=vocab_size, rngs=nnx.Rngs(0)))()


@nnx.jit
def run(model, tokens):
    return model(tokens)


@nnx.jit
def decode(model, tokens, caches):
    return model.decode(tokens, caches)


def of_encodings(model):
    state = nnx.to_flat_state(nnx.state(model, nnx.Param))
    return {".".join(map(str, path)): x[...].shape for path, x in state if "encoding" in str(path)}


def test_parameters_are_shared_by_layers_as_they_are_marked():
    assert of_encodings(made("t5")) == {"stack.blocks.0.attention.encoding.table": (4, 32)}
    assert list(of_encodings(made("t5(per_layer=True)")).values()) == [(4, 4, 32)]
    shapes = of_encodings(made("transformer_xl"))
    at = "stack.blocks.0.attention.encoding."
    assert shapes == {at + "kernel": (4, 4, 16, 4), at + "u": (4, 4), at + "v": (4, 4)}


def test_layers_that_take_turns_share_what_is_marked():
    """Both turns of t5 have one table, and its gradient is the sum of theirs."""
    model = made("t5,rope,t5,none")
    assert of_encodings(model) == {"stack.blocks.0.attention.encoding.table": (4, 32)}
    tables = [model.stack.blocks[i].attention.encoding.table for i in (0, 2)]
    assert tables[0] is tables[1]
    x = jnp.arange(6)[None]
    whole = nnx.jit(nnx.grad(lambda model: (model(x) ** 2).sum()))(model)
    apart = made(
        "t5,rope,t5(num_buckets=32),none"
    )  # the same scheme, told otherwise: a table of its own
    nnx.update(
        apart.stack.blocks[2].attention.encoding,
        nnx.state(apart.stack.blocks[0].attention.encoding),
    )
    each = nnx.jit(nnx.grad(lambda model: (model(x) ** 2).sum()))(apart)["stack"]["blocks"]
    summed = sum(each[i]["attention"]["encoding"]["table"][...] for i in (0, 2))
    found = whole["stack"]["blocks"][0]["attention"]["encoding"]["table"][...]
    np.testing.assert_allclose(found, summed, rtol=1e-4, atol=1e-5)


def test_two_layers_may_have_two_bases():
    near, far = made("rope(base=10.0),rope(base=1e6)"), made("rope(base=10.0)")
    assert [b.attention.encoding.base for b in near.stack.blocks] == [10.0, 1e6]
    x = jnp.arange(6)[None]
    assert jnp.abs(run(near, x) - run(far, x)).max() > 1e-3


def test_the_part_of_a_sum_that_adds_to_the_input_stands_before_the_layers():
    model = made("learned(max_length=9)+t5,rope")
    assert [type(e).__name__ for e in model.stack.input_encodings] == ["Learned"]
    assert type(model.stack.blocks[0].attention.encoding).__name__ == "T5"
    with pytest.raises(ValueError, match="10 tokens are more than the 9 positions"):
        model(jnp.zeros((1, 10), int))
    with pytest.raises(ValueError, match="seen by all heads"):
        made("learned:2/rope:2")


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("rope+t5", marks=pytest.mark.long),
        "rope:2/fox+t5:2",
        pytest.param("pope:2/alibi:2", marks=pytest.mark.long),
        pytest.param("deberta(share=True)", marks=pytest.mark.long),
        pytest.param("dape,rope", marks=pytest.mark.long),
        "path+fox",
    ],
)
def test_compositions_decode_as_they_run(text):
    model, x = made(text, num_kv_heads=2), jax.random.randint(jax.random.key(0), (2, 9), 0, 7)
    caches, found = model.init_caches(2, 9), []
    for part in (x[:, :4], x[:, 4:8], x[:, 8:]):
        out, caches = decode(model, part, caches)
        found.append(out)
    np.testing.assert_allclose(np.concatenate(found, 1), run(model, x), atol=1e-5)


class Waves(Encoding):
    """Of one's own: vectors for every distance, which all heads share."""

    def __init__(self, *, dims, rngs):
        self.speeds = nnx.Param(jnp.linspace(0.1, 2.0, dims.head_dim))

    def key_vectors(self, d):
        return jnp.cos(d[:, None] * self.speeds[...])


def test_a_class_of_ones_own_stands_in_turn_and_decodes():
    model = made((Waves, "none"), num_kv_heads=2)
    assert isinstance(model.stack.blocks[0].attention.encoding, Waves)
    x = jnp.arange(7)[None]
    out, caches = decode(model, x[:, :4], model.init_caches(1, 7))
    rest, _ = decode(model, x[:, 4:], caches)
    np.testing.assert_allclose(jnp.concatenate([out, rest], 1), run(model, x), atol=1e-5)


def test_layers_apart_run_as_they_do_in_a_loop(monkeypatch):
    """Few layers, whose caches stand one by one, and the same as if they were many."""
    config = TransformerConfig(num_layers=4, features=12, num_heads=2, encodings=("t5", "rope"))
    model = created(config, 11)
    tokens = jnp.arange(10).reshape(2, 5)
    whole = run(model, tokens)

    def decoded(model):
        caches, found = model.init_caches(2, 5), []
        for t in range(5):
            logits, caches = decode(model, tokens[:, t : t + 1], caches)
            found.append(logits)
        return jnp.concatenate(found, 1), len(caches)

    found, count = decoded(model.apart())
    np.testing.assert_allclose(found, whole, atol=1e-5)
    assert count == len(model.apart().stack.blocks) == 4
    assert len(model.stack.blocks) == 2  # the model itself stays as it was
    with pytest.raises(ValueError, match="got 3 caches for 4 layers"):
        model.decode(tokens, model.init_caches(2, 5)[:3])
    monkeypatch.setattr("relpos.nn.stacked.FEW_LAYERS", 1)
    found, count = decoded(model.apart())
    np.testing.assert_allclose(found, whole, atol=1e-5)
    assert count == 2
