"""Position encodings by name. The folder is the registry: each file defines the scheme of its name.

Combine schemes with `Sum` and `ByHeads`, or as text, such as "rope+t5" or "rope:4/alibi:4", see
`relpos.encodings.composed.expressions`.
"""

import dataclasses
import inspect
import sys
from typing import Any

from flax import nnx

from relpos import registry
from relpos.attention import Passed as Passed
from relpos.attention import PerHead as PerHead
from relpos.attention import PerHeadConstant as PerHeadConstant
from relpos.attention import PerKeyHead as PerKeyHead
from relpos.attention import PerKeyHeadConstant as PerKeyHeadConstant
from relpos.attention import Slots as Slots
from relpos.attention import by_heads
from relpos.attention import transform_keys as transform_keys
from relpos.attention import transform_values as transform_values
from relpos.encodings.base import Dims as Dims
from relpos.encodings.base import Encoding as Encoding
from relpos.encodings.base import biases as biases
from relpos.encodings.base import bind as bind
from relpos.encodings.base import tokens as tokens
from relpos.encodings.composed import ByHeads as ByHeads
from relpos.encodings.composed import Sum as Sum
from relpos.encodings.composed import expressions
from relpos.registry import check_range

MOST_SIZE = 2**16  # the largest head size, and the most heads


def names() -> tuple[str, ...]:
    """Return the names of all schemes, sorted."""
    return registry.names(sys.modules[__name__])


def scheme(name: str | type[Encoding]) -> type[Encoding]:
    """Return the class of a scheme, given its name or class; the error for an unknown name suggests the nearest one."""
    if inspect.isclass(name) and issubclass(name, Encoding):
        return name
    return registry.member(sys.modules[__name__], str(name), Encoding, "encoding")


def options(name: str | type[Encoding]) -> dict[str, Any]:
    """Return a scheme's options with their defaults."""
    parameters = inspect.signature(scheme(name).__init__).parameters
    return {
        key: parameter.default
        for key, parameter in parameters.items()
        if key not in ("self", "dims", "rngs")
    }


def create(
    name: str | type[Encoding] | expressions.Heads,
    *,
    num_heads: int,
    head_dim: int,
    rngs: nnx.Rngs,
    num_kv_heads: int | None = None,
    features: int | None = None,
    **chosen: Any,
) -> Encoding:
    """Create an encoding.

    Args:
      name: one of `names()`, or your own class; or several schemes, such as "rope+t5" (a sum), "rope:4/alibi:4" (four
        heads of each) and "rope(base=500.0)+t5" (with options).
      num_heads: N, the number of query heads.
      head_dim: H, the size of a head.
      rngs: random streams for the initial parameters.
      num_kv_heads: K, the number of key heads, a divisor of N; None: N.
      features: D, the width of the layer's input; None: num_heads * head_dim.
      **chosen: the scheme's options, see `options(name)`; write those of several schemes in `name`.

    Raises:
      ValueError: the name or an option is unknown (the message suggests the nearest one), or a value is not allowed.
    """
    check_range("num_heads", num_heads, 1, MOST_SIZE)
    check_range("head_dim", head_dim, 1, MOST_SIZE)
    num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
    if num_kv_heads < 1 or num_heads % num_kv_heads:
        raise ValueError(
            f"num_kv_heads must divide the {num_heads} query heads, got {num_kv_heads}"
        )
    features = num_heads * head_dim if features is None else features
    dims = Dims(num_heads, head_dim, features, num_kv_heads)
    heads = expressions.parse(name) if isinstance(name, str | type) else name
    found = expressions.schemes(heads)
    if len(found) > 1 and chosen:
        raise ValueError(
            f"{name}: write the options of several schemes after their names, as in rope(base=500.0)+t5; "
            f"got {', '.join(chosen)}"
        )
    counts = expressions.counts(heads, num_heads)
    made, begin, group = [], 0, num_heads // num_kv_heads
    for kind, count in zip(heads, counts, strict=True):
        keys = by_heads.keys_shared_by(begin, begin + count, group)
        of_kind = dataclasses.replace(dims, num_heads=count, num_kv_heads=keys.stop - keys.start)
        begin += count
        summands = [
            _create(scheme.name, {**dict(scheme.options), **chosen}, of_kind, rngs)
            for scheme in kind.summands
        ]
        made.append(summands[0] if len(summands) == 1 else Sum(*summands))
    return made[0] if len(made) == 1 else ByHeads(*zip(made, counts, strict=True))


def _create(
    name: str | type[Encoding], chosen: dict[str, Any], dims: Dims, rngs: nnx.Rngs
) -> Encoding:
    """Check the options, and create one scheme."""
    told = name if isinstance(name, str) else name.__name__
    registry.check_options(told, chosen, options(name))
    return scheme(name)(dims=dims, rngs=rngs, **chosen)
