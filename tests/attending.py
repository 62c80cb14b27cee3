"""What tests of attention share: inputs, encodings that hide no mistake, gradients, comparison."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from relpos import attention, encodings
from relpos.attention import PerHead, PerHeadConstant, PerKeyHead

# To attention one that adds to the input is none.
WITHIN = [name for name in encodings.names() if not encodings.scheme(name).adds_to_input()]
B, T, S, N, K, H, D = 2, 37, 23, 6, 3, 10, 22
BLOCKS = (8, 16)


def make(name, heads=N, key_heads=None, dtype=jnp.float64, **options):
    """An encoding whose every parameter is random, so that no zero hides a mistake; two heads share a key head."""
    key_heads = (heads + 1) // 2 if key_heads is None else key_heads
    encoding = encodings.create(
        name,
        num_heads=heads,
        num_kv_heads=key_heads,
        head_dim=H,
        features=D,
        rngs=nnx.Rngs(0),
        **options,
    )
    random = np.random.default_rng(1)
    graphdef, fixed, trained = nnx.split(encoding, PerHeadConstant, ...)

    def shaken(x):
        return device(np.asarray(x) + 0.3 * random.normal(size=x.shape), dtype)

    fixed = jax.tree.map(lambda x: device(np.asarray(x), dtype), fixed)
    return nnx.merge(graphdef, fixed, jax.tree.map(shaken, trained))


def device(x, dtype):
    """Return NumPy's array as JAX's; `jnp.asarray` would compile a program to convert it."""
    return jax.device_put(x.astype(dtype))


def inputs(T=T, S=None, N=N, K=K, B=B, seed=0, dtype=np.float64):
    random = np.random.default_rng(seed)
    S = T if S is None else S
    q = random.normal(size=(B, T, N, H))
    k, v = random.normal(size=(2, B, S, K, H))
    x = random.normal(size=(B, max(T, S), D))
    return tuple(device(each, dtype) for each in (q, k, v, x))


def attend(encoding, q, k, v, x, *, valid=None, **kw):
    features, _ = encodings.tokens(encoding, x, valid)
    if features is not None:
        take = lambda n: jax.tree.map(lambda f: f[:, :n], features)  # noqa: E731
        kw |= {"q_features": take(q.shape[1]), "k_features": take(k.shape[1])}
    in_attention = None if encoding.adds_to_input() else encoding
    return attention(q, k, v, encoding=in_attention, **kw)


def carried(encoding, paths):
    """The paths that take an encoding: kernels refuse one that walks along the row, mixes heads or has a sink."""
    kinds = [part for part, _ in encoding.of_heads] or [encoding]
    by_itself = not any(kind.walks or kind.mixes or "sink" in kind.overridden for kind in kinds)
    return [path for path in paths if path != "pallas" or by_itself]


def differentiated(encoding, weight, **kw):
    """Return a program of arrays, positions and segments: it gives the output, and its gradients as a pair."""
    graphdef, state = nnx.split(encoding)

    def loss(state, arrays, places):
        places = {f"{side}_{what}": x for what, x in places.items() for side in "qk"}
        out = attend(nnx.merge(graphdef, state), *arrays, **places, **kw)
        return (out * weight).sum(), out

    program = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))

    def run(arrays, **places):
        (_, out), grads = program(state, arrays, places)
        return out, grads

    return run


def value_and_grads(encoding, arrays, weight, **kw):
    return differentiated(encoding, weight, **kw)(arrays)


def assert_trees_close(found, expected, tolerance):
    found, expected = jax.tree.leaves_with_path(found), jax.tree.leaves_with_path(expected)
    assert [path for path, _ in found] == [path for path, _ in expected]
    for (path, a), (_, b) in zip(found, expected, strict=True):
        bound = tolerance * max(1.0, float(np.abs(np.asarray(b)).max(initial=0)))
        np.testing.assert_allclose(a, b, rtol=0, atol=bound, err_msg=jax.tree_util.keystr(path))


class EverySlot(encodings.Encoding):
    """All slots filled at once, with a band, for what does not depend on the scheme.

    Keys and queries are H + 2 wide, what meets the key vectors 7, what meets the query vectors 5.
    """

    constant_beyond = 6
    needs_tokens = True
    scaled_vectors = False
    logit_scale = 0.5 * H**-0.5

    def __init__(self, key_heads=K, heads=N):
        random = np.random.default_rng(5)
        new = lambda *shape: jnp.asarray(random.normal(size=shape))  # noqa: E731
        self.table = PerHead(new(heads, 13))
        self.turn = nnx.Param(new(H))
        self.stretch = PerHead(new(heads, H))
        self.shift = PerKeyHead(new(key_heads, H))
        self.weight = PerHead(new(heads, D))
        self.of_keys, self.of_queries = nnx.Param(new(13, 7)), nnx.Param(new(13, 5))
        self.of_values = nnx.Param(new(13, H))

    def query(self, q_TH, positions_T, features_T):
        wave = jnp.cos(positions_T.astype(float))[:, None] * q_TH[:, :2]
        return jnp.concatenate([q_TH * self.turn[...] * features_T[:, None], wave], -1)

    def key(self, k_SH, positions_S, features_S):
        wave = jnp.cos(positions_S + features_S)[:, None] * k_SH[:, :2]
        return jnp.concatenate([k_SH * self.stretch[...], wave], -1)

    def vector_query(self, q_TH, positions_T, features_T):
        return (q_TH + self.turn[...] * features_T[:, None])[:, :7]

    def vector_key(self, k_SH, positions_S, features_S):
        return k_SH[:, 3:8] * self.stretch[..., :5] + jnp.sin(positions_S.astype(float))[:, None]

    def value(self, v_SH, positions_S, features_S):
        return (
            v_SH * jnp.cos(positions_S.astype(float))[:, None]
            + features_S[:, None] * self.turn[...]
            + self.shift[...]
        )

    def finish(self, out_TH, positions_T, features_T):
        wave = jnp.sin(positions_T.astype(float))[:, None]
        return out_TH * wave * features_T[:, None] * self.stretch[...] * self.shift[...]

    def row(self, d):
        return jnp.clip(d, -6, 6) + 6

    def bias(self, d):
        return self.table[self.row(d)]

    def key_vectors(self, d):
        return self.of_keys[self.row(d)]

    def query_vectors(self, d):
        return self.of_queries[self.row(d)]

    def value_vectors(self, d):
        return self.of_values[self.row(d)]

    def tokens(self, x_TD, valid_T, state=None):
        return x_TD @ self.weight[...], jnp.zeros(())

    def block_bias(self, q_positions, k_positions, q_features, k_features):
        return jnp.tanh(q_features[:, None] - k_features[None, :])
