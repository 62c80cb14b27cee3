import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from relpos.training.interrupts import Interrupted, Interrupts


def ignore():
    pass


def send_and_sleep():
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(5)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_the_first_signal_is_noted_and_announced(number, code):
    announced = threading.Event()
    before = signal.getsignal(number)
    with Interrupts(announced.set, ignore) as interrupts:
        assert interrupts.signal is None
        os.kill(os.getpid(), number)
        assert announced.wait(5)
        assert interrupts.signal == number
        assert interrupts.exit_code == code
    assert signal.getsignal(number) is before


def test_where_a_stop_spoils_nothing_it_is_made_at_once():
    with Interrupts(ignore, ignore) as interrupts:
        started = time.monotonic()
        with pytest.raises(Interrupted), interrupts.stop_at_once():
            send_and_sleep()
        assert time.monotonic() - started < 5
        with pytest.raises(Interrupted), interrupts.stop_at_once():  # the signal came before
            raise AssertionError("not reached")


def test_another_thread_goes_without():
    def use():
        with Interrupts(ignore, ignore) as interrupts:
            done.append(interrupts.signal)

    done = []
    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert done == [None]


def test_the_second_signal_quits_even_while_the_main_thread_is_in_c():
    """As in a compilation, where Python's own handlers would wait."""
    program = """
        import hashlib
        from relpos.training.interrupts import Interrupts
        say = lambda text: print(text, flush=True)
        with Interrupts(lambda: say("announced"), lambda: say("tidied")):
            say("ready")
            hashlib.pbkdf2_hmac("sha512", b"x", b"y", 10**9)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "announced\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "tidied\n"
        assert process.wait(10) == 130


def test_under_nohup_a_lost_terminal_is_of_no_account():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interrupts(ignore, ignore) as interrupts:
            os.kill(os.getpid(), signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            assert interrupts.signal is None
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_run_survives_the_loss_of_its_terminal_long_enough_to_save(tmp_path):
    """What it says then goes nowhere; a second SIGHUP, which shells send too, does not quit at once."""
    program = """
        import fcntl, os, pathlib, signal, sys, termios, time
        from relpos.training.interrupts import Interrupts
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        with Interrupts(lambda: print("announced", flush=True), lambda: None) as interrupts:
            print("ready", flush=True)
            while interrupts.signal is None:
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(0.2)
            print("stopped", flush=True)
            pathlib.Path(sys.argv[1]).write_text("saved")
        sys.exit(interrupts.exit_code)
    """
    ours, theirs = os.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program), str(tmp_path / "saved")],
        stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
    ) as process:  # fmt: skip
        os.close(theirs)
        assert os.read(ours, 100).startswith(b"ready")
        os.close(ours)
        assert process.wait(10) == 129
    assert (tmp_path / "saved").read_text() == "saved"
