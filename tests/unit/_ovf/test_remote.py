# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files at URLs, of real servers on the loopback: by ranges and without, resumed, and each fault named."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ansible_collections.vmops.lifecycle.plugins.module_utils._core.errors import BadInput, LifecycleError, TimedOut
from ansible_collections.vmops.lifecycle.plugins.module_utils._core.wait import Deadline
from ansible_collections.vmops.lifecycle.plugins.module_utils._ovf.remote import (
    HEAD_BYTES,
    RemoteFile,
    shown_url,
    with_credentials,
)
from ansible_collections.vmops.lifecycle.plugins.module_utils._ovf.source import (
    Access,
    NotThere,
    SourceFailed,
    read_all,
)
from tests.testbed.folder_server import FolderServer, Manner

SIZE = 400_000
CONTENT = os.urandom(SIZE)
Serve = Callable[..., FolderServer]


@pytest.fixture(name="serve")
def _serve(tmp_path: Path) -> Iterator[Serve]:
    """Starts servers of a folder with a file `disk` in it."""
    (tmp_path / "disk").write_bytes(CONTENT)
    (tmp_path / "small").write_bytes(b"small")
    (tmp_path / "empty").write_bytes(b"")
    servers = []

    def start(**manner) -> FolderServer:
        running = FolderServer(tmp_path, Manner(**manner)).running()
        servers.append(running)
        return running.__enter__()

    yield start
    for running in servers:
        running.__exit__(None, None, None)


def remote(url: str, timeout_s: float = 60, **access) -> RemoteFile:
    return RemoteFile(url, Access(**{"retries": 1, **access}), Deadline(timeout_s))


def read(file: RemoteFile, offset: int, length: int) -> bytes:
    reader = file.reader(offset, length)
    try:
        return read_all(reader, length)
    finally:
        reader.close()


def test_ranges_bring_what_is_asked_for_and_no_more(serve):
    server = serve()
    file = remote(server.url("disk"))
    assert (file.size_bytes, file.ranges) == (SIZE, True)
    assert file.read_at(100, 1000) == CONTENT[100:1100]
    assert len(server.requests) == 1
    assert file.read_at(HEAD_BYTES - 10, 20) == CONTENT[HEAD_BYTES - 10 : HEAD_BYTES + 10]
    assert read(file, 300_000, 5000) == CONTENT[300_000:305_000]
    assert file.read_at(SIZE - 5, 100) == CONTENT[-5:]
    asked = ["bytes=0-65535", "bytes=65536-65545", "bytes=300000-304999", "bytes=399995-399999"]
    assert [request.range for request in server.requests] == asked
    file.close()


def test_without_ranges_looking_forward_costs_one_request(serve):
    server = serve(ranges=False)
    file = remote(server.url("disk"))
    assert (file.size_bytes, file.ranges) == (SIZE, False)
    for offset in (0, 60_000, 100_000, 250_000, SIZE - 7):
        assert file.read_at(offset, 10_000) == CONTENT[offset:][:10_000]
    assert len(server.requests) == 1
    assert file.read_at(100_000, 10) == CONTENT[100_000:100_010]
    assert len(server.requests) == 2
    assert read(file, 300_000, 5000) == CONTENT[300_000:305_000]
    file.close()


@pytest.mark.parametrize("name", ["small", "empty"])
@pytest.mark.parametrize("ranges", [False, True])
def test_small_files(serve, name, ranges):
    if name == "empty" and ranges:
        with pytest.raises(BadInput, match="empty is empty"):
            remote(serve(ranges=ranges).url(name))
        return
    file = remote(serve(ranges=ranges).url(name))
    assert file.read_at(0, 100) == {"small": b"small", "empty": b""}[name]
    file.close()


@pytest.mark.parametrize("ranges", [False, True])
@pytest.mark.parametrize("cut_after", [0, 70_000])
def test_what_breaks_off_is_resumed(serve, ranges, cut_after):
    server = serve(ranges=ranges, cuts=2, cut_after=cut_after)
    file = remote(server.url("disk"), retries=2)
    assert read(file, 10, SIZE - 10) == CONTENT[10:]
    file.close()


def test_passing_faults_pass(serve):
    assert remote(serve(failures=1).url("small")).read_at(0, 9) == b"small"


def test_attempts_are_bounded_and_the_last_one_is_told(serve):
    server = serve(failures=100)
    with pytest.raises(SourceFailed, match="in 3 attempts in a row; the last one: the server answered 503"):
        remote(server.url("small"), retries=2)
    assert len(server.requests) == 3
    server = serve(cuts=100, cut_after=10)
    with pytest.raises(SourceFailed, match=r"the connection ended after 20 of 400000 bytes"):
        remote(server.url("disk"))


def test_a_silent_server_is_taken_for_gone(serve):
    with pytest.raises(SourceFailed, match="timed out"):
        remote(serve(cuts=100, cut_after=10, stalls=True).url("disk"), stall_timeout_s=0.1)


def test_the_deadline_counts(serve):
    with pytest.raises(TimedOut):
        remote(serve(failures=100).url("small"), timeout_s=0.2, retries=50)


def test_nobody_there(serve):
    server = serve()
    port = server.url("").rpartition(":")[2].rstrip("/")
    with pytest.raises(SourceFailed, match="refused"):
        # the port of a server that speaks to another address only
        remote("http://127.0.0.2:%s/disk" % port)


@pytest.mark.parametrize("ranges", [False, True])
def test_a_file_that_changes_on_the_server(serve, tmp_path, ranges):
    server = serve(ranges=ranges)
    file = remote(server.url("disk"))
    os.utime(tmp_path / "disk", ns=(1, 1))
    with pytest.raises(SourceFailed, match="disk was changed on the server while it was read"):
        read(file, 100_000, 10)
    (tmp_path / "disk").write_bytes(CONTENT[:-1])
    with pytest.raises(SourceFailed, match="disk was changed on the server while it was read"):
        read(file, 100_000, 10)
    file.close()


@pytest.mark.parametrize(
    ("manner", "fault", "told"),
    [
        ({"statuses": {"/disk": 401}}, SourceFailed, "401 .*Check url_username and url_password"),
        ({"statuses": {"/disk": 403}}, SourceFailed, "403 .*Check the rights"),
        ({"statuses": {"/disk": 404}}, NotThere, "404 .*Check the URL"),
        ({"statuses": {"/disk": 410}}, NotThere, "410 .*Check the URL"),
        ({"statuses": {"/disk": 400}}, SourceFailed, "400 .*Check the URL"),
        ({"hides_size": True, "ranges": False}, SourceFailed, "doesn't tell how large it is"),
        ({"packs": True}, SourceFailed, "packs what it sends"),
        ({"moved": {"/disk": "/disk"}}, SourceFailed, "redirects more than 5 times"),
        ({"moved": {"/disk": "file:///etc/passwd"}}, SourceFailed, "redirects to file:///etc/passwd, which isn't prot"),
        ({"moved": {"/disk": "http://["}}, SourceFailed, "redirects to what is no URL"),
    ],
)
def test_faults_that_do_not_pass_are_told_at_once(serve, manner, fault, told):
    server = serve(**manner)
    with pytest.raises(fault, match=told):
        remote(server.url("disk"))
    assert len(server.requests) == (6 if manner.get("moved") == {"/disk": "/disk"} else 1)


BASIC = "Basic " + base64.b64encode(b"anna:s3cret").decode()


@pytest.mark.parametrize(
    ("userinfo", "access"),
    [
        ("anna:s3cret@", {}),
        ("", {"username": "anna", "password": "s3cret"}),
        ("other:one@", {"username": "anna", "password": "s3cret"}),
        ("", {"headers": {"Authorization": BASIC}}),
    ],
)
def test_credentials(serve, userinfo, access):
    server = serve(authorization=BASIC)
    file = remote(server.url("disk", userinfo), **access)
    assert read(file, 100_000, 10) == CONTENT[100_000:100_010]
    assert file.shown == server.url("disk")


def test_credentials_go_to_the_server_that_was_named_alone(serve):
    other = serve()
    server = serve(moved={"/away": other.url("disk"), "/here": "/disk"}, authorization=None)
    access = {"username": "anna", "password": "s3cret", "headers": {"X-Token": "t"}}
    assert remote(server.url("here"), **access).size_bytes == SIZE
    assert [request.authorization for request in server.requests] == [BASIC, BASIC]
    assert remote(server.url("away"), **access).size_bytes == SIZE
    assert [request.authorization for request in other.requests] == [None]


def test_secrets_of_a_url_are_in_no_message(serve):
    server = serve(statuses={"/disk": 403})
    with pytest.raises(LifecycleError) as caught:
        remote(server.url("disk?signature=abc#part", "anna:s3cret@"))
    told = "%s %s" % (caught.value, caught.value.details())
    assert not any(secret in told for secret in ("anna", "s3cret", "abc", "part"))
    assert server.url("disk?…") in told
    assert server.requests[0].path == "/disk?signature=abc"


@pytest.mark.parametrize(
    "url", ["http://", "http:///x.ova", "http://host:0/x", "http://host:99999/x", "http://h:x/y", "http://["]
)
def test_what_is_no_url(url):
    with pytest.raises(BadInput, match="the URL doesn't name a server"):
        with_credentials(url, Access())


def test_urls_as_people_write_them():
    url, access = with_credentials("HTTP://a%40b:p%3Aw@host/my disk/ä%20b?q=1#x", Access())
    assert url == "http://host/my%20disk/%C3%A4%20b?q=1"
    assert (access.username, access.password) == ("a@b", "p:w")
    assert shown_url("https://a:b@host:8443/x?y=z#w") == "https://host:8443/x?…"
