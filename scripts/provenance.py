"""The commit and machine with which figures were measured."""

import os
import platform
import subprocess
from pathlib import Path

ROOT = Path(__file__).parent.parent


def commit() -> str:
    """Return the checked-out commit, with "-dirty" if files differ from it; "" outside a repository."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()


def machine() -> str:
    """Return the processor's name and the number of cores that this process may use."""
    cores = ""
    if hasattr(os, "sched_getaffinity"):
        number = len(os.sched_getaffinity(0))
        cores = f"{number} core{'s' if number > 1 else ''}"
    for line in Path("/proc/cpuinfo").read_text().splitlines() if cores else ():
        if line.startswith("model name"):
            return f"{line.split(':')[1].strip()}, {cores}"
    return platform.processor() or platform.machine()
