"""Rotary layers of Hugging Face's transformers: both layouts, parts of a head, grouped heads, scalings."""

import dataclasses
import importlib
from typing import Any

import numpy as np
import pytest
import torch

from tests.parity.comparing import (
    FLOAT32,
    attend,
    encoding_of,
    hidden,
    left_padded,
    random,
    randomised,
    seen_by,
)
from tests.parity.rotary import POSITIONS, B, D, K, N, T, config_of

QKVO = ("q_proj", "k_proj", "v_proj", "o_proj")


@dataclasses.dataclass(frozen=True)
class Model:
    """A model of transformers.

    Attributes:
      name: of its module.
      prefix: of its classes.
      config: its own options.
      rope: ours.
      names: of its projections of queries, keys, values and the output.
      options: of attention.
    """

    name: str
    prefix: str
    config: dict = dataclasses.field(default_factory=dict)
    rope: dict = dataclasses.field(default_factory=dict)
    names: tuple = QKVO
    options: dict = dataclasses.field(default_factory=dict)

    def parts(self) -> tuple[Any, Any]:
        """Return its layer and what computes its angles."""
        module = importlib.import_module(f"transformers.models.{self.name}.modeling_{self.name}")
        config = config_of(self.prefix, **self.config)
        layer = getattr(module, f"{self.prefix}Attention")(config, layer_idx=0)
        return randomised(layer), getattr(module, f"{self.prefix}RotaryEmbedding")(config)


INTERLEAVED = {"layout": "interleaved"}
MODELS = [
    Model("llama", "Llama"),
    Model("llama", "Llama", {"rope": {"rope_theta": 500000.0}}, {"base": 500000.0}),
    Model("mistral", "Mistral"),
    Model("qwen2", "Qwen2"),
    Model("starcoder2", "Starcoder2"),
    Model("gemma", "Gemma"),
    Model("granite", "Granite", {"attention_multiplier": 0.3}, options={"scale": 0.3}),
    Model("cohere", "Cohere", {}, INTERLEAVED),
    Model("helium", "Helium", {}, INTERLEAVED),
    Model("ernie4_5", "Ernie4_5", {}, INTERLEAVED),
    Model(
        "glm", "Glm", {"rope": {"partial_rotary_factor": 0.5}}, INTERLEAVED | {"fraction": 0.5}
    ),
    Model("stablelm", "StableLm", {"rope": {"partial_rotary_factor": 0.25}}, {"fraction": 0.25}),
    Model("nemotron", "Nemotron", {"rope": {"partial_rotary_factor": 0.5}}, {"fraction": 0.5}),
    Model(
        "phi", "Phi", {"rope": {"partial_rotary_factor": 0.5}}, {"fraction": 0.5},
        (*QKVO[:3], "dense"),
    ),
    Model(
        "gemma2", "Gemma2", {"attn_logit_softcapping": 3.0, "query_pre_attn_scalar": 19},
        options={"softcap": 3.0, "scale": 19**-0.5},
    ),
]  # fmt: skip


@pytest.mark.parametrize("padding", [0, 7], ids=["whole rows", "left padding"])
@pytest.mark.parametrize("causal", [True, False], ids=["causal", "bidirectional"])
@pytest.mark.parametrize("model", MODELS, ids=lambda m: f"{m.prefix} {m.rope}")
def test_layers(agree, model, causal, padding):
    module, angles = model.parts()
    segments = left_padded(T, padding)

    def theirs(x):
        turns = angles(x, torch.tensor(POSITIONS))
        mask = hidden(seen_by(segments, causal=causal))
        return module(x, position_embeddings=turns, attention_mask=mask)[0]

    def ours(p, x):
        rope = encoding_of("rope", N, x.shape[-1] // N, key_heads=K, **model.rope)
        return attend(
            p, x, rope, N, model.names, key_heads=K, causal=causal,
            q_positions=POSITIONS, k_positions=POSITIONS, q_segments=segments, k_segments=segments,
            **model.options,
        )  # fmt: skip

    inputs = {"x": random(B, T, model.config.get("hidden_size", D), std=0.5)}
    agree(theirs, ours, inputs, module=module, rows=segments != 0, tolerance=FLOAT32)


LENGTH = 1 + int(POSITIONS.max())
LONG, SHORT = tuple(np.linspace(1.0, 9.0, 8).tolist()), tuple(np.linspace(1.0, 2.0, 8).tolist())
SCALINGS = {
    "linear": ("linear", {"factor": 4.0}, {"factor": 4.0}),
    "dynamic": (
        "dynamic", {"factor": 2.0, "max_position_embeddings": 16},
        {"factor": 2.0, "trained_length": 16, "target_length": LENGTH},
    ),
    "dynamic by the length alone": (
        "dynamic", {"factor": 1.0, "max_position_embeddings": 50},
        {"factor": 1.0, "trained_length": 50, "target_length": LENGTH},
    ),
    "yarn": (
        "yarn", {"factor": 8.0, "original_max_position_embeddings": 64},
        {"factor": 8.0, "trained_length": 64},
    ),
    "yarn not truncated": (
        "yarn", {"factor": 8.0, "original_max_position_embeddings": 4096, "truncate": False},
        {"factor": 8.0, "trained_length": 4096, "truncate": False},
    ),
    "yarn of given numbers": (
        "yarn",
        {
            "factor": 16.0, "original_max_position_embeddings": 300, "beta_fast": 16.0,
            "beta_slow": 2.0, "attention_factor": 1.3,
        },
        {
            "factor": 16.0, "trained_length": 300, "beta_fast": 16.0, "beta_slow": 2.0,
            "attention_factor": 1.3,
        },
    ),
    "llama3": (
        "llama3",
        {
            "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
        {"factor": 8.0, "trained_length": 64},
    ),
    "llama3 of given numbers": (
        "llama3",
        {
            "factor": 32.0, "low_freq_factor": 0.5, "high_freq_factor": 6.0,
            "original_max_position_embeddings": 900,
        },
        {"factor": 32.0, "beta_slow": 0.5, "beta_fast": 6.0, "trained_length": 900},
    ),
    "longrope": (
        "longrope",
        {
            "factor": 8.0, "long_factor": LONG, "short_factor": SHORT,
            "original_max_position_embeddings": 32,
        },
        {
            "trained_length": 32, "target_length": 8 * 32, "long_factors": LONG,
            "short_factors": SHORT,
        },
    ),
    # The other model then uses the short factors, but still the attention factor of its longest text.
    "longrope within the trained length": (
        "longrope",
        {
            "factor": 8.0, "long_factor": LONG, "short_factor": SHORT,
            "original_max_position_embeddings": 200,
        },
        {
            "trained_length": 200, "long_factors": LONG, "short_factors": SHORT,
            "attention_factor": (1 + np.log(8) / np.log(200)) ** 0.5,
        },
    ),
    "proportional": ("proportional", {"partial_rotary_factor": 0.25}, {"scaling": "p_rope", "kept": 0.25}),
    "proportional and slower": (
        "proportional", {"partial_rotary_factor": 0.5, "factor": 3.0},
        {"scaling": "p_rope", "kept": 0.5, "factor": 3.0},
    ),
}  # fmt: skip


# Each also on part of a head, unless the scaling itself chooses the part, or has a factor for every pair.
CASES = [
    pytest.param(*case, fraction, id=f"{name}, {fraction} of a head")
    for name, case in SCALINGS.items()
    for fraction in (1.0, 0.5)
    if fraction == 1 or case[0] not in ("proportional", "longrope")
]


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "bidirectional"])
@pytest.mark.parametrize(("scaling", "theirs", "ours", "fraction"), CASES)
def test_scalings(agree, scaling, theirs, ours, fraction, causal):
    """In Llama, whose head has 8 pairs here, and in StableLM, which turns part of a head."""
    longest = theirs.get("max_position_embeddings", 4096)
    rope = {"rope_type": scaling, "rope_theta": 10000.0, "partial_rotary_factor": fraction}
    rope |= {key: value for key, value in theirs.items() if key != "max_position_embeddings"}
    config = {"rope": rope, "max_position_embeddings": longest, "head_dim": 16}
    model = Model(
        *(("llama", "Llama") if fraction == 1 else ("stablelm", "StableLm")),
        config | {"hidden_size": N * 16},
        {"scaling": scaling, "fraction": fraction, **ours},
    )
    test_layers(agree, model, causal, padding=0)
