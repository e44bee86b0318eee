# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One import: the lease is begun, filled, compared and completed; or ended, on every other path."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple

from .._core.errors import LifecycleError, RemoteFailed, TimedOut, attach, describe
from .._core.signals import Stopped, held
from .._core.wait import Deadline, ready
from .._ovf.content import Content
from .._ovf.model import Digest, File
from .._ovf.package import Package
from .compare import SHA256, Comparison, RawDigests, differs
from .faults import failed_by
from .guarded import Guarded, GuardLost
from .keepalive import Keepalive, LeaseLost
from .lease import Ended, Lease, NotCompleted, Order, Outcome
from .nfc import Broken, Target, address_of, trust_in
from .properties import read
from .session import Session
from .spec import FileItem
from .telling import told_unmarked
from .upload import Job, Progress, Upload

if TYPE_CHECKING:
    from .pull import Fetching, Pull

_EVERY_S = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


class Phase(Enum):
    """How far it is."""

    BEGINNING = 1
    WAITING = 2
    UPLOADING = 3
    COMPLETING = 4


class Means(NamedTuple):
    """What an import works with. ``fetching``: the server's hosts fetch the files, if that can be; ``strict``: then
    each has to be verified.
    """

    session: Session
    guard: Guarded
    package: Package
    parallel: int
    retries: int
    stall_s: float
    verify: bool
    fetching: Fetching | None = None
    strict: bool = False


class Info(NamedTuple):
    """A lease that is ready."""

    entity: str
    timeout_s: float
    urls: Mapping[str, Any]


class ImportRun:
    """One import under its guard. ``ended`` tells how its lease ended, and is None before it has begun; ``unmarked``
    the machine's id where that is whole, and could not be marked so.
    """

    def __init__(self, means: Means, order: Order, items: Sequence[FileItem], deadline: Deadline) -> None:
        self._means = means
        self._order = order
        self._items = items
        self._deadline = deadline
        self._phase = Phase.BEGINNING
        # Whether the server was asked to complete the lease, whatever came of it.
        self._completing = False
        # Read once: each look at the package's manifest reads it anew.
        self._manifest: Mapping[str, Digest] = (means.package.manifest or {}) if means.verify else {}
        self._entity: str | None = None
        self.lease_id: str | None = None
        self.ended: Ended | None = None
        self.unmarked: str | None = None
        self.upload: Upload | None = None
        self.fetched: list[Mapping[str, object]] | None = None
        self._pull: Pull | None = None
        self._progress: Callable[[], int] = lambda: 0
        self.warnings: list[str] = []

    def carry_out(self) -> None:
        """Raises what ended it; the lease has ended then as well, or the error tells why not."""
        try:
            self.lease_id = self._means.guard.begin(self._order, self._deadline)
            self._phase = Phase.WAITING
            info = self._await_ready()
            self._entity = info.entity
            self._fill(info)
        except BaseException as error:
            first = self._given_up(error)
            if first is error:
                raise
            raise first from error
        self.ended = Ended(Outcome.COMPLETED)

    def files(self) -> list[Mapping[str, object]]:
        """What became of each file, for the result."""
        upload = self.upload
        if upload is None:
            return self.fetched or []
        return [_told(job, upload) for job in upload.jobs]

    @property
    def by(self) -> str | None:
        """How the files came there, ``push`` or ``pull``, as far as any did."""
        if self.fetched is not None:
            return "pull"
        return "push" if self.upload is not None else None

    def _fill(self, info: Info) -> None:
        means = self._means
        with Keepalive(means.session, self.lease_id or "", info.timeout_s, self._percent) as keepalive:

            def watch() -> None:
                keepalive.check()
                means.guard.check()

            self._phase = Phase.UPLOADING
            if not self._fetch(info, watch):
                self._send(info, watch)
            watch()
            self._phase = Phase.COMPLETING
            self._complete()

    def _percent(self) -> int:
        return self._progress()

    def _send(self, info: Info, watch: Callable[[], None]) -> None:
        means = self._means
        progress = Progress(sum(means.package.size_of(self._file(item)) for item in self._items))
        self._progress = lambda: progress.percent
        told = self._comparison.algorithm_of_sent(info.urls.values()) if means.verify else None
        jobs = [self._job(item, info, told) for item in self._items]
        self.upload = Upload(jobs, means.parallel, means.retries, progress)
        sent = self.upload.run(self._deadline, watch)
        if told is not None:
            self.warnings += self._comparison.of_sent(sent)

    def _fetch(self, info: Info, watch: Callable[[], None]) -> bool:
        """Have the hosts fetch the files, and compare what they have; False where that is neither to be nor can be."""
        means = self._means
        if means.fetching is None:
            return False
        from . import pull as pulls

        pull = pulls.Pull(means.session, self.lease_id or "", means.fetching, means.package, self._items)
        self._progress = lambda: pull.percent
        names = {str(url.key): means.package.name_of(self._file(item)) for item, url in self._urls(info)}
        if means.verify:
            self._comparison.ask_for_listed(names)
        if not pull.begin():
            return False
        self._pull = pull
        self.fetched = [{"name": item.path, "attempts": []} for item in self._items]
        pull.follow(self._deadline, watch)
        account = (self._comparison.account() or {}) if means.verify else {}
        self.fetched = [self._told_fetched(item, account.get(key) or {}) for item, key in zip(self._items, names)]
        if means.verify:
            self.warnings += self._comparison.of_fetched(names, account, means.strict)
        return True

    def _told_fetched(self, item: FileItem, digests: Mapping[str, str]) -> Mapping[str, object]:
        size = self._means.package.size_of(self._file(item))
        return {"name": item.path, "bytes": size, "attempts": [], **digests}

    def _urls(self, info: Info) -> list[tuple[FileItem, Any]]:
        return [(item, self._url(item, info)) for item in self._items]

    def _url(self, item: FileItem, info: Info) -> Any:
        url = info.urls.get(item.device)
        if url is None:
            raise self._failed("the lease names no address for %s" % item.path)
        return url

    def _complete(self) -> None:
        self._completing = True
        try:
            unmarked = None if self._completed() else self._mark()
        except NotCompleted:
            self._phase = Phase.UPLOADING  # as before: the lease can be aborted
            raise
        if unmarked is not None:
            self.unmarked = self._entity
            guard = "What the guard did is told in %s." % self._means.guard.log_path
            self.warnings.append("%s %s" % (told_unmarked(self._order.name, unmarked), guard))

    def _completed(self) -> bool:
        """Whether the machine is marked so, too."""
        try:
            return self._means.guard.complete(self._entity, self._deadline)
        except GuardLost as lost:
            # All of it is there and compared: what is left to do needs no guard.
            with self._own_lease(self._deadline) as lease:
                lease.complete(self._deadline)
            self.warnings.append(lost.message)
            return False

    def _mark(self) -> LifecycleError | None:
        """Mark the machine as complete, where the guard didn't; why that failed, if it did."""
        try:
            with self._own_lease(self._deadline) as lease:
                lease.mark_complete(self._deadline)
        except LifecycleError as error:
            return error
        return None

    def _await_ready(self) -> Info:
        lease = self._means.session.find("HttpNfcLease", self.lease_id or "")
        waits = iter(_EVERY_S)
        pause_s = next(waits)
        while True:
            found = read(self._means.session, "waiting for the lease", [lease], ["state", "error", "info"])
            if not found:
                raise self._vanished()
            values = found[0].values
            state = str(values.get("state"))
            if state == "ready":
                return self._info(values.get("info"))
            if state in ("error", "done"):
                raise failed_by(values.get("error"), self._doing, self._server)
            if self._deadline.expired:
                raise TimedOut("the lease to be ready", self._deadline.elapsed_s(), "it is %s" % state)
            ready((), min(pause_s, self._deadline.remaining_s()))
            pause_s = next(waits, pause_s)

    def _info(self, info: Any) -> Info:
        if info is None or info.entity is None:
            raise self._failed("the lease is ready, and the server doesn't tell its machine and where files go")
        urls = {url.importKey: url for url in info.deviceUrl or ()}
        return Info(info.entity._moId, float(info.leaseTimeout or 0), urls)

    def _vanished(self) -> RemoteFailed:
        """The lease went before its error could be read: the import's task may know it."""
        reason = "the lease is gone, and the server tells no reason"
        try:
            with self._own_lease(self._deadline) as own:
                reason = own.failure() or reason
        except LifecycleError:
            pass
        return self._failed(reason)

    def _failed(self, reason: str) -> RemoteFailed:
        return RemoteFailed(self._doing, self._server, reason)

    @property
    def _doing(self) -> str:
        return "importing %s" % self._order.name

    @property
    def _server(self) -> str:
        return self._means.session.endpoint.server

    @property
    def _comparison(self) -> Comparison:
        return Comparison(self._means.session, self.lease_id or "", self._manifest)

    def _job(self, item: FileItem, info: Info, told: str | None) -> Job:
        means = self._means
        url = self._url(item, info)
        file = self._file(item)
        expected = self._manifest.get(means.package.name_of(file))
        plain = file.compression == "identity" and file.chunk_size_bytes is None
        raw = RawDigests(self._manifest, means.package.parts(file)) if means.verify and not plain else None
        algorithms = {told, SHA256} if told is not None else set()
        if expected is not None and plain:
            algorithms.add(expected.algorithm)

        def opened() -> Content:
            if raw is None:
                return means.package.content(file)
            raw.reset()
            return means.package.content(file, raw.add)

        def check(digests: Mapping[str, str]) -> None:
            if raw is not None:
                raw.check()
            elif expected is not None and digests[expected.algorithm] != expected.value:
                raise differs(item.path, expected.algorithm, digests[expected.algorithm], expected.value)

        return Job(
            name=item.path,
            key=str(url.key),
            size_bytes=means.package.size_of(file),
            target=self._target(item, url),
            algorithms=tuple(sorted(algorithms)),
            open=opened,
            check=check,
        )

    def _file(self, item: FileItem) -> File:
        return self._means.package.envelope.file(item.path)

    def _target(self, item: FileItem, url: Any) -> Target:
        endpoint = self._means.session.endpoint
        address = address_of(str(url.url), endpoint)
        return Target(address, item.create, trust_in(url, endpoint), endpoint.proxy, self._means.stall_s)

    def _given_up(self, error: BaseException) -> BaseException:
        """End the lease; what is to be told of why. A stop that comes meanwhile doesn't take its place."""
        first = error
        try:
            with held():
                first = self._cause(error)
                self._end(first)
        except Stopped as stopped:
            attach(first, stopped, "told to end")
            stopped.heed()
        return first

    def _cause(self, error: BaseException) -> BaseException:
        """What ended the import. Why a server ends a lease, such as for a full datastore, it tells by the lease alone:
        whatever was under way is only told that there is none any more.
        """
        if self._entity is None or not isinstance(error, (Broken, LeaseLost, NotCompleted, RemoteFailed)):
            return error
        if self._means.guard.ending.expired:  # it begins here, so the server is asked no longer than it lasts
            return error
        lease = self._means.session.find("HttpNfcLease", self.lease_id or "")
        try:
            found = read(self._means.session, "asking why the lease ended", [lease], ["state", "error"])
        except LifecycleError:
            return error
        if found and str(found[0].values.get("state")) != "error":
            return error
        cause = failed_by(found[0].values.get("error"), self._doing, self._server) if found else self._vanished()
        attach(cause, error, "uploading")
        return cause

    def _end(self, first: BaseException) -> None:
        """End the lease, whatever happened; what fails in it is attached."""
        if self._phase is Phase.BEGINNING and _began_none(first):
            return
        if self._pull is not None and not self._means.guard.ending.expired:
            self._pull.cancel(first)
        try:
            self.ended = self._means.guard.abort(_reason(first))
        except GuardLost as lost:
            attach(first, lost, "having the guard abort the lease")
            self.ended = self._abort_unguarded(first)
        except LifecycleError as second:
            self.ended = Ended(Outcome.UNKNOWN, second.message)
        if self.ended.outcome is Outcome.UNKNOWN and self.ended.abort_fault is not None:
            attach(first, LifecycleError(self.ended.abort_fault), "aborting the lease")
        if self.ended.left is not None:
            attach(first, LifecycleError(self.ended.left), "removing the machine")

    def _abort_unguarded(self, first: BaseException) -> Ended:
        ending = self._means.guard.ending
        with self._own_lease(ending) as lease:
            if self._phase is Phase.COMPLETING:  # it may be whole
                whole = lease.became_whole(ending.within(ending.remaining_s() / 2))
                if whole is not False:
                    return Ended(Outcome.COMPLETED if whole else Outcome.UNKNOWN)
            return lease.abort(_reason(first), ending)

    @contextmanager
    def _own_lease(self, deadline: Deadline) -> Iterator[Lease]:
        """The lease without its guard. If that login had ended there is a new one, which ends with the block."""
        means = self._means
        lease = Lease.of_another(means.session, self._order, self.lease_id, self._entity, self._completing)
        try:
            yield lease
        finally:
            if lease.session is not means.session:
                try:
                    lease.session.log_out(deadline)
                except LifecycleError as error:
                    self.warnings.append(error.message)


def _told(job: Job, upload: Upload) -> Mapping[str, object]:
    sent = upload.sent.get(job.key)
    told: dict[str, object] = {"name": job.name, "attempts": list(upload.attempts[job.key])}
    if sent is None:
        return told
    rate = sent.job.size_bytes / sent.seconds / 1e6 if sent.seconds else None
    return {
        **told,
        "bytes": sent.job.size_bytes,
        "seconds": round(sent.seconds, 3),
        "mb_per_s": round(rate, 1) if rate is not None else None,
        **sent.digests,
    }


def _began_none(first: BaseException) -> bool:
    """Whether the server refused to begin the import, or was not asked to."""
    if isinstance(first, GuardLost):
        return first.unasked
    return isinstance(first, LifecycleError) and first.facts.get("fault") is not None


def _reason(first: BaseException) -> str:
    return "The import was given up: %s" % describe(first)
