"""The encodings of a stack's layers, made from a config."""

from collections.abc import Mapping, Sequence
from typing import Any

from flax import nnx

from relpos import encodings
from relpos.encodings import Encoding
from relpos.encodings.composed import expressions
from relpos.encodings.composed.expressions import Kind, Scheme
from relpos.nn.transformer_config import TransformerConfig

EncodingOptions = Mapping[str, Mapping[str, Any]]


def of_layer(
    text: str, config: TransformerConfig, options: EncodingOptions, *, causal: bool, rngs: nnx.Rngs
) -> Encoding | None:
    """Make the encoding of one layer's attention; return None if all of it adds to the input.

    Options in the text, which `relpos.encodings.create` reads, override `options`, scheme name -> options. In a layer
    that is not causal, `bidirectional` is switched on.
    """
    kinds = []
    for kind in expressions.parse(text):
        found = [s for s in kind.summands if not encodings.scheme(s.name).adds_to_input()]
        kinds.append(Kind(tuple(_chosen(s, options, causal) for s in found), kind.heads))
    if not all(kind.summands for kind in kinds):
        if len(kinds) == 1:
            return None
        raise ValueError(
            f"{text}: what adds to the input is seen by all heads, so give those heads another scheme"
        )
    return encodings.create(
        tuple(kinds), num_heads=config.num_heads, head_dim=config.head_size,
        num_kv_heads=config.num_kv_heads, features=config.features, rngs=rngs,
    )  # fmt: skip


def of_input(
    texts: Sequence[str], config: TransformerConfig, options: EncodingOptions, *, rngs: nnx.Rngs
) -> list[Encoding]:
    """Make the encodings that add to the input, one for each such scheme that the layers name."""
    found = {
        scheme: None
        for text in texts
        for scheme in expressions.schemes(expressions.parse(text))
        if encodings.scheme(scheme.name).adds_to_input()
    }
    return [
        encodings.create(
            (Kind((_chosen(scheme, options, causal=True),)),), num_heads=config.num_heads,
            head_dim=config.head_size, features=config.features, rngs=rngs,
        )
        for scheme in found
    ]  # fmt: skip


def _chosen(scheme: Scheme, options: EncodingOptions, causal: bool) -> Scheme:
    chosen = scheme.with_defaults(options.get(scheme.name, {}))
    if causal or "bidirectional" not in encodings.options(scheme.name):
        return chosen
    return Scheme(scheme.name, tuple({**dict(chosen.options), "bidirectional": True}.items()))


def is_shared_by_layers(path: Any, variable: Any) -> bool:
    """Whether all layers share this parameter, which is then marked `shared_by_layers=True`."""
    return bool(variable.get_metadata().get("shared_by_layers", False))


def tie(module: nnx.Module | None, to: nnx.Module | None) -> None:
    """Replace parameters that layers share with those of another module of the same structure."""
    for path, variable in list(nnx.iter_graph(to)):
        if isinstance(variable, nnx.Variable) and is_shared_by_layers(path, variable):
            *parents, last = map(str, path)
            owner: Any = module
            for name in parents:
                owner = owner[int(name)] if name.isdigit() else getattr(owner, name)
            setattr(owner, last, variable)
