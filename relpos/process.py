"""Process settings of commands: cores, the compilation cache and memory pages.

JAX and the C library read them from the environment when they start. Variables already set are kept, and importing
relpos sets none. Rounding and random draws (dropout, masked tokens, random positions) depend on the number of devices.
"""

import contextlib
import hashlib
import os
import sys
from pathlib import Path

MOST_DEVICES = 8
MOST_BYTES = 10**9  # of compiled programs, each a few hundred kilobytes
_PAGES = "glibc.malloc.hugetlb=1"


def prepare() -> None:
    """Apply the settings at the very start, before JAX is imported.

    On Linux the command restarts itself once, so that the C library reads the environment.
    """
    found = settings()
    if "JAX_COMPILATION_CACHE_DIR" in found:
        try:
            _make_room(Path(found["JAX_COMPILATION_CACHE_DIR"]))
        except OSError:  # not writable
            del found["JAX_COMPILATION_CACHE_DIR"]
    os.environ.update(found)
    if "GLIBC_TUNABLES" in found:
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def settings() -> dict[str, str]:
    """Return the environment variables to set, without those already set.

    - JAX has a CPU device per core, at most 8, see `relpos.cores`.
    - JAX caches compiled programs on disk, in the user's cache folder.
    - Memory uses large pages. A training step allocates and frees hundreds of megabytes, and the system would clear and
      map small pages one by one (docs/performance.md).
    """
    found = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    with contextlib.suppress(RuntimeError):  # no home directory
        found["JAX_COMPILATION_CACHE_DIR"] = str(_programs())
    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        found["JAX_NUM_CPU_DEVICES"] = str(min(len(cores()), MOST_DEVICES))
    found = {name: value for name, value in found.items() if name not in os.environ}
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if sys.platform == "linux" and "glibc.malloc.hugetlb" not in tunables:
        found["GLIBC_TUNABLES"] = ":".join(filter(None, (tunables, _PAGES)))
    return found


def cores() -> set[int]:
    """Return the CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _programs() -> Path:
    """Return the folder of compiled programs, separate for each CPU model because programs depend on it."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text().splitlines() if facts.exists() else []
    kind = "".join(sorted({line for line in lines if line.startswith(("flags", "model name"))}))
    return Path(cache) / "relpos" / f"programs-{hashlib.sha256(kind.encode()).hexdigest()[:8]}"


def _make_room(folder: Path) -> None:
    """Create the folder, and remove the oldest programs beyond `MOST_BYTES`."""
    folder.mkdir(parents=True, exist_ok=True)
    room = MOST_BYTES
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.stat().st_mtime, reverse=True):
        room -= entry.stat().st_size
        if room < 0:
            Path(entry).unlink(missing_ok=True)
