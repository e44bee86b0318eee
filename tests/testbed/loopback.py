# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A web server on the loopback, in a thread of the test's process: what those of the tests have in common."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Self


class LoopbackServer:
    """It listens from the beginning, and answers while it is :meth:`running`. With a certificate (see
    ``web_server.certificate``) it is an https one. ``ended``: it is to end, and who waits in an answer has to give up.
    """

    def __init__(self, certificate: Path | None = None) -> None:
        self.ended = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.serve(self)

            def do_HEAD(self) -> None:
                outer.serve_head(self)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base's name for it
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._scheme = "http"
        if certificate is not None:
            self._scheme = "https"
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})

    def at(self, path: str, userinfo: str = "") -> str:
        """The URL of a path."""
        return "%s://%s127.0.0.1:%d/%s" % (self._scheme, userinfo, self._server.server_port, path)

    @contextmanager
    def running(self) -> Iterator[Self]:
        self._thread.start()
        try:
            yield self
        finally:
            self.ended.set()
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()

    def serve(self, handler: BaseHTTPRequestHandler) -> None:
        """One GET."""
        raise NotImplementedError

    def serve_head(self, handler: BaseHTTPRequestHandler) -> None:
        """One HEAD."""
        handler.send_error(501)
