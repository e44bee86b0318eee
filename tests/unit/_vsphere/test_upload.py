# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files sent over TLS to a receiver that takes, refuses, cuts or falls silent."""

from __future__ import annotations

import hashlib
import os
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from ansible_collections.vmops.lifecycle.plugins.module_utils._core.errors import LifecycleError, TimedOut
from ansible_collections.vmops.lifecycle.plugins.module_utils._core.wait import Deadline
from ansible_collections.vmops.lifecycle.plugins.module_utils._ovf.content import Content
from ansible_collections.vmops.lifecycle.plugins.module_utils._ovf.source import LocalFile, Reader, SourceFailed
from ansible_collections.vmops.lifecycle.plugins.module_utils._vsphere.nfc import (
    PIECE_BYTES,
    Broken,
    Cancelled,
    Hashing,
    Target,
    Transfer,
)
from ansible_collections.vmops.lifecycle.plugins.module_utils._vsphere.tls import Trust
from ansible_collections.vmops.lifecycle.plugins.module_utils._vsphere.upload import Job, Progress, Upload
from tests.testbed.faults import WAIT_S, until

BODY = bytes(range(256)) * (20 * PIECE_BYTES // 256) + b"the rest"  # ends within a piece, and within a TLS record


class Came(NamedTuple):
    """A request as the receiver has it, as far as it came."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


Behaviour = Callable[["Receiver", BaseHTTPRequestHandler], None]


class Server(ThreadingHTTPServer):
    """Says nothing of clients that go away, as those of these tests do."""

    daemon_threads = False  # closing waits for them

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class Receiver:
    """Does with each request what it was told, in their order; with more of them what it was told last."""

    def __init__(self, pem: Path, *does: Behaviour) -> None:
        self.came: list[Came] = []
        self.released = threading.Event()
        self.busy = threading.Event()
        left = list(does)
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                does_now = left.pop(0) if len(left) > 1 else left[0]
                does_now(outer, self)

            do_PUT = do_POST  # noqa: N815  # the base's way to name it

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base's name for it
                pass

        self._server = Server(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pem)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()
        self.trust = Trust(ca_path=str(pem))

    def target(self, create: bool = False, timeout_s: float = WAIT_S) -> Target:
        url = "https://127.0.0.1:%d/nfc/1/disk-0.vmdk?a=b" % self._server.server_port
        return Target(url, create, self.trust, None, timeout_s)

    def close(self) -> None:
        self.released.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def takes(receiver: Receiver, handler: BaseHTTPRequestHandler) -> None:
    body = handler.rfile.read(int(handler.headers["Content-Length"]))
    receiver.came.append(Came(handler.command, handler.path, dict(handler.headers), body))
    handler.send_response(201 if handler.command == "PUT" else 200)
    handler.send_header("Content-Length", "0")
    handler.end_headers()


def refuses(status: int, after: int) -> Behaviour:
    """Answers before all of it came, and closes."""

    def refuse(receiver: Receiver, handler: BaseHTTPRequestHandler) -> None:
        handler.rfile.read(after)
        handler.send_response(status)
        handler.end_headers()
        handler.wfile.write(b"no more space on ds1")
        handler.close_connection = True

    return refuse


def cuts(receiver: Receiver, handler: BaseHTTPRequestHandler) -> None:
    handler.rfile.read(PIECE_BYTES)
    handler.close_connection = True


def stalls(receiver: Receiver, handler: BaseHTTPRequestHandler) -> None:
    """Reads a little, and then nothing any more."""
    handler.rfile.read(1024)
    receiver.busy.set()
    receiver.released.wait(WAIT_S)


def never_answers(receiver: Receiver, handler: BaseHTTPRequestHandler) -> None:
    handler.rfile.read(int(handler.headers["Content-Length"]))
    receiver.released.wait(WAIT_S)


@pytest.fixture(name="pem", scope="module")
def _pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key, and a certificate that it signed for itself."""
    path = tmp_path_factory.mktemp("certificate") / "pem"
    words = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=receiver"
    more = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(path), "-out", str(path) + ".certificate"]
    subprocess.run([*words.split(), *more], check=True, capture_output=True)
    path.write_bytes(path.read_bytes() + Path(str(path) + ".certificate").read_bytes())
    return path


@pytest.fixture(name="receiving")
def _receiving(pem: Path) -> Iterator[Callable[..., Receiver]]:
    started: list[Receiver] = []

    def start(*does: Behaviour) -> Receiver:
        started.append(Receiver(pem, *does))
        return started[-1]

    yield start
    for receiver in started:
        receiver.close()


def content_of(folder: Path, body: bytes = BODY, size_bytes: int | None = None) -> Content:
    path = folder / "disk"
    path.write_bytes(body)

    def opens(_name: str) -> Reader:
        return LocalFile(str(path)).reader(0, len(body))

    return Content(["disk"], opens, len(body) if size_bytes is None else size_bytes, False, None)


def send(target: Target, content: Content, *hashes: Any) -> int:
    with content:
        return Transfer("disk", target, lambda _count: None).send(content, hashes)


# one transfer


@pytest.mark.parametrize(("create", "method"), [(False, "POST"), (True, "PUT")])
def test_all_of_it_arrives_and_is_hashed(tmp_path: Path, receiving: Callable[..., Receiver], create: bool, method: str):
    receiver = receiving(takes)
    counted: list[int] = []
    hashes = (hashlib.sha1(), hashlib.sha512())
    with content_of(tmp_path) as content:
        sent = Transfer("disk", receiver.target(create), counted.append).send(content, hashes)
    assert sent == sum(counted) == len(BODY)
    [came] = receiver.came
    assert (came.method, came.path) == (method, "/nfc/1/disk-0.vmdk?a=b")
    assert came.body == BODY
    assert came.headers.get("Overwrite") == ("t" if create else None)
    kind = "application/octet-stream" if create else "application/x-vnd.vmware-streamVmdk"
    assert came.headers["Content-Type"] == kind
    assert [found.hexdigest() for found in hashes] == [hashlib.sha1(BODY).hexdigest(), hashlib.sha512(BODY).hexdigest()]


@pytest.mark.parametrize("body", [b"", b"x", BODY[:PIECE_BYTES]], ids=["nothing", "a byte", "a piece"])
def test_small_files_arrive_as_well(tmp_path: Path, receiving: Callable[..., Receiver], body: bytes):
    receiver = receiving(takes)
    assert send(receiver.target(), content_of(tmp_path, body)) == len(body)
    assert [came.body for came in receiver.came] == [body]


@pytest.mark.parametrize(("status", "again"), [(403, False), (507, True)])
def test_a_server_that_refuses_is_heard_out(
    tmp_path: Path, receiving: Callable[..., Receiver], status: int, again: bool
):
    receiver = receiving(refuses(status, PIECE_BYTES))
    with pytest.raises(Broken, match="HTTP %d .*no more space on ds1" % status) as raised:
        send(receiver.target(), content_of(tmp_path), hashlib.sha1())
    assert raised.value.again is again


def test_a_connection_that_is_cut_may_be_tried_again(tmp_path: Path, receiving: Callable[..., Receiver]):
    receiver = receiving(cuts)
    with pytest.raises(Broken, match=r"Sending disk failed .*(broke the connection off|reset|Broken pipe)") as raised:
        send(receiver.target(), content_of(tmp_path, BODY * 8))
    assert raised.value.again


@pytest.mark.parametrize("silent", [stalls, never_answers], ids=["in the middle", "at the end"])
def test_a_silent_server_is_given_up(tmp_path: Path, receiving: Callable[..., Receiver], silent: Behaviour):
    receiver = receiving(silent)
    with pytest.raises(Broken, match=r"Sending disk failed .* no answer in time.*stall_timeout") as raised:
        send(receiver.target(timeout_s=3), content_of(tmp_path, BODY * 8))
    assert raised.value.again


def test_cancelled_where_it_waits_for_the_server(tmp_path: Path, receiving: Callable[..., Receiver]):
    receiver = receiving(stalls)
    transfer = Transfer("disk", receiver.target(), lambda _count: None)

    def cancel() -> None:
        receiver.busy.wait(WAIT_S)
        transfer.cancel()

    canceller = threading.Thread(target=cancel)
    canceller.start()
    with content_of(tmp_path, BODY * 8) as content, pytest.raises(Cancelled):
        transfer.send(content, (hashlib.sha1(), hashlib.sha256()))
    canceller.join()


def test_a_source_that_is_too_short_is_no_reason_to_try_again(tmp_path: Path, receiving: Callable[..., Receiver]):
    receiver = receiving(takes)
    with pytest.raises(SourceFailed, match="had %d bytes instead of %d" % (len(BODY), len(BODY) + 1)):
        send(receiver.target(), content_of(tmp_path, size_bytes=len(BODY) + 1))


# digests beside each other


def test_a_piece_is_given_back_when_the_last_digest_is_done_with_it():
    class Slow:
        """A digest that waits until it is let."""

        def __init__(self) -> None:
            self.let = threading.Event()
            self.given = b""

        def update(self, piece: memoryview) -> None:
            assert self.let.wait(WAIT_S)
            self.given += bytes(piece)

    first, second = Slow(), Slow()
    given_back = threading.Event()
    hashing = Hashing(first, second)
    hashing.add(memoryview(b"piece"), given_back.set)
    first.let.set()
    second_was_needed = not given_back.wait(0.05)
    second.let.set()
    hashing.close()
    assert second_was_needed
    assert given_back.is_set()
    assert (first.given, second.given) == (b"piece", b"piece")


# all files of an import


def job(name: str, folder: Path, target: Target, refused: LifecycleError | None = None) -> Job:
    where = folder / name
    where.mkdir()

    def check(digests: Mapping[str, str]) -> None:
        assert digests == {"sha1": hashlib.sha1(BODY).hexdigest()}
        if refused is not None:
            raise refused

    return Job(name, "key-" + name, len(BODY), target, ("sha1",), lambda: content_of(where), check)


def test_what_breaks_is_sent_again(tmp_path: Path, receiving: Callable[..., Receiver]):
    receiver = receiving(refuses(503, 10), takes)
    progress = Progress(len(BODY))
    upload = Upload([job("disk1", tmp_path, receiver.target())], 4, 1, progress)
    [sent] = upload.run(Deadline(WAIT_S), lambda: None)
    assert [attempt["error"] is None for attempt in sent.attempts] == [False, True]
    assert progress.percent == 99
    assert [came.body for came in receiver.came] == [BODY]


def test_the_first_that_fails_for_good_ends_the_others(tmp_path: Path, receiving: Callable[..., Receiver]):
    good, bad = receiving(stalls), receiving(takes)
    refused = LifecycleError("it is another file")
    jobs = [job("disk1", tmp_path, good.target()), job("disk2", tmp_path, bad.target(), refused)]
    upload = Upload(jobs, 2, 5, Progress(2 * len(BODY)))
    with pytest.raises(LifecycleError, match="it is another file"):
        upload.run(Deadline(WAIT_S), lambda: None)
    assert upload.sent == {}


def test_files_are_sent_one_after_the_other_where_they_must(tmp_path: Path, receiving: Callable[..., Receiver]):
    receiver = receiving(takes)
    names = ["disk1", "disk2", "disk3"]
    jobs = [job(name, tmp_path, receiver.target()._replace(url=receiver.target().url + name)) for name in names]
    sent = Upload(jobs, 1, 0, Progress(3 * len(BODY))).run(Deadline(WAIT_S), lambda: None)
    assert [one.job.name for one in sent] == names
    assert [came.path[-5:] for came in receiver.came] == names


@pytest.mark.parametrize("behaviour", [takes, refuses(403, 10), cuts], ids=["it arrives", "refused", "cut off"])
def test_it_leaves_no_descriptor_open(tmp_path: Path, receiving: Callable[..., Receiver], behaviour: Behaviour):
    receiver = receiving(behaviour)
    before = os.listdir("/proc/self/fd")
    jobs = [job(name, tmp_path, receiver.target()) for name in ("disk1", "disk2")]
    with nullcontext() if behaviour is takes else pytest.raises(Broken):
        Upload(jobs, 2, 0, Progress(2 * len(BODY))).run(Deadline(WAIT_S), lambda: None)
    # the receiver's own ones, which are in this process too, are closed soon
    until(lambda: os.listdir("/proc/self/fd") == before, "all to be closed")


def test_what_watches_ends_the_upload(tmp_path: Path, receiving: Callable[..., Receiver]):
    receiver = receiving(stalls)
    upload = Upload([job("disk1", tmp_path, receiver.target())], 1, 0, Progress(len(BODY)))

    def watch() -> None:
        receiver.busy.wait(WAIT_S)
        raise LifecycleError("the lease has gone")

    with pytest.raises(LifecycleError, match="the lease has gone"):
        upload.run(Deadline(WAIT_S), watch)


def test_no_longer_than_the_task_may_take(tmp_path: Path, receiving: Callable[..., Receiver]):
    receiver = receiving(never_answers)
    upload = Upload([job("disk1", tmp_path, receiver.target())], 1, 0, Progress(len(BODY)))
    with pytest.raises(TimedOut, match="the upload"):
        upload.run(Deadline(0.5), lambda: None)


# progress


def test_progress_counts_no_broken_attempt_and_is_never_whole():
    progress = Progress(200)
    progress.add("a", 100)
    assert progress.percent == 50
    progress.reset("a")
    assert progress.percent == 0
    progress.add("a", 100)
    progress.add("b", 100)
    assert progress.percent == 99
    assert Progress(0).percent == 99
