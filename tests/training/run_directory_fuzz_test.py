"""A run directory is data: whatever is wrong with it, a UserError says so, and nothing waits or runs."""

import contextlib
import io
import json
import os
import random
import shutil
import signal
import socket
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from relpos import evaluate, predict
from relpos.errors import UserError
from relpos.runs import load_run
from relpos.sections import flatten
from relpos.terminal import printable
from relpos.training import run_config
from relpos.training.loop import prepare, train
from relpos.training.run_directory import RunDirectory

# Where Orbax fails it may leave coroutines behind, for the garbage collector to complain about.
pytestmark = [
    pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
SECONDS = 60  # within which everything must be said
MODEL = {"model.num_layers": 1, "model.features": 8, "model.num_heads": 2, "steps": 1}
TOO_DEEP = "[" * 100_000
VALUES = [
    None, True, -1, 0, 0.5, 2**31, 10**12, 10**5000, float("inf"), float("nan"), "", "x", "a.b", "../x", "\0", "\ud800",
    "\x1b[31m", "é" * 3000, [], {}, [[]], [None], ["x"], [10**12], {"a": {}}, {"": 1, "a.b": 2, "get": 3},
]  # fmt: skip


def _language_model(folder):
    text = folder / "text.txt"
    text.write_bytes(b"".join(b"Line %d of a text.\n" % n for n in range(60)))
    small = {
        "data.source": "files",
        "data.sources.files.path": text,
        "sequence_length": 16,
        "batch_size": 2,
        "eval_multiples": "1",
    }
    small |= {"data.tokenizer": "sentencepiece", "data.vocab_size": 280, "sample.max_tokens": 1}
    return "configs/lm.py", small, "ab"


def _questions(folder):
    lines = []
    for i in range(24):
        place = ("attic", "cellar", "garden")[i % 3]
        context = f"Number {i}. Ada went to the {place}."
        asked = {"id": f"q{i}", "question": "Where is Ada?", "is_impossible": i % 3 == 0}
        answer = {"text": place, "answer_start": context.index(place)}
        asked["answers"] = [] if i % 3 == 0 else [answer]
        lines.append({"title": f"t{i}", "paragraphs": [{"context": context, "qas": [asked]}]})
    (folder / "squad.json").write_text(json.dumps({"version": "v2.0", "data": lines}))
    small = {
        "data.source": "squad",
        "data.sources.squad.train": folder / "squad.json",
        "sequence_length": 31,
        "overlap": 7,
    }
    small |= {"longest_answer": 5, "batch_size": 4, "eval_multiples": "1"}
    return "configs/qa.py", small, '{"context": "Ada is here.", "question": "Where?"}'


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Finished runs with all kinds of files: (run directory, its config, a line to predict from)."""
    runs = []
    for make in (_language_model, _questions):
        folder = tmp_path_factory.mktemp(make.__name__)
        path, small, line = make(folder)
        pairs = [(key, str(value)) for key, value in (MODEL | small).items()]
        config = run_config.load(path, pairs)
        assert train(config, folder / "run", Console(quiet=True)) == 0
        runs.append((folder / "run", config, line))
    assert (runs[1][0] / "no_answer.json").exists()
    return runs


def _change_json(draw: random.Random, content: bytes) -> bytes:
    plain = json.loads(content)
    if draw.random() < 0.1:
        return json.dumps(draw.choice([None, 3, "x", [], [plain], {}, {"config": []}])).encode()
    inside, key = plain, None
    if isinstance(plain, dict) and "config" in plain and draw.random() < 0.7:
        inside = plain["config"]
    while True:
        if not isinstance(inside, dict | list) or not inside:
            break
        holder = inside
        key = draw.choice(list(holder)) if isinstance(holder, dict) else draw.randrange(len(holder))
        inside = holder[key]
        if draw.random() < 0.15:
            break
    kind = draw.choice(["remove", "change", "change", "change", "rename"])
    if kind == "change":
        holder[key] = draw.choice(VALUES)
    else:
        value = holder.pop(key)
        if kind == "rename" and isinstance(holder, dict):
            holder[draw.choice(["x", "\x1b[2J", "\ud800", "a.b"])] = value
    limit = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        return json.dumps(plain).encode()
    finally:
        sys.set_int_max_str_digits(limit)


def _change_bytes(draw: random.Random, content: bytes) -> bytes:
    at = draw.randrange(len(content) + 1)
    flipped = bytearray(content or b"x")
    flipped[at % len(flipped)] ^= 1 << draw.randrange(8)
    return draw.choice(
        [
            bytes(flipped),
            bytes(flipped),
            content[:at],
            b"",
            content[:at] + draw.choice([b"\xff\xfe", b"\0", b"\x1b[2J", b"\n"]) + content[at:],
            b"\xef\xbb\xbf" + content,
            content + content,
            TOO_DEEP.encode(),
            b"\xff" * 1000,
            content[at:],
        ]
    )


def _replace(draw: random.Random, path: Path, elsewhere: Path) -> str:
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    kind = draw.choice(
        ["nothing", "directory", "fifo", "loop", "broken link", "device", "socket", "hard link"]
    )
    if kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "loop":
        path.symlink_to(path.name)
    elif kind == "broken link":
        path.symlink_to("nonesuch")
    elif kind == "device":
        path.symlink_to("/dev/null")
    elif kind == "socket":
        with contextlib.chdir(path.parent), socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)  # a short name: long paths do not fit
    elif kind == "hard link":
        elsewhere.write_text("precious")
        os.link(elsewhere, path)
    return kind


def mutate(draw: random.Random, workdir: Path) -> str:
    """Spoils one file and says how."""
    names = [path.name for path in workdir.iterdir() if path.is_file()]
    named = {"config.json": 12, "tokenizer.model": 2, "no_answer.json": 2}
    weights = [named.get(name, 1) for name in sorted(names)]
    path = workdir / draw.choices(sorted(names), weights)[0]
    if draw.random() < 0.2:
        path = draw.choice([path, workdir / ".lock", workdir / "checkpoints"])
        return f"{path.name}: {_replace(draw, path, workdir.parent / 'precious')}"
    before = path.read_bytes()
    with contextlib.suppress(ValueError):
        if draw.random() < 0.7:
            path.write_bytes(_change_json(draw, before))
            return f"{path.name}: {_difference(before, path.read_bytes())}"
    path.write_bytes(_change_bytes(draw, before))
    return f"{path.name}: {_difference(before, path.read_bytes())}"


def _difference(before: bytes, after: bytes) -> str:
    with contextlib.suppress(ValueError, AttributeError, RecursionError):
        old, new = (flatten(json.loads(text)) for text in (before, after))
        keys = [key for key in {**old, **new} if repr(old.get(key)) != repr(new.get(key))]
        return ", ".join(f"{key!r}={new.get(key, '(removed)')!r:.60}" for key in keys[:3])
    at = next((i for i, pair in enumerate(zip(before, after, strict=False)) if len({*pair}) > 1), 0)
    return f"{len(before)} -> {len(after)} bytes, other from {at}: {after[at : at + 20]!r}"


def _begin_again(config, folder):
    directory = RunDirectory(folder, config)
    try:
        prepare(config, directory)
    finally:
        directory.close()


class TooLong(BaseException):
    """No Exception: what reads the run would answer one."""


def _too_long(number, frame):
    raise TooLong


def attempt(act, found: list[str], seconds: int = SECONDS) -> bool:
    """Returns whether `act` succeeds; adds what it raises to `found` if that is no UserError."""
    before = signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(seconds)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            act()
    except UserError as error:
        printable(str(error)).encode()  # as the commands write it
        return False
    except (Exception, TooLong) as error:
        found.append(f"{type(error).__name__}: {str(error)[:150]}")
        return False
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    return True


def failures(run, seed: int, folder: Path):
    """Mutates a copy of a run; returns what it was and every exception that is no UserError."""
    source, config, line = run
    if folder.exists():
        shutil.rmtree(folder)
    shutil.copytree(source, folder)
    what = mutate(random.Random(seed), folder)
    found = []
    if attempt(lambda: load_run(folder).model, found):
        attempt(lambda: evaluate.main([f"--workdir={folder}"]), found)
        attempt(lambda: predict.main([f"--workdir={folder}", line]), found)
    attempt(lambda: _begin_again(config, folder), found)
    attempt(lambda: train(config, folder, Console(quiet=True)), found)
    return what, found


def _check(finished, seeds, folder):
    bad = {}
    for seed in seeds:
        what, found = failures(finished[seed % len(finished)], seed, folder / "run")
        if found:
            bad[seed] = (what, found)
    assert not bad, "\n".join(f"{seed}: {what}: {found}" for seed, (what, found) in bad.items())


def test_what_waits_for_ever_is_a_failure():
    def wait():
        try:
            time.sleep(10)
        except OSError as error:  # such as TimeoutError
            raise UserError from error

    found = []
    assert not attempt(wait, found, seconds=1)
    assert found == ["TooLong: "]
    assert signal.getsignal(signal.SIGALRM) is signal.SIG_DFL


def test_a_few_spoilt_run_directories_are_refused_or_read(finished, tmp_path):
    _check(finished, range(15), tmp_path)


@pytest.mark.long
def test_150_spoilt_run_directories_are_refused_or_read(finished, tmp_path):
    _check(finished, range(150), tmp_path)
