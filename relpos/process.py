"""What a command sets for its own process, all in this place: cores, compiled programs, pages of memory.

JAX and the system's C library read it from the environment when they start. What stands there already stays, and
importing relpos sets nothing. No result changes by more than rounding.
"""

import contextlib
import hashlib
import os
import sys
from pathlib import Path

MOST_DEVICES = 8
MOST_BYTES = 10**9  # of compiled programs, some hundred kilobytes each
_PAGES = "glibc.malloc.hugetlb=1"


def prepare() -> None:
    """Set it, at the very start: JAX is not imported yet.

    On Linux the command starts itself again, once, for the C library to read the environment.
    """
    found = settings()
    for name, value in found.items():
        if name != "GLIBC_TUNABLES":
            os.environ.setdefault(name, value)
    if "GLIBC_TUNABLES" in found:
        os.environ["GLIBC_TUNABLES"] = found["GLIBC_TUNABLES"]
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def settings() -> dict[str, str]:
    """Return variables of the environment and what a command sets them to.

    - JAX has a CPU device for each core, see `relpos.training.cores`.
    - It keeps compiled programs on disk, where it can, in the user's cache folder.
    - Memory comes in large pages. A training step takes and gives back some hundred megabytes; small pages, each of
      them cleared and entered, were a fifth of its time on a CPU (docs/performance.md).
    """
    found = {}
    with contextlib.suppress(OSError, RuntimeError):  # no home, or none that may be written to
        found["JAX_COMPILATION_CACHE_DIR"] = str(_programs())
        found["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        found["JAX_NUM_CPU_DEVICES"] = str(min(_cores(), MOST_DEVICES))
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if sys.platform == "linux" and "glibc.malloc.hugetlb" not in tunables:
        found["GLIBC_TUNABLES"] = ":".join(filter(None, (tunables, _PAGES)))
    return found


def _cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _programs() -> Path:
    """Return the folder of compiled programs: one for each kind of machine, whose instructions they use.

    The oldest that are beyond a gigabyte are removed.
    """
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text().splitlines() if facts.exists() else []
    kind = "".join(sorted({line for line in lines if line.startswith(("flags", "model name"))}))
    folder = Path(cache) / "relpos" / f"programs-{hashlib.sha256(kind.encode()).hexdigest()[:8]}"
    folder.mkdir(parents=True, exist_ok=True)
    room = MOST_BYTES
    for path in sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True):
        room -= path.stat().st_size
        if room < 0:
            path.unlink(missing_ok=True)
    return folder
