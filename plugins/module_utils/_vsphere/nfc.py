# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One file over NFC: sent to the URL that the lease names for it, hashed on the way, answered for by the server."""

from __future__ import annotations

import http.client
import queue
import socket
import threading
from collections.abc import Callable
from contextlib import closing
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from .._core.errors import BadInput, LifecycleError, RemoteFailed
from .._ovf.content import Content
from .faults import SLOW_TRANSFER, remote_failed
from .session import Endpoint, url_host
from .tls import Connection, Proxy, Trust, connect, read_thumbprint, thumbprint_of

# Larger pieces are not faster, and some of these fit into a processor's own cache. So many may wait to be hashed: fewer
# let the sending wait for that where both share a processor.
PIECE_BYTES = 256 * 1024
_PIECES = 16
_DISK, _FILE = "application/x-vnd.vmware-streamVmdk", "application/octet-stream"
_GOOD = (http.client.OK, http.client.CREATED)
_TOLD_BYTES = 4096


class Target(NamedTuple):
    """Where a file goes. ``create``: as a file of its own (PUT), not into a disk that is there (POST)."""

    url: str
    create: bool
    trust: Trust
    proxy: Proxy | None
    timeout_s: float


def address_of(url: str, endpoint: Endpoint) -> str:
    """The address that a lease names for a file; an ESXi host that is asked itself is called ``*`` there.

    Raises RemoteFailed for what is no address.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host:
        raise RemoteFailed("reading the lease", endpoint.server, "it names %r as the address of a file" % url)
    if host != "*":
        return url
    return parts._replace(netloc="%s:%d" % (url_host(endpoint.hostname), port or endpoint.port)).geturl()


def trust_in(address: Any, endpoint: Endpoint) -> Trust:
    """Whom to believe to be the server of an address (HttpNfcLeaseDeviceUrl) that a lease names: who has the
    certificate that is told with it, new in vSphere 9, or else that of the thumbprint; without both whom the endpoint's
    own trust takes.

    Raises RemoteFailed for what is no certificate or thumbprint.
    """
    try:
        if address.sslCertificate:
            return Trust(thumbprint=thumbprint_of(address.sslCertificate))
        if address.sslThumbprint:
            return Trust(thumbprint=read_thumbprint(address.sslThumbprint))
    except (BadInput, ValueError):
        named = address.sslCertificate or address.sslThumbprint
        why = "it names %.80r as the certificate of %s" % (named, address.url)
        raise RemoteFailed("reading the lease", endpoint.server, why) from None
    return endpoint.trust


class Broken(LifecycleError):
    """A transfer broke off. ``again``: whether another attempt may fare better."""

    kind = "transfer_failed"

    def __init__(self, message: str, again: bool, **facts: object) -> None:
        super().__init__(message, **facts)
        self.again = again


class Cancelled(BaseException):
    """Another transfer has failed, or the task ends: this one is of no use any more."""


class Hashing:
    """Digests, in a thread of their own: hashlib lets the others work meanwhile."""

    def __init__(self, *hashes: Any) -> None:
        self._hashes = hashes
        self._pieces: queue.SimpleQueue[tuple[memoryview, Callable[[], None]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._hash_all, daemon=True)
        self._thread.start()

    def add(self, piece: memoryview, done: Callable[[], None]) -> None:
        """``done`` is called when the piece isn't needed any more."""
        self._pieces.put((piece, done))

    def close(self) -> None:
        """Wait until all has been hashed."""
        self._pieces.put(None)
        self._thread.join()

    def _hash_all(self) -> None:
        while True:
            entry = self._pieces.get()
            if entry is None:
                return
            piece, done = entry
            for found in self._hashes:
                found.update(piece)
            done()


class Transfer:
    """One attempt to send one file. ``cancel`` may come from another thread."""

    def __init__(self, label: str, target: Target, on_sent: Callable[[int], None]) -> None:
        self._label = label
        self._target = target
        self._on_sent = on_sent
        self._connection: Connection | None = None
        self._cancelled = False

    def cancel(self) -> None:
        """End it at once, also where it waits for the other side."""
        self._cancelled = True
        connection = self._connection
        sock = connection.sock if connection is not None else None
        if sock is not None:
            try:
                socket.socket.shutdown(sock, socket.SHUT_RDWR)  # its own would first drop the encryption
            except OSError:
                pass  # it has ended by itself

    def send(self, content: Content, hashes: tuple[Any, ...] = ()) -> int:
        """Send all of it; how many bytes. Raises Broken, Cancelled, and what the content raises."""
        try:
            return self._send(content, hashes)
        except (OSError, http.client.HTTPException) as error:
            if self._cancelled:
                raise Cancelled from None
            said = self._last_words()
            if said is not None:
                raise said from error
            failed = remote_failed(error, "sending %s" % self._label, self._server, SLOW_TRANSFER)
            raise Broken(failed.message, again=True, **failed.facts) from error
        finally:
            if self._connection is not None:
                self._connection.close()

    def _send(self, content: Content, hashes: tuple[Any, ...]) -> int:
        url = urlsplit(self._target.url)
        host, port = url.hostname or "", url.port or 443
        self._connection = connection = connect(
            host, port, self._target.trust, self._target.proxy, self._target.timeout_s
        )
        if self._cancelled:
            raise Cancelled
        connection.putrequest(
            "PUT" if self._target.create else "POST", url.path + ("?" + url.query if url.query else "")
        )
        connection.putheader("Content-Length", str(content.size_bytes))
        connection.putheader("Content-Type", _FILE if self._target.create else _DISK)
        if self._target.create:
            connection.putheader("Overwrite", "t")
        connection.endheaders()
        _fill_segments(connection.sock, True)
        sent = self._send_body(connection, content, hashes)
        _fill_segments(connection.sock, False)
        with closing(connection.getresponse()) as answer:
            self._check(answer)
        return sent

    def _send_body(self, connection: Connection, content: Content, hashes: tuple[Any, ...]) -> int:
        free: queue.LifoQueue[bytearray] = queue.LifoQueue()  # what was used last is in the cache
        for _number in range(_PIECES):
            free.put(bytearray(PIECE_BYTES))
        hashing = Hashing(*hashes) if hashes else None
        sent = 0
        try:
            while True:
                buffer = free.get()
                piece = memoryview(buffer)
                length = content.readinto(piece)
                if not length:
                    break
                if hashing is not None:
                    hashing.add(piece[:length], lambda used=buffer: free.put(used))  # type: ignore[misc]
                connection.sock.sendall(piece[:length])
                if hashing is None:
                    free.put(buffer)
                sent += length
                self._on_sent(length)
                if self._cancelled:
                    raise Cancelled
        finally:
            if hashing is not None:
                hashing.close()
        if sent != content.size_bytes:
            raise Broken(
                "%s: %d bytes were to be sent, and its source had %d." % (self._label, content.size_bytes, sent),
                again=False,
            )
        return sent

    def _check(self, answer: http.client.HTTPResponse) -> None:
        if answer.status in _GOOD:
            answer.read()
            return
        said = answer.read(_TOLD_BYTES).decode("utf-8", "replace").strip()
        reason = "HTTP %d %s%s" % (answer.status, answer.reason, ": " + said if said else "")
        again = answer.status >= 500 or answer.status in (408, 429)
        failed = RemoteFailed("sending %s" % self._label, self._server, reason, fault=str(answer.status))
        raise Broken(failed.message, again, **failed.facts)

    def _last_words(self) -> Broken | None:
        """A server that refuses a body may answer and close before it has all: what it said tells more than that."""
        connection = self._connection
        if connection is None or connection.sock is None:
            return None
        try:
            connection.sock.settimeout(1.0)
            with closing(http.client.HTTPResponse(connection.sock)) as answer:
                answer.begin()
                self._check(answer)
        except Broken as told:
            return told
        except (OSError, http.client.HTTPException):
            pass
        return None

    @property
    def _server(self) -> str:
        return urlsplit(self._target.url).netloc


def _fill_segments(sock: socket.socket, full: bool) -> None:
    """Whether the kernel waits until a TCP segment is full. Otherwise the end of each TLS record becomes a small one of
    its own, which costs both sides a fifth more work. Turned off it sends at once what it has kept back.
    """
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, not full)
