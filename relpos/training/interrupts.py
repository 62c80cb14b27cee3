"""Ctrl-C, SIGTERM and a lost terminal: the first lets the run finish its step and save, a second quits."""

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(KeyboardInterrupt):
    """Raised when a signal arrives at a point where it is safe to stop."""


class Interrupts:
    """A context manager that handles SIGINT, SIGTERM and SIGHUP.

    SIGHUP stays ignored if it was, as under nohup. Otherwise it means that the terminal is gone, so output is
    discarded. SIGHUP never quits at once: a lost terminal may send several.

    Python runs signal handlers only between bytecodes, so a long compilation would delay them. A thread therefore reads
    the C handler's wake-up byte, announces the first signal and quits at the second, at any time.

    Args:
      announce: called in that thread at the first signal.
      before_exit: called before the process quits at the second signal, to restore the terminal.

    Attributes:
      signal: number of the received signal, None before.
    """

    def __init__(self, announce: Callable[[], object], before_exit: Callable[[], object]):
        self.signal: int | None = None
        self._announce = announce
        self._before_exit = before_exit
        self._at_once = False

    @property
    def exit_code(self) -> int:
        """The exit code for the signal: 130, 143 or 129."""
        return 128 + (self.signal or 0)

    @contextlib.contextmanager
    def stop_at_once(self) -> Iterator[None]:
        """Make a signal, even an earlier one, raise `Interrupted` in the main thread."""
        self._at_once = True
        try:
            if self.signal is not None:
                raise Interrupted
            yield
        finally:
            self._at_once = False

    def __enter__(self) -> "Interrupts":
        self._undo = contextlib.ExitStack()
        if threading.current_thread() is not threading.main_thread():
            return self  # only the main thread may set handlers
        reader, writer = socket.socketpair()
        writer.setblocking(False)
        watcher = threading.Thread(target=self._watch, args=(reader,), daemon=True)
        watcher.start()
        self._undo.callback(reader.close)
        self._undo.callback(watcher.join)
        self._undo.callback(writer.close)  # undone first: it ends the watcher
        for number in _SIGNALS:
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                self._undo.callback(signal.signal, number, signal.signal(number, self._handle))
        previous = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        self._undo.callback(signal.set_wakeup_fd, previous)
        return self

    def __exit__(self, *exception) -> None:
        self._undo.close()

    def _handle(self, number: int, frame) -> None:
        if number == signal.SIGHUP:
            _leave_lost_terminal()
        self.signal = self.signal or number
        if self._at_once:
            self._at_once = False
            raise Interrupted

    def _watch(self, reader: socket.socket) -> None:
        seen = 0
        while byte := reader.recv(1):
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
    """Redirect standard output and error to the null device if they are no longer writable."""
    for descriptor in (1, 2):
        try:
            os.write(descriptor, b"")
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, descriptor)
            os.close(nowhere)
