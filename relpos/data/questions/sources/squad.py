"""Files in SQuAD's JSON format, versions 1.1 and 2.0.

    {"data": [{"title": ..., "paragraphs": [{"context": ..., "qas": [
        {"id": ..., "question": ..., "is_impossible": ..., "answers": [
            {"text": ..., "answer_start": ...}]}]}]}]}

Rajpurkar et al. 2016, arXiv:1606.05250, and 2018, arXiv:1806.03822. XQuAD, MLQA and many others use the same format.
Plausible answers to impossible questions are ignored.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from relpos.data.errors import DataError
from relpos.data.questions.corpus import files_loader
from relpos.data.questions.question import Reading
from relpos.data.reading import read_utf8
from relpos.files import parse_json


def read_squad(path: str) -> Reading:
    """Read a file in SQuAD's format; one that ends in .gz or .xz is decompressed.

    Raises:
      DataError: the file does not exist, is not JSON, or not in SQuAD's format.
    """
    reading = Reading()
    name = Path(path).name
    for a, article in enumerate(_articles(path)):
        in_article = f"{name} data[{a}]"
        for p, paragraph in enumerate(_list(article, "paragraphs", reading, in_article)):
            in_paragraph = f"{in_article}.paragraphs[{p}]"
            for q, qa in enumerate(_list(paragraph, "qas", reading, in_paragraph)):
                _add(reading, f"{in_paragraph}.qas[{q}]", article, paragraph, qa)
    return reading


load = files_loader(read_squad)


def _add(reading: Reading, where: str, article: Any, paragraph: Any, qa: Any) -> None:
    """Add one unchecked question."""
    for record, name in ((paragraph, "context"), (qa, "question")):
        if not isinstance(record, dict) or not isinstance(record.get(name), str):
            return reading.complain(f"no text {name!r}, question left out", where)
    impossible = qa.get("is_impossible", False) is True
    # In version 2.0 an impossible question may lack a list of answers.
    none = impossible and "answers" not in qa
    answers = []
    for answer in [] if none else _list(qa, "answers", reading, where):
        if isinstance(answer, dict) and isinstance(answer.get("text"), str):
            answers.append((answer["text"], answer.get("answer_start")))
        else:
            reading.complain("answer without a text, left out", where)
    title = article.get("title")
    reading.add(
        where,
        id=qa.get("id"),
        context=paragraph["context"],
        question=qa["question"],
        answers=answers,
        impossible=impossible,
        document=title if isinstance(title, str) else "",
    )


def _list(record: Any, name: str, reading: Reading, where: str) -> list[Any]:
    if isinstance(record, dict) and isinstance(record.get(name), list):
        return record[name]
    reading.complain(f"no list {name!r}", where)
    return []


def _articles(path: str) -> list[Any]:
    """Return the value of "data"."""
    text = read_utf8(path)
    try:
        content = parse_json(text)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path} is not JSON: line {error.lineno}, column {error.colno}: {error.msg}."
        ) from error
    except ValueError as error:
        raise DataError(f"{path} holds JSON that cannot be read: {error}.") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} holds {_kind(content)}, not SQuAD's object with a list 'data'.")
    if not isinstance(content.get("data"), list):
        raise DataError(
            f"{path}: 'data' should be a list of articles, but is {_kind(content.get('data'))}; the "
            f"file has the fields {', '.join(map(repr, content)) or 'none'}."
        )
    return content["data"]


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", type(None): "missing"}
    return names.get(type(value), "a number or a truth value")
