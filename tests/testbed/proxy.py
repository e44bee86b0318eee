# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An HTTP proxy on the loopback that is asked to CONNECT, and remembers to where."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class ConnectProxy:
    """``asked`` are the host:port of all tunnels, ``sent_bytes`` what clients have sent by them."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.sent_bytes = 0
        self._lock = threading.Lock()
        self._clients: list[socket.socket] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_CONNECT(self) -> None:
                outer.asked.append(self.path)
                outer._clients.append(self.connection)
                host, _colon, port = self.path.rpartition(":")
                self.close_connection = True
                with socket.create_connection((host, int(port))) as there:
                    self.send_response(200)
                    self.end_headers()
                    back = threading.Thread(target=carry, args=(there, self.connection))
                    back.start()
                    carry(self.connection, there, outer.count)
                    back.join()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base's name for it
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})

    def count(self, piece: bytes) -> None:
        with self._lock:
            self.sent_bytes += len(piece)

    def cut(self) -> None:
        """End all tunnels that are there, as a firewall that starts anew."""
        for client in self._clients:
            with suppress(OSError):  # it has ended by itself
                client.shutdown(socket.SHUT_RDWR)
        self._clients.clear()

    @property
    def port(self) -> int:
        return int(self._server.server_port)

    @contextmanager
    def running(self) -> Iterator[ConnectProxy]:
        self._thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()


def carry(source: socket.socket, target: socket.socket, seen: Callable[[bytes], object] = len) -> None:
    """What one side sends to the other, until either ends it; then the other is told."""
    try:
        while piece := source.recv(65536):
            seen(piece)
            target.sendall(piece)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass
