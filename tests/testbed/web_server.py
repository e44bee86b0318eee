# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A web server on the loopback that behaves as badly as a test wants."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_PIECE = 64 * 1024


class Temper(Enum):
    """How it serves."""

    GOOD = "sends all"
    MISSING = "answers 404"
    CUTS_ONCE = "cuts the first connection midway, and can go on from there"
    CUTS_ONCE_NO_RANGE = "cuts the first connection midway, and always begins at the beginning"
    CUTS_ALWAYS = "cuts every connection before anything came"
    STALLS = "falls silent midway"
    DRIPS = "sends a byte now and then"
    LIES = "says that more comes than comes"
    PACKED = "tells that what it sends is packed by gzip"


class WebServer:
    """One document at one URL. ``requests`` are the Range headers that came, None for a request without one."""

    def __init__(self, document: bytes, temper: Temper) -> None:
        self._document = document
        self._temper = temper
        self.requests: list[str | None] = []
        self.ended = threading.Event()
        self.midway = threading.Event()  # half of it has been sent
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.serve(self)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base's name for it
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/image.raw"

    @contextmanager
    def running(self) -> Iterator[WebServer]:
        self._thread.start()
        try:
            yield self
        finally:
            self.ended.set()
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()

    def serve(self, handler: BaseHTTPRequestHandler) -> None:
        """One request."""
        asked = handler.headers.get("Range")
        self.requests.append(asked)
        first = len(self.requests) == 1
        if self._temper is Temper.MISSING:
            handler.send_error(404)
            return
        if self._temper is Temper.CUTS_ALWAYS:
            handler.close_connection = True
            return
        start = 0
        if asked and self._temper is not Temper.CUTS_ONCE_NO_RANGE:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
        handler.send_response(206 if start else 200)
        more = 4096 if self._temper is Temper.LIES else 0
        handler.send_header("Content-Length", str(len(self._document) - start + more))
        if self._temper is Temper.PACKED:
            handler.send_header("Content-Encoding", "gzip")
        handler.end_headers()
        try:
            self._send(handler, start, first)
        except OSError:
            pass  # the client went away
        handler.close_connection = True

    def _send(self, handler: BaseHTTPRequestHandler, start: int, first: bool) -> None:
        middle = len(self._document) // 2
        cuts = first and self._temper in (Temper.CUTS_ONCE, Temper.CUTS_ONCE_NO_RANGE)
        halts = cuts or self._temper in (Temper.STALLS, Temper.DRIPS)
        end = middle if halts else len(self._document)
        for at in range(start, end, _PIECE):
            handler.wfile.write(self._document[at : min(at + _PIECE, end)])
        if not halts:
            return
        handler.wfile.flush()
        self.midway.set()
        if self._temper is Temper.STALLS:
            self.ended.wait()
        at = middle
        while self._temper is Temper.DRIPS and not self.ended.wait(0.2):
            handler.wfile.write(self._document[at : at + 1])
            at += 1
