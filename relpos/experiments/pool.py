"""A pool of training processes, each on its own cores."""

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from relpos.experiments import provenance
from relpos.experiments.trial import Trial
from relpos.files import write_atomically
from relpos.process import cores
from relpos.training.run_directory import InUseError

TRAIN = [sys.executable, "-m", "relpos.train"]
# With an accelerator, train one run at a time: a JAX process preallocates most of its memory.
ACCELERATORS = ("/dev/nvidia0", "/dev/accel0", "/dev/vfio/0")
_IN_USE = "in use by another process, left alone"
INTERRUPTED = (129, 130, 143)  # exit codes of runs that have saved


def workers() -> int:
    """Return how many runs this machine should train at once.

    Without an accelerator, this is one per core: small models train faster in parallel on one core each than one after
    another on all cores.
    """
    return 1 if any(map(os.path.exists, ACCELERATORS)) else len(cores())


class Pool:
    """Trains several runs at a time.

    Args:
      size: number of runs at a time.
      begun: called when a run's process has started.
      done: called with a description of the outcome when a run has ended.
    """

    def __init__(
        self, size: int, begun: Callable[[Trial], None], done: Callable[[Trial, str], None]
    ):
        self._size = size
        self._begun = begun
        self._done = done
        mine = sorted(cores())
        self._shares: queue.SimpleQueue[set[int]] = queue.SimpleQueue()
        for number in range(size):
            self._shares.put(set(mine[number::size]) or set(mine))
        self._commit = provenance.commit()  # now, because writing results changes the work tree
        self._processes: set[subprocess.Popen] = set()
        self._lock = threading.Lock()
        self._stopped = False

    def run(self, trials: Sequence[Trial]) -> None:
        """Train all runs and wait for them to end."""
        with ThreadPoolExecutor(self._size, initializer=self._keep_to_a_share) as pool:
            for future in [pool.submit(self._one, trial) for trial in trials]:
                future.result()

    def stop(self) -> None:
        """Start no more runs; let running ones save."""
        with self._lock:
            self._stopped = True
            for process in self._processes:
                process.send_signal(signal.SIGINT)

    def _keep_to_a_share(self) -> None:
        """Pin this thread to its own cores, which its processes inherit."""
        share = self._shares.get()
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, share)  # of the calling thread

    def _one(self, trial: Trial) -> None:
        trial.workdir.parent.mkdir(parents=True, exist_ok=True)
        if trial.run.in_use:
            self._done(trial, _IN_USE)
            return
        command = [*TRAIN, *trial.arguments]
        with self._lock:
            if self._stopped:
                return
            with trial.log.open("w") as log:
                trial.failure.unlink(missing_ok=True)
                # In a new session, so that Ctrl-C reaches only this process, which forwards it once.
                process = subprocess.Popen(
                    command,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    env=os.environ | _flags(),
                )
            self._processes.add(process)
        self._begun(trial)
        began = time.perf_counter()
        code = process.wait()
        with self._lock:
            self._processes.discard(process)
        if code == InUseError.exit_code:  # another process took it first
            self._done(trial, _IN_USE)
            return
        trial.note(self._commit, provenance.machine(), time.perf_counter() - began)
        if code not in (0, *INTERRUPTED) and not self._stopped:
            lines = trial.log.read_text(errors="replace").splitlines()
            ending = "\n".join([f"exit status {code}", " ".join(command), *lines[-60:]])
            write_atomically(trial.failure, ending + "\n")
        self._done(trial, trial.state)


def _flags() -> dict[str, str]:
    """Return the environment of a run. On one core, XLA is faster without multithreaded matrix products."""
    if len(cores()) > 1:
        return {}
    flags = os.environ.get("XLA_FLAGS", "")
    return {"XLA_FLAGS": f"{flags} --xla_cpu_multi_thread_eigen=false".strip()}
