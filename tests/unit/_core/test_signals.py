# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# ruff: noqa: PT012  # what raises here is what a block does
"""Signals that end a task: at once, once, and not in the middle of a release."""

from __future__ import annotations

import gc
import signal
import sys
from contextlib import suppress

import pytest

from ansible_collections.vmops.lifecycle.plugins.module_utils._core.signals import (
    STOP_SIGNALS,
    Stopped,
    held,
    stop,
    stoppable,
)
from ansible_collections.vmops.lifecycle.plugins.module_utils._core.wait import ready
from tests.unit.children import PATIENCE_S, running


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_each_signal_stops_and_is_named(number):
    with pytest.raises(Stopped) as caught, stoppable():
        signal.raise_signal(number)
        pytest.fail("went on")
    assert caught.value.reason == signal.Signals(number).name


def test_no_handler_for_ordinary_errors_swallows_a_stop():
    with pytest.raises(Stopped), stoppable():
        try:
            signal.raise_signal(signal.SIGTERM)
        except Exception:
            pytest.fail("taken for an ordinary error")


def test_the_handlers_from_before_are_back_afterwards():
    before = [signal.getsignal(number) for number in STOP_SIGNALS]
    with stoppable():
        assert [signal.getsignal(number) for number in STOP_SIGNALS] != before
    assert [signal.getsignal(number) for number in STOP_SIGNALS] == before


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_what_a_process_was_started_to_ignore_it_ignores(number):
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with stoppable():
            signal.raise_signal(number)
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)


def test_nothing_stops_what_comes_after_where_that_is_wanted():
    before = [signal.getsignal(number) for number in STOP_SIGNALS]
    try:
        with stoppable(deaf_afterwards=True):
            pass
        for number in STOP_SIGNALS:
            signal.raise_signal(number)
    finally:
        for number, handler in zip(STOP_SIGNALS, before):
            signal.signal(number, handler)


def test_a_stop_waits_for_the_end_of_a_release():
    done = []
    with pytest.raises(Stopped), stoppable():
        with held():
            signal.raise_signal(signal.SIGTERM)
            done.append("released")
        done.append("went on")
    assert done == ["released"]


def test_a_stop_waits_for_the_outermost_release():
    done = []
    with pytest.raises(Stopped), stoppable(), held():
        with held():
            signal.raise_signal(signal.SIGTERM)
            done.append("inner")
        done.append("outer")
    assert done == ["inner", "outer"]


def test_the_first_of_several_held_stops_is_told_or_the_last_but_only_one_is_raised():
    with pytest.raises(Stopped), stoppable():
        try:
            with held():
                signal.raise_signal(signal.SIGTERM)
                signal.raise_signal(signal.SIGINT)
        finally:
            signal.raise_signal(signal.SIGHUP)


def test_a_second_signal_does_not_interrupt_the_unwinding():
    done = []
    with pytest.raises(Stopped) as caught, stoppable():
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGINT)
            done.append("cleaned up")
    assert done == ["cleaned up"]
    assert caught.value.reason == "SIGTERM"


def test_a_release_without_a_signal_raises_nothing():
    with stoppable(), held():
        pass


def test_one_task_s_stop_is_forgotten_by_the_next():
    for _each in range(2):
        with pytest.raises(Stopped), stoppable():
            stop("of the test")


def test_an_error_within_a_release_gives_way_to_the_stop_and_stays_its_context():
    with pytest.raises(Stopped) as caught, stoppable(), held():
        signal.raise_signal(signal.SIGTERM)
        raise ValueError("broken")
    assert isinstance(caught.value.__context__, ValueError)


class Debris:
    """What the interpreter finalizes while the signal arrives."""

    def __del__(self):
        signal.raise_signal(signal.SIGHUP)


def finalizer():
    Debris()


def cycle_with_a_finalizer():
    debris = Debris()
    debris.itself = debris
    del debris
    gc.collect()


def bare_except():
    with suppress(BaseException):
        signal.raise_signal(signal.SIGHUP)


def error_in_its_place():
    try:
        try:
            signal.raise_signal(signal.SIGHUP)
        finally:
            raise ValueError("of a clean-up")
    except ValueError:
        pass


@pytest.mark.parametrize("losing", [finalizer, cycle_with_a_finalizer, bare_except, error_in_its_place])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_stop_that_was_lost_is_raised_by_the_next_wait(losing, monkeypatch):
    monkeypatch.setattr(sys, "unraisablehook", lambda told: None)  # pytest's own keeps the exception
    done = []
    with pytest.raises(Stopped) as caught, stoppable():
        losing()
        done.append("went on")
        ready((), 60.0)
        done.append("waited")
    assert caught.value.reason == "SIGHUP"
    assert done == ["went on"]


def test_a_stop_that_was_lost_is_raised_by_the_end_of_a_release():
    done = []
    with pytest.raises(Stopped), stoppable():
        bare_except()
        with held():
            ready((), 0)
            done.append("released")
        done.append("went on")
    assert done == ["released"]


def test_a_lost_stop_is_raised_once():
    with pytest.raises(Stopped), stoppable():
        bare_except()
        try:
            ready((), 0)
        finally:
            ready((), 0)
            signal.raise_signal(signal.SIGTERM)


def test_a_stop_that_was_heeded_may_be_dropped():
    with stoppable():
        try:
            signal.raise_signal(signal.SIGTERM)
        except Stopped as stopped:
            stopped.heed()
        ready((), 0)


def test_a_process_that_waits_is_stopped_by_a_signal_from_outside():
    script = """
        import select, sys
        from _core.signals import Stopped, stoppable
        try:
            with stoppable():
                print("waiting")
                select.select([], [], [], 60)
        except Stopped as stopped:
            print("stopped by", stopped.reason)
    """
    with running(script) as process:
        assert process.stdout.readline() == "waiting\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "stopped by SIGTERM\n"
        assert process.wait(PATIENCE_S) == 0
