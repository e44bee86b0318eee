# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Files that the server's hosts fetch themselves, from the web server where the package lies: vSphere's pull mode.

Nothing passes this host then, so nothing is hashed here. What the hosts have received is compared with the package's
manifest by the server's own account of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any, NamedTuple
from urllib.parse import urlsplit
from urllib.request import getproxies

from .._core.errors import BadInput, LifecycleError, RemoteFailed, TimedOut, attach
from .._core.wait import Deadline, ready
from .._ovf.model import Digest, File, Problem
from .._ovf.package import Package
from .._ovf.preflight import IGNORE, wants_all
from .._ovf.remote import with_credentials
from .._ovf.source import Access, is_url
from .._ovf.store import ArchiveStore, url_beside
from .faults import SLOW_TRANSFER, failed_by, remote_failed
from .properties import read
from .session import Session
from .spec import FileItem
from .tls import Trust, connect

# What servers can tell of files that their hosts have received.
TOLD = ("sha1", "sha256")
# By these faults a server says that it can't do it, or that this user may not have it done.
_UNABLE = ("MethodNotFound", "NotSupported", "InvalidProperty", "InvalidRequest", "NoPermission")
_EVERY_S = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
_PROBE_S = 10
_DOING = "having the hosts fetch the package"
_PUSH = "Say upload: push, or leave it out"


class Fetching(NamedTuple):
    """From where hosts fetch: the package's ``url``, and the ``thumbprint`` of its server's certificate, None without
    TLS. ``only``: nothing else will do; otherwise files are sent where hosts can't fetch them.
    """

    url: str
    thumbprint: str | None
    only: bool


class Request(NamedTuple):
    """What the options say about the source."""

    location: str
    access: Access
    verify: str


def obstacles(package: Package, request: Request) -> list[Problem]:
    """All that keeps hosts from fetching it, as far as the options and the package tell."""
    if not is_url(request.location):
        why = "the package is a file of this host, and the server's hosts can only fetch from a web server"
        return [Problem("upload", why, _PUSH)]
    return [*_of_access(request), *_of_files(package), *_of_manifest(package, request.verify)]


def _of_access(request: Request) -> Iterator[Problem]:
    _url, access = with_credentials(request.location, request.access)
    if access.username is not None or access.headers:
        why = "the package's server wants credentials or headers, and this module tells them to nobody else"
        yield Problem("upload", why, _PUSH)


def _of_files(package: Package) -> Iterator[Problem]:
    for file in package.envelope.files:
        if file.compression != "identity":
            yield Problem(file.href, "it is packed by %s, and hosts can't unpack it" % file.compression, _PUSH)
        if file.chunk_size_bytes is not None:
            yield Problem(file.href, "it is in pieces, and hosts can't put them together", _PUSH)
        elif _is_sparse(package, file):
            yield Problem(file.href, "the archive leaves out its holes, and hosts don't know that", _PUSH)


def _is_sparse(package: Package, file: File) -> bool:
    store = package.store
    return isinstance(store, ArchiveStore) and any(
        not store.is_plain(name) for name in package.parts(file) if name in package.members
    )


def _of_manifest(package: Package, verify: str) -> Iterator[Problem]:
    if not wants_all(verify):
        return
    manifest = _manifest(package)
    for file in package.envelope.files:
        expected = manifest.get(package.name_of(file))
        if expected is not None and expected.algorithm not in TOLD:
            why = "the manifest has its %s, which no server tells of what its hosts have fetched" % (
                expected.algorithm.upper()
            )
            yield Problem(file.href, "%s, and verify wants them compared" % why, _PUSH)


def _manifest(package: Package) -> Mapping[str, Digest]:
    try:
        return package.manifest or {}
    except BadInput:  # it is told with the package's other problems
        return {}


def is_certain(package: Package, request: Request) -> bool:
    """Whether hosts can fetch it as far as the options and the package tell, and what they fetch can be verified as it
    is wanted. A URL with a query, or behind a proxy, may well be one that this host alone can use.
    """
    if obstacles(package, request):
        return False
    parts = urlsplit(request.location)
    if parts.query or (request.access.use_proxy and parts.scheme.lower() in getproxies()):
        return False
    manifest = _manifest(package)
    found = [manifest.get(package.name_of(file)) for file in package.envelope.files]
    return request.verify == IGNORE or all(each is not None and each.algorithm in TOLD for each in found)


def fetching(request: Request, only: bool) -> Fetching:
    """How hosts fetch it. They know no authorities, so who the server is, is found out here. Raises RemoteFailed."""
    url, access = with_credentials(request.location, request.access)
    return Fetching(url, _thumbprint(url, access), only)


def _thumbprint(url: str, access: Access) -> str | None:
    parts = urlsplit(url)
    if parts.scheme != "https":
        return None
    trust = Trust(access.validate_certs, None, access.ca_path)
    doing = "looking at the certificate of the package's server"
    try:
        with closing(connect(parts.hostname or "", parts.port or 443, trust, None, access.stall_timeout_s)) as found:
            digest = hashlib.sha1(found.sock.getpeercert(True) or b"").hexdigest().upper()
    except OSError as error:
        raise remote_failed(error, doing, parts.netloc, SLOW_TRANSFER) from error
    return ":".join(digest[at : at + 2] for at in range(0, len(digest), 2))


class Pull:
    """The fetch of all files of one import. ``percent`` is how far the hosts are, 0 to 99."""

    def __init__(
        self, session: Session, lease_id: str, way: Fetching, package: Package, items: Sequence[FileItem]
    ) -> None:
        self._session = session
        self._lease = session.find("HttpNfcLease", lease_id)
        self._way = way
        self._sources = [_source(way, package, item) for item in items]
        self._task: Any = None
        self.percent = 0

    def begin(self) -> bool:
        """Have the server begin; False where it can't, and need not. Raises RemoteFailed."""
        try:
            self._check()
            self._task = self._session.call(_DOING, self._lease.HttpNfcLeasePullFromUrls_Task, self._sources)
            return True
        except _Unable as failed:
            refused: RemoteFailed = failed
        except RemoteFailed as failed:
            if failed.facts.get("fault") not in _UNABLE:
                raise
            refused = failed
        if self._way.only:
            raise refused
        return False

    def _check(self) -> None:
        """Whether the hosts can fetch at all, and reach each file."""
        found = read(self._session, _DOING, [self._lease], ["capabilities"])
        capabilities = found[0].values.get("capabilities") if found else None
        if capabilities is None or not capabilities.pullModeSupported:
            raise self._unable("they can't do that")
        probed = self._probe()
        for source, result in zip(self._sources, probed):
            if not result.serverAccessible:
                raise self._unable("they can't read %s" % source.url.partition("?")[0])
        if len(probed) != len(self._sources) and not self._way.only:
            raise self._unable("it can't be known beforehand whether they reach it")

    def _probe(self) -> Sequence[Any]:
        """Nothing where the server, as those before 7.0.2, can't try."""
        try:
            return list(self._session.call(_DOING, self._lease.HttpNfcLeaseProbeUrls, self._sources, _PROBE_S) or ())
        except RemoteFailed as failed:
            if failed.facts.get("fault") not in _UNABLE:
                raise
            return ()

    def _unable(self, why: str) -> RemoteFailed:
        return _Unable(_DOING, self._session.endpoint.server, why, "See that they reach it, or say upload: push")

    def follow(self, deadline: Deadline, watch: Callable[[], None]) -> None:
        """Wait until all is fetched. Raises RemoteFailed, TimedOut, and what ``watch`` raises."""
        waits = iter(_EVERY_S)
        pause_s = next(waits)
        while True:
            watch()
            found = read(self._session, _DOING, [self._task], ["info.state", "info.error", "info.progress"])
            values = found[0].values if found else {}
            state = str(values.get("info.state"))
            if state not in ("queued", "running"):
                self._task = None
            if state == "success":
                return
            if self._task is None:
                raise failed_by(values.get("info.error"), _DOING, self._session.endpoint.server)
            self.percent = min(99, values.get("info.progress") or 0)
            if deadline.expired:
                raise TimedOut("the hosts to fetch the package", deadline.elapsed_s(), "they have %d %%" % self.percent)
            ready((), min(pause_s, deadline.remaining_s()))
            pause_s = next(waits, pause_s)

    def cancel(self, first: BaseException) -> None:
        """Have the server fetch no more, if it does. What fails is attached: the lease's end, which comes next, ends it
        as well.
        """
        if self._task is None:
            return
        try:
            self._session.call("ending the fetch", self._task.CancelTask)
        except RemoteFailed as second:
            if second.facts.get("fault") not in ("InvalidState", "ManagedObjectNotFound"):  # it has ended by itself
                attach(first, LifecycleError(second.message), "ending the fetch")


class _Unable(RemoteFailed):
    """The server's hosts can't fetch the package."""


def _source(way: Fetching, package: Package, item: FileItem) -> Any:
    """A file as the server is told of it."""
    from pyVmomi import vim

    file = package.envelope.file(item.path)
    name = package.name_of(file)
    source = vim.HttpNfcLease.SourceFile(
        targetDeviceId=item.device, url=way.url, create=item.create, sslThumbprint=way.thumbprint
    )
    if package.kind == "ova":
        source.memberName = name
    else:
        source.url = url_beside(way.url, name)
        source.size = package.size_of(file)
    return source
