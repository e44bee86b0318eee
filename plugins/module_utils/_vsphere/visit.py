# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A login for as long as a task that holds no lease."""

from __future__ import annotations

from .._core.errors import LifecycleError
from .._core.signals import held
from .._core.wait import Deadline
from .session import Endpoint, Session, log_in, require_pyvmomi

# For the log-out, whatever the task's own time.
_LEAVING_S = 20.0


class Visit:
    """``warnings`` has what went wrong without doing harm."""

    def __init__(self, endpoint: Endpoint, deadline: Deadline) -> None:
        self._endpoint = endpoint
        endpoint.patience.until(deadline)
        self._session: Session | None = None
        self.warnings: list[str] = []

    def session(self) -> Session:
        """The login, which begins with the first call. Raises ToolMissing, RemoteFailed."""
        if self._session is None:
            require_pyvmomi()
            with held():  # a stop must not fall between the server's answer and our knowing of it
                self._session = log_in(self._endpoint)
        return self._session

    def close(self) -> None:
        """Log out. Where that fails, a warning says so."""
        if self._session is None:
            return
        leaving = Deadline(_LEAVING_S)
        self._endpoint.patience.until(leaving)
        try:
            self._session.log_out(leaving)
        except LifecycleError as error:
            self.warnings.append("%s The server ends the login by itself when it has been idle for long." % error)
        self._session = None
