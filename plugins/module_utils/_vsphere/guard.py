# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The guard: a process of its own session that holds the login and the lease, and ends both, whatever becomes of the
task that started it.

A lease is known only to the login that began it, and to whoever has read the answer that named it. So this process
makes that call itself, with nothing else to do that could keep or kill it. The task works with the same login, and
tells the guard when to complete. When the task is gone, for whatever reason, the guard aborts the lease, removes what
is left of the machine, and logs out.

It keeps no secret on its command line or on a disk: it is a fork of the task, and has them in its memory alone.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Mapping
from typing import Any, NoReturn

from .._core.errors import LifecycleError, RemoteFailed, describe
from .._core.signals import Stopped, held, restart, stoppable
from .._core.wait import Deadline
from .lease import Ended, Lease, NotCompleted, Order, Outcome
from .orders import LAST_WORD, HungUp, Line
from .session import Endpoint, Session, log_in, may_have_logged_in

# The limits of an import, in seconds, of which "timeout" is the user's. None of them leans on the server.
#
#   timeout          The module's calls end by then, and it begins to end what was begun.
#   + GRACE_S        Its transfers and threads have ended, and so have the guard's calls. A guard that has heard nothing
#                    of the module until then begins an ending of its own.
#   + ENDING_S       All is ended: by the guard, which aborts the lease, removes the machine and logs out, each in its
#                    part of that time; in the last part by the module, where the guard could not.
#   + LAST_S         The alarm ends the guard. It is set anew when the guard begins to leave.
GRACE_S = 15.0
ENDING_S = 60.0
LAST_S = 15.0
# For each call within an ending: one that is not answered leaves time for others.
ENDING_CALL_S = 10.0


def run(end: socket.socket, endpoint: Endpoint, limit_s: float, log: int, log_path: str) -> NoReturn:
    """Be the guard in this process, which was forked for it. ``limit_s`` is the time that the task has; ``log`` an open
    file's descriptor. The exit code is 0 if it has ended all that it began.
    """
    code = 1
    try:
        _detach(end.fileno(), log)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        _set_alarm(limit_s + GRACE_S)
        restart()
        if Guard(Line(end), endpoint, Deadline(limit_s + GRACE_S), log_path).serve():
            code = 0
    except BaseException as error:  # nothing may get back into the task's own code
        _log("gave up: %s" % describe(error))
    finally:
        os._exit(code)


def _set_alarm(limit_s: float) -> None:
    """The last resort, whatever it is doing then."""
    signal.setitimer(signal.ITIMER_REAL, limit_s + ENDING_S + LAST_S)


def _detach(*kept: int) -> None:
    """Leave the session, the standard streams and all that the task has open."""
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1):
        os.dup2(nothing, descriptor)
    end, log = kept
    os.dup2(log, 2)
    os.closerange(3, end)
    os.closerange(end + 1, _most_descriptors())


def _most_descriptors() -> int:
    try:
        return max(int(name) for name in os.listdir("/dev/fd")) + 1
    except (OSError, ValueError):
        return os.sysconf("SC_OPEN_MAX")


def _log(text: str) -> None:
    now = time.time()
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
    try:
        sys.stderr.write("%s.%03dZ %s\n" % (stamp, now % 1 * 1000, text))
        sys.stderr.flush()
    except OSError:
        pass  # a full disk is no reason to let go of a lease


class Guard:
    """What the process does, order by order, until it is told to leave or nobody is there any more."""

    def __init__(self, line: Line, endpoint: Endpoint, deadline: Deadline, log_path: str) -> None:
        self._line = line
        self._endpoint = endpoint
        self._deadline = deadline
        self._log_path = log_path
        self._ending = deadline
        endpoint.patience.until(deadline)
        self._session: Session | None = None
        self._lease: Lease | None = None
        # What became of the lease, once it can't be aborted any more: what may be whole is not destroyed.
        self._outcome: Outcome | None = None
        self._unended = False
        self._login_unknown = False
        # Whether the task's result names the log.
        self._keeps_log = False

    def serve(self) -> bool:
        """Whether all that it began has ended."""
        why = None
        try:
            with stoppable(deaf_afterwards=True):  # nothing interrupts how it leaves
                try:
                    while self._obey():
                        pass
                except HungUp:
                    why = "the task has ended"
        except Stopped as stopped:
            why = "it was told to end by %s" % stopped.reason
        except BaseException as error:
            why = "it failed: %s" % describe(error)
        if why is not None:
            self._end_by(Deadline(ENDING_S))
        _log("leaves: %s" % (why or "the task told it to"))
        return self._leave("The import was given up: %s" % (why or "the task left"))

    def _obey(self) -> bool:
        """Do what is asked next; False if that was to leave."""
        order = self._line.hear(self._deadline.remaining_s())
        if order is None:
            raise Stopped("its time limit")
        _log("is asked to %s" % order["do"])
        if "until" in order:
            self._end_by(Deadline(order["until"] - time.monotonic()))
        if order["do"] == "leave":
            self._keeps_log = order["keep_log"]
            return False
        with held():  # a stop must not fall between what the server does and our knowing of it
            self._answer(order)
        return True

    def _end_by(self, deadline: Deadline) -> None:
        """All of it is to end, by the module's plan of how long that may take, or by our own where it has none."""
        self._ending = deadline
        self._deadline = Deadline(deadline.remaining_s() + GRACE_S)
        self._endpoint.patience.until(deadline, ENDING_CALL_S)

    def _answer(self, order: Mapping[str, Any]) -> None:
        try:
            answer = _DOES[order["do"]](self, order)
        except LifecycleError as error:
            _log("failed: %s" % error)
            answer = {"failed": error.message, "facts": error.facts, "kind": error.kind}
        except Exception as error:
            _log("failed: %s" % describe(error))
            answer = {"failed": "The guard failed: %s." % describe(error), "facts": {}, "kind": LifecycleError.kind}
        self._line.say({**answer, "number": order["number"]})

    def log_in(self, order: Mapping[str, Any]) -> Mapping[str, object]:
        login = self._logged_in().login
        return {"login": login._asdict()}

    def _logged_in(self) -> Session:
        if self._session is None:
            try:
                self._session = log_in(self._endpoint)
            except RemoteFailed as failed:
                self._login_unknown = may_have_logged_in(failed)
                raise
        return self._session

    def begin(self, order: Mapping[str, Any]) -> Mapping[str, object]:
        lease = self._lease = Lease(self._logged_in(), Order(**order["order"]))
        try:
            lease_id = lease.begin()
        except RemoteFailed as failed:
            if failed.facts.get("fault") is not None:  # the server refused, so there is none
                self._lease = None
            raise
        _log("holds lease %s" % lease_id)
        return {"lease": lease_id}

    def complete(self, order: Mapping[str, Any]) -> Mapping[str, object]:
        if self._lease is None:
            raise NotCompleted("No lease was begun.")
        self._lease.entity = order["entity"]
        self._outcome = Outcome.UNKNOWN
        try:
            self._lease.complete(self._deadline)
        except NotCompleted:
            self._outcome = None
            raise
        finally:
            self._take_over(self._lease)
        self._outcome = Outcome.COMPLETED
        _log("completed lease %s" % self._lease.lease_id)
        try:
            self._lease.mark_complete(self._deadline.within(ENDING_S))
        except LifecycleError as error:
            _log("could not mark the machine: %s" % error)
            return {"marked": False}
        return {"marked": True}

    def abort(self, order: Mapping[str, Any]) -> Mapping[str, object]:
        ended = self._abort(str(order["reason"]))
        return {"outcome": ended.outcome.value, "abort_fault": ended.abort_fault, "left": ended.left}

    def _abort(self, reason: str) -> Ended:
        if self._outcome is Outcome.UNKNOWN and self._lease is not None:
            whole = self._lease.became_whole(self._ending.within(self._ending.remaining_s() / 2))
            self._take_over(self._lease)
            self._outcome = {True: Outcome.COMPLETED, False: None, None: Outcome.UNKNOWN}[whole]
            _log("the machine is whole: %s" % whole)
        if self._outcome is not None:
            self._unended = self._outcome is Outcome.UNKNOWN
            return Ended(self._outcome)
        if self._lease is None:
            return Ended(Outcome.ALREADY_ENDED)
        ended = self._lease.abort(reason, self._ending)
        _log("aborted: %s, %s, %s" % (ended.outcome.value, ended.abort_fault, ended.left))
        self._take_over(self._lease)
        self._lease = None
        self._unended = ended.outcome is Outcome.UNKNOWN or ended.left is not None
        return ended

    def _take_over(self, lease: Lease) -> None:
        """The login that it works by: it may have had to log in again."""
        self._session = lease.session
        self._login_unknown = self._login_unknown or lease.login_lost

    def _leave(self, reason: str) -> bool:
        _set_alarm(0)
        try:
            if self._lease is not None and self._outcome is not Outcome.COMPLETED:
                self._abort(reason)
        finally:
            logged_out = self._log_out(self._ending)
        ended = logged_out and not self._unended
        if ended and not self._keeps_log:
            self._remove_log()
        try:
            self._line.say({"number": LAST_WORD, "logged_out": logged_out})
        except HungUp:
            pass
        return ended

    def _remove_log(self) -> None:
        try:
            os.unlink(self._log_path)
        except OSError:
            pass  # somebody has, as whoever clears temporary files

    def _log_out(self, deadline: Deadline) -> bool:
        if self._session is None:
            return not self._login_unknown
        try:
            self._session.log_out(deadline)
        except LifecycleError as error:
            _log("could not log out: %s" % error)
            return False
        _log("logged out")
        return not self._login_unknown


_DOES = {"log_in": Guard.log_in, "begin": Guard.begin, "complete": Guard.complete, "abort": Guard.abort}
