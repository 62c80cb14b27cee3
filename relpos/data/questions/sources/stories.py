"""Stories like bAbI's, with the facts that a question needs at a chosen distance.

    Ben went to the cellar.  Ada moved to the attic.  Eve took the lamp.  Ben walked to the office.
    Where is Ada?  attic                                                  (one fact, distance 3)

Weston et al. 2015, arXiv:1502.05698, tasks 1 and 2. The distance is that from the question back to the farthest
sentence it needs, 1 for the last sentence, so a model can be tested beyond the distances it was trained on. With one
fact the question is where a person is; with two, where a thing is, in one of three equally likely forms:

    move, take    Ada went to the attic. ... Ada took the lamp.
    take, move    Ada took the lamp. ... Ada went to the attic.
    move, drop    Ada went to the attic. ... Ada dropped the lamp.

Nothing else reveals the answer: after the first needed sentence, neither the person nor the thing is mentioned except
in the second one (and, after a drop, perhaps when the person leaves), and in the form move, take the thing was never
mentioned before. The remaining sentences are random events; after the first needed one, they involve other people and
things. If there is room, someone else moves after the sentence that names the answer, so that the last mentioned place
is no better a guess than any other; see the baselines in the tests.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from relpos.data.corpus import Corpus
from relpos.data.errors import DataError, nearest
from relpos.data.questions.corpus import questions_corpus
from relpos.data.questions.question import Question
from relpos.data.splits import SPLITS, split_of

VERSION = "1.0.0"
PERSONS = ("Ada", "Ben", "Carl", "Dora", "Eve", "Finn", "Gus", "Hana")
PLACES = ("attic", "bathroom", "cellar", "garage", "garden", "hallway", "kitchen", "office")
THINGS = ("apple", "ball", "book", "cup", "key", "lamp")
MOVES = ("went to", "moved to", "walked to")
TAKES = ("took", "picked up")
DROPS = ("dropped", "put down")
FORMS = (("move", "take"), ("take", "move"), ("move", "drop"))
QUESTIONS = {"train": 10_000, "validation": 500, "test": 1000, "longer": 1000}
MOST_DISTANCE = 64  # longer stories take minutes to generate
# Sentences before the first needed one; two facts need at least 2, so that someone can hold a thing.
BEFORE = (2, 12)


def load(*, distance: Sequence[int] = (2, 8), facts: int = 1, seed: int = 0) -> Corpus[Question]:
    """Load stories.

    Args:
      distance: the least and the greatest, in sentences, at most `MOST_DISTANCE`; those of the split "longer" are
        greater, up to twice as great.
      facts: needed sentences, 1 or 2.
      seed: selects the stories.

    Raises:
      DataError: no story can have these numbers.
    """
    if len(distance) != 2 or max(distance) > MOST_DISTANCE:
        raise DataError(
            f"distance must be two numbers, the least and the greatest, at most {MOST_DISTANCE}; got {tuple(distance)}"
        )
    low, high = distance
    splits = {
        split: questions(
            count,
            distance=(high + 1, 2 * high) if split == "longer" else (low, high),
            facts=facts,
            split="test" if split == "longer" else split,
            seed=seed,
        )
        for split, count in QUESTIONS.items()
    }
    note = f"{facts} facts at distances {low} to {high}, longer: up to {2 * high}; seed {seed}"
    return questions_corpus("stories", VERSION, splits, notes=(note,))


def questions(
    count: int,
    *,
    distance: tuple[int, int],
    facts: int = 1,
    split: str = "train",
    seed: int = 0,
) -> list[Question]:
    """Return the first `count` questions of a split; no story is in two splits.

    Args:
      count: how many.
      distance: the least and the greatest; uniform between them.
      facts: the number of needed sentences, 1 or 2.
      split: "train", "validation" or "test".
      seed: a different seed draws different stories of the same split.

    Raises:
      DataError: the split is unknown, or no story can have these numbers.
    """
    low, high = distance
    if split not in SPLITS:
        raise DataError(f"There is no split {split!r}.{nearest(split, SPLITS)}")
    if facts not in (1, 2):
        raise DataError(f"A question needs 1 or 2 facts, not {facts}.")
    if low > high:
        raise DataError(f"{distance} is not a range: the first number must not exceed the second.")
    if low < facts:
        raise DataError(f"{facts} needed sentences do not fit into a distance of {low}.")
    name = f"stories {facts} facts, distance {distance}, before {BEFORE}, {split}, seed {seed}"
    found = []
    for i in range(count):
        rng = random.Random(f"{name} {i}")
        while True:
            question = _question(rng, rng.randint(low, high), facts, f"{name}, {i}")
            if split_of(question.context.encode()) == split:
                break
        found.append(question)
    return found


def _question(rng: random.Random, distance: int, facts: int, id: str) -> Question:
    """Return a story and its question, one sentence per line."""
    form = rng.choice(FORMS) if facts == 2 else None
    asked = ""
    while not asked:  # start again if nobody could do what the form requires
        story = _Story(rng)
        asked = _two_facts(story, distance, form) if form else _one_fact(story, distance)
    context = "\n".join(story.sentences)
    place = sum(len(sentence) + 1 for sentence in story.sentences[: story.fact])
    return Question(
        id=id,
        context=context,
        question=f"Where is {asked}?",
        answers=(story.answer,),
        starts=(context.find(story.answer, place),),
        group=distance,
        document=context,
    )


class _Story:
    """The sentences of a story, and the state after them.

    Attributes:
      rng: draws what happens.
      sentences: the sentences so far.
      place: where each person who has moved is.
      holder: who has each thing that is held.
      lying: the place of each thing that was dropped and not taken again.
      fact: the index of the sentence that names the answer.
      answer: the place asked for.
    """

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.sentences: list[str] = []
        self.place: dict[str, str] = {}
        self.holder: dict[str, str] = {}
        self.lying: dict[str, str] = {}
        self.fact = 0
        self.answer = ""

    def move(self, person: str) -> None:
        """Move the person to another place."""
        here = self.place.get(person)
        place = self.rng.choice([place for place in PLACES if place != here])
        self.place[person] = place
        self.sentences.append(f"{person} {self.rng.choice(MOVES)} the {place}.")

    def answer_move(self, person: str) -> None:
        """Move the person to the place that will be asked for."""
        self.move(person)
        self.fact, self.answer = len(self.sentences) - 1, self.place[person]

    def take(self, person: str, thing: str) -> None:
        """Let the person take a thing."""
        self.lying.pop(thing, None)
        self.holder[thing] = person
        self.sentences.append(f"{person} {self.rng.choice(TAKES)} the {thing}.")

    def drop(self, person: str, thing: str) -> None:
        """Let the person drop a thing."""
        del self.holder[thing]
        self.lying[thing] = self.place[person]
        self.sentences.append(f"{person} {self.rng.choice(DROPS)} the {thing}.")

    def within_reach(self, person: str) -> list[str]:
        """Return what a person who has moved can take: things that lie there or have not been mentioned."""
        at = self.place.get(person)
        free = [t for t in THINGS if t not in self.holder]
        return [t for t in free if self.lying.get(t, at) == at] if at else []

    def happen(
        self,
        count: int,
        *,
        without: str = "",
        thing: str = "",
        leaving: str = "",
    ) -> None:
        """Add sentences, at least one of which is a move.

        Args:
          count: how many.
          without: the person who does nothing.
          thing: the thing that nobody touches.
          leaving: the person who must move once nevertheless.
        """
        persons = [person for person in PERSONS if person != without]
        moving = self.rng.randint(0, count - 1) if count else 0
        for i in range(count):
            person = self.rng.choice(persons)
            held = [t for t, who in self.holder.items() if who == person and t != thing]
            free = [t for t in self.within_reach(person) if t != thing]
            kind = self.rng.randint(0, 5)
            if i == moving:
                self.move(leaving or person)
            elif kind == 0 and held:
                self.drop(person, self.rng.choice(held))
            elif kind <= 2 and free:
                self.take(person, self.rng.choice(free))
            else:
                self.move(person)


def _one_fact(story: _Story, distance: int) -> str:
    """Let someone move, and return who."""
    story.happen(story.rng.randint(*BEFORE))
    person = story.rng.choice(PERSONS)
    story.answer_move(person)
    story.happen(distance - 1, without=person)
    return person


def _two_facts(story: _Story, distance: int, form: tuple[str, str]) -> str:
    """Let someone do with a thing what the form says, and return the thing; "" if nobody can."""
    before = story.rng.randint(*BEFORE)
    first, second = form
    least = min(2, distance - 1) if second == "move" else 1  # leaves room for a later move
    near = story.rng.randint(least, distance - 1)
    story.happen(before)
    person = "" if second == "drop" else story.rng.choice(PERSONS)
    things = {
        ("move", "take"): [t for t in THINGS if t not in story.holder and t not in story.lying],
        ("take", "move"): story.within_reach(person),
        ("move", "drop"): list(story.holder),
    }[form]
    if not things:
        return ""
    thing = story.rng.choice(things)
    person = story.holder.get(thing, person)
    for act, gap in ((first, distance - near - 1), (second, near - 1)):
        leaving = ""
        if act == "move":
            story.answer_move(person)
        elif act == "take":
            story.take(person, thing)
        else:
            story.drop(person, thing)
            leaving = story.rng.choice(("", person))
        story.happen(gap, without=person, thing=thing, leaving=leaving)
    return f"the {thing}"
