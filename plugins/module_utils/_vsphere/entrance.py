# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The way into a server and out of it: a guard is started first of all, logs in, and logs out again."""

from __future__ import annotations

from typing import NamedTuple

from .._core.errors import LifecycleError
from .._core.signals import held
from .._core.wait import Deadline
from .guarded import Guarded
from .place import Inventory, look
from .session import Endpoint, Session, end_lost_login, resume


class Entered(NamedTuple):
    """A login, and what is where."""

    guard: Guarded
    session: Session
    inventory: Inventory


class Entrance:
    """``close`` ends the login, whoever is left to do that; ``warnings`` tells where it could not. ``guard`` is None
    until somebody has entered.
    """

    def __init__(self, endpoint: Endpoint, deadline: Deadline) -> None:
        endpoint.patience.until(deadline)
        self.warnings: list[str] = []
        self._endpoint = endpoint
        self._deadline = deadline
        self.guard: Guarded | None = None
        self._session: Session | None = None
        self._entered: Entered | None = None

    def enter(self) -> Entered:
        """The login; the same one every time. Raises RemoteFailed, GuardLost, TimedOut."""
        if self._entered is None:
            with held():  # a stop must not fall between the guard's beginning and our knowing of it
                self.guard = guard = Guarded(self._endpoint, self._deadline.remaining_s())
            self._session = session = resume(self._endpoint, guard.log_in(self._deadline))
            self._entered = Entered(guard, session, look(session))
        return self._entered

    def close(self, keep_log: bool) -> None:
        """``keep_log``: whether the result names the guard's log."""
        if self.guard is None or self.guard.leave(keep_log) or self._logs_out():
            return
        try:
            end_lost_login(self._endpoint, self.guard.ending)
        except LifecycleError as error:
            self.warnings.append(
                "The login of %s at %s may be left (its client is called %r there): %s The server ends it when it has "
                "been idle for as long as it allows."
                % (self._endpoint.username, self._endpoint.server, self._endpoint.agent, error)
            )

    def _logs_out(self) -> bool:
        """Whether this ends the login that the guard told of. If that had ended already the guard may have begun
        another one.
        """
        if self._session is None or self.guard is None:
            return False
        try:
            return self._session.log_out(self.guard.ending)
        except LifecycleError:
            return False
