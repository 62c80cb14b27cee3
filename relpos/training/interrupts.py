"""Ctrl-C, SIGTERM and a lost terminal: once asks the run to finish its step and save, twice quits at once."""

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(KeyboardInterrupt):
    """A signal came while nothing was going on that a stop would spoil."""


class Interrupts:
    """Context manager which takes over SIGINT, SIGTERM and SIGHUP while it is open.

    A SIGHUP that is ignored, as under nohup, stays so. One that comes says that the terminal is gone: what would be
    written there goes nowhere. It never quits at once, for a lost terminal may send several.

    Python runs its own signal handlers only between bytecodes, so a compilation of a minute would
    hold them up. The C handler's wake-up byte, read by a thread, does not wait: it announces the
    first signal and carries out the second at any time.

    Args:
      announce: called (in that thread) at the first signal.
      before_exit: called before the process quits at the second, to tidy up the terminal.

    Attributes:
      signal: the number of the signal that came, None before.
    """

    def __init__(self, announce: Callable[[], object], before_exit: Callable[[], object]):
        self.signal: int | None = None
        self._announce = announce
        self._before_exit = before_exit
        self._at_once = False

    @property
    def exit_code(self) -> int:
        """The code by which shells know the signal: 130, 143 or 129."""
        return 128 + (self.signal or 0)

    @contextlib.contextmanager
    def stop_at_once(self) -> Iterator[None]:
        """While open, a signal raises `Interrupted` in the main thread; an earlier one too."""
        self._at_once = True
        try:
            if self.signal is not None:
                raise Interrupted
            yield
        finally:
            self._at_once = False

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is not threading.main_thread():
            self._previous = None  # only the main thread may; someone else handles signals then
            return self
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        self._previous = {
            number: signal.signal(number, self._handle)
            for number in _SIGNALS
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN
        }
        self._previous_fd = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()
        return self

    def __exit__(self, *exception) -> None:
        if self._previous is None:
            return
        signal.set_wakeup_fd(self._previous_fd)
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._writer.close()  # ends the watcher
        self._watcher.join()
        self._reader.close()

    def _handle(self, number: int, frame) -> None:
        if number == signal.SIGHUP:
            _leave_lost_terminal()
        self.signal = self.signal or number
        if self._at_once:
            self._at_once = False
            raise Interrupted

    def _watch(self) -> None:
        seen = 0
        while byte := self._reader.recv(1):
            if byte[0] not in _SIGNALS:
                continue
            if byte[0] == signal.SIGHUP:
                _leave_lost_terminal()
            seen += 1
            if seen == 1:
                self._announce()
            elif byte[0] != signal.SIGHUP:
                self._before_exit()
                os._exit(128 + byte[0])


def _leave_lost_terminal() -> None:
    """Point standard output and error at nothing where they can no longer be written to."""
    for descriptor in (1, 2):
        try:
            os.write(descriptor, b"")
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, descriptor)
            os.close(nowhere)
