# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A web server of a folder, which answers by ranges or not, wants to know who asks, breaks off, and falls silent."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import NamedTuple

from .loopback import LoopbackServer

_PIECE = 64 * 1024
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


class Request(NamedTuple):
    """What was asked for: the path, and the headers Range and Authorization."""

    path: str
    range: str | None
    authorization: str | None


class Manner(NamedTuple):
    """How a server serves.

    ``ranges``: it can begin anywhere. ``authorization``: only who sends this header is served. ``cuts``: so many
    connections end after ``cut_after`` bytes of a body, or with ``stalls`` fall silent there; of the file ``cut_file``
    alone, if one is named. ``failures``: so many requests are answered by 503 first. ``statuses`` and ``moved`` are
    answers by status or another URL, by the path. ``hides_size``: it doesn't tell how much comes. ``packs``: it says
    that it packs what it sends. ``head_status`` is the answer to who asks for headers only.
    """

    ranges: bool = True
    authorization: str | None = None
    cuts: int = 0
    cut_after: int = 0
    cut_file: str | None = None
    stalls: bool = False
    failures: int = 0
    statuses: Mapping[str, int] = {}
    moved: Mapping[str, str] = {}
    hides_size: bool = False
    packs: bool = False
    head_status: int = 200


class FolderServer(LoopbackServer):
    """Serves the files of a folder, each at its name. ``sent_bytes`` are all that bodies had."""

    def __init__(self, folder: Path, manner: Manner = Manner(), certificate: Path | None = None) -> None:  # noqa: B008
        super().__init__(certificate)
        self._folder = folder
        self._manner = manner
        self._lock = threading.Lock()
        self._cuts = manner.cuts
        self._failures = manner.failures
        self.requests: list[Request] = []
        self.sent_bytes = 0
        self.stalled = threading.Event()  # it has fallen silent

    def url(self, name: str = "", userinfo: str = "") -> str:
        """The URL of a file."""
        return self.at(name, userinfo)

    def serve_head(self, handler: BaseHTTPRequestHandler) -> None:
        """As its manner is."""
        handler.send_response(self._manner.head_status)
        handler.end_headers()

    def serve(self, handler: BaseHTTPRequestHandler) -> None:
        """One request."""
        handler.close_connection = True
        path = handler.path.partition("?")[0]
        request = Request(handler.path, handler.headers.get("Range"), handler.headers.get("Authorization"))
        with self._lock:
            self.requests.append(request)
            fails = self._failures > 0
            self._failures -= fails
        file = self._folder / path.lstrip("/")
        status = self._status(path, request, fails, file)
        if path in self._manner.moved:
            handler.send_response(302)
            handler.send_header("Location", self._manner.moved[path])
            handler.end_headers()
        elif status:
            handler.send_error(status)
        else:
            try:
                self._answer(handler, file, request.range)
            except OSError:
                pass  # the client went away

    def _status(self, path: str, request: Request, fails: bool, file: Path) -> int:
        if fails:
            return 503
        if self._manner.authorization is not None and request.authorization != self._manner.authorization:
            return 401
        return self._manner.statuses.get(path, 0 if file.is_file() else 404)

    def _answer(self, handler: BaseHTTPRequestHandler, file: Path, asked: str | None) -> None:
        size, tag = file.stat().st_size, '"%d"' % file.stat().st_mtime_ns
        start, end = 0, size
        wanted = _RANGE.fullmatch(asked or "") if self._manner.ranges else None
        if wanted:
            start, end = int(wanted[1]), min(int(wanted[2] or size) + 1, size)
            if start >= size:
                handler.send_error(416)
                return
        handler.send_response(206 if wanted else 200)
        if wanted:
            handler.send_header("Content-Range", "bytes %d-%d/%d" % (start, end - 1, size))
        if not self._manner.hides_size:
            handler.send_header("Content-Length", str(end - start))
        if self._manner.packs:
            handler.send_header("Content-Encoding", "gzip")
        handler.send_header("ETag", tag)
        handler.end_headers()
        self._send(handler, file, start, end)

    def _send(self, handler: BaseHTTPRequestHandler, file: Path, start: int, end: int) -> None:
        with self._lock:
            meant = self._manner.cut_file in (None, file.name)
            cuts = meant and self._cuts > 0 and end - start > self._manner.cut_after
            self._cuts -= cuts
        end = start + self._manner.cut_after if cuts else end
        with file.open("rb") as stream:
            stream.seek(start)
            while start < end:
                piece = stream.read(min(_PIECE, end - start))
                handler.wfile.write(piece)
                start += len(piece)
                with self._lock:
                    self.sent_bytes += len(piece)
        if cuts and self._manner.stalls:
            handler.wfile.flush()
            self.stalled.set()
            self.ended.wait()
