# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A login at a vCenter or an ESXi host, over pyVmomi."""

from __future__ import annotations

import functools
import http.client
import re
import socket
import ssl
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from .._core.errors import LifecycleError, RemoteFailed, ToolMissing, attach
from .._core.signals import stop_if_lost
from .._core.wait import Deadline, ready
from .faults import is_fault, is_no_login, is_timeout, remote_failed
from .tls import Connection, Proxy, ThumbprintMismatch, Trust

Answer = TypeVar("Answer")

_OLDEST = (9,)  # which first knows the certificates that leases tell
_LARGEST_VERSIONS_BYTES = 1 << 20
_SHORTEST_WAIT_S = 1.0
_ASK_AGAIN_S = (0.2, 0.5, 1.0)
_LOG_OUT_AGAIN_S = (0.2, 0.5, 1.0, 2.0)


class Patience:
    """How long calls wait for the server: each so long at most, and none beyond the deadline that all work has. One
    that begins later than that waits for a second.
    """

    def __init__(self, call_s: float, deadline: Deadline | None = None) -> None:
        self._call_s = call_s
        self._deadline = deadline

    def until(self, deadline: Deadline, call_s: float | None = None) -> None:
        """From now on: another deadline and, if need be, less for each call."""
        self._deadline = deadline
        self._call_s = min(self._call_s, call_s or self._call_s)

    @property
    def wait_s(self) -> float:
        left_s = self._call_s if self._deadline is None else self._deadline.remaining_s()
        return max(_SHORTEST_WAIT_S, min(self._call_s, left_s))


class Endpoint(NamedTuple):
    """A server, and who logs in there. All logins of a process share ``patience``. ``agent`` is how the server's list
    of sessions tells this task's logins from others; None: as pyVmomi calls itself.
    """

    hostname: str
    port: int
    username: str
    password: str
    patience: Patience
    trust: Trust = Trust()
    proxy: Proxy | None = None
    agent: str | None = None

    @property
    def server(self) -> str:
        return "%s:%d" % (url_host(self.hostname), self.port)


def url_host(hostname: str) -> str:
    """A host as it stands in a URL: an IPv6 address in brackets."""
    return "[%s]" % hostname if ":" in hostname and not hostname.startswith("[") else hostname


class Login(NamedTuple):
    """What another process needs to use the same login; ``content`` is the server's ServiceContent as XML. A secret."""

    cookie: str
    version: str
    content: str


class Session:
    """A login in use. Its calls may come from several threads."""

    def __init__(self, endpoint: Endpoint, stub: Any, content: Any) -> None:
        self.endpoint = endpoint
        self.stub = stub
        self.content = content

    @property
    def login(self) -> Login:
        return Login(self.stub.cookie, self.stub.version, to_xml(self.content, self.stub.version))

    def call(self, doing: str, method: Callable[..., Answer], *args: object, **options: object) -> Answer:
        """Call a method of a managed object. Raises RemoteFailed, whose cause is what pyVmomi raised."""
        stop_if_lost()
        return calling(doing, self.endpoint.server, method, *args, **options)

    def ask(self, doing: str, method: Callable[..., Answer], *args: object) -> Answer:
        """The same of a method that changes nothing, or no more by a second call: asked again where the connection
        breaks. Raises RemoteFailed.
        """
        for pause_s in _ASK_AGAIN_S:
            try:
                return self.call(doing, method, *args)
            except RemoteFailed as failed:
                if not _is_unanswered(failed) or is_timeout(failed.__cause__):
                    raise
            ready((), pause_s)
        return self.call(doing, method, *args)

    def find(self, kind: str, moid: str) -> Any:
        """A managed object by its type, such as ``HttpNfcLease``, and its id. Asks nobody."""
        from pyVmomi import vim

        return getattr(vim, kind)(moid, self.stub)

    def log_out(self, deadline: Deadline) -> bool:
        """End the login, in several attempts if need be; False for one that has ended already. Raises RemoteFailed
        where the last attempt failed.
        """
        unanswered = False
        try:
            for pause_s in (*_LOG_OUT_AGAIN_S, None):
                try:
                    self.content.sessionManager.Logout()
                    return True
                except Exception as error:
                    if is_no_login(error):
                        return unanswered  # then it was by an attempt whose answer was lost
                    unanswered = unanswered or not is_fault(error)
                    if pause_s is None or deadline.expired:
                        raise remote_failed(error, "logging out", self.endpoint.server) from error
                ready((), min(pause_s, deadline.remaining_s()))
        finally:
            self.stub.DropConnections()
        return False


def calling(doing: str, server: str, method: Callable[..., Answer], *args: object, **options: object) -> Answer:
    """Call something of pyVmomi's. Raises RemoteFailed for whatever it raises."""
    try:
        return method(*args, **options)
    except LifecycleError:
        raise
    except Exception as error:
        raise remote_failed(error, doing, server) from error


def if_told(ask: Callable[[], Answer]) -> Answer | None:
    """What calls of a session answer; None where the server refuses to tell, or tells what pyVmomi can't read. Raises
    RemoteFailed where there was no answer.
    """
    try:
        return ask()
    except RemoteFailed as failed:
        if _is_unanswered(failed):
            raise
        return None


def _is_unanswered(failed: RemoteFailed) -> bool:
    """Whether a call brought no answer, neither a good one nor a fault."""
    return isinstance(failed.__cause__, (OSError, http.client.HTTPException))


def require_pyvmomi() -> None:
    """Raises ToolMissing."""
    try:
        import pyVmomi
    except ImportError:
        raise _no_pyvmomi("") from None
    except Exception as error:  # newer ones refuse an old Python by a bare Exception
        raise _no_pyvmomi("; of the one that is there: %s" % error) from None
    version = getattr(pyVmomi, "version_info", ())  # older ones than 8.0.3 don't tell it
    if tuple(version) < _OLDEST:
        told = ".".join(map(str, version)) or "an older one"
        raise _no_pyvmomi("; the one that is there is %s" % told)


def _no_pyvmomi(why: str) -> ToolMissing:
    import sys

    wanted = "pyvmomi>=9.0" if sys.version_info >= (3, 10) else "pyvmomi>=9.0,<9.1"
    return ToolMissing(
        "pyVmomi 9.0 or newer", "pip install '%s', for %s%s" % (wanted, sys.executable, why), sys.path[1:]
    )


def log_in(endpoint: Endpoint) -> Session:
    """A new login. Raises RemoteFailed."""
    stub = _stub(endpoint)
    version = calling("connecting", endpoint.server, _newest_common_version, stub)
    if version is not None:
        stub.ComputeVersionInfo(version)
    content = calling("connecting", endpoint.server, _service(stub).RetrieveContent)
    manager = content.sessionManager
    if manager is None:
        raise RemoteFailed("logging in", endpoint.server, "it offers no logins", "See that it is a vCenter or ESXi")
    doing = "logging in as %s" % endpoint.username
    calling(doing, endpoint.server, manager.Login, endpoint.username, endpoint.password)
    return Session(endpoint, stub, content)


def may_be_done(failed: RemoteFailed) -> bool:
    """Of a call that failed: whether the server may do it all the same, now or later, since it gave no answer, and
    nothing tells that it wasn't reached.
    """
    return _is_unanswered(failed) and not isinstance(
        failed.__cause__, (ConnectionRefusedError, socket.gaierror, ssl.SSLCertVerificationError, ThumbprintMismatch)
    )


def may_have_logged_in(failed: RemoteFailed) -> bool:
    """Of a login that failed: where no answer came, the server may have made one of it all the same."""
    return str(failed.facts["operation"]).startswith("logging in") and failed.facts["fault"] is None


def end_lost_login(endpoint: Endpoint, deadline: Deadline) -> None:
    """End the login of this task that nobody could log out, or that a process began and died before it could tell of.
    It is found by its ``agent``. The list is read after a login of our own: that takes as long as the lost one.

    Raises RemoteFailed, also where the user may not see or end sessions.
    """
    session = log_in(endpoint)
    try:
        _end_others(session)
    except LifecycleError as first:
        try:
            session.log_out(deadline)
        except LifecycleError as second:
            attach(first, second, "logging out")
        raise
    session.log_out(deadline)


def _end_others(session: Session) -> None:
    """End the logins that have this one's agent."""
    from .properties import read

    doing = "ending a login that was left"
    server, agent, manager = session.endpoint.server, session.endpoint.agent, session.content.sessionManager
    values = read(session, doing, [manager], ["sessionList", "currentSession"])[0].values
    if "sessionList" not in values:
        raise RemoteFailed(doing, server, "the user may not see sessions")
    own = values["currentSession"].key
    lost = [found.key for found in values["sessionList"] if found.userAgent == agent and found.key != own]
    if lost:
        session.call(doing, manager.TerminateSession, lost)


def resume(endpoint: Endpoint, login: Login) -> Session:
    """The same login on connections of one's own. Asks nobody."""
    stub = _stub(endpoint)
    stub.ComputeVersionInfo(login.version)
    stub.cookie = login.cookie
    return Session(endpoint, stub, from_xml(login.content, stub))


def to_xml(value: Any, version: str) -> str:
    """A value of pyVmomi's, for another process."""
    from pyVmomi import SoapAdapter

    text: str | bytes = SoapAdapter.SerializeToStr(value, version=version)
    return text.decode() if isinstance(text, bytes) else text


def from_xml(text: str, stub: Any) -> Any:
    """The value again; managed objects in it are called by the stub."""
    from pyVmomi import SoapAdapter

    return SoapAdapter.Deserialize(text, stub=stub)


def _stub(endpoint: Endpoint) -> Any:
    from pyVmomi import SoapStubAdapter

    agent = {"User-Agent": endpoint.agent} if endpoint.agent is not None else None
    stub = SoapStubAdapter(host=endpoint.hostname, port=endpoint.port, poolSize=2, customHeaders=agent)
    # its own connections look at a pinned certificate only once
    stub.scheme = functools.partial(_Patient, patience=endpoint.patience, thumbprint=endpoint.trust.thumbprint)
    stub.schemeArgs = {"context": endpoint.trust.context()}
    if endpoint.proxy is not None:
        stub.httpProxyHost, stub.httpProxyPort = endpoint.proxy
        stub.is_tunnel = True
    return stub


class _Patient(Connection):
    """A connection, kept for several calls, of which each waits as long as it may then."""

    def __init__(self, *args: Any, patience: Patience, **options: Any) -> None:
        super().__init__(*args, **options)
        self._patience = patience

    def _begin_to_wait(self) -> None:
        self.timeout = self._patience.wait_s
        if self.sock is not None:
            self.sock.settimeout(self.timeout)

    def connect(self) -> None:
        self._begin_to_wait()
        super().connect()

    def request(self, *args: Any, **options: Any) -> None:
        self._begin_to_wait()
        super().request(*args, **options)

    def getresponse(self) -> http.client.HTTPResponse:
        self._begin_to_wait()
        return super().getresponse()


def _service(stub: Any) -> Any:
    from pyVmomi import vim

    return vim.ServiceInstance("ServiceInstance", stub)


def _newest_common_version(stub: Any) -> str | None:
    """The newest version of the API that both sides know; None where the server doesn't tell. Raises OSError and
    HTTPException.
    """
    from pyVmomi import VmomiSupport

    connection = stub.GetConnection()
    connection.request("GET", stub.path + "/vimServiceVersions.xml")
    answer = connection.getresponse()
    text = answer.read(_LARGEST_VERSIONS_BYTES)
    if answer.status != http.client.OK:
        connection.close()
        return None
    stub.ReturnConnection(connection)
    served = set(re.findall(rb"<version>\s*([0-9.]+)\s*</version>", text))
    ours: list[str] = VmomiSupport.GetServiceVersions("vim25")
    return next((name for name in ours if VmomiSupport.versionIdMap[name].encode() in served), None)
