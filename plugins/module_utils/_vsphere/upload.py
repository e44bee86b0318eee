# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""All files of an import: side by side where that is allowed, again where a transfer broke, none any more once one has
failed for good.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from .._core.errors import LifecycleError, TimedOut
from .._core.wait import Deadline, ready
from .._ovf.content import Content
from .._ovf.manifest import hasher
from .nfc import Broken, Cancelled, Target, Transfer

_PAUSES_S = (0.5, 1.0, 2.0, 4.0, 8.0)
_JOIN_S = 10.0


class Job(NamedTuple):
    """A file to be sent, under a ``key`` of its own: several disks may begin as the same file. ``algorithms``: the
    digests wanted of what is sent. ``open`` gives its content anew for each attempt; ``check`` is given those digests,
    and raises what speaks against the file.
    """

    name: str
    key: str
    size_bytes: int
    target: Target
    algorithms: tuple[str, ...]
    open: Callable[[], Content]
    check: Callable[[Mapping[str, str]], None]


class Sent(NamedTuple):
    """A file that has arrived."""

    job: Job
    digests: Mapping[str, str]
    seconds: float
    attempts: Sequence[Mapping[str, object]]


class Progress:
    """Bytes under way, of all files; what a broken attempt sent counts no more."""

    def __init__(self, total_bytes: int) -> None:
        self._total = total_bytes
        self._sent: dict[str, int] = {}
        self._lock = threading.Lock()

    def add(self, key: str, count: int) -> None:
        with self._lock:
            self._sent[key] = self._sent.get(key, 0) + count

    def reset(self, key: str) -> None:
        with self._lock:
            self._sent[key] = 0

    @property
    def percent(self) -> int:
        """0 to 99: it is whole only when the lease is complete."""
        with self._lock:
            sent = sum(self._sent.values())
        return min(99, sent * 100 // self._total) if self._total else 99


class Upload:
    """The transfers of one import, to be run once."""

    def __init__(self, jobs: Sequence[Job], parallel: int, retries: int, progress: Progress) -> None:
        self.jobs = list(jobs)
        self._waiting = list(jobs)
        self._parallel = max(1, min(parallel, len(jobs)))
        self._retries = retries
        self._progress = progress
        self._lock = threading.Lock()
        self._running: dict[str, Transfer] = {}
        self._at_work = 0  # threads that have more to do; one that has told so may still be alive
        self._stopped = False
        self._failure: BaseException | None = None
        self.sent: dict[str, Sent] = {}
        self.attempts: dict[str, list[Mapping[str, object]]] = {job.key: [] for job in jobs}
        self._wake: int | None = None  # where threads tell that they have ended, as long as somebody listens

    def run(self, deadline: Deadline, watch: Callable[[], None]) -> list[Sent]:
        """Send them all. ``watch`` raises what else ends it, such as a lease that has gone.

        Raises what ended the first that failed, TimedOut, what ``watch`` raises, and Stopped.
        """
        woken, self._wake = os.pipe()
        try:
            return self._run(deadline, watch, woken)
        finally:
            with self._lock:  # a thread that couldn't be waited for may come later
                os.close(self._wake)
                self._wake = None
            os.close(woken)

    def _run(self, deadline: Deadline, watch: Callable[[], None], woken: int) -> list[Sent]:
        threads = [threading.Thread(target=self._work, daemon=True) for _number in range(self._parallel)]
        try:
            self._at_work = len(threads)
            for thread in threads:
                thread.start()
            while self._at_work:
                watch()
                if self._failure is not None:
                    break
                if deadline.expired:
                    raise TimedOut("the upload", deadline.elapsed_s(), "%d %% are sent" % self._progress.percent)
                if ready((woken,), min(1.0, deadline.remaining_s())):
                    os.read(woken, 64)
        finally:
            self._stop(threads)
        watch()
        if self._failure is not None:
            raise self._failure
        return [self.sent[job.key] for job in self.jobs]

    def _stop(self, threads: Sequence[threading.Thread]) -> None:
        """End what still runs, and wait for it: nothing is sent any more when the lease ends."""
        with self._lock:
            self._stopped = True
            running = list(self._running.values())
        for transfer in running:
            transfer.cancel()
        patience = Deadline(_JOIN_S)
        for thread in threads:
            if thread.ident is not None:
                thread.join(patience.remaining_s())

    def _work(self) -> None:
        """What each thread does."""
        try:
            while True:
                with self._lock:
                    if self._stopped or self._failure is not None or not self._waiting:
                        return
                    job = self._waiting.pop(0)
                self._send(job)
        except Cancelled:
            pass
        except BaseException as error:  # it is raised again where somebody can act on it
            with self._lock:
                self._failure = self._failure or error
        finally:
            with self._lock:
                self._at_work -= 1
                if self._wake is not None:
                    os.write(self._wake, b"x")

    def _send(self, job: Job) -> None:
        """One file, in as many attempts as it may take. Raises what ended the last one."""
        for number in range(self._retries + 1):
            started = time.monotonic()
            self._progress.reset(job.key)
            try:
                digests = self._attempt(job)
            except LifecycleError as error:
                self._note(job, number, started, error.message)
                again = isinstance(error, Broken) and error.again
                if not again or number == self._retries:
                    raise
                self._pause(number)
                continue
            self._note(job, number, started, None)
            self.sent[job.key] = Sent(job, digests, time.monotonic() - started, self.attempts[job.key])
            return

    def _attempt(self, job: Job) -> Mapping[str, str]:
        hashes = {algorithm: hasher(algorithm) for algorithm in job.algorithms}
        transfer = Transfer(job.name, job.target, lambda count: self._progress.add(job.key, count))
        with self._lock:
            if self._stopped:
                raise Cancelled
            self._running[job.key] = transfer
        try:
            with job.open() as content:
                transfer.send(content, tuple(hashes.values()))
        finally:
            with self._lock:
                del self._running[job.key]
        digests = {algorithm: found.hexdigest() for algorithm, found in hashes.items()}
        job.check(digests)
        return digests

    def _note(self, job: Job, number: int, started: float, error: str | None) -> None:
        seconds = round(time.monotonic() - started, 3)
        self.attempts[job.key].append({"number": number + 1, "seconds": seconds, "error": error})

    def _pause(self, number: int) -> None:
        pause_s = _PAUSES_S[min(number, len(_PAUSES_S) - 1)]
        ends = time.monotonic() + pause_s * random.uniform(0.5, 1.0)  # so that not all come at once again
        while time.monotonic() < ends:
            if self._stopped or self._failure is not None:
                raise Cancelled
            time.sleep(0.05)
