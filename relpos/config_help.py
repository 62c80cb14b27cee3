"""What --help says of the configs that come with relpos; all of it is read from them."""

import ast
import shutil
import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

from relpos import config as config_lib
from relpos.sections import show, to_plain
from relpos.training import run_config


def describe() -> str:
    """Return the configs with their commands and data, the keys that all have, and the schemes."""
    configs = {}
    lines = ["configs, and what of their data can be set (--config.data.KEY=VALUE):"]
    for name, path in config_lib.shipped().items():
        text = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
        title, command = text.split("\n\n")[:2]
        configs[name] = to_plain(run_config.load(path))
        data = configs[name]["data"]
        lines += [_item(name, [title]), f"    {command.strip()}", _item("  data", _values(data))]
        for source, options in data["sources"].items():
            lines.append(_item(f"  data.sources.{source}", _values(options)))
    shared = set.intersection(*map(set, configs.values())) - {"data", "encodings", "places"}
    some = next(iter(configs.values()))
    lines += ["", "keys of every config (--config.KEY=VALUE, --config.SECTION.KEY=VALUE):"]
    lines.append(_item("", [key for key in some if key in shared and not _is_section(some[key])]))
    lines += [_item(key, some[key]) for key in some if key in shared and _is_section(some[key])]
    lines += [
        "",
        "schemes (--config.encoding=NAME; several: rope+t5 a sum, rope:4/alibi:4 by heads, rope*3,none by layers),",
        "options (--config.encodings.NAME.OPTION=VALUE):",
    ]
    lines += [_item(name, _values(options)) for name, options in some["encodings"].items()]
    lines += [
        "",
        "positions (--config.positions=NAME, of language models, question answering and algorithmic tasks), options",
        "(--config.places.NAME.OPTION=VALUE):",
    ]
    placing = next(config["places"] for config in configs.values() if "places" in config)
    lines += [_item(name, _values(options)) for name, options in placing.items()]
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
