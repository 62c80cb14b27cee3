import itertools
import re

import pytest

from relpos import data
from relpos.data.questions.sources import stories

SENTENCE = re.compile(
    r"(\w+) (went to|moved to|walked to|took|picked up|dropped|put down) the (\w+)\."
)


def read(question):
    """The events of a story: (person, "move" or "take" or "drop", place or thing)."""
    kinds = {"went": "move", "moved": "move", "walked": "move", "took": "take", "picked": "take"}
    events = []
    for line in question.context.split("\n"):
        person, verb, what = SENTENCE.fullmatch(line).groups()
        events.append((person, kinds.get(verb.split()[0], "drop"), what))
    return events


def asked(question):
    return re.fullmatch(r"Where is (?:the )?(\w+)\?", question.question)[1]


def answer(events, who):
    """Where someone or something is, None if the events do not tell."""
    for i in reversed(range(len(events))):
        person, kind, what = events[i]
        if kind == "move" and person == who:
            return what
        if kind != "move" and what == who:  # the last to have it, there or wherever they went
            return answer(events if kind == "take" else events[:i], person)
    return None


def needed(events, who):
    """The numbers of the sentences that tell it."""
    last = max(i for i, (person, _, what) in enumerate(events) if who in (person, what))
    person, kind, _ = events[last]
    if kind == "move":
        return {last}
    before = events if kind == "take" else events[:last]
    return {last, max(i for i, e in enumerate(before) if e[0] == person and e[1] == "move")}


CASES = [(1, 1), (1, 2), (1, 9), (2, 2), (2, 3), (2, 9)]


@pytest.mark.parametrize(("facts", "distance"), CASES)
def test_the_story_tells_the_answer_at_the_distance(facts, distance):
    for question in stories.questions(200, distance=(distance, distance), facts=facts):
        events = read(question)
        who = asked(question)
        assert question.answers == (answer(events, who),)
        sentences = needed(events, who)
        assert len(sentences) == facts
        assert len(events) - min(sentences) == distance == question.group
        start = question.starts[0]
        assert question.context[start:].startswith(question.answers[0])
        named = question.context[:start].count("\n")
        assert named in sentences
        assert events[named][1] == "move"


@pytest.mark.parametrize(("facts", "distance"), CASES)
def test_without_the_sentence_that_names_it_there_is_no_answer(facts, distance):
    for question in stories.questions(200, distance=(distance, distance), facts=facts):
        events = read(question)
        place = question.context[: question.starts[0]].count("\n")
        person = events[place][0]
        assert answer(events[:place] + events[place + 1 :], asked(question)) != question.answers[0]
        # From then on the person does nothing but what is needed, and perhaps leaves at the end.
        after = [(i, e) for i, e in enumerate(events) if i > place and e[0] == person]
        others = [e for i, e in after if i not in needed(events, asked(question))]
        assert [kind for _, kind, _ in others] in ([], ["move"])
        if others:
            assert facts == 2
            assert (person, "drop", asked(question)) in events[place:]


def test_all_ways_of_two_facts_occur():
    ways = set()
    for question in stories.questions(200, distance=(6, 6), facts=2):
        events = read(question)
        ways.add(tuple(events[i][1] for i in sorted(needed(events, asked(question)))))
    assert ways == {("move", "take"), ("take", "move"), ("move", "drop")}


@pytest.mark.parametrize("facts", [1, 2])
def test_nobody_does_what_cannot_be_done(facts):
    for question in stories.questions(300, distance=(facts, 30), facts=facts):
        at, holder, lying = {}, {}, {}
        for person, kind, what in read(question):
            if kind == "move":
                assert at.get(person) != what
                at[person] = what
            elif kind == "take":
                assert what not in holder
                assert lying.pop(what, at[person]) == at[person]
                holder[what] = person
            else:
                assert holder.pop(what) == person
                lying[what] = at[person]


def baselines(facts, distance, count=1500):
    """How often simple guesses are right."""
    right = {"last": 0.0, "first": 0.0, "most frequent": 0.0, "rarest": 0.0}
    for question in stories.questions(count, distance=(distance, distance), facts=facts, seed=1):
        places = [what for _, kind, what in read(question) if kind == "move"]
        counts = {place: places.count(place) for place in stories.PLACES}
        right["last"] += places[-1] == question.answers[0]
        right["first"] += places[0] == question.answers[0]
        for name, chosen in (
            ("most frequent", max(counts.values())),
            ("rarest", min(counts.values())),
        ):
            tied = [place for place in counts if counts[place] == chosen]
            right[name] += (question.answers[0] in tied) / len(tied)
    return {name: total / count for name, total in right.items()}


@pytest.mark.parametrize(("facts", "distance"), [(1, 2), (1, 8), (2, 3), (2, 8), (2, 16)])
def test_simple_guesses_fail(facts, distance):
    right = baselines(facts, distance)
    assert right["last"] < 0.16  # a guess among the eight places is right in 0.125
    assert right["first"] < 0.16
    assert right["most frequent"] < 0.36  # the answer itself counts once
    assert right["rarest"] < 0.16


def test_answers_are_balanced():
    found = [q.answers[0] for q in stories.questions(1600, distance=(2, 8), facts=2)]
    assert all(0.09 < found.count(place) / len(found) < 0.16 for place in stories.PLACES)


def test_splits_share_no_story(monkeypatch):
    monkeypatch.setattr(stories, "BEFORE", (2, 2))
    drawn = {
        split: {
            question.document
            for facts, seed in itertools.product((1, 2), (0, 1))
            for question in stories.questions(
                300, distance=(facts, facts + 1), facts=facts, split=split, seed=seed
            )
        }
        for split in data.SPLITS
    }
    for one, other in itertools.combinations(data.SPLITS, 2):
        assert not drawn[one] & drawn[other]
    assert all(len(stories) > 1000 for stories in drawn.values())


def test_no_story_of_the_shortest_is_in_two_splits(monkeypatch):
    monkeypatch.setattr(stories, "BEFORE", (0, 0))
    drawn = {
        split: {q.context for q in stories.questions(600, distance=(1, 1), split=split)}
        for split in data.SPLITS
    }
    assert len(drawn["train"]) > 120
    assert sum(map(len, drawn.values())) == len(set.union(*drawn.values())) <= 8 * 8 * 3


def test_a_question_depends_on_its_arguments_alone():
    found = stories.questions(20, distance=(2, 8), facts=2, seed=3)
    assert stories.questions(30, distance=(2, 8), facts=2, seed=3)[:20] == found
    assert stories.questions(20, distance=(2, 8), facts=2, seed=4) != found


def test_the_sentences_before_are_counted(monkeypatch):
    monkeypatch.setattr(stories, "BEFORE", (3, 3))
    for question in stories.questions(100, distance=(4, 4)):
        assert len(read(question)) == 3 + 4
    monkeypatch.setattr(stories, "BEFORE", (2, 4))
    lengths = {len(read(q)) for q in stories.questions(200, distance=(4, 4), facts=2)}
    assert lengths == {6, 7, 8}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"distance": (0, 3)}, "do not fit into a distance of 0"),
        ({"distance": (1, 3), "facts": 2}, "2 needed sentences do not fit into a distance of 1"),
        ({"distance": (3, 3), "facts": 3}, "1 or 2 facts"),
        ({"distance": (4, 3)}, "is not a range"),
        ({"distance": (3, 3), "split": "tests"}, "Did you mean 'test'"),
    ],
)
def test_what_cannot_be_told_is_explained(arguments, message):
    with pytest.raises(data.DataError, match=message):
        stories.questions(1, **arguments)
