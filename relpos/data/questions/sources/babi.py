"""bAbI files: short stories with questions in between, and the facts that answer each question.

    1 Mary moved to the bathroom.
    2 John went to the hallway.
    3 Where is Mary? <tab> bathroom <tab> 1

Weston et al. 2015, arXiv:1502.05698. Every line has a number, and 1 starts a new story. A question's context is the
story so far without its questions, one sentence per line.

The answer is a span of the context: its occurrence as a word in the first supporting fact, as listed, that contains it.
If none does, the last occurrence in the story is used and counted as a problem, as the question may be about another.
Questions whose answer is not a span are left out and counted: directions ("s,e"), lists, object counts, and always yes,
no and maybe, as the "no" in "John is no longer here" is not an answer.
"""

from __future__ import annotations

import re
from pathlib import Path

from relpos.data.errors import DataError
from relpos.data.questions.corpus import files_loader
from relpos.data.questions.question import Reading
from relpos.data.reading import read_utf8

_LINE = re.compile(r"(\d{1,9}) (.*)")  # int() refuses thousands of digits
_NUMBER = re.compile(r"\d{1,9}")
_VERDICTS = {"yes", "no", "maybe"}


def read_babi(path: str) -> Reading:
    """Read a bAbI file; one that ends in .gz or .xz is decompressed.

    Raises:
      DataError: the file does not exist or is not UTF-8, or its first line has no number.
    """
    reading = Reading()
    name = Path(path).name
    facts: dict[int, str] = {}  # of the story so far, by line number
    story = ""
    for i, line in enumerate(read_utf8(path).decode().split("\n"), 1):
        where = f"{name} line {i}"
        match = _LINE.fullmatch(line.strip(" \r"))  # keeps a final tab, after an empty answer
        if not match:
            if i == 1:
                raise DataError(f"{path} is not bAbI: its first line has no number before it.")
            if line.strip():
                reading.complain("line without a number, left out", where)
            continue
        number, text = int(match[1]), match[2]
        if number == 1:
            facts, story = {}, where
        if "\t" in text:
            _add(reading, where, text, facts, story)
        else:
            facts[number] = text.strip()
    return reading


load = files_loader(read_babi)


def _add(reading: Reading, where: str, text: str, facts: dict[int, str], story: str) -> None:
    """Add the question on a line."""
    question, answer, *rest = (field.strip() for field in text.split("\t"))
    cited = " ".join(rest).split()
    if len(rest) > 1 or not all(_NUMBER.fullmatch(number) for number in cited):
        return reading.complain("line with other fields than a question's, left out", where)
    order = {number: i for i, number in enumerate(facts)}
    supports = [order[int(number)] for number in cited if int(number) in order]
    if len(supports) < len(cited):
        reading.complain("supporting fact that is not an earlier sentence, ignored", where)
    if not answer:
        return reading.complain("empty answer, left out", where)
    sentences = list(facts.values())
    context = "\n".join(sentences)
    start = None
    if answer.lower() not in _VERDICTS:
        word = re.compile(rf"(?<!\w){re.escape(answer)}(?!\w)")
        named = [(i, match) for i in supports if (match := word.search(sentences[i]))]
        if named:
            i, match = named[0]
            start = sum(len(sentence) + 1 for sentence in sentences[:i]) + match.start()
        elif anywhere := [match.start() for match in word.finditer(context)]:
            reading.complain("answer is in no supporting fact, last occurrence taken", where)
            start = anywhere[-1]
    if start is None and context and question:
        return reading.complain("answer is not a span of the story, question left out", where)
    reading.add(
        where,
        id=where,
        context=context,
        question=question,
        answers=[(answer, start)],
        group=len(facts) - min(supports, default=len(facts)),
        document=story,
    )
