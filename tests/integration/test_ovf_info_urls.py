# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""ovf_info at URLs: the same as of files, by few requests, of servers that want to be trusted or fall silent."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.testbed.faults import WAIT_S
from tests.testbed.folder_server import FolderServer, Manner
from tests.testbed.images import MIB
from tests.testbed.looking import look, problems, refused
from tests.testbed.modules import finish, run_module, start_module
from tests.testbed.ovf_packages import DiskSpec, Spec, make_package
from tests.testbed.playbooks import run_tasks
from tests.testbed.web_server import certificate

CHUNKS = DiskSpec(chunk_bytes=50_000)
BOTH = DiskSpec(packed=True, chunk_bytes=500)


@pytest.fixture(name="serve")
def _serve(tmp_path: Path) -> Any:
    """Starts a server of a folder."""
    running = []

    def start(folder: Path, secure: Path | None = None, **manner: Any) -> FolderServer:
        running.append(FolderServer(folder, Manner(**manner), secure).running())
        return running[-1].__enter__()

    yield start
    for one in running:
        one.__exit__(None, None, None)


LARGE = DiskSpec(64 * MIB, ("write -P 1 0 1M", "write -P 7 32M 1M"))


@pytest.mark.parametrize("archive", [False, True])
@pytest.mark.parametrize("ranges", [False, True])
def test_at_a_url(tmp_path, serve, archive, ranges):
    path = make_package(tmp_path, Spec(archive=archive, disks=(LARGE, CHUNKS, BOTH), nvram=True))
    server = serve(tmp_path, ranges=ranges)
    here, there = look(path, checksum=True), look(server.url(path.name), checksum=True)
    assert there.pop("location") == server.url(path.name)
    here.pop("location")
    assert there == here
    assert here["problems"] == []


def test_of_a_large_archive_little_is_fetched(tmp_path, serve):
    random = tmp_path / "random"
    random.write_bytes(os.urandom(32 * MIB))
    written = "write -s %s 0 32M" % random
    path = make_package(tmp_path, Spec(disks=(DiskSpec(32 * MIB, (written,)), DiskSpec(32 * MIB, (written,)))))
    assert path.stat().st_size > 64 * MIB
    server = serve(tmp_path)
    result = run_module("ovf_info", {"source": server.url(path.name)})
    assert result.json["ovf"]["problems"] == []
    assert len(server.requests) <= 4
    assert server.sent_bytes < MIB


@pytest.mark.every_core
def test_a_server_that_has_to_be_trusted_and_wants_to_know_who_asks(tmp_path, serve):
    folder = tmp_path / "served"
    path = make_package(folder, Spec(archive=False))
    authority = certificate(tmp_path / "server.pem")
    server = serve(folder, secure=authority, authorization="Bearer t0ken")
    url = server.url(path.name + "?signature=s1gned")
    assert "can't be trusted" in refused(url)
    assert "by url_ca_path" in refused(url)
    assert "401" in refused(url, url_ca_path=str(authority))
    arguments = {"source": url, "url_headers": {"Authorization": "Bearer t0ken"}, "url_ca_path": str(authority)}
    play = run_tasks(tmp_path, [{"name": "look", "vmops.lifecycle.ovf_info": arguments, "register": "found"}], "-vvv")
    assert play.rc == 0, play.text
    assert play.tasks["look"]["ovf"]["problems"] == []
    assert play.tasks["look"]["ovf"]["location"] == server.url(path.name + "?…")
    assert "t0ken" not in json.dumps(play.tasks["look"])
    assert "s1gned" not in json.dumps(play.tasks["look"])
    without = {**arguments, "url_validate_certs": False}
    del without["url_ca_path"]
    assert not run_module("ovf_info", without).failed


def test_a_member_that_is_not_on_the_server(tmp_path, serve):
    path = make_package(tmp_path, Spec(archive=False, left_out=("disk1.vmdk",), manifest=None))
    server = serve(tmp_path, statuses={"/web.mf": 403, "/web.cert": 403})
    assert problems(look(server.url(path.name))) == {
        "disk1.vmdk": "the descriptor refers to it, and the package has no such file"
    }


def test_a_task_that_waits_for_a_silent_server_can_be_stopped(tmp_path, serve):
    path = make_package(tmp_path, Spec())
    server = serve(tmp_path, cuts=100, cut_after=100, stalls=True)
    process = start_module("ovf_info", {"source": server.url(path.name), "stall_timeout": 3600, "timeout": 3600})
    assert server.stalled.wait(WAIT_S)
    process.terminate()
    result = finish(process)
    assert result.msg.startswith("Stopped by SIGTERM")


def test_the_time_limit_counts_for_a_silent_server(tmp_path, serve):
    path = make_package(tmp_path, Spec())
    server = serve(tmp_path, cuts=100, cut_after=100, stalls=True)
    result = run_module("ovf_info", {"source": server.url(path.name), "stall_timeout": 3600, "timeout": 10})
    assert result.failed
    assert result.json["error"]["kind"] == "timed_out"
    assert server.stalled.is_set()
