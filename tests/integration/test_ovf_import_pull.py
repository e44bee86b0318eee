# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""ovf_import whose files the server's hosts fetch themselves: what arrives, what is refused, and that a fetch that
doesn't come to a good end leaves no lease, no login and no machine.
"""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.testbed.faults import until
from tests.testbed.folder_server import FolderServer, Manner
from tests.testbed.importing import Importing, end_hard, finish, guards_of, importing, run_after
from tests.testbed.ovf_packages import DiskSpec, Spec
from tests.testbed.web_server import certificate

# The module reads no more than beginnings; the hosts read all.
LONGER_THAN_BEGINNINGS = 70_000
DISKS = Spec(disks=(DiskSpec(), DiskSpec()), nvram=True)


class Bench(Importing):
    """A package on a web server, which the server's hosts can reach."""

    web: FolderServer

    def options(self, **given: Any) -> dict[str, Any]:
        return super().options(**{"source": self.web.url(self.package.name), "upload": "pull", **given})

    def await_stall(self) -> None:
        """Until a host waits for the web server."""
        until(self.web.stalled.is_set, "a host to fetch")

    def assert_no_fetch(self) -> None:
        """Nor is the server at work for an import that has ended."""
        self.assert_nothing_left()
        until(lambda: [lease["pull"] for lease in self.server.leases] == ["error"], "the hosts to fetch no more")


@contextmanager
def fetching(folder: Path, spec: Spec = DISKS, manner: Manner = Manner(), **given: Any) -> Iterator[Bench]:  # noqa: B008
    with importing(folder, spec) as found:
        found.server.set(pull_mode=True)
        bench = Bench(found.server, found.package, found.temporary)
        with FolderServer(bench.package.parent, manner, **given).running() as bench.web:
            yield bench


def content_of(bench: Bench) -> set[str]:
    """The digests of what the package has."""
    folder = bench.package.parent
    found = [*folder.rglob("*.vmdk"), *folder.rglob("*.nvram")]
    return {hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


@pytest.mark.parametrize("archive", [True, False], ids=["ova", "ovf"])
@pytest.mark.parametrize("upload", ["pull", "auto"])
def test_hosts_fetch_it(tmp_path, archive, upload):
    with fetching(tmp_path, DISKS._replace(archive=archive)) as bench:
        result = bench.run(upload=upload, verify="required")
        assert result.changed, result.msg
        assert result.json["upload"] == "pull"
        bench.assert_imported()
        assert {(found["method"], found["port"]) for found in bench.server.uploads} == {("PULL", 0)}
        assert {found["sha256"] for found in bench.server.uploads} == content_of(bench)
        assert {file["sha256"] for file in result.json["files"]} == content_of(bench)
        assert "warnings" not in result.json
        assert not bench.run(upload=upload).changed


def test_hosts_are_told_whom_to_trust(tmp_path):
    pem = certificate(tmp_path / "web.pem", "localhost")
    with fetching(tmp_path, certificate=pem) as bench:
        result = bench.run(url_ca_path=str(pem))
        assert result.changed, result.msg
        assert {found["sha256"] for found in bench.server.uploads} == content_of(bench)
        bench.assert_imported()


def test_check_mode_fetches_nothing(tmp_path):
    with fetching(tmp_path) as bench:
        assert bench.run(check=True).changed
        assert "ImportVApp" not in bench.server.counts
        bench.assert_nothing_left()


# --- what is refused beforehand


@pytest.mark.parametrize(
    ("spec", "given", "where", "told"),
    [
        (Spec(), {"url_username": "a", "url_password": "b"}, "upload", "wants credentials"),
        (Spec(), {"url_headers": {"X-Token": "b"}}, "upload", "wants credentials"),
        (Spec(disks=(DiskSpec(packed=True),)), {}, "disk1.vmdk.gz", "packed by gzip"),
        (Spec(disks=(DiskSpec(chunk_bytes=65536),)), {}, "disk1.vmdk", "in pieces"),
        (Spec(iso=True, sparse=True), {}, "config.iso", "leaves out its holes"),
        (Spec(manifest="sha512"), {"verify": "required"}, "disk1.vmdk", "SHA512"),
    ],
    ids=["credentials", "headers", "gzip", "chunks", "sparse", "a digest that no server tells"],
)
def test_what_hosts_can_not_fetch_is_refused_or_sent(tmp_path, spec, given, where, told):
    with fetching(tmp_path, spec) as bench:
        result = bench.run(**given)
        assert result.failed
        assert where in [found["where"] for found in result.json["error"]["problems"]]
        assert told in result.msg
        assert "ImportVApp" not in bench.server.counts
        bench.assert_nothing_left()
        sent = bench.run(**given, upload="auto")
        assert sent.changed, sent.msg
        assert sent.json["upload"] == "push"
        bench.assert_imported()


def test_a_local_package_is_refused_or_sent(tmp_path):
    with fetching(tmp_path) as bench:
        result = bench.run(source=str(bench.package))
        assert result.failed
        assert "can only fetch from a web server" in result.msg
        bench.assert_nothing_left()
        assert bench.run(source=str(bench.package), upload="auto").json["upload"] == "push"
        assert bench.web.requests == []


def test_credentials_in_the_url_are_told_to_nobody_else(tmp_path):
    with fetching(tmp_path) as bench:
        result = bench.run(source=bench.web.url(bench.package.name, "user:geheim-123@"))
        assert result.failed
        assert "wants credentials" in result.msg
        assert "geheim-123" not in str(result.json)


def test_a_query_is_only_told_where_that_is_asked_for(tmp_path):
    with fetching(tmp_path) as bench:
        source = bench.web.url(bench.package.name + "?signed=until-tomorrow")
        assert bench.run(source=source, upload="auto").json["upload"] == "push"
        assert bench.run(source=None, state="absent").changed
        assert bench.run(source=source).json["upload"] == "pull"


# --- what the server can't


def _no_pull_mode(bench: Bench) -> None:
    bench.server.set(pull_mode=False)


def _no_right(bench: Bench) -> None:
    bench.server.fault("HttpNfcLeasePullFromUrls_Task", "NoPermission", fields={"privilegeId": "VApp.PullFromUrls"})


@pytest.mark.parametrize(
    ("how", "told"), [(_no_pull_mode, "they can't do that"), (_no_right, "VApp.PullFromUrls")], ids=["at all", "rights"]
)
def test_a_server_that_can_not(tmp_path, how, told):
    with fetching(tmp_path) as bench:
        how(bench)
        result = bench.run()
        assert result.failed
        assert told in result.msg
        assert result.json["lease"]["outcome"] == "aborted"
        bench.assert_nothing_left()
        sent = bench.run(upload="auto")
        assert sent.changed, sent.msg
        assert sent.json["upload"] == "push"
        bench.assert_imported()


def test_a_web_server_that_hosts_can_not_reach(tmp_path):
    with fetching(tmp_path, manner=Manner(head_status=403)) as bench:
        result = bench.run()
        assert result.failed
        assert "they can't read %s" % bench.web.url(bench.package.name) in result.msg
        assert "HttpNfcLeasePullFromUrls_Task" not in bench.server.counts
        bench.assert_nothing_left()
        assert bench.run(upload="auto").json["upload"] == "push"


def test_a_server_that_can_not_try(tmp_path):
    with fetching(tmp_path) as bench:
        bench.server.fault("HttpNfcLeaseProbeUrls", "NotSupported")
        assert bench.run(upload="auto").json["upload"] == "push"
        assert bench.run(source=None, state="absent").changed
        assert bench.run().json["upload"] == "pull"


# --- what arrives


def test_hosts_received_something_else(tmp_path):
    with fetching(tmp_path) as bench:
        bench.server.set(manifest_lies=True)
        result = bench.run()
        assert result.failed
        assert result.json["error"]["kind"] == "check_failed"
        assert "as the hosts fetched it" in result.msg
        assert result.json["lease"]["outcome"] == "aborted"
        assert "HttpNfcLeaseComplete" not in bench.server.counts
        bench.assert_nothing_left()
        assert bench.run(verify="ignore").changed, "where nothing is to be compared"
        bench.assert_imported()


def test_the_package_is_not_what_its_manifest_says(tmp_path):
    def of_something_else(text: str) -> str:
        lines = text.splitlines(keepends=True)
        return "".join(line.split("=")[0] + "= " + "0" * 64 + "\n" if "disk2" in line else line for line in lines)

    with fetching(tmp_path, DISKS._replace(archive=False, edit={".mf": of_something_else})) as bench:
        result = bench.run()
        assert result.failed
        assert result.json["error"]["file"] == "disk2.vmdk"
        bench.assert_nothing_left()


@pytest.mark.parametrize("manifest", [None, "sha512"])
def test_what_nobody_vouches_for_is_told(tmp_path, manifest):
    with fetching(tmp_path, Spec(manifest=manifest)) as bench:
        assert bench.run(upload="auto").json["upload"] == "push"
        assert bench.run(source=None, state="absent").changed
        result = bench.run()
        assert result.changed, result.msg
        assert "nothing tells whether it arrived as it should be" in str(result.json["warnings"])


def test_an_account_without_digests_is_not_enough_where_they_are_required(tmp_path):
    with fetching(tmp_path) as bench:
        bench.server.set(hash=False)
        result = bench.run(verify="required")
        assert result.failed
        assert "Nobody vouches for" in result.msg
        bench.assert_nothing_left()


# --- a fetch that fails or never ends


def test_a_fetch_that_breaks_off(tmp_path):
    with fetching(tmp_path, manner=Manner(cuts=1, cut_after=LONGER_THAN_BEGINNINGS)) as bench:
        result = bench.run()
        assert result.failed
        assert "EOF" in result.msg
        assert result.json["upload"] == "pull"
        assert result.json["lease"]["outcome"] == "aborted"
        bench.assert_no_fetch()
        assert bench.run().changed


@pytest.fixture
def stalling(tmp_path):
    with fetching(tmp_path, manner=Manner(cuts=1, cut_after=LONGER_THAN_BEGINNINGS, stalls=True)) as bench:
        yield bench


def test_a_fetch_that_never_ends(stalling):
    result = stalling.run(timeout=12)
    assert result.failed
    assert result.json["error"]["kind"] == "timed_out"
    assert result.json["lease"]["outcome"] == "aborted"
    assert stalling.server.counts["CancelTask"] == 1
    stalling.assert_no_fetch()


def test_the_fetch_can_not_be_cancelled_and_the_lease_ends_all_the_same(stalling):
    stalling.server.fault("CancelTask", "SystemError", "no cancelling today")
    result = stalling.run(timeout=12)
    assert result.json["error"]["kind"] == "timed_out"
    assert "no cancelling today" in str(result.json["secondary_errors"])
    stalling.assert_no_fetch()


def test_the_task_is_told_to_end_midway(stalling):
    process = stalling.start()
    stalling.await_stall()
    process.send_signal(signal.SIGTERM)
    result = finish(process)
    assert "Stopped by SIGTERM" in result.msg
    stalling.assert_no_fetch()


def test_the_module_is_killed_midway(stalling):
    process = stalling.start()
    stalling.await_stall()
    end_hard(process)
    stalling.await_nothing_left()
    stalling.assert_no_fetch()


def test_the_guard_is_killed_midway(stalling):
    process = stalling.start()
    stalling.await_stall()
    [guard] = guards_of(process)
    os.kill(guard, signal.SIGKILL)
    result = finish(process)
    assert result.json["error"]["kind"] == "guard_lost"
    stalling.assert_no_fetch()


def test_the_lease_fails_midway(stalling):
    process = stalling.start()
    stalling.await_stall()
    stalling.server.fail_leases("SystemError", "the host is on fire")
    result = finish(process)
    assert result.failed
    stalling.assert_no_fetch()


def test_the_lease_is_kept_alive_and_its_percentage_is_true(tmp_path):
    four = Spec(disks=(DiskSpec(),) * 4, archive=False)
    manner = Manner(cuts=1, cut_after=LONGER_THAN_BEGINNINGS, cut_file="disk3.vmdk", stalls=True)
    with fetching(tmp_path, four, manner) as bench:
        lease_timeout_s = 10
        bench.server.set(lease_timeout_s=lease_timeout_s)
        process = bench.start()
        bench.await_stall()

        def is_told_and_alive() -> bool:
            [lease] = bench.server.live_leases
            return 50 in lease["percents"] and lease["age_s"] > 1.2 * lease_timeout_s

        until(is_told_and_alive, "half of it to be told, and the lease to live longer than unheeded")
        process.send_signal(signal.SIGTERM)
        assert finish(process).failed
        [lease] = bench.server.leases
        assert lease["percents"] == sorted(lease["percents"])


@pytest.mark.parametrize("archive", [True, False], ids=["ova", "ovf"])
@pytest.mark.parametrize("upload", ["pull", "auto"])
@pytest.mark.parametrize("href", ["disk%31.vmdk", "./disk1.vmdk"], ids=["encoded", "dotted"])
def test_a_name_that_the_descriptor_has_in_another_way_is_compared(tmp_path, archive, upload, href):
    edit = {".ovf": lambda text: text.replace("disk1.vmdk", href)}
    with fetching(tmp_path, Spec(archive=archive, edit=edit)) as bench:
        result = bench.run(upload=upload, verify="required")
        assert result.changed, result.msg
        assert result.json["upload"] == "pull"
        assert "warnings" not in result.json
        bench.assert_imported()


ONE_IS_GARBLED = """
module_main.find_collection()
from ansible_collections.vmops.lifecycle.plugins.module_utils._vsphere.compare import Comparison
account = Comparison.account
def garbled(self):
    found = dict(account(self))
    key = sorted(found)[%d]
    return {**found, key: {algorithm: "0" * len(digest) for algorithm, digest in found[key].items()}}
Comparison.account = garbled
"""


@pytest.mark.parametrize("which", [0, 1])
def test_two_disks_of_one_file_are_both_compared(tmp_path, which):
    twice = {".ovf": lambda text: text.replace('ovf:fileRef="file2"', 'ovf:fileRef="file1"')}
    two = Spec(disks=(DiskSpec(), DiskSpec()), archive=False, edit=twice)
    with fetching(tmp_path, two) as bench:
        result = run_after(bench, ONE_IS_GARBLED % which, upload="pull")
        assert result.json["error"]["kind"] == "check_failed"
        bench.assert_nothing_left()
