"""The --help text on shipped configs, schemes and positions, read from the code."""

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
    lines, tasks = ["configs:"], set()
    for name, path in config_files.shipped().items():
        text = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
        title, command = [*text.split("\n\n"), ""][:2]
        lines += [_item(name, [title]), f"    {command.strip()}"]
        tasks.add(config_files.read_file(path)["task"])
    defaults = {task: to_plain(run_config.config_class(task)(task=task)) for task in sorted(tasks)}
    some = next(iter(defaults.values()))
    shared = set.intersection(*map(set, defaults.values())) - {"data"}
    apart = {"task", "encodings", "places"}  # named above or listed below
    lines += [
        "",
        "keys of each task (--config.KEY=VALUE, --config.SECTION.KEY=VALUE), with their defaults:",
    ]
    for task, config in defaults.items():
        own = {k: v for k, v in config.items() if k not in shared | apart}
        lines += _section(own, task, "  ")
    lines += ["", "keys of all tasks:"]
    lines += _section({k: v for k, v in some.items() if k in shared - apart})
    lines += [
        "",
        "schemes (--config.encoding=NAME; several: rope+t5 a sum, rope:4/alibi:4 by heads, rope*3,none by layers),",
        "options (--config.encodings.NAME.OPTION=VALUE):",
    ]
    lines += [_item(name, _values(encodings.options(name))) for name in encodings.names()]
    lines += [
        "",
        "positions (--config.positions=NAME, of tasks with a key `positions`), options",
        "(--config.places.NAME.OPTION=VALUE):",
    ]
    lines += [_item(name, _values(places.options(name))) for name in places.names()]
    return "\n".join(lines) + "\n"


def _section(
    section: Mapping[str, Any], name: str = "", indent: str = "", inside: str = ""
) -> list[str]:
    """Return a line for a section, and those of the sections in it, indented, with their dotted names."""
    inner = {key: value for key, value in section.items() if isinstance(value, Mapping)}
    values = _values({key: value for key, value in section.items() if key not in inner})
    lines = [_item(name, values)] if values or not inner or not inside else []
    for key, value in inner.items():
        lines += _section(value, f"{indent}{inside}{key}", indent, f"{inside}{key}.")
    return lines


def _values(section: Mapping[str, Any]) -> list[str]:
    """Return KEY=DEFAULT of each key, KEY where the default is empty."""
    return [key if value == "" else f"{key}={show(value)}" for key, value in section.items()]


def _item(name: str, words: Iterable[str]) -> str:
    return textwrap.fill(
        ": ".join(filter(None, (name, ", ".join(words)))),
        width=shutil.get_terminal_size().columns - 2,
        initial_indent="  ",
        subsequent_indent="      ",
        break_long_words=False,
        break_on_hyphens=False,
    )
