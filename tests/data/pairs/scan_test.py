import collections
import re

import pytest

from relpos.data.pairs.sources import scan

# Train and test counts of the official length split (22) and of Csordas et al. 2021.
COUNTS = {
    22: (16990, 3920), 24: (17326, 3584), 25: (17774, 3136), 26: (18286, 2624), 27: (18734, 2176),
    28: (19182, 1728), 30: (19758, 1152), 32: (20206, 704), 33: (20462, 448), 36: (20526, 384),
    40: (20782, 128),
}  # fmt: skip


def meaning(command: str) -> list[str]:
    """The interpretation function of Lake and Baroni, fig. 7, from the outside in."""
    if found := re.fullmatch("(.*) and (.*)", command):
        return meaning(found[1]) + meaning(found[2])
    if found := re.fullmatch("(.*) after (.*)", command):
        return meaning(found[2]) + meaning(found[1])
    if found := re.fullmatch("(.*) (twice|thrice)", command):
        return meaning(found[1]) * {"twice": 2, "thrice": 3}[found[2]]
    if found := re.fullmatch("(.*) (opposite|around) (left|right)", command):
        turn = ["I_TURN_" + found[3].upper()]
        act = meaning(found[1]) if found[1] != "turn" else []
        return turn * 2 + act if found[2] == "opposite" else (turn + act) * 4
    if found := re.fullmatch("(.*) (left|right)", command):
        act = meaning(found[1]) if found[1] != "turn" else []
        return ["I_TURN_" + found[2].upper(), *act]
    return [{"walk": "I_WALK", "look": "I_LOOK", "run": "I_RUN", "jump": "I_JUMP"}[command]]


def length(pair) -> int:
    return pair[1].count(" ") + 1


def test_every_command_has_the_papers_meaning():
    for command, actions in scan.pairs():
        assert actions.split(" ") == meaning(command), command


def test_all_commands_are_there_once():
    commands = [command for command, _ in scan.pairs()]
    assert len(commands) == len(set(commands)) == 20_910
    assert collections.Counter(c.count(" and ") + 2 * c.count(" after ") for c in commands) == {
        0: 102, 1: 102**2, 2: 102**2,
    }  # fmt: skip
    assert max(len(c.split()) for c in commands) == 9
    assert {length(pair) for pair in scan.pairs()} == {
        *range(1, 23), *range(24, 29), 30, 32, 33, 36, 40, 48,
    }  # fmt: skip


def test_the_order_is_always_the_same():
    assert scan.pairs() == scan.pairs()
    assert scan.pairs()[0] == ("walk", "I_WALK")
    assert scan.pairs()[-1][0] == "turn around right thrice after turn around right thrice"


@pytest.mark.parametrize("cutoff", COUNTS)
def test_cutoffs_have_the_published_counts(cutoff):
    split = scan.split(cutoff, seed=1)
    short = split["train"] + split["validation"] + split["test"]
    assert (len(short), len(split["longer"])) == COUNTS[cutoff]
    assert max(map(length, short)) <= cutoff < min(map(length, split["longer"]))
    assert sorted(short + split["longer"]) == sorted(scan.pairs())  # none twice
    assert len(split["test"]) == round(0.1 * len(short))
    assert len(split["validation"]) == round(0.01 * len(short))


def test_what_is_held_out_is_a_function_of_the_seed():
    assert scan.split(22, seed=3) == scan.split(22, seed=3)
    tests = [set(scan.split(22, seed=seed)["test"]) for seed in (3, 4, -3)]
    assert len(tests[0] & tests[1]) < 0.2 * len(tests[0])
    assert tests[0] != tests[2]


def test_what_is_held_out_is_like_the_rest():
    split = scan.split(26, seed=0)
    mean = [sum(map(length, part)) / len(part) for part in (split["train"], split["test"])]
    assert mean[0] == pytest.approx(mean[1], abs=0.4)


@pytest.mark.parametrize(
    ("cutoff", "message"),
    [
        (48, "more than 48 actions.*from 1 to 47"),
        (100, "more than 100 actions"),
        (0, "at most 0 actions.*from 1 to 47"),
        (-3, "at most -3 actions"),
    ],
)
def test_cutoffs_that_leave_a_side_empty_are_refused(cutoff, message):
    with pytest.raises(scan.DataError, match=message):
        scan.split(cutoff, seed=0)
