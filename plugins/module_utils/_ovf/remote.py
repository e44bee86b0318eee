# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A file at an http or https URL: asked by ranges where the server can, resumed when the line breaks.

A server that knows no ranges is asked for the whole file, and what comes before the wanted place is thrown away. So
there each look back, and each reader, costs a download up to its end.
"""

from __future__ import annotations

import re
import threading
from typing import Any, NamedTuple
from urllib.parse import quote, unquote, urljoin, urlsplit, urlunsplit

from ansible.module_utils.urls import open_url

from .._core.errors import BadInput, LifecycleError, describe
from .._core.wait import Deadline
from .source import Access, NotThere, Reader, SourceFailed, pause, read_all

HEAD_BYTES = 64 * 1024  # the first request asks for so much: a small package's descriptor, manifest and more
BLOCK_BYTES = 256 * 1024
FIRST_PAUSE_S = 0.5  # between two tries, then twice as long each time
LONGEST_PAUSE_S = 8.0
PROGRESS_BYTES = 64 * 1024 * 1024  # what brought so much begins to count anew
REDIRECTS = 5
_PASSING = (408, 425, 429, 500, 502, 503, 504)
_CONTENT_RANGE = re.compile(r"^bytes (\d{1,19})-\d{1,19}/(\d{1,19})$")
_ADVICE = {
    401: "Check url_username and url_password, or give a token by url_headers",
    403: "Check the rights of the credentials that the task gives; a signed URL may have expired",
    407: "The proxy wants credentials: give them in its URL, or say url_use_proxy: false",
}
_AWAY = (404, 410)


class _Passing(Exception):
    """A fault that another try may not meet."""


class _Answer(NamedTuple):
    """A response whose body begins at ``offset`` of a file of ``size_bytes``."""

    response: Any
    offset: int
    size_bytes: int
    tags: tuple[str, str]


def shown_url(url: str) -> str:
    """A URL without what may be secret in it."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    query = "…" if parts.query else ""
    return urlunsplit((parts.scheme, host, parts.path, query, ""))


def with_credentials(url: str, access: Access) -> tuple[str, Access]:
    """A URL without the credentials in it, which become those of the access unless it has its own. Raises BadInput."""
    try:
        parts = urlsplit(url)
        valid = bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid:
        raise BadInput("source", "the URL doesn't name a server", "Correct its host and port")
    userinfo, _at, host = parts.netloc.rpartition("@")
    if userinfo and access.username is None:
        name, _colon, password = userinfo.partition(":")
        access = access._replace(username=unquote(name), password=unquote(password))
    plain = urlunsplit((parts.scheme.lower(), host, parts.path or "/", parts.query, ""))
    return quote(plain, safe="%/:?#[]@!$&'()*+,;=~"), access


class _Attempts:
    """How often something may fail until it is given up."""

    def __init__(self, shown: str, retries: int, deadline: Deadline) -> None:
        self._shown = shown
        self._retries = retries
        self._deadline = deadline
        self._failed = 0
        self._since = 0

    def failed(self, fault: _Passing) -> None:
        """Wait before the next one. Raises SourceFailed when there were enough, TimedOut."""
        self._failed += 1
        if self._failed > self._retries:
            raise SourceFailed(
                "Could not read %s in %d attempts in a row; the last one: %s. Check the server and the network, then "
                "run the task again." % (self._shown, self._failed, fault),
                url=self._shown,
            )
        self._deadline.check("another attempt at %s" % self._shown, str(fault))
        longest_s = min(FIRST_PAUSE_S * 2 ** (self._failed - 1), LONGEST_PAUSE_S)
        pause(min(longest_s, self._deadline.remaining_s()))

    def progressed(self, count: int) -> None:
        """So many bytes came."""
        self._since += count
        if self._since >= PROGRESS_BYTES:
            self._failed = self._since = 0


class RemoteFile:
    """See `source.Source`. Raises SourceFailed (NotThere for no such file), BadInput for a URL that is none, TimedOut.

    ``ranges``: the server can begin anywhere.
    """

    def __init__(self, url: str, access: Access, deadline: Deadline) -> None:
        self._url, self._access = with_credentials(url, access)
        self.shown = shown_url(self._url)
        self._deadline = deadline
        self._lock = threading.Lock()
        self._tags = ("", "")
        self.size_bytes = -1
        answer = self._first()
        self.size_bytes, self._tags = answer.size_bytes, answer.tags
        self.ranges = answer.response.status == 206
        # What goes on where the beginning ended, for a server that always begins at the beginning.
        self._walker = _RemoteReader(self, 0, self.size_bytes, deadline, answer)
        try:
            self._head = read_all(self._walker, min(HEAD_BYTES, self.size_bytes))
        finally:
            if self.ranges:
                self._walker.close()

    def _first(self) -> _Answer:
        attempts = self.attempts()
        while True:
            try:
                return self.ask(0, HEAD_BYTES)
            except _Passing as fault:
                attempts.failed(fault)

    def attempts(self) -> _Attempts:
        """A new count of them."""
        return _Attempts(self.shown, self._access.retries, self._deadline)

    def read_at(self, offset: int, length: int) -> bytes:
        """See Source."""
        end = min(offset + max(0, length), self.size_bytes)
        known = self._head[offset:end]
        offset += len(known)
        if offset >= end:
            return known
        if self.ranges:
            reader = self.reader(offset, end - offset)
            try:
                return known + read_all(reader, end - offset)
            finally:
                reader.close()
        with self._lock:
            if self._walker.position > offset:
                self._walker.close()
                self._walker = _RemoteReader(self, 0, self.size_bytes, self._deadline)
            self._walker.skip_to(offset)
            return known + read_all(self._walker, end - offset)

    def reader(self, offset: int, length: int) -> Reader:
        """See Source."""
        return _RemoteReader(self, offset, offset + length, self._deadline)

    def close(self) -> None:
        """See Source."""
        self._walker.close()

    def ask(self, offset: int, end: int) -> _Answer:
        """One request for the bytes from ``offset`` to before ``end``; the answer may begin earlier and go on further.

        Raises _Passing, and SourceFailed for what won't pass, or when the file isn't the same any more.
        """
        response = self._open({"Range": "bytes=%d-%d" % (offset, max(offset, end - 1))})
        try:
            answer = self._judged(response)
            if answer.offset > offset:
                raise SourceFailed("%s: the server sent another range than the one asked for." % self.shown)
        except BaseException:
            response.close()
            raise
        return answer

    def _judged(self, response: Any) -> _Answer:
        headers = response.headers
        if headers.get("Content-Encoding", "identity").strip().lower() not in ("", "identity"):
            raise SourceFailed(
                "%s: the server packs what it sends (Content-Encoding: %s), though it was asked not to. Correct the "
                "server, or fetch the package beforehand." % (self.shown, headers["Content-Encoding"])
            )
        offset, size = 0, headers.get("Content-Length", "")
        if response.status == 206:
            found = _CONTENT_RANGE.match(headers.get("Content-Range", ""))
            offset, size = (int(found.group(1)), found.group(2)) if found else (0, "")
        if not size.isdigit():
            raise SourceFailed(
                "%s: the server doesn't tell how large it is, so it can't be read piece by piece. Correct the server, "
                "or fetch the package beforehand." % self.shown
            )
        # Only strong and weak tags of one file are compared with each other, so the mark of the weak ones says nothing.
        tags = headers.get("ETag", "").replace("W/", "", 1), headers.get("Last-Modified", "")
        changed = any(old and new and old != new for old, new in zip(self._tags, tags))
        if self.size_bytes >= 0 and (changed or int(size) != self.size_bytes):
            raise SourceFailed(
                "%s was changed on the server while it was read. Run the task again." % self.shown, url=self.shown
            )
        return _Answer(response, offset, int(size), tags)

    def _open(self, headers: dict[str, str]) -> Any:
        """The response, redirections followed: what is secret only goes to the server that the task named."""
        from urllib.error import HTTPError

        url = self._url
        for _hop in range(REDIRECTS + 1):
            try:
                return self._request(url, headers)
            except HTTPError as error:
                with error:
                    target = error.headers.get("Location") if 300 <= error.code < 400 else None
                    if target is None:
                        raise self._refused(error.code, str(error.reason)) from None
                    url = self._redirected(url, target)
        raise SourceFailed("%s: the server redirects more than %d times. Correct the URL." % (self.shown, REDIRECTS))

    def _redirected(self, url: str, target: str) -> str:
        new = quote(urljoin(url, target), safe="%/:?#[]@!$&'()*+,;=~")
        scheme = urlsplit(new).scheme
        if scheme not in ("http", "https") or (scheme == "http" and url.startswith("https:")):
            raise SourceFailed(
                "%s: the server redirects to %s, which isn't protected as the URL is. Use a URL that leads there "
                "directly, if that is meant." % (self.shown, shown_url(new))
            )
        return new

    def _request(self, url: str, headers: dict[str, str]) -> Any:
        from http.client import HTTPException
        from urllib.error import HTTPError

        access = self._access
        own = urlsplit(url)[:2] == urlsplit(self._url)[:2]
        try:
            return open_url(
                url,
                headers={**(access.headers if own else {}), **headers},
                url_username=access.username if own else None,
                url_password=access.password if own else None,
                force_basic_auth=own and access.username is not None,
                follow_redirects="none",
                validate_certs=access.validate_certs,
                ca_path=access.ca_path,
                use_proxy=access.use_proxy,
                timeout=min(access.stall_timeout_s, self._deadline.remaining_s() or 0.1),
                http_agent="vmops.lifecycle",
                decompress=False,  # ranges and sizes are those of what the server has
            )
        except HTTPError:
            raise
        except (OSError, HTTPException) as error:  # URLError is an OSError
            distrust = getattr(getattr(error, "reason", error), "verify_message", "")
            if distrust:
                raise SourceFailed(
                    "The server of %s can't be trusted: %s. Check the URL; if the server is the one that is meant, "
                    "name a file with the certificate of who signed its own by url_ca_path, or, if nobody can come "
                    "between, say url_validate_certs: false." % (self.shown, distrust.rstrip("."))
                ) from None
            raise _Passing(describe(error)) from None
        except ValueError as error:
            raise SourceFailed("%s: the server redirects to what is no URL: %s." % (self.shown, error)) from None

    def _refused(self, code: int, reason: str) -> Exception:
        if code in _PASSING:
            return _Passing("the server answered %d %s" % (code, reason))
        if code == 416:
            return BadInput("source", "%s is empty" % self.shown, "Get it anew, or correct the URL")
        advice = _ADVICE.get(code, "Check the URL and its access rights")
        fault: type[LifecycleError] = NotThere if code in _AWAY else SourceFailed
        return fault(
            "The server answered %d %s for %s. %s." % (code, reason, self.shown, advice), url=self.shown, status=code
        )


class _RemoteReader:
    """See `source.Reader`. ``position`` is where it is in the file."""

    def __init__(
        self, file: RemoteFile, offset: int, end: int, deadline: Deadline, answer: _Answer | None = None
    ) -> None:
        self._file = file
        self.position = offset
        self._end = end
        self._deadline = deadline
        self._attempts = file.attempts()
        self._response: Any = answer.response if answer else None

    def readinto(self, buffer: memoryview) -> int:
        if self.position >= self._end or not buffer:
            return 0
        piece = self._next(len(buffer))
        buffer[: len(piece)] = piece
        return len(piece)

    def skip_to(self, offset: int) -> None:
        """Throw away what comes before."""
        while self.position < offset:
            self._next(offset - self.position)

    def _next(self, most: int) -> bytes:
        """What comes next, at least a byte."""
        while True:
            told = "%d of %d bytes" % (self.position, self._end)
            self._deadline.check("the download of %s" % self._file.shown, told)
            pause()
            try:
                if self._response is None:
                    self._connect()
                piece = self._received(min(most, self._end - self.position))
            except _Passing as fault:
                self.close()
                self._attempts.failed(fault)
                continue
            self.position += len(piece)
            self._attempts.progressed(len(piece))
            return piece

    def _connect(self) -> None:
        answer = self._file.ask(self.position, self._end)
        self._response = answer.response
        at = answer.offset
        while at < self.position:
            self._deadline.check("the download of %s" % self._file.shown, "%d bytes, which aren't wanted" % at)
            pause()
            at += len(self._received(self.position - at))

    def _received(self, most: int) -> bytes:
        from http.client import HTTPException

        try:
            # what has come, so that a trickle doesn't outlast the deadline
            piece: bytes = self._response.read1(min(most, BLOCK_BYTES))
        except (OSError, HTTPException) as error:
            raise _Passing(describe(error)) from None
        if not piece:
            raise _Passing("the connection ended after %d of %d bytes" % (self.position, self._end))
        return piece

    def close(self) -> None:
        response, self._response = self._response, None
        if response is not None:
            response.close()
