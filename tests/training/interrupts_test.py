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


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
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
