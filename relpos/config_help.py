"""What --help says of the configs that come with relpos; all of it is read from them."""

import ast
import shutil
import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

from relpos import config_files, encodings, places
from relpos.sections import show, to_plain
from relpos.training import run_config


def describe() -> str:
    """Return the configs with their commands, the keys of each task and of all tasks, the schemes and the positions."""
    lines, tasks = ["configs:"], []
    for name, path in config_files.shipped().items():
        text = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
        title, command = text.split("\n\n")[:2]
        lines += [_item(name, [title]), f"    {command.strip()}"]
        tasks.append(config_files.read_file(path)["task"])
    defaults = {
        task: to_plain(run_config.config_class(task)(task=task)) for task in sorted(set(tasks))
    }
    shared = set.intersection(*map(set, defaults.values())) - {"data", "encodings"}
    some = next(iter(defaults.values()))
    lines += [
        "",
        "keys of each task (--config.KEY=VALUE, --config.SECTION.KEY=VALUE), with their defaults:",
    ]
    for task, config in defaults.items():
        own = {k: v for k, v in config.items() if k not in (*shared, "encodings", "places")}
        lines.append(_item(task, _values(own)))
        lines += [
            line for key in own if _is_section(own[key]) for line in _section(f"  {key}", own[key])
        ]
    lines += ["", "keys of all tasks:"]
    lines.append(
        _item("", _values({key: some[key] for key in some if key in shared and key != "task"}))
    )
    for key in some:
        if key in shared and _is_section(some[key]):
            lines += _section(key, some[key])
    lines += [
        "",
        "schemes (--config.encoding=NAME; several: rope+t5 a sum, rope:4/alibi:4 by heads, rope*3,none by layers),",
        "options (--config.encodings.NAME.OPTION=VALUE):",
    ]
    lines += [_item(name, _values(encodings.options(name))) for name in encodings.names()]
    lines += [
        "",
        "positions (--config.positions=NAME, of language models, question answering and algorithmic tasks), options",
        "(--config.places.NAME.OPTION=VALUE):",
    ]
    lines += [_item(name, _values(places.options(name))) for name in places.names()]
    return "\n".join(lines) + "\n"


def _is_section(value: Any) -> bool:
    return isinstance(value, Mapping)


def _values(section: Mapping[str, Any]) -> list[str]:
    """Return KEY=DEFAULT of each key, KEY where the default is empty."""
    return [
        key if value == "" else f"{key}={show(value)}"
        for key, value in section.items()
        if not _is_section(value)
    ]


def _section(name: str, section: Mapping[str, Any]) -> list[str]:
    """Return a line for a section, and one for each section in it that has keys."""
    lines = [_item(name, _values(section))]
    for key, inner in section.items():
        if _is_section(inner):
            parts = [
                _section(f"{name}.{key}.{part}", inner[part])
                for part in inner
                if _is_section(inner[part])
            ]
            lines += [line for part in parts for line in part]
    return lines


def _item(name: str, words: Iterable[str]) -> str:
    text = ", ".join(words)
    return textwrap.fill(
        f"{name}: {text}" if name and text else name or text,
        width=shutil.get_terminal_size().columns - 2,
        initial_indent="  ",
        subsequent_indent="      ",
        break_long_words=False,
        break_on_hyphens=False,
    )
