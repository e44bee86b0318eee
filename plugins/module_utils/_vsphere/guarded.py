# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The task's side of its guard (see :mod:`.guard`): started before anything else, asked for what must not be lost."""

from __future__ import annotations

import functools
import os
import signal
import socket
import tempfile
from collections.abc import Mapping
from typing import Any

from .._core.errors import LifecycleError, TimedOut
from .._core.signals import held
from .._core.wait import Deadline, ready
from . import guard
from .lease import Ended, NotCompleted, Order, Outcome
from .orders import LAST_WORD, HungUp, Line
from .session import Endpoint, Login

# Of the time for an ending: what is left for the guard to log out, and for the module to do what the guard could not;
# and how much later than told an answer may come, as of a call that was under way.
_LOG_OUT_S = 25.0
_OWN_S = 15.0
_LATER_S = 5.0
# How often it is looked at while it is silent.
_LOOK_EVERY_S = 1.0


class GuardLost(LifecycleError):
    """The guard has ended although it wasn't told to."""

    kind = "guard_lost"
    # Whether it had ended before it could be asked.
    unasked = False


class Guarded:
    """A guard at work. ``log_path`` is the file in which it tells what it does; ``is_lost`` whether an error has named
    that.
    """

    def __init__(self, endpoint: Endpoint, limit_s: float) -> None:
        ours, its = socket.socketpair()
        log, self.log_path = tempfile.mkstemp(prefix="vmops-guard-", suffix=".log")
        self.is_lost = False
        self._endpoint = endpoint
        self._line = Line(ours)
        self._asked = 0
        try:
            self.pid = os.fork()
            if self.pid == 0:
                ours.close()
                guard.run(its, endpoint, limit_s, log, self.log_path)
        except OSError:
            self._line.close()
            self.forget_log()
            raise
        finally:
            its.close()
            os.close(log)

    @functools.cached_property
    def ending(self) -> Deadline:
        """The time for the end of all that was begun, however that comes. It runs from when somebody asks for it first,
        and holds for this process's own calls as well.
        """
        deadline = Deadline(guard.ENDING_S)
        self._endpoint.patience.until(deadline, guard.ENDING_CALL_S)
        return deadline

    def log_in(self, deadline: Deadline) -> Login:
        """Raises RemoteFailed, GuardLost, TimedOut."""
        answer = self._ask({"do": "log_in"}, deadline, "logging in")
        return Login(**answer["login"])

    def begin(self, order: Order, deadline: Deadline) -> str:
        """Begin the import; the lease's id. Raises RemoteFailed, GuardLost, TimedOut."""
        answer = self._ask({"do": "begin", "order": order._asdict()}, deadline, "the import to begin")
        return str(answer["lease"])

    def complete(self, entity: str | None, deadline: Deadline) -> bool:
        """Complete the lease and mark its machine (its id) so; whether the latter succeeded.

        Raises NotCompleted, RemoteFailed where what the server did isn't known, GuardLost, TimedOut.
        """
        return bool(self._ask({"do": "complete", "entity": entity}, deadline, "the lease to complete")["marked"])

    def abort(self, reason: str) -> Ended:
        """End the lease without a machine. If it was about to complete, what became of that.

        Raises GuardLost, also of one that gives no answer: nothing may be done twice, so it is ended.
        """
        part = self._ending_but(_LOG_OUT_S)
        order = {"do": "abort", "reason": reason, "until": part.ends}
        try:
            answer = self._ask(order, Deadline(part.remaining_s() + _LATER_S), "the lease to be aborted")
        except TimedOut:
            self._kill()
            raise self._lost() from None
        return Ended(Outcome(answer["outcome"]), answer["abort_fault"], answer["left"])

    def _ending_but(self, kept_s: float) -> Deadline:
        """The time for an ending, but for the last seconds of it. Both processes tell the time alike."""
        return Deadline(self.ending.remaining_s() - kept_s)

    def _ask(self, order: Mapping[str, object], deadline: Deadline, waiting_for: str) -> Mapping[str, Any]:
        self._asked += 1
        try:
            self._line.say({**order, "number": self._asked})
        except HungUp:
            lost = self._lost()
            lost.unasked = True
            raise lost from None
        try:
            answer = self._hear(deadline)
            while answer is not None and answer["number"] != self._asked:  # to what a stop had us wait for no longer
                answer = self._hear(deadline)
        except HungUp:
            raise self._lost() from None
        if answer is None:
            raise TimedOut(waiting_for, deadline.elapsed_s())
        if "failed" in answer:
            raise _told_by_guard(answer)
        return answer

    def _hear(self, deadline: Deadline) -> Mapping[str, Any] | None:
        """What it says next; None if that didn't come in time. One that was stopped is ended: nobody knows when it
        would go on. Raises HungUp.
        """
        while True:
            heard = self._line.hear(min(_LOOK_EVERY_S, deadline.remaining_s()))
            if heard is not None or deadline.expired:
                return heard
            if self._is_stopped():
                self._kill()

    def _is_stopped(self) -> bool:
        try:
            pid, status = os.waitpid(self.pid, os.WNOHANG | os.WUNTRACED)
        except ChildProcessError:
            return False
        return pid != 0 and os.WIFSTOPPED(status)

    def check(self) -> None:
        """Raises GuardLost."""
        if self._line.hung_up:
            raise self._lost()

    def _lost(self) -> GuardLost:
        self.is_lost = True
        return GuardLost(
            "The guard of this import (process %d) has ended unasked, was stopped or gave no answer; its last words "
            "are in %s. Run the task again." % (self.pid, self.log_path),
            pid=self.pid,
            log=self.log_path,
        )

    def _kill(self) -> None:
        """End it, so that it does nothing any more."""
        if self._line.hung_up:  # so it has ended, and the number may be another's
            return
        try:
            os.kill(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # it has ended in between, and the system has waited for it

    def leave(self, keep_log: bool) -> bool:
        """Have it log out and end. It is gone afterwards. Whether its login is, too: one that was killed has not logged
        out. ``keep_log``: whether the result names its log, which is removed otherwise.
        """
        part = self._ending_but(_OWN_S)
        logged_out = False
        with held():
            try:
                self._line.say({"do": "leave", "until": part.ends, "keep_log": keep_log})
            except HungUp:
                pass  # what it said before can be heard all the same
            try:
                late = Deadline(part.remaining_s() + _LATER_S)
                while (heard := self._hear(late)) is not None:
                    logged_out = heard["number"] == LAST_WORD and bool(heard["logged_out"])
            except HungUp:
                pass
            self._line.close()
            _reap(self.pid)
        return logged_out

    def forget_log(self) -> None:
        """Remove its log, which nobody needs after an import that went well."""
        try:
            os.unlink(self.log_path)
        except OSError:
            pass


def _reap(pid: int) -> None:
    """Wait for a process that has closed its end, or has had its time."""
    patience = Deadline(1.0)
    try:
        while os.waitpid(pid, os.WNOHANG)[0] == 0:
            if patience.expired:
                os.kill(pid, signal.SIGKILL)  # it is our child and not reaped: the number is its own
                os.waitpid(pid, 0)
                return
            ready((), 0.005)
    except ChildProcessError:
        pass  # the system does it, as for whoever was started with SIGCHLD ignored


def _told_by_guard(answer: Mapping[str, Any]) -> LifecycleError:
    kind = NotCompleted if answer["kind"] == NotCompleted.kind else _Told
    error = kind(answer["failed"], **answer["facts"])
    error.kind = answer["kind"]
    return error


class _Told(LifecycleError):
    """What the guard was told by the server."""
