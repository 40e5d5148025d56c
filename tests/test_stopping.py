"""Signals become exceptions, exceptions exit codes, and no library in between makes something else of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from medtail.stopping import Stopped, by_signals, exit_code, passed_on


@pytest.fixture(autouse=True)
def handlers_stay() -> Iterator[None]:
    watched = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    first = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background has it ignored
    before = [signal.getsignal(number) for number in watched]
    yield
    after = [signal.getsignal(number) for number in watched]
    for number, handler in zip(watched, before, strict=True):
        signal.signal(number, handler)
    signal.signal(signal.SIGINT, first)
    assert after == before


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGUSR1", 138)])
def test_a_signal_is_raised_where_the_work_is_and_has_its_exit_code(name: str, code: int) -> None:
    with pytest.raises(Stopped, match=name) as caught, by_signals():
        os.kill(os.getpid(), getattr(signal, name))
    assert isinstance(caught.value, KeyboardInterrupt)
    assert exit_code(caught.value) == code
    assert exit_code(KeyboardInterrupt()) == 130


def test_a_signal_that_is_to_be_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with by_signals():
            os.kill(os.getpid(), signal.SIGTERM)
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_second_signal_ends_the_process_at_once() -> None:
    script = """
import os, signal
from medtail.stopping import by_signals
with by_signals():
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    except KeyboardInterrupt:
        os.kill(os.getpid(), signal.SIGTERM)
        print("still here")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (-signal.SIGTERM, "")


def test_an_interrupt_that_was_made_an_exit_is_the_interrupt_again() -> None:
    arrived = Stopped(signal.SIGUSR1)

    def as_lightning_does() -> None:
        try:
            raise arrived
        except KeyboardInterrupt:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            sys.exit(1)

    with pytest.raises(Stopped) as caught, passed_on():
        as_lightning_does()
    assert caught.value is arrived


def test_an_exit_without_a_word_was_a_sigterm() -> None:
    with pytest.raises(Stopped, match="SIGTERM"), passed_on():
        raise SystemExit


def test_errors_and_results_pass_unchanged() -> None:
    with passed_on():
        pass
    with pytest.raises(ZeroDivisionError), passed_on():
        raise ZeroDivisionError
