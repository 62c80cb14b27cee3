"""The layer of x-transformers with each of its encodings; where it deviates, a test says how."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from x_transformers.x_transformers import (
    AlibiPositionalBias,
    Attention,
    Decoder,
    Encoder,
    PolarEmbedding,
    RotaryEmbedding,
)

import relpos
from relpos import encodings
from tests.parity.comparing import (
    FLOAT32,
    attend,
    encoding_of,
    heads,
    joined,
    left_padded,
    linear,
    random,
    randomised,
)

B, T, N, H = 2, 31, 6, 8
D = 20
NAMES = ("to_q", "to_k", "to_v", "to_out")
CAUSAL = pytest.mark.parametrize("causal", [True, False], ids=["causal", "bidirectional"])


@pytest.fixture
def agree(agree):
    return functools.partial(agree, tolerance=FLOAT32)  # its softmax is float32


def layer(num_heads=N, causal=True, **options):
    return randomised(Attention(D, dim_head=H, heads=num_heads, causal=causal, **options))


def test_options_of_a_layer(agree):
    """A window, a softcap and padding."""
    module = layer(max_attend_past=6, softclamp_logits=True, logit_softclamp_value=2.0)
    segments = left_padded(T, 5)[
        :, ::-1
    ]  # padded right: queries that see nothing have NaN gradients there

    def ours(p, x):
        return attend(
            p, x, None, N, NAMES, causal=True, window=7, softcap=2.0, q_segments=segments,
            k_segments=segments,
        )  # fmt: skip

    theirs = lambda x: module(x, mask=torch.tensor(segments != 0))  # noqa: E731
    agree(theirs, ours, {"x": random(B, T, D)}, module=module, rows=segments != 0)


@CAUSAL
def test_sinks(agree, causal):
    module = layer(causal=causal, head_learned_sink=True)

    def ours(p, x):
        sink = encoding_of("sink", N, H, parameters={"logit": p["attend.head_attn_sink"]})
        return attend(p, x, sink, N, NAMES, causal=causal)

    agree(module, ours, {"x": random(B, T, D)}, module=module)


def test_grouped_heads_are_others(agree):
    """There query head n reads key head n mod K; here, as in released models, it reads n // (N / K)."""
    K = 3
    module = layer(kv_heads=K)

    def ours(p, x):
        q, k, v = (heads(linear(p, name, x), n) for name, n in zip(NAMES, (N, K, K), strict=False))
        of_ours = (
            np.arange(N).reshape(-1, K).T.reshape(-1)
        )  # those that read one key head stand together
        out = relpos.attention(q[:, :, of_ours], k, v, causal=True)
        return linear(p, "to_out", joined(out[:, :, np.argsort(of_ours)]))

    agree(module, ours, {"x": random(B, T, D)}, module=module)


@pytest.mark.parametrize("head_dim", [4, H])
@CAUSAL
def test_t5s_bias_is_multiplied_by_the_root_of_the_head_size(agree, causal, head_dim):
    """T5 adds its table to q . k; there q . k is divided by sqrt(H) and the table multiplied by it."""
    stack = (Decoder if causal else Encoder)(
        dim=D, depth=1, heads=N, rel_pos_bias=True, rel_pos_num_buckets=12, rel_pos_max_distance=25,
        attn_dim_head=head_dim,
    )  # fmt: skip
    module = torch.nn.ModuleDict(
        {"layer": Attention(D, dim_head=head_dim, heads=N, causal=causal), "bias": stack.rel_pos}
    )
    module = randomised(module)

    def t5(table):
        return encoding_of(
            "t5", N, head_dim, features=D, parameters={"table": table}, num_buckets=12,
            max_distance=25, bidirectional=not causal,
        )  # fmt: skip

    def ours(p, x):
        table = head_dim**0.5 * p["bias.relative_attention_bias.weight"].T
        return attend(p, x, t5(table), N, [f"layer.{name}" for name in NAMES], causal=causal)

    theirs = lambda x: module["layer"](x, rel_pos=module["bias"])  # noqa: E731
    agree(theirs, ours, {"x": random(B, T, D)}, module=module)
    table = module["bias"].relative_attention_bias.weight.detach().numpy().T
    of_paper = encodings.biases(t5(jnp.asarray(table)), jnp.arange(T))
    of_last_query = module["bias"](T, T)[:, -1].detach().numpy()[:, ::-1]
    np.testing.assert_allclose(of_last_query, head_dim**0.5 * of_paper, atol=1e-12)
    assert abs(of_last_query - of_paper).max() > 0.5


@pytest.mark.parametrize("num_heads", [4, 6, 12])
@pytest.mark.parametrize("given", [False, True], ids=["in rows", "positions given"])
@CAUSAL
def test_alibi(agree, causal, given, num_heads):
    module, bias = layer(num_heads, causal), AlibiPositionalBias(num_heads).double()
    places = np.stack([np.arange(T), np.sort(np.random.default_rng(3).permutation(90)[:T])])

    def theirs(x):
        return module(x, rel_pos=bias, pos=torch.tensor(places) if given else None)

    def ours(p, x):
        at = {"q_positions": places, "k_positions": places} if given else {}
        return attend(
            p, x, encoding_of("alibi", num_heads, H), num_heads, NAMES, causal=causal, **at
        )

    agree(theirs, ours, {"x": random(B, T, D)}, module=module)


@CAUSAL
def test_alibi_of_some_heads(agree, causal):
    module, bias = layer(causal=causal), AlibiPositionalBias(4, total_heads=N).double()

    def ours(p, x):
        return attend(p, x, encoding_of("alibi:4/none:2", N, H), N, NAMES, causal=causal)

    theirs = lambda x: module(x, rel_pos=bias)  # noqa: E731
    agree(theirs, ours, {"x": random(B, T, D)}, module=module)


@pytest.mark.parametrize(
    ("dim", "theirs", "ours"),
    [
        (H, {}, {}),
        (4, {}, {"fraction": 0.5}),
        (H, {"base": 500}, {"base": 500.0}),
        (H, {"interpolation_factor": 3.0}, {"scaling": "linear", "factor": 3.0}),
        (H, {"base_rescale_factor": 4.0}, {"scaling": "ntk", "factor": 4.0}),
    ],
    ids=str,
)  # fmt: skip
@CAUSAL
def test_rotary(agree, causal, dim, theirs, ours):
    module, angles = layer(causal=causal), RotaryEmbedding(dim, **theirs).double()

    def rotated(p, x):
        rope = encoding_of("rope", N, H, layout="interleaved", **ours)
        return attend(p, x, rope, N, NAMES, causal=causal)

    turned = lambda x: module(x, rotary_pos_emb=angles.forward_from_seq_len(T))  # noqa: E731
    agree(turned, rotated, {"x": random(B, T, D)}, module=module)


@CAUSAL
def test_rotary_of_the_last_heads(agree, causal):
    module, angles = layer(causal=causal, rotate_num_heads=4), RotaryEmbedding(H).double()

    def ours(p, x):
        rope = encoding_of("none:2/rope(layout='interleaved'):4", N, H)
        return attend(p, x, rope, N, NAMES, causal=causal)

    theirs = lambda x: module(x, rotary_pos_emb=angles.forward_from_seq_len(T))  # noqa: E731
    agree(theirs, ours, {"x": random(B, T, D)}, module=module)


@pytest.mark.parametrize("scale_base", [512, 20])
def test_xpos(agree, scale_base):
    module = layer()
    angles = RotaryEmbedding(H, use_xpos=True, scale_base=scale_base).double()

    def ours(p, x):
        xpos = encoding_of("xpos", N, H, scale_base=float(scale_base))
        return attend(p, x, xpos, N, NAMES, causal=True)

    theirs = lambda x: module(x, rotary_pos_emb=angles.forward_from_seq_len(T))  # noqa: E731
    agree(theirs, ours, {"x": random(B, T, D)}, module=module)


@CAUSAL
def test_pope(agree, causal):
    """delta is clipped to [-2 pi, 0], and gets no gradient beyond."""
    module = torch.nn.ModuleDict(
        {"layer": Attention(D, dim_head=H, heads=N, causal=causal), "angles": PolarEmbedding(H, N)}
    )
    module = randomised(module)
    with torch.no_grad():
        module["angles"].learned_bias.mul_(10)

    def theirs(x):
        return module["layer"](x, polar_pos_emb=module["angles"](torch.arange(T)))

    def ours(p, x):
        pope = encoding_of("pope", N, H, parameters={"delta": p["angles.learned_bias"][:, 0]})
        names = [f"layer.{name}" for name in NAMES]
        return attend(p, x, pope, N, names, causal=causal)

    agree(theirs, ours, {"x": random(B, T, D)}, module=module)


@pytest.mark.parametrize("positions", [3, 16, 64])
def test_cope(agree, positions):
    module = layer(use_cope=True, cope_max_pos=positions)

    def ours(p, x):
        parameters = {"vectors": p["attend.cope.pos_emb"]}
        cope = encoding_of("cope", N, H, parameters=parameters, positions=positions)
        return attend(p, x, cope, N, NAMES, causal=True)

    agree(module, ours, {"x": random(B, T, D)}, module=module)


def attend_tokens(p, x, encoding, **options):
    """Return attention with an encoding that reads the tokens."""
    features, _ = encodings.tokens(encoding, x)
    return attend(p, x, encoding, N, NAMES, q_features=features, k_features=features, **options)


def test_forgetting(agree):
    module = layer(data_dependent_alibi=True)

    def ours(p, x):
        parameters = {
            "weight": p["data_dependent_alibi.to_forget_gates.0.weight"],
            "offset": p["data_dependent_alibi.to_forget_gates.0.bias"],
        }
        fox = encoding_of("fox", N, H, features=D, parameters=parameters)
        return attend_tokens(p, x, fox, causal=True)

    agree(module, ours, {"x": random(B, T, D)}, module=module)


def test_forgetting_to_both_sides(agree):
    """There each direction has gates of its own; equal ones are those of the first version of `cable`, negated."""
    module = layer(causal=False, data_dependent_alibi=True)
    gates = "data_dependent_alibi.to_forget_gates.0."

    def theirs(x, weight, offset):
        both = {
            f"{gates}weight": torch.cat([weight, weight]), f"{gates}bias": torch.cat([offset, offset]),
        }  # fmt: skip
        return torch.func.functional_call(module, both, (x,))

    fixed = {name: jnp.asarray(x.detach().numpy()) for name, x in module.named_parameters()}

    def ours(_, x, weight, offset):
        parameters = {"weight": -weight[..., None], "offset": -offset[..., None]}
        cable = encoding_of(
            "cable", N, H, features=D, parameters=parameters, gate="softplus", weights=False
        )
        return attend_tokens(fixed, x, cable)

    inputs = {"x": random(B, T, D), "weight": random(N, D, seed=1), "offset": random(N, seed=2)}
    agree(theirs, ours, inputs)


@pytest.mark.parametrize("extent", [8, 100])
def test_profiles_of_distances(agree, extent):
    """Inkling's, without the offset that x-transformers adds to the projection."""
    rank = 5
    module = layer(
        use_rel_proj_pos_bias=True, rel_proj_num_distance_basis=rank, rel_proj_max_dist=extent
    )
    module.rel_proj_pos_bias.to_distance_weights[0].bias = None

    def ours(p, x):
        kernel = p["rel_proj_pos_bias.to_distance_weights.0.weight"].reshape(N, rank, D)
        inkling = encoding_of(
            "inkling", N, H, features=D, rank=rank, extent=extent,
            parameters={
                "kernel": jnp.swapaxes(kernel, 1, 2),
                "profiles": p["rel_proj_pos_bias.distance_bank"].T,
            },
        )  # fmt: skip
        return attend_tokens(p, x, inkling, causal=True)

    agree(module, ours, {"x": random(B, T, D)}, module=module)
