"""Layers of every kind, against NumPy loops in float64; and what holds of every kind: decoding, memory, refusals."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from relpos.nn import Decoder, EncoderDecoder, TransformerConfig
from relpos.nn.stack import Stack

B, T, S, D, N, K, M, V = 2, 7, 5, 12, 4, 2, 11, 13
SIZES = {
    "features": D, "num_heads": N, "num_kv_heads": K, "head_dim": 6, "mlp_features": M, "dtype": "float64"
}  # fmt: skip
MLPS = ("relu2", "relu", "gelu", "gelu_tanh", "swiglu", "geglu", "geglu_tanh")
ALL = {"bias": "qkv, out, mlp, logits", "qk_norm": True, "tied_embeddings": False}
PUBLISHED = {
    "Llama": {"mlp": "swiglu", "tied_embeddings": False},
    "GPT-NeoX": {"norm": "layer", "mlp": "gelu", "parallel": True, "bias": "qkv,out,mlp"},
    "Csordas 2021": {  # arXiv:2108.12284, for SCAN
        "norm": "layer", "norm_placement": "post", "final_norm": False, "norm_epsilon": 1e-5, "mlp": "relu",
        "bias": "mlp,logits", "dropout": "attention, mlp, output",
    },
    "Qwen3": {"mlp": "swiglu", "qk_norm": True},
    "all": {"norm": "layer", "mlp": "geglu", **ALL},
}  # fmt: skip


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def shaken(module):
    """The module in float64; no parameter stays zero or one."""
    random = np.random.default_rng(0)
    state = nnx.state(module, nnx.Param)
    moved = jax.tree.map(lambda x: x + 0.3 * random.normal(size=x.shape), state)
    nnx.update(module, moved)
    return module


def drawn(*shape, seed=1):
    return np.random.default_rng(seed).normal(size=shape)


class Oracle:
    """One layer for one row, from the equations."""

    def __init__(self, config, block):
        self.config = config
        flat = nnx.to_flat_state(nnx.state(block, nnx.Param))
        self.p = {".".join(path): np.asarray(x[...])[0] for path, x in flat}

    def norm(self, name, x, kind=None):
        centred = x - x.mean(-1, keepdims=True) if (kind or self.config.norm) == "layer" else x
        size = (centred**2).mean(-1, keepdims=True) + self.config.norm_epsilon
        return centred / np.sqrt(size) * self.p[f"{name}.scale"] + self.p.get(f"{name}.bias", 0)

    def linear(self, name, x):
        return x @ self.p[f"{name}.kernel"] + self.p.get(f"{name}.bias", 0)

    def heads(self, name, x, count, normed):
        """Return [count, length, H], the queries or keys with their norm if they have one."""
        x = x.reshape(len(x), count, -1).swapaxes(0, 1)
        return self.norm(name, x, "rms") if normed and self.config.qk_norm else x

    def attention(self, name, q, kv, H, causal):
        out = np.zeros((N, len(q), H))
        q = self.heads(f"{name}.q_norm", q, N, True)
        k = self.heads(f"{name}.k_norm", kv[:, : K * H], K, True)
        v = self.heads(name, kv[:, K * H :], K, False)
        for n in range(N):
            for i in range(q.shape[1]):
                seen = range(i + 1) if causal else range(k.shape[1])
                logits = np.array([q[n, i] @ k[n * K // N, j] / math.sqrt(H) for j in seen])
                weights = np.exp(logits - logits.max())
                weights /= weights.sum()
                out[n, i] = sum(w * v[n * K // N, j] for w, j in zip(weights, seen, strict=True))
        return self.linear(f"{name}.out", out.swapaxes(0, 1).reshape(q.shape[1], -1))

    def mlp(self, x):
        kind, h = self.config.mlp, self.linear("mlp_in", x)
        erf, tanh = np.vectorize(math.erf), lambda h: np.tanh((2 / np.pi) ** 0.5 * h)
        functions = {
            "relu2": lambda h: np.maximum(h, 0) ** 2,
            "relu": lambda h: np.maximum(h, 0),
            "swiglu": lambda h: h / (1 + np.exp(-h)),
            "gelu": lambda h: h * (1 + erf(h / 2**0.5)) / 2,
            "gelu_tanh": lambda h: h * (1 + tanh(h + 0.044715 * h**3)) / 2,
        }
        function = functions[kind.replace("geglu", "gelu")]
        if kind in ("swiglu", "geglu", "geglu_tanh"):
            return self.linear("mlp_out", function(h[:, :M]) * h[:, M:])
        return self.linear("mlp_out", function(h))

    def __call__(self, x, memory=None):
        H, post = self.config.head_size, self.config.norm_placement == "post"
        sublayers = {"attention": lambda h: self.attend(h, H)}
        if memory is not None:
            sublayers["cross"] = lambda h: self.cross(h, memory, H)
        sublayers["mlp"] = self.mlp
        if self.config.parallel:
            return x + sum(f(self.norm(f"{name}_norm", x)) for name, f in sublayers.items())
        for name, sublayer in sublayers.items():
            norm = f"{name}_norm"
            x = self.norm(norm, x + sublayer(x)) if post else x + sublayer(self.norm(norm, x))
        return x

    def attend(self, x, H):
        qkv = self.linear("attention.qkv", x)
        return self.attention("attention", qkv[:, : N * H], qkv[:, N * H :], H, causal=True)

    def cross(self, x, memory, H):
        q, kv = self.linear("cross.query", x), self.linear("cross.key_value", memory)
        return self.attention("cross", q, kv, H, causal=False)


def config(num_layers=1, **options):
    return TransformerConfig(num_layers=num_layers, **{"encodings": "none"} | SIZES | options)


@pytest.mark.parametrize(
    "options",
    [
        {"norm": "layer"},
        {"norm_placement": "post"},
        {"norm_epsilon": 0.5},
        *({"mlp": kind} for kind in MLPS),
        *({"bias": name} for name in ("qkv", "out", "mlp")),
        {"parallel": True},
        {"qk_norm": True, "norm_epsilon": 0.5},
        *(pytest.param(o, marks=pytest.mark.long, id=name) for name, o in PUBLISHED.items()),
    ],
    ids=str,
)
def test_a_layer_is_its_equations(options):
    sizes = config(**options)
    stack = shaken(Stack(sizes, causal=True, rngs=nnx.Rngs(0)))
    x, oracle = drawn(B, T, D), Oracle(sizes, stack.blocks[0])
    expected = np.stack([oracle(row) for row in x])
    np.testing.assert_allclose(stack(jnp.asarray(x)), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    "options",
    [
        {"mlp": "geglu_tanh", "bias": "qkv, out", "qk_norm": True},
        pytest.param({"norm": "layer", "norm_placement": "post"}, marks=pytest.mark.long),
    ],
    ids=str,
)
def test_a_layer_with_cross_attention_is_its_equations(options):
    sizes = config(**options)
    stack = Stack(sizes, causal=True, cross_encoding="none", rngs=nnx.Rngs(0))
    x, y, oracle = drawn(B, T, D), drawn(B, S, D, seed=2), Oracle(sizes, shaken(stack).blocks[0])
    expected = np.stack([oracle(*rows) for rows in zip(x, y, strict=True)])
    found = stack(jnp.asarray(x), memories=stack.memories(jnp.asarray(y)))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10)


QUICK = [
    pytest.param(options, id=name, marks=() if name == "all" else pytest.mark.long)
    for name, options in PUBLISHED.items()
]
TOKENS = np.random.default_rng(3).integers(0, V, (B, T))


@pytest.mark.parametrize("options", QUICK)
def test_decoding_and_reading_on_are_the_whole(options):
    """Biases and norms of queries and keys are those of tokens in caches and of earlier tokens too."""
    sizes = config(**options | {"encodings": "rope"})
    model = shaken(Decoder(sizes, vocab_size=V, rngs=nnx.Rngs(0)))
    whole, parts = model(TOKENS), (TOKENS[:, :3], TOKENS[:, 3:6], TOKENS[:, 6:])
    for step, state in (
        (lambda model, *x: model.decode(*x), model.init_caches(B, T)),
        (lambda model, *x: model.read_on(*x), model.init_earlier(B, T)),
    ):
        run, found = nnx.jit(step), []
        for part in parts:
            logits, state = run(model, part, state)
            found.append(logits)
        np.testing.assert_allclose(np.concatenate(found, 1), whole, rtol=0, atol=1e-4)


@pytest.mark.parametrize("options", [{"mlp": "geglu_tanh", **ALL}], ids=str)
def test_steps_of_an_encoder_decoder_are_the_whole(options):
    sizes = config(**options | {"encodings": "t5"})
    model = shaken(
        EncoderDecoder(
            encoder=sizes, decoder=sizes, source_vocab=V, target_vocab=V, rngs=nnx.Rngs(0)
        )
    )
    source, found = TOKENS[:, ::-1][:, :S], []
    decoding = model.start(source, max_length=T)
    step = nnx.jit(lambda model, *x: model.step(*x))
    for t in range(T):
        logits, decoding = step(model, TOKENS[:, t : t + 1], decoding)
        found.append(logits)
    whole = model(source, TOKENS)
    np.testing.assert_allclose(np.concatenate(found, 1), whole, rtol=0, atol=1e-4)


@pytest.mark.parametrize("final_norm", [True, False])
@pytest.mark.parametrize("tied", [True, False])
def test_logits_are_products_with_a_table(tied, final_norm):
    sizes = config(tied_embeddings=tied, bias="logits", final_norm=final_norm)
    model = shaken(Decoder(sizes, vocab_size=V, rngs=nnx.Rngs(0)))
    embed = model.embed
    assert (embed.of_logits is None) == tied
    table = (embed.table if tied else embed.of_logits).embedding[...]
    x = model.stack(embed.table.embedding[TOKENS] * D**0.5)
    if final_norm:
        x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * model.norm.scale[...]
    expected = np.einsum("btd,vd->btv", x, table) + np.asarray(embed.bias[...])
    np.testing.assert_allclose(model(TOKENS), expected, rtol=0, atol=1e-4)


def test_an_encoder_of_an_encoder_decoder_has_no_table_for_logits():
    sizes = config(**ALL)
    model = EncoderDecoder(
        encoder=sizes, decoder=sizes, source_vocab=V, target_vocab=V, rngs=nnx.Rngs(0)
    )
    assert model.source.of_logits is model.source.bias is None
    assert model.target.of_logits.embedding.shape == (V, D)
    assert model.target.bias.shape == (V,)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm": "pre"}, "unknown norm 'pre': known: rms, layer"),
        ({"mlp": "swglu"}, "unknown mlp 'swglu': did you mean 'swiglu'"),
        ({"mlp": "silu"}, "unknown mlp 'silu': .*known: relu2, relu, gelu"),
        ({"bias": "qkv, key"}, "unknown bias 'key': known: qkv, out, mlp, logits"),
        ({"norm_epsilon": 0.0}, "norm_epsilon must be in"),
        ({"parallel": True, "norm_placement": "post"}, "parallel layers need norm_placement=pre"),
    ],
)
def test_kinds_that_do_not_exist_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        config(**options)


def test_parallel_layers_have_no_cross_attention():
    with pytest.raises(ValueError, match="parallel layers cannot have cross-attention"):
        Stack(config(parallel=True), causal=True, cross_encoding="none", rngs=nnx.Rngs(0))


def test_biases_may_be_a_sequence_and_are_read_again_as_the_same():
    made = config(bias="qkv, out")
    assert made.bias == ("qkv", "out")
    assert dataclasses.replace(made) == made == config(bias=("qkv", "out"))


# Where these outputs are zero, what is dropped before them, or of them, makes no difference.
HIDES = {
    "attention": [("attention",)],
    "input": [],
    "mlp": [("mlp",)],
    "output": [("attention", "mlp")],
}


@pytest.mark.parametrize("dropped", HIDES)
@pytest.mark.parametrize("zero", [(), ("attention",), ("mlp",), ("attention", "mlp")], ids=str)
def test_dropout_drops_what_is_asked_for(dropped, zero):
    sizes = config(dropout_rate=0.5, dropout=dropped)
    stack = shaken(Stack(sizes, causal=True, rngs=nnx.Rngs(0)))
    (block,) = stack.blocks
    kernels = {"attention": block.attention.out.kernel, "mlp": block.mlp_out.kernel}
    for name in zero:
        kernels[name][...] = jnp.zeros_like(kernels[name][...])
    x = jnp.asarray(drawn(B, T, D))
    whole, partly = stack(x), stack(x, key=jax.random.key(3))
    hidden = any(set(these) <= set(zero) for these in HIDES[dropped])
    assert np.allclose(whole, partly) == hidden


def test_nothing_is_dropped_where_nothing_is_named():
    stack = Stack(config(dropout_rate=0.5, dropout=()), causal=True, rngs=nnx.Rngs(0))
    x = jnp.asarray(drawn(B, T, D))
    np.testing.assert_array_equal(stack(x, key=jax.random.key(3)), stack(x))


def test_dropout_in_the_mlp_is_of_its_hidden_values():
    """With 1 in the output's weights for the first hidden value, and 0 elsewhere, it is whole, doubled or gone."""
    stack = Stack(
        config(dropout_rate=0.5, dropout="mlp", mlp="relu"), causal=True, rngs=nnx.Rngs(0)
    )
    (block,) = stack.blocks
    block.mlp_out.kernel[...] = jnp.zeros_like(block.mlp_out.kernel[...]).at[:, 0].set(1.0)
    block.attention.out.kernel[...] = jnp.zeros_like(block.attention.out.kernel[...])
    x = jnp.asarray(drawn(64, T, D))
    hidden = np.asarray(stack(x) - x)
    dropped = np.asarray(stack(x, key=jax.random.key(3)) - x)
    gone, doubled = np.isclose(dropped, 0), np.isclose(dropped, 2 * hidden)
    assert (gone | doubled).all()
    assert (gone == gone[..., :1]).all()  # one hidden value goes to all outputs
    share = gone[hidden[..., 0] > 1e-6].mean()
    assert 0.4 < share < 0.6
