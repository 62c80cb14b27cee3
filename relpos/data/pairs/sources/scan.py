"""SCAN: commands and the actions they stand for, from the grammar; splits by the actions' length.

Lake and Baroni 2018, arXiv:1711.00350. The grammar generates 20,910 commands, each with one meaning:

    C -> S | S and S | S after S         x after y: the actions of y, then those of x
    S -> V | V twice | V thrice
    V -> u | u d | u opposite d | u around d      u one of walk, look, run, jump; d left or right
       | turn d | turn opposite d | turn around d
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from relpos.data.corpus import Corpus
from relpos.data.errors import DataError
from relpos.data.pairs.corpus import pairs_corpus
from relpos.data.pairs.pairs import Pair as Sentences

VERSION = "1.0.0"  # of the rules that split

Pair = tuple[str, str]

DIRECTIONS = {"left": "I_TURN_LEFT", "right": "I_TURN_RIGHT"}
VERBS = {"walk": "I_WALK", "look": "I_LOOK", "run": "I_RUN", "jump": "I_JUMP"}
TIMES = {"twice": 2, "thrice": 3}

TEST_FRACTION = 0.1  # of the short pairs, as Csordas et al. 2021 hold out


class Split(NamedTuple):
    """Pairs by split: the first three have at most `cutoff` actions, `longer` has the rest."""

    train: list[Pair]
    validation: list[Pair]
    test: list[Pair]
    longer: list[Pair]


def load(*, cutoff: int = 26, seed: int = 0) -> Corpus[Sentences]:
    """Load commands of at most `cutoff` actions, and in the split "longer" all others, see `split`.

    Args:
      cutoff: the most actions of a pair for training.
      seed: which of the short pairs are held out, and the order of train.

    Raises:
      DataError: no pair has at most `cutoff` actions, or none has more.
    """
    splits = {
        name: [(command.encode(), actions.encode()) for command, actions in found]
        for name, found in split(cutoff, seed)._asdict().items()
    }
    note = f"at most {cutoff} actions, longer: more; seed {seed}"
    return pairs_corpus("scan", VERSION, splits, languages=("command", "actions"), notes=(note,))


def pairs() -> list[Pair]:
    """Return all (command, actions), words separated by spaces, always in the same order."""
    simple = _simple()
    return [
        *simple,
        *((f"{x} and {y}", f"{of_x} {of_y}") for x, of_x in simple for y, of_y in simple),
        *((f"{x} after {y}", f"{of_y} {of_x}") for x, of_x in simple for y, of_y in simple),
    ]


def split(cutoff: int, seed: int, validation: float = 0.01) -> Split:
    """Split the pairs by the number of their actions.

    Csordas et al. 2021, arXiv:2108.12284 (after Newman et al. 2020, arXiv:2010.07174): one trains
    on at most `cutoff` actions, a tenth of which is held out as the in-distribution test, and
    tests on all longer ones. Cutoff 22 is the length split of Lake and Baroni.

    Args:
      cutoff: the most actions of a pair for training.
      seed: which of the short pairs are held out, and the order of `train`.
      validation: share of the short pairs that is held out besides the test, 0 for none.

    Raises:
      DataError: no pair has at most `cutoff` actions or none has more; or nothing is left to
        train on.
    """
    if not 0 <= validation < 1 - TEST_FRACTION:
        raise DataError(
            f"validation is a share of the short pairs, from 0 to below {1 - TEST_FRACTION:g}, "
            f"not {validation}."
        )
    short: list[Pair] = []
    longer: list[Pair] = []
    for pair in pairs():
        (short if _actions(pair) <= cutoff else longer).append(pair)
    if not short or not longer:
        most = max(map(_actions, short + longer))
        raise DataError(
            f"No SCAN pair has {'at most' if longer else 'more than'} {cutoff} actions: choose a "
            f"cutoff from 1 to {most - 1} (published ones are 22 to 40)."
        )
    order = np.random.default_rng((abs(seed), seed < 0)).permutation(len(short))
    shuffled = [short[i] for i in order]
    tests = round(TEST_FRACTION * len(short))
    held = tests + round(validation * len(short))
    return Split(shuffled[held:], shuffled[tests:held], shuffled[:tests], longer)


def _actions(pair: Pair) -> int:
    return len(pair[1].split())


def _simple() -> list[Pair]:
    """The commands without a conjunction, S in the grammar."""
    verbs = _verb_phrases()
    repeated = [
        (f"{command} {word}", _times(times, actions))
        for command, actions in verbs
        for word, times in TIMES.items()
    ]
    return verbs + repeated


def _verb_phrases() -> list[Pair]:
    phrases = list(VERBS.items())
    for verb, action in [*VERBS.items(), ("turn", "")]:
        for direction, turn in DIRECTIONS.items():
            once = f"{turn} {action}".strip()
            phrases += [
                (f"{verb} {direction}", once),
                (f"{verb} opposite {direction}", f"{turn} {once}"),
                (f"{verb} around {direction}", _times(4, once)),
            ]
    return phrases


def _times(count: int, actions: str) -> str:
    return " ".join([actions] * count)
