# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A login for as long as a task that holds no lease."""

from __future__ import annotations

import uuid

from .._core.errors import LifecycleError, RemoteFailed, attach
from .._core.signals import held
from .._core.wait import Deadline
from .session import Endpoint, Session, end_lost_login, log_in, may_have_logged_in, require_pyvmomi

# For the log-out, whatever the task's own time.
_LEAVING_S = 20.0


class Visit:
    """``warnings`` has what went wrong without doing harm."""

    def __init__(self, endpoint: Endpoint, deadline: Deadline) -> None:
        self._endpoint = endpoint._replace(agent="vmops.lifecycle visit %s" % uuid.uuid4().hex)
        endpoint.patience.until(deadline)
        self._session: Session | None = None
        self.warnings: list[str] = []

    def session(self) -> Session:
        """The login, which begins with the first call. Raises ToolMissing, RemoteFailed."""
        if self._session is None:
            require_pyvmomi()
            with held():  # a stop must not fall between the server's answer and our knowing of it
                try:
                    self._session = log_in(self._endpoint)
                except RemoteFailed as failed:
                    if may_have_logged_in(failed):
                        self._end_lost(failed)
                    raise
        return self._session

    def _end_lost(self, first: RemoteFailed) -> None:
        leaving = Deadline(_LEAVING_S)
        self._endpoint.patience.until(leaving)
        try:
            end_lost_login(self._endpoint, leaving)
        except LifecycleError as second:
            attach(first, second, "ending a login that the server may have made of it")

    def close(self) -> None:
        """Log out. Where that fails, a warning says so."""
        if self._session is None:
            return
        leaving = Deadline(_LEAVING_S)
        self._endpoint.patience.until(leaving)
        try:
            self._session.log_out(leaving)
        except LifecycleError:
            self._end_left(leaving)
        self._session = None

    def _end_left(self, leaving: Deadline) -> None:
        try:
            end_lost_login(self._endpoint, leaving)
        except LifecycleError as error:
            self.warnings.append("%s The server ends the login by itself when it has been idle for long." % error)
