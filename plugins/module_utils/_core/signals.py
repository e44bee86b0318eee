# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Signals that end a task: they become an exception at once, and wait while something is being released.

TERM, INT and HUP raise :class:`Stopped`. It is a BaseException, so that no handler for ordinary errors (ours or
Ansible's) takes it for a failed step. A reader of our output who has gone away, which is how a task's ``timeout``
looks from inside the module, raises it too (see :mod:`.wait`).
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class _Stops:
    """Process-wide, as signals are: how many releases are under way, and the stop that came meanwhile or was lost."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.holders = 0
        self.pending: str | None = None
        self.unwinding: object = None  # stands for the stop that was raised

    def stop(self, reason: str) -> None:
        if self.unwinding is not None:
            return  # the first stop is already unwinding: a second must not interrupt its clean-up
        if self.holders:
            self.pending = reason
            return
        # Nothing here may name the exception: its traceback would keep it alive, and nobody would know it was lost.
        self.unwinding = token = object()
        raise Stopped(reason, token)

    def release(self) -> None:
        self.holders -= 1
        self.stop_if_pending()

    def stop_if_pending(self) -> None:
        if self.holders == 0 and self.pending is not None:
            reason, self.pending = self.pending, None
            self.stop(reason)

    def gone(self, reason: str, token: object) -> None:
        if token is not None and token is self.unwinding:
            self.unwinding, self.pending = None, reason


_stops = _Stops()


class Stopped(BaseException):
    """The task was told to end. ``reason`` names the signal or says that nobody reads the result any more.

    A signal's stop is raised wherever the interpreter is just then, which may be a finalizer, whose errors the
    interpreter drops, or the bare ``except`` of a library. One that vanishes there before it has left
    :func:`stoppable` is raised again by the next wait. One that somebody keeps counts as heeded.
    """

    def __init__(self, reason: str, token: object = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self._token = token

    def heed(self) -> None:
        """It has had its effect, and is dropped on purpose."""
        self._token = None

    def __del__(self, stops: _Stops = _stops) -> None:  # the module's names may be gone when the interpreter ends
        stops.gone(self.reason, self._token)


def stop(reason: str) -> None:
    """End the task for ``reason``: raises :class:`Stopped`, unless a release is under way or a stop is already
    unwinding.
    """
    _stops.stop(reason)


def stop_if_lost() -> None:
    """Raise the stop again that was raised where nobody could heed it. For whoever is about to wait."""
    _stops.stop_if_pending()


def restart() -> None:
    """Forget the stops of the process that this one was forked from."""
    _stops.reset()


@contextmanager
def stoppable(deaf_afterwards: bool = False) -> Iterator[None]:
    """While the block runs, TERM, INT and HUP end it by :class:`Stopped`; but not those that this process was started
    to ignore, as by nohup. ``deaf_afterwards``: they do nothing once it has ended, rather than what they did before.

    A stop that is already unwinding isn't interrupted.
    """

    def on_signal(number: int, frame: FrameType | None) -> None:
        stop(signal.Signals(number).name)

    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    heeded = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
    for number in heeded:
        signal.signal(number, on_signal)
    try:
        yield
    finally:
        for number in heeded:
            signal.signal(number, signal.SIG_IGN if deaf_afterwards else before[number] or signal.SIG_DFL)
        _stops.reset()


@contextmanager
def held() -> Iterator[None]:
    """While the block runs a stop only waits; it is raised at the block's end. For short, bounded releases."""
    _stops.holders += 1
    try:
        yield
    finally:
        _stops.release()
