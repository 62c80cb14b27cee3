"""Images in Hugging Face's transformers: Swin's and BEiT's tables, Swin v2's network, DINOv3's rotations."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import BeitConfig, DINOv3ViTConfig, SwinConfig, Swinv2Config
from transformers.models.beit import modeling_beit as beit
from transformers.models.dinov3_vit import modeling_dinov3_vit as dinov3
from transformers.models.swin import modeling_swin as swin
from transformers.models.swinv2 import modeling_swinv2 as swinv2

import relpos
from relpos.attention.slots import each_head
from tests.parity.comparing import (
    FLOAT32,
    attend,
    encoding_of,
    heads,
    joined,
    linear,
    random,
    randomised,
)

B, N, H = 4, 3, 4
D = N * H
QKVO = ("q_proj", "k_proj", "v_proj", "o_proj")


def regions(size):
    """Return region ids [B, T] of shifted windows, of which some hold parts of several regions."""
    rows, columns = np.arange(size) // (size - 1), np.arange(size) // (size // 2)
    both = 1 + 10 * rows[:, None] + columns[None]
    return np.stack([np.ones(size**2, int), both.reshape(-1)] * (B // 2))


def shifted(ids):
    """Return Swin's mask of two windows, which it repeats for the images."""
    same = ids[:2, :, None] == ids[:2, None]
    return torch.where(torch.tensor(same), 0.0, -100.0).double()


@pytest.mark.parametrize("parts", [False, True], ids=["whole windows", "shifted windows"])
@pytest.mark.parametrize("size", [2, 4, 5])
def test_swin(agree, size, parts):
    module = randomised(swin.SwinAttention(SwinConfig(), D, N, size))
    ids = regions(size)
    ids = ids if parts else np.ones_like(ids)

    def theirs(x):
        return module(x, shifted(ids) if parts else None)[0]

    def ours(p, x):
        table = p["relative_position_bias.relative_position_bias_table"].T
        swin = encoding_of("table_2d", N, H, parameters={"table": table}, height=size, width=size)
        places = np.arange(size**2)
        return attend(
            p, x, swin, N, QKVO, q_positions=places, k_positions=places, q_segments=ids,
            k_segments=ids,
        )  # fmt: skip

    agree(theirs, ours, {"x": random(B, size**2, D)}, module=module, tolerance=FLOAT32)


@pytest.mark.parametrize("parts", [False, True], ids=["whole windows", "shifted windows"])
@pytest.mark.parametrize(
    ("size", "trained"), [((4, 4), 0), ((3, 5), 7), ((6, 6), 3), ((5, 2), 4)], ids=str
)
def test_swin_v2(agree, size, trained, parts):
    """Queries and keys are normalised, and each head has a scale of its own."""
    height, width = size
    if parts:
        ids = np.stack([np.ones(height * width, int), 1 + np.arange(height * width) // width])
        ids = np.concatenate([ids] * (B // 2))
    else:
        ids = np.ones((B, height * width), int)
    layer = swinv2.Swinv2SelfAttention(Swinv2Config(), D, N, size, [trained, trained])
    module = randomised(layer)

    def theirs(x):
        return module(x, shifted(ids) if parts else None)[0]

    def ours(p, x):
        parameters = {
            "kernel": p["continuous_position_bias_mlp.0.weight"].T,
            "offset": p["continuous_position_bias_mlp.0.bias"],
            "output": p["continuous_position_bias_mlp.2.weight"],
        }
        cpb = encoding_of(
            "cpb_2d", N, H, parameters=parameters, height=height, width=width,
            window=trained or height,
        )  # fmt: skip
        q, k, v = (heads(linear(p, name, x), N) for name in ("query", "key", "value"))
        q, k = (y / jnp.linalg.norm(y, axis=-1, keepdims=True) for y in (q, k))
        q = q * jnp.exp(p["logit_scale"]).reshape(N, 1)
        places = np.arange(height * width)
        out = relpos.attention(
            q, k, v, encoding=cpb, scale=1.0, q_positions=places, k_positions=places,
            q_segments=ids, k_segments=ids,
        )  # fmt: skip
        return joined(out)

    inputs = {"x": random(B, height * width, D)}
    agree(theirs, ours, inputs, module=module, tolerance=FLOAT32)


@pytest.mark.parametrize("size", [2, 4])
def test_beit(agree, size):
    """[CLS] stands outside of the image."""
    config = BeitConfig(hidden_size=D, num_attention_heads=N, image_size=8 * size, patch_size=8)
    module = torch.nn.ModuleDict(
        {"layer": beit.BeitAttention(config), "table": beit.BeitRelativePositionBias(config)}
    )
    module = randomised(module)
    rows, columns = (x.reshape(-1) for x in np.indices((size, size)))
    places = np.concatenate([[[-1, -1]], np.stack([rows, columns], -1)])

    def theirs(x):
        return module["layer"](x, module["table"]((size, size)))[0]

    def ours(p, x):
        table = p["table.relative_position_bias_table"].T
        beit = encoding_of(
            "table_2d", N, H, parameters={"table": table}, height=size, width=size, outside=True
        )
        names = tuple(f"layer.{name}" for name in QKVO)
        return attend(p, x, beit, N, names, q_positions=places, k_positions=places)

    agree(theirs, ours, {"x": random(B, 1 + size**2, D)}, module=module, tolerance=FLOAT32)


def test_beit_resamples_its_table_where_an_image_is_not_square():
    """It swaps height and width on the way; ours is what its own indices look up."""
    height, width = 3, 5
    config = BeitConfig(
        hidden_size=D, num_attention_heads=N, image_size=(8 * height, 8 * width), patch_size=8
    )
    module = randomised(beit.BeitRelativePositionBias(config))
    table = module.relative_position_bias_table.detach().numpy().T
    looked_up = table[:, module.generate_relative_position_index((height, width)).numpy()]
    encoding = encoding_of(
        "table_2d", N, H, parameters={"table": jnp.asarray(table)}, height=height, width=width,
        outside=True,
    )  # fmt: skip
    rows, columns = (x.reshape(-1) for x in np.indices((height, width)))
    places = jnp.asarray(np.concatenate([[[-1, -1]], np.stack([rows, columns], -1)]))
    ours = each_head(lambda one: one.block_bias(places, places, None, None), encoding)
    np.testing.assert_array_equal(ours, looked_up)
    assert abs(module((height, width))[0].detach().numpy() - looked_up).max() > 0.5


@pytest.mark.parametrize("size", [(4, 4), (3, 5)], ids=str)
def test_dinov3(agree, size):
    """Rows turn first, columns last, by 2 pi times real places from -1 to 1; [CLS] stands in the middle."""
    height, width = size
    H = 8
    config = DINOv3ViTConfig(
        hidden_size=N * H, num_attention_heads=N, patch_size=2, image_size=8, num_hidden_layers=1
    )
    module = randomised(dinov3.DINOv3ViTAttention(config))
    angles = dinov3.DINOv3ViTRopePositionEmbedding(config).eval()
    y, x = ((2 * np.arange(n) + 1) / n - 1 for n in size)
    # Column before row: rope_2d turns the second number's pairs first.
    places = 2 * np.pi * np.stack(np.meshgrid(x, y), -1).reshape(-1, 2)
    places = np.concatenate([[[0.0, 0.0]], places])

    def theirs(x):
        image = torch.zeros(1, 3, 2 * height, 2 * width, dtype=torch.float64)
        return module(x, position_embeddings=angles(image))[0]

    def ours(p, x):
        rope = encoding_of("rope_2d", N, H, layout="half", base=config.rope_theta)
        return attend(p, x, rope, N, QKVO, q_positions=places, k_positions=places)

    inputs = {"x": random(B, 1 + height * width, N * H)}
    agree(theirs, ours, inputs, module=module, tolerance=FLOAT32)
