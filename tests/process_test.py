import os
import subprocess
import sys
from pathlib import Path

import pytest

from relpos import process

ROOT = Path(__file__).parents[1]


@pytest.fixture
def started(monkeypatch, tmp_path):
    """An environment of its own, and the commands that were started in place of this one."""
    commands = []
    monkeypatch.setattr(os, "environ", {"XDG_CACHE_HOME": str(tmp_path), "HOME": "/nowhere"})
    monkeypatch.setattr(os, "execv", lambda *command: commands.append(command))
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5, 6}, raising=False)
    return commands


def test_a_command_has_all_cores_a_cache_and_large_pages(started, tmp_path):
    process.prepare()
    assert os.environ["JAX_NUM_CPU_DEVICES"] == "3"
    assert os.environ["GLIBC_TUNABLES"] == "glibc.malloc.hugetlb=1"
    folder = Path(os.environ["JAX_COMPILATION_CACHE_DIR"])
    assert folder.is_dir()
    assert folder.parent == tmp_path / "relpos"
    assert started == [(sys.executable, [sys.executable, *sys.orig_argv[1:]])]
    process.prepare()  # now as the one that was started
    assert len(started) == 1


def test_what_the_user_has_set_stays(started):
    own = {
        "JAX_NUM_CPU_DEVICES": "1",
        "JAX_COMPILATION_CACHE_DIR": "/elsewhere",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "7",
        "GLIBC_TUNABLES": "glibc.malloc.hugetlb=0:glibc.malloc.perturb=1",
    }
    os.environ.update(own)
    process.prepare()
    assert os.environ.items() >= own.items()
    assert not Path("/elsewhere").exists()
    assert not started
    os.environ["GLIBC_TUNABLES"] = "glibc.malloc.perturb=1"
    process.prepare()
    assert os.environ["GLIBC_TUNABLES"] == "glibc.malloc.perturb=1:glibc.malloc.hugetlb=1"


def test_devices_that_xlas_flags_make_are_left_alone(started):
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
    process.prepare()
    assert "JAX_NUM_CPU_DEVICES" not in os.environ


def test_at_most_eight_devices(started, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    process.prepare()
    assert os.environ["JAX_NUM_CPU_DEVICES"] == "8"


def test_elsewhere_than_on_linux_nothing_is_started_again(started, monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    process.prepare()
    assert not started
    assert "GLIBC_TUNABLES" not in os.environ


def test_a_cache_that_cannot_be_written_is_done_without(started, tmp_path):
    (tmp_path / "relpos").write_text("no folder")
    process.prepare()
    assert "JAX_COMPILATION_CACHE_DIR" not in os.environ
    assert os.environ["JAX_NUM_CPU_DEVICES"] == "3"


def test_the_oldest_programs_make_room(started, monkeypatch):
    process.prepare()
    folder = Path(os.environ.pop("JAX_COMPILATION_CACHE_DIR"))
    for age, name in enumerate(["newest", "second", "third", "oldest"]):
        (folder / name).write_bytes(bytes(40))
        os.utime(folder / name, (1000 - age, 1000 - age))
    monkeypatch.setattr(process, "MOST_BYTES", 100)
    process.prepare()
    assert sorted(path.name for path in folder.iterdir()) == ["newest", "second"]


def test_importing_relpos_sets_nothing_and_imports_no_jax():
    program = """
import os, sys
before = dict(os.environ)
import relpos
assert "jax" not in sys.modules
assert relpos.attention is __import__("relpos.attention").attention
assert callable(relpos.attention) and relpos.encodings.names()
assert relpos.RelativeAttention.__name__ == "RelativeAttention"
assert {"attention", "encodings", "load_run"} <= set(dir(relpos))
assert {k: v for k, v in os.environ.items() if before.get(k) != v} == {} or sys.exit(str(os.environ))
"""
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=60)
