"""Scalings of `rope` beyond the length that a model was trained at: what each theta_m is divided by."""

import dataclasses
import math
import numbers
from typing import NamedTuple

import numpy as np

from relpos.registry import check_choice, check_range

MOST_ATTENTION = 1000  # products grow with its square


class Scaled(NamedTuple):
    """The result of a scaling.

    Attributes:
      slower: the divisors of theta_m, R/2 numbers, infinity for a pair that does not turn; (): no division.
      attention: the factor of turned queries and of turned keys.
    """

    slower: tuple[float, ...] = ()
    attention: float = 1.0


@dataclasses.dataclass(frozen=True)
class Stretch:
    """The pairs that turn, at theta_m = base^(-2m/R) before scaling, and the options that scalings read.

    Attributes:
      base: the base of theta_m.
      width: R, the number of dimensions that turn.
      factor: s; this and the other options are those of `rope`.
      trained_length: L0.
    """

    base: float
    width: int
    factor: float = 1.0
    trained_length: int = 4096
    target_length: int = 0
    beta_fast: float = 0.0
    beta_slow: float = 1.0
    truncate: bool = True
    attention_factor: float = 0.0
    kept: float = 1.0
    short_factors: tuple[float, ...] = ()
    long_factors: tuple[float, ...] = ()

    @property
    def m(self) -> np.ndarray:
        """The numbers m of the R/2 pairs, the fastest first."""
        return np.arange(self.width // 2)


def unscaled(stretch: Stretch) -> Scaled:
    """Return the trained theta_m."""
    return Scaled()


def linear(stretch: Stretch) -> Scaled:
    """Return position interpolation: all pairs turn s times as slowly. Chen et al. 2023, arXiv:2306.15595."""
    _check_stretched(stretch, "linear")
    return Scaled(len(stretch.m) * (stretch.factor,))


def ntk(stretch: Stretch) -> Scaled:
    """Return NTK-aware interpolation, base s^(R/(R-2)): the fastest turns as trained, the slowest s times as slowly.

    Peng et al. 2023, arXiv:2309.00071, sec. 3.1, from a post by bloc97.
    """
    _check_stretched(stretch, "ntk")
    return _of_another_base(stretch, stretch.factor)


def dynamic(stretch: Stretch) -> Scaled:
    """Return NTK-aware interpolation by s L / L0 - (s - 1), where L is the longest length that the model should serve.

    This is "dynamic" in Hugging Face's transformers and, with s = 1, that of arXiv:2309.00071, sec. 3.3. There L is the
    current length, so that keys in a cache, turned for a shorter length, do not fit later queries. Here L is
    `target_length`.
    """
    L0, L = stretch.trained_length, stretch.target_length
    if L <= L0:
        raise ValueError(
            f"rope.scaling=dynamic needs rope.target_length, the longest length to serve, above rope.trained_length, "
            f"{L0}; got {L}"
        )
    return _of_another_base(stretch, stretch.factor * L / L0 - (stretch.factor - 1))


def yarn(stretch: Stretch) -> Scaled:
    """Return YaRN: pairs with at least beta_fast turns in L0 stay; those with at most beta_slow turn s times as slowly.

    Peng et al. 2023, arXiv:2309.00071, sec. 3.2 and 3.4; queries and keys are multiplied by 0.1 ln s + 1. Between the
    two, the scaling is linear in the pair's number m, as in the authors' code and in models that use it (in the paper
    it is linear in the number of turns, as in `llama3`). `truncate` moves the ends outward to integer m.
    """
    _check_stretched(stretch, "yarn")
    if stretch.base <= 1:
        raise ValueError(f"rope.scaling=yarn needs a rope.base above 1, got {stretch.base}")
    first, last = (
        stretch.width
        * math.log(stretch.trained_length / (2 * math.pi * often))
        / (2 * math.log(stretch.base))
        for often in _fast_and_slow(stretch, 32.0)
    )
    if stretch.truncate:
        first, last = math.floor(first), math.ceil(last)
    first = max(first, 0)
    last = max(min(last, stretch.width - 1), first + 0.001)
    kept = 1 - np.clip((stretch.m - first) / (last - first), 0, 1)
    attention = stretch.attention_factor or 0.1 * math.log(stretch.factor) + 1
    return Scaled(_partly(kept, stretch.factor), attention)


def llama3(stretch: Stretch) -> Scaled:
    """Return the scaling of Llama 3.1: that of YaRN's paper with beta_fast = 4, without a factor for queries and keys.

    Grattafiori et al. 2024, arXiv:2407.21783, and the released models. Their high_freq_factor is `beta_fast`, their
    low_freq_factor `beta_slow`; between the two, the scaling is linear in the number of turns of a pair in L0.
    """
    _check_stretched(stretch, "llama3")
    fast, slow = _fast_and_slow(stretch, 4.0)
    theta = stretch.base ** (-2 * stretch.m / stretch.width)
    turns = stretch.trained_length * theta / (2 * math.pi)
    kept = np.clip((turns - slow) / (fast - slow), 0, 1)
    return Scaled(_partly(kept, stretch.factor))


def longrope(stretch: Stretch) -> Scaled:
    """Return the factors for the length that the model should serve, and sqrt(1 + ln s / ln L0),  s = target / L0.

    Ding et al. 2024, arXiv:2402.13753, and the released models that use it. The choice between the two sets of factors
    is fixed: keys in a cache that were turned by one set would not fit queries turned by the other.
    """
    L0, L = stretch.trained_length, stretch.target_length
    check_range("rope.trained_length", L0, 2)
    attention = math.sqrt(1 + math.log(max(1.0, L / L0)) / math.log(L0))
    key, factors = ("long", stretch.long_factors) if L > L0 else ("short", stretch.short_factors)
    if not factors:
        raise ValueError(
            f"rope.scaling=longrope needs rope.{key}_factors, as rope.target_length={L} is "
            f"{'above' if L > L0 else 'not above'} rope.trained_length={L0}"
        )
    return Scaled(tuple(map(float, factors)), stretch.attention_factor or attention)


def p_rope(stretch: Stretch) -> Scaled:
    """Return the scaling that turns only the fastest `kept` of the pairs; R in theta_m = base^(-2m/R) is that of all.

    Barbero et al. 2024, arXiv:2410.06205, sec. 6, and Gemma 4, whose global layers keep 0.25. The pairs that turn do so
    s times as slowly.
    """
    kept = int(stretch.kept * stretch.width // 2)
    if not 0 < kept < len(stretch.m):
        raise ValueError(
            f"rope.scaling=p_rope needs a rope.kept that turns some, but not all, of the {len(stretch.m)} pairs: "
            f"{stretch.kept} turns {kept}"
        )
    return Scaled((*kept * (stretch.factor,), *(len(stretch.m) - kept) * (math.inf,)))


SCALINGS = {  # with the options that each reads
    "none": (unscaled, ()),
    "linear": (linear, ("factor",)),
    "ntk": (ntk, ("factor",)),
    "dynamic": (dynamic, ("factor", "trained_length", "target_length")),
    "yarn": (
        yarn,
        ("factor", "trained_length", "beta_fast", "beta_slow", "truncate", "attention_factor"),
    ),
    "llama3": (llama3, ("factor", "trained_length", "beta_fast", "beta_slow")),
    "longrope": (
        longrope,
        ("trained_length", "target_length", "attention_factor", "short_factors", "long_factors"),
    ),
    "p_rope": (p_rope, ("factor", "kept")),
}


def scaled(scaling: str, stretch: Stretch) -> Scaled:
    """Return the result of the scaling of this name.

    Raises:
      ValueError: the scaling is unknown, a value is not allowed, or the scaling does not read an option that was given.
    """
    check_choice("rope.scaling", scaling, SCALINGS)
    for key, factors in (("short", stretch.short_factors), ("long", stretch.long_factors)):
        _check_factors(f"rope.{key}_factors", factors, len(stretch.m))
    function, reads = SCALINGS[scaling]
    for field in dataclasses.fields(Stretch):
        if field.default is dataclasses.MISSING:  # of the pairs
            continue
        if getattr(stretch, field.name) != field.default and field.name not in reads:
            known = [name for name, (_, read) in SCALINGS.items() if field.name in read]
            raise ValueError(
                f"rope.{field.name} needs rope.scaling={' or '.join(known)}, but rope.scaling is {scaling}"
            )
    check_range("rope.factor", stretch.factor, 1)
    check_range("rope.trained_length", stretch.trained_length, 1)
    check_range("rope.target_length", stretch.target_length, 0)
    check_range("rope.attention_factor", stretch.attention_factor, 0, MOST_ATTENTION)
    return function(stretch)


def _check_factors(key: str, factors: tuple[float, ...], count: int) -> None:
    if len(factors) not in (0, count):
        raise ValueError(
            f"{key} must be empty or {count} numbers, one for each pair that turns; got {len(factors)}"
        )
    for factor in factors:
        is_number = isinstance(factor, numbers.Real) and not isinstance(factor, bool)
        if not is_number or not 1e-3 <= factor <= 1e9:
            raise ValueError(f"{key} must be numbers from 0.001 to 1e9, got {factor!r}")


def _fast_and_slow(stretch: Stretch, default: float) -> tuple[float, float]:
    """Return the turns in L0 at or above which pairs stay as trained, and at or below which s slows them."""
    fast, slow = stretch.beta_fast or default, stretch.beta_slow
    if not 0 < slow < fast:
        raise ValueError(
            f"rope.beta_slow must be above 0 and below rope.beta_fast, got {slow} and {fast}"
        )
    return fast, slow


def _check_stretched(stretch: Stretch, scaling: str) -> None:
    if stretch.factor == 1:
        raise ValueError(
            f"rope.scaling={scaling} needs a rope.factor above 1, by which rows may be longer"
        )


def _of_another_base(stretch: Stretch, s: float) -> Scaled:
    """Return theta_m with the base multiplied by s^(R/(R-2))."""
    if stretch.width < 4:
        raise ValueError(
            f"rope.scaling=ntk and dynamic need at least 4 dimensions that turn, got {stretch.width}"
        )
    return Scaled(tuple((s ** (2 * stretch.m / (stretch.width - 2))).tolist()))


def _partly(kept: np.ndarray, s: float) -> tuple[float, ...]:
    """Return the divisors that turn theta_m into  kept theta_m + (1 - kept) theta_m / s."""
    return tuple((1 / (kept + (1 - kept) / s)).tolist())
