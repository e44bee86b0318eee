# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The lease's renewal: its server gives a lease up that nobody reports progress on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from .._core.errors import LifecycleError
from .._core.wait import Deadline
from .faults import is_fault, remote_failed
from .session import Session

# The server's time-out is some minutes; a tenth of it, and never more than this, leaves room for answers that get lost.
_EVERY_S = 10.0
_SHARE = 0.1
_MISSES = 5
_JOIN_S = 2.0


class LeaseLost(LifecycleError):
    """The server has given the lease up: nothing can be sent into it any more."""

    kind = "lease_lost"


class Keepalive:
    """Tells the server the percentage again and again, on a thread of its own, while its block runs."""

    def __init__(self, session: Session, lease_id: str, timeout_s: float, percent: Callable[[], int]) -> None:
        self._session = session
        self._lease: Any = session.find("HttpNfcLease", lease_id)
        self._timeout_s = timeout_s
        self._every_s = max(0.2, min(_EVERY_S, timeout_s * _SHARE))
        self._percent = percent
        self._ended = threading.Event()
        self._fault: LeaseLost | None = None
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> Keepalive:
        self._thread.start()
        return self

    def __exit__(self, *_raised: object) -> None:
        self._ended.set()
        self._thread.join(_JOIN_S)

    def check(self) -> None:
        """Raises LeaseLost."""
        if self._fault is not None:
            raise self._fault

    def _work(self) -> None:
        lives = Deadline(self._timeout_s)
        misses = 0
        while not self._ended.is_set():
            asked = Deadline(self._timeout_s)
            try:
                self._lease.HttpNfcLeaseProgress(self._percent())
                misses, lives = 0, asked
            except Exception as error:
                misses += 1
                # A fault is the lease's end. An answer that got lost is none: the next may come through, for as long
                # as the server keeps a lease that nobody renews.
                if is_fault(error) or (misses >= _MISSES and lives.expired):
                    failed = remote_failed(error, "renewing the lease", self._session.endpoint.server)
                    self._fault = LeaseLost(failed.message, **failed.facts)
                    return
            self._ended.wait(self._every_s)
