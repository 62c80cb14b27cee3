import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from relpos.nn import Decoder, Sampling, TransformerConfig, generate

LOGITS = jnp.log(jnp.array([0.1, 0.5, 0.15, 0.25]))


def frequencies(sampling, rows=4000):
    keys = jax.random.split(jax.random.key(0), rows)
    chosen = sampling.choose(jnp.tile(LOGITS, (rows, 1)), keys)
    return np.bincount(np.asarray(chosen), minlength=4) / rows


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(), [0.1, 0.5, 0.15, 0.25]),
        (Sampling(temperature=0), [0, 1, 0, 0]),
        (Sampling(temperature=0.5), [0.01 / 0.345, 0.25 / 0.345, 0.0225 / 0.345, 0.0625 / 0.345]),
        (Sampling(top_k=1), [0, 1, 0, 0]),
        (Sampling(top_k=2), [0, 2 / 3, 0, 1 / 3]),
        (Sampling(top_p=0.49), [0, 1, 0, 0]),
        (Sampling(top_p=0.51), [0, 2 / 3, 0, 1 / 3]),
        (Sampling(top_p=0.76, top_k=2), [0, 2 / 3, 0, 1 / 3]),
    ],
    ids=str,
)
def test_tokens_are_drawn_with_their_probabilities(sampling, expected):
    np.testing.assert_allclose(frequencies(sampling), expected, atol=0.03)


def test_greedy_continuations_are_those_of_full_forwards():
    sizes = TransformerConfig(num_layers=2, features=16, num_heads=2)
    model = Decoder(sizes, vocab_size=7, rngs=nnx.Rngs(0))
    random = np.random.default_rng(0)
    # Larger weights: an untrained model says one token over and over.
    graphdef, state = nnx.split(model)
    state = jax.tree.map(lambda x: x + jnp.asarray(random.normal(size=x.shape), x.dtype), state)
    model = nnx.merge(graphdef, state)
    forward = nnx.jit(lambda model, x: model(x))
    prompts, lengths, new = random.integers(0, 7, (5, 4)), np.array([4, 1, 3, 2, 4]), 6
    plain = []
    for prompt, n in zip(prompts, lengths, strict=True):
        text = list(prompt[:n])
        for _ in range(new):
            padded = np.zeros((1, 10), np.int32)
            padded[0, : len(text)] = text
            text.append(int(forward(model, jnp.asarray(padded))[0, len(text) - 1].argmax()))
        plain.append(text[n:])
    stop = plain[0][3]  # which comes up, in some rows early
    tokens, counts = generate(
        model, jnp.asarray(prompts, jnp.int32), jnp.asarray(lengths), max_new_tokens=new, stop=stop,
        sampling=Sampling(temperature=0), key=jax.random.key(0),
    )  # fmt: skip
    for row, expected in enumerate(plain):
        if stop in expected:
            expected = expected[: expected.index(stop)]
        assert tokens[row, : int(counts[row])].tolist() == expected
        assert (tokens[row, int(counts[row]) :] == stop).all()
    assert len(set(np.asarray(counts).tolist())) > 1
    for count in (0, 10**9):
        with pytest.raises(ValueError, match="max_tokens must be from 1 to 65536"):
            generate(
                model, jnp.asarray(prompts, jnp.int32), jnp.asarray(lengths), max_new_tokens=count, stop=stop,
                sampling=Sampling(), key=jax.random.key(0),
            )  # fmt: skip
