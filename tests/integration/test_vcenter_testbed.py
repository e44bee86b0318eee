# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The stand-in for a vCenter: that it does what the tests of others rely on, as govc and pyVmomi see it."""

from __future__ import annotations

import hashlib
import http.client
import os
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from pyVim.connect import Disconnect, SmartConnect
from pyVmomi import vim, vmodl

from tests.conftest import ROOT
from tests.testbed.faults import until
from tests.testbed.folder_server import FolderServer, Manner
from tests.testbed.ovf_packages import DiskSpec, Spec, make_package
from tests.testbed.vcenter import NEWEST, OLD, Vcenter, vcenter
from tests.testbed.web_server import certificate

_PLACE = ("-name", "web1")
_SMALL = DiskSpec(size=1 << 20, written=("write -P 1 0 64k",))


@pytest.fixture(name="server")
def _server(tmp_path: Path) -> Iterator[Vcenter]:
    with vcenter(tmp_path) as server:
        yield server


@pytest.fixture(name="package", scope="module")
def _package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An OVA of one disk and an NVRAM file."""
    return make_package(tmp_path_factory.mktemp("package"), Spec(disks=(_SMALL,), nvram=True))


class _Client:
    """A login by pyVmomi."""

    def __init__(self, server: Vcenter) -> None:
        self._trust = ssl.create_default_context(cafile=str(server.cafile))
        self.instance = SmartConnect(
            host=server.host, port=server.port, user=server.username, pwd=server.password, sslContext=self._trust
        )
        self.content = self.instance.RetrieveContent()
        self.datacenter = self.content.rootFolder.childEntity[0]
        self.pool = self.content.searchIndex.FindByInventoryPath(server.pool)

    def spec(self, package: Path, name: str = "web1") -> Any:
        """What the server makes of a package."""
        (descriptor,) = (package.parent / "files").glob("*.ovf")
        wanted = vim.OvfManager.CreateImportSpecParams(entityName=name)
        return self.content.ovfManager.CreateImportSpec(
            descriptor.read_text(), self.pool, self.datacenter.datastore[0], wanted
        )

    def begin(self, package: Path, name: str = "web1", wait: bool = True) -> Any:
        """A lease, ready or failed."""
        lease = self.pool.ImportVApp(self.spec(package, name).importSpec, self.datacenter.vmFolder)
        if wait:
            until(lambda: lease.state != "initializing", "the lease to begin")
        return lease

    def task(self) -> Any:
        """Of the import that began last."""
        tasks = self.content.taskManager.recentTask
        return [task for task in tasks if task.info.descriptionId == "ResourcePool.ImportVAppLRO"][-1].info

    def connect(self, url: Any) -> http.client.HTTPSConnection:
        """To where a file is to go."""
        return http.client.HTTPSConnection(urlsplit(url.url).netloc, context=self._trust, timeout=60)

    def send(self, url: Any, body: bytes, method: str = "POST") -> int:
        """A file; the status that was answered."""
        connection = self.connect(url)
        try:
            connection.request(method, urlsplit(url.url).path, body)
            return connection.getresponse().status
        finally:
            connection.close()


@contextmanager
def _logged_in(server: Vcenter) -> Iterator[_Client]:
    client = _Client(server)
    try:
        yield client
    finally:
        try:
            Disconnect(client.instance)
        except (vmodl.MethodFault, OSError):
            pass  # the test saw to it that this can't work


@pytest.fixture(name="client")
def _client(server: Vcenter) -> Iterator[_Client]:
    with _logged_in(server) as client:
        yield client


def _colons(digest: str) -> str:
    return ":".join(digest[at : at + 2] for at in range(0, len(digest), 2))


def _url(lease: Any, name: str) -> Any:
    return next(url for url in lease.info.deviceUrl if url.targetId.endswith(name))


# --- as govc sees it


@pytest.mark.parametrize("version", [NEWEST, OLD])
def test_each_version_takes_a_package(tmp_path: Path, package: Path, version: str) -> None:
    with vcenter(tmp_path, version) as server:
        server.govc("import.ova", *_PLACE, str(package))
        assert server.machines() == ["/DC0/vm/web1"]
        assert server.counts["HttpNfcLeaseComplete"] == 1
        assert server.version == ("v0.24.2" if version == OLD else "v0.55.0")


def test_what_came_is_counted_and_hashed(server: Vcenter, package: Path, tmp_path: Path) -> None:
    sent = (package.parent / "files" / "disk1.vmdk").read_bytes()
    server.set(keep_bodies=str(tmp_path / "kept"))
    server.govc("import.ova", *_PLACE, str(package))
    disk, nvram = sorted(server.uploads, key=lambda upload: upload["target"])
    assert disk["sha256"] == hashlib.sha256(sent).hexdigest()
    assert (disk["method"], disk["length"], disk["bytes"]) == ("POST", len(sent), len(sent))
    assert Path(disk["kept"]).read_bytes() == sent
    assert (nvram["target"], nvram["method"]) == ("web.nvram", "PUT")
    assert [lease["state"] for lease in server.leases] == ["done"]
    assert server.sessions == []
    assert [call for call in server.calls if call != "HttpNfcLeaseProgress"][-2:] == ["HttpNfcLeaseComplete", "Logout"]
    server.forget_uploads()
    server.forget_calls()
    assert (server.leases, server.uploads, server.calls) == ([], [], [])


def test_a_killed_client_leaves_a_lease_until_it_runs_out(server: Vcenter, package: Path) -> None:
    server.set(lease_timeout_s=15)
    stalls = server.upload_rule("stall", after_bytes=1000)
    importing = server.start_govc("import.ova", *_PLACE, str(package))
    until(lambda: any(upload["bytes"] for upload in server.uploads), "the upload to begin")
    importing.kill()
    importing.communicate()
    assert [lease["state"] for lease in server.live_leases] == ["ready"]
    assert server.machines() == ["/DC0/vm/web1"]
    until(lambda: not server.live_leases, "the lease to run out")
    until(lambda: not server.machines(), "the machine to be taken away")
    assert server.leases[0]["fault"] == "Timedout"
    server.release_uploads(stalls)


def test_strangers_are_not_let_in_and_not_trusted(server: Vcenter, tmp_path: Path) -> None:
    environ = {**server.govc_environ(), "GOVC_PASSWORD": "wrong"}
    assert "Login failure" in server.govc("ls", environ=environ, check=False)
    environ = {**server.govc_environ(), "GOVC_TLS_CA_CERTS": str(tmp_path / "esxi1.pem")}
    assert "certificate" in server.govc("ls", environ=environ, check=False)
    environ = {**server.govc_environ(), **server.environ}
    del environ["GOVC_TLS_CA_CERTS"]
    assert "/DC0/vm" in server.govc("ls", environ=environ)


def test_the_server_ends_with_who_started_it(tmp_path: Path) -> None:
    code = (
        "import pathlib, sys, time; from tests.testbed.vcenter import vcenter\n"
        "with vcenter(pathlib.Path(sys.argv[1])) as server:\n    print(server.pid, flush=True); time.sleep(600)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        server = os.pidfd_open(int(parent.stdout.readline()))
        parent.kill()
    until(lambda: _has_ended(server), "the server to end")
    os.close(server)


def _has_ended(pidfd: int) -> bool:
    try:
        signal.pidfd_send_signal(pidfd, 0)
    except ProcessLookupError:
        return True
    return False


# --- leases


def test_an_aborted_lease_takes_its_machine_along(server: Vcenter, client: _Client, package: Path) -> None:
    lease = client.begin(package)
    lease.HttpNfcLeaseProgress(42)
    task = client.task()
    assert (task.state, task.progress, task.cancelable) == ("running", 42, True)
    lease.HttpNfcLeaseAbort(vmodl.fault.SystemError(reason="no more"))
    assert lease.state == "error"
    assert lease.error.reason == "no more"
    assert client.task().error.reason == "no more"
    assert server.machines() == []
    with pytest.raises(vim.fault.InvalidState):
        lease.HttpNfcLeaseAbort()
    with pytest.raises(vim.fault.InvalidState):
        lease.HttpNfcLeaseComplete()
    assert server.leases[0]["percents"] == [42]


def test_an_abort_may_leave_the_machine_and_ended_leases_may_vanish(
    server: Vcenter, client: _Client, package: Path
) -> None:
    server.set(abort_keeps_vm=True, ended_leases_vanish=True)
    lease = client.begin(package)
    lease.HttpNfcLeaseAbort()
    assert isinstance(client.task().error, vmodl.fault.RequestCanceled)
    assert server.machines() == ["/DC0/vm/web1"]
    with pytest.raises(vmodl.fault.ManagedObjectNotFound):
        print(lease.state)


def test_a_lease_blocks_its_machine_until_it_is_completed(server: Vcenter, client: _Client, package: Path) -> None:
    lease = client.begin(package)
    machine = lease.info.entity
    assert "PowerOnVM_Task" in machine.disabledMethod
    for refused in (machine.PowerOnVM_Task, machine.Destroy_Task):
        with pytest.raises(vim.fault.MethodDisabled):
            refused()
    lease.HttpNfcLeaseComplete()
    assert lease.state == "done"
    assert client.task().state == "success"
    assert list(machine.disabledMethod) == []
    machine.PowerOnVM_Task()
    until(lambda: machine.runtime.powerState == "poweredOn", "the machine to run")
    with pytest.raises(vim.fault.InvalidState):
        lease.HttpNfcLeaseComplete()


def test_a_lease_may_end_with_its_machine(server: Vcenter, client: _Client, package: Path) -> None:
    server.set(lease_allows_destroy=True)
    lease = client.begin(package)
    machine = lease.info.entity
    assert "Destroy_Task" not in machine.disabledMethod
    with pytest.raises(vim.fault.MethodDisabled):
        machine.PowerOnVM_Task()
    task = machine.Destroy_Task()
    until(lambda: task.info.state == "success", "the machine to be removed")
    assert lease.state == "error"
    assert isinstance(lease.error, vmodl.fault.ManagedObjectNotFound)
    assert client.task().state == "error"
    assert (server.live_leases, server.machines()) == ([], [])
    with pytest.raises(vim.fault.InvalidState):
        lease.HttpNfcLeaseAbort()


def test_a_lease_is_its_login_s_own_and_outlives_it(server: Vcenter, client: _Client, package: Path) -> None:
    with _logged_in(server) as owner:
        moid = owner.begin(package)._moId
        foreign = vim.HttpNfcLease(moid, client.instance._stub)
        with pytest.raises(vmodl.fault.ManagedObjectNotFound):
            print(foreign.state)
    assert len(server.live_leases) == 1
    assert len(server.sessions) == 1


def test_a_logout_may_end_leases(server: Vcenter, package: Path) -> None:
    server.set(leases_end_with_session=True)
    with _logged_in(server) as owner:
        owner.begin(package)
    assert server.live_leases == []
    assert server.machines() == []


def test_another_login_may_cancel_the_task(server: Vcenter, client: _Client, package: Path) -> None:
    lease = client.begin(package)
    with _logged_in(server) as other:
        (task,) = [task for task in other.content.taskManager.recentTask if task.info.state == "running"]
        task.CancelTask()
    assert isinstance(lease.error, vmodl.fault.RequestCanceled)
    assert server.machines() == []
    assert server.live_leases == []


def test_a_lease_may_fail_midway(server: Vcenter, client: _Client, package: Path) -> None:
    lease = client.begin(package)
    server.fail_leases("FileFault", "it is full", {"file": "[LocalDS_0] web1/disk-0.vmdk"})
    assert lease.error.file == "[LocalDS_0] web1/disk-0.vmdk"
    assert server.machines() == []
    with pytest.raises(vim.fault.InvalidState):
        lease.HttpNfcLeaseComplete()


@pytest.mark.parametrize("begins", ["error", "gone"])
def test_a_lease_may_fail_at_once(server: Vcenter, client: _Client, package: Path, begins: str) -> None:
    full = {"fault": "InsufficientStorageSpace", "text": "it is full"}
    server.set(lease_begins=begins, lease_fault=full)
    lease = client.begin(package, wait=False)
    until(lambda: client.task().state == "error", "the task to fail")
    assert isinstance(client.task().error, vim.fault.InsufficientStorageSpace)
    if begins == "error":
        assert lease.state == "error"
        assert lease.error.msg == "it is full"
    else:
        with pytest.raises(vmodl.fault.ManagedObjectNotFound):
            print(lease.state)
    assert server.live_leases == []


def test_a_lease_may_never_begin_and_then_it_runs_out_or_is_aborted(
    server: Vcenter, client: _Client, package: Path
) -> None:
    server.set(lease_begins="stuck")
    lease = client.begin(package, wait=False)
    assert lease.state == "initializing"
    lease.HttpNfcLeaseAbort()
    assert server.live_leases == []
    server.set(lease_timeout_s=1)
    lease = client.begin(package, wait=False)
    until(lambda: lease.state == "error", "the lease to run out")
    for late in (lease.HttpNfcLeaseComplete, lease.HttpNfcLeaseAbort, partial(lease.HttpNfcLeaseProgress, 1)):
        with pytest.raises(vim.fault.Timedout):
            late()
    assert server.live_leases == []


def test_progress_keeps_a_lease_alive(server: Vcenter, client: _Client, package: Path) -> None:
    lease_timeout_s = 10
    server.set(lease_timeout_s=lease_timeout_s)
    lease = client.begin(package)
    while server.leases[0]["age_s"] < 1.2 * lease_timeout_s:
        lease.HttpNfcLeaseProgress(10)
        time.sleep(0.1)
    for wrong in (-1, 101):
        with pytest.raises(vmodl.fault.InvalidArgument):
            lease.HttpNfcLeaseProgress(wrong)
    lease.HttpNfcLeaseComplete()


def test_of_two_at_once_one_finds_the_name_taken(server: Vcenter, client: _Client, package: Path) -> None:
    leases = [client.begin(package, wait=False), client.begin(package, wait=False)]
    until(lambda: all(lease.state != "initializing" for lease in leases), "both to begin")
    good, bad = sorted(leases, key=lambda lease: lease.state, reverse=True)
    assert good.state == "ready"
    assert isinstance(bad.error, vim.fault.DuplicateName)
    good.HttpNfcLeaseComplete()
    assert server.machines() == ["/DC0/vm/web1"]


def test_many_clients_may_come_at_once(server: Vcenter, package: Path) -> None:
    ends = [
        lambda lease: lease.HttpNfcLeaseComplete(),
        lambda lease: lease.HttpNfcLeaseAbort(),
        lambda lease: server.fail_leases("SystemError"),
    ]

    def work(number: int) -> None:
        with _logged_in(server) as client:
            for turn in range(6):
                lease = client.begin(package, "web%d-%d" % (number, turn))
                try:
                    for url in lease.info.deviceUrl:
                        client.send(url, bytes(100_000), "PUT")
                    lease.HttpNfcLeaseProgress(50)
                    ends[(number + turn) % len(ends)](lease)
                except (vim.fault.InvalidState, AttributeError):
                    pass  # another one has failed it, before or after it was looked at

    with ThreadPoolExecutor(4) as pool:
        working = [pool.submit(work, number) for number in range(4)]
        while not all(work.done() for work in working):
            assert len(server.live_leases) <= 4
        for worker in working:
            worker.result()
    assert server.live_leases == []
    assert len(server.machines()) == sum(lease["state"] == "done" for lease in server.leases)


def test_the_plain_simulator_leaves_the_machine_of_an_aborted_lease(
    server: Vcenter, client: _Client, package: Path
) -> None:
    server.set(strict=False)
    lease = client.begin(package)
    lease.HttpNfcLeaseAbort()
    assert server.machines() == ["/DC0/vm/web1"]
    assert client.task().state == "success"
    assert server.leases == []


# --- calls


def test_a_call_may_be_answered_by_a_fault(server: Vcenter, client: _Client, package: Path) -> None:
    lease = client.begin(package)
    server.fault("HttpNfcLeaseProgress", "Timedout", first=2, times=1)
    server.fault("HttpNfcLeaseComplete", "FileFault", "no room", {"file": "[LocalDS_0] web1"}, times=1)
    lease.HttpNfcLeaseProgress(1)
    with pytest.raises(vim.fault.Timedout):
        lease.HttpNfcLeaseProgress(2)
    lease.HttpNfcLeaseProgress(3)
    with pytest.raises(vim.fault.FileFault) as caught:
        lease.HttpNfcLeaseComplete()
    assert (caught.value.file, caught.value.msg) == ("[LocalDS_0] web1", "no room")
    lease.HttpNfcLeaseComplete()
    assert server.counts["HttpNfcLeaseComplete"] == 2


@pytest.mark.parametrize(
    ("fault", "raised"),
    [
        ("NoPermission", vim.fault.NoPermission),
        ("NotAuthenticated", vim.fault.NotAuthenticated),
        ("InvalidState", vim.fault.InvalidState),
        ("InsufficientStorageSpace", vim.fault.InsufficientStorageSpace),
        ("RuntimeFault", vmodl.RuntimeFault),
        ("SystemError", vmodl.fault.SystemError),
    ],
)
def test_any_fault_can_be_raised(
    server: Vcenter, client: _Client, package: Path, fault: str, raised: type[Exception]
) -> None:
    server.fault("ImportVApp", fault, "not for you")
    with pytest.raises(raised, match="not for you"):
        client.begin(package)
    assert server.leases == []


def test_a_call_may_be_lost_before_or_after_it_is_carried_out(server: Vcenter, client: _Client, package: Path) -> None:
    lease = client.begin(package)
    server.rule("HttpNfcLeaseComplete", "drop", times=1)
    with pytest.raises((OSError, http.client.HTTPException)):
        lease.HttpNfcLeaseComplete()
    assert lease.state == "ready"
    server.rule("HttpNfcLeaseComplete", "lose_reply", times=1)
    with pytest.raises((OSError, http.client.HTTPException)):
        lease.HttpNfcLeaseComplete()
    assert lease.state == "done"


@pytest.mark.parametrize(("do", "meanwhile"), [("hold", "ready"), ("hold_reply", "done")])
def test_a_call_may_be_held(server: Vcenter, client: _Client, package: Path, do: str, meanwhile: str) -> None:
    lease = client.begin(package)
    rule = server.rule("HttpNfcLeaseComplete", do)
    with ThreadPoolExecutor() as pool:
        call = pool.submit(lease.HttpNfcLeaseComplete)
        server.wait_held(rule)
        until(lambda: server.leases[0]["state"] == meanwhile, "the call to get that far")
        assert not call.done()
        server.release(rule)
        call.result(60)
    assert server.leases[0]["state"] == "done"


def test_a_server_that_is_starting_answers_a_status(server: Vcenter) -> None:
    server.rule("RetrieveServiceContent", "status", status=503, text="not yet")
    assert "503" in server.govc("ls", check=False)


def test_sessions_may_expire_midway(server: Vcenter, client: _Client, package: Path) -> None:
    lease = client.begin(package)
    server.expire_sessions()
    assert server.sessions == []
    for call in (lambda: lease.state, lambda: lease.HttpNfcLeaseProgress(1), lambda: client.pool.name):
        with pytest.raises(vim.fault.NotAuthenticated):
            call()
    assert len(server.live_leases) == 1


def test_what_is_left_of_a_datastore_and_what_a_machine_tells(server: Vcenter, client: _Client, package: Path) -> None:
    server.set_free_space("LocalDS_0", 12345)
    assert client.datacenter.datastore[0].summary.freeSpace == 12345
    client.begin(package).HttpNfcLeaseComplete()
    (machine,) = client.datacenter.vmFolder.childEntity
    assert machine.runtime.powerState == "poweredOff"
    server.set_ip("web1", "192.0.2.7")
    server.govc("vm.power", "-on", "web1")
    until(lambda: machine.guest.ipAddress == "192.0.2.7", "the address to be told")


def test_a_package_may_be_warned_of_and_may_have_empty_disks(server: Vcenter, client: _Client, tmp_path: Path) -> None:
    package = make_package(
        tmp_path / "odd",
        Spec(
            disks=(_SMALL, _SMALL), edit={".ovf": lambda text: text.replace(' ovf:fileRef="file2"', "")}, manifest=None
        ),
    )
    server.set(
        spec_warnings=[{"fault": "OvfHardwareCheck", "text": "hm"}],
        spec_errors=[{"fault": "OvfUnsupportedElement", "text": "no", "fields": {"name": "X"}}],
    )
    made = client.spec(package)
    assert [warning.msg for warning in made.warning] == ["hm"]
    assert [error.name for error in made.error] == ["X"]
    assert [item.path for item in made.fileItem] == ["disk1.vmdk"]


# --- uploads


def test_uploads_may_fail_in_many_ways(server: Vcenter, client: _Client, package: Path) -> None:
    url = _url(client.begin(package), ".vmdk")
    body = bytes(4 << 20)
    server.upload_rule("status", status=503, times=1)
    server.upload_rule("status", status=507, after_bytes=100_000, first=1, times=1)
    server.upload_rule("reset", after_bytes=100_000, times=1)
    assert client.send(url, body) == 503
    for _fault in ("full", "reset"):
        with pytest.raises(OSError):  # noqa: PT011  # which one of them is the kernel's affair
            _strictly(client.send(url, body))
    assert client.send(url, body) == 200
    assert [upload["status"] for upload in server.uploads] == [503, 507, 0, 200]
    assert [upload["bytes"] for upload in server.uploads] == [len(body), 100_000, 100_000, len(body)]


def _strictly(status: int) -> None:
    """A server that answers before it has read all: the client may get to read that, or not."""
    if status != 200:
        raise OSError(status)


def test_what_is_cut_short_is_no_file(server: Vcenter, client: _Client, package: Path) -> None:
    lease = client.begin(package)
    url = _url(lease, ".vmdk")
    connection = client.connect(url)
    connection.putrequest("POST", urlsplit(url.url).path)
    connection.putheader("Content-Length", "10")
    connection.endheaders(b"short")
    connection.close()
    until(lambda: server.uploads and server.uploads[0]["trouble"], "the server to notice")
    assert (server.uploads[0]["length"], server.uploads[0]["bytes"], server.uploads[0]["status"]) == (10, 5, 0)
    assert list(lease.HttpNfcLeaseGetManifest()) == []


@pytest.mark.parametrize("do", ["stall", "silent"])
def test_an_upload_may_never_be_answered(server: Vcenter, client: _Client, package: Path, do: str) -> None:
    url = _url(client.begin(package), ".vmdk")
    rule = server.upload_rule(do, after_bytes=1000)
    body = bytes(2 << 20)
    expected = 1000 if do == "stall" else len(body)
    with ThreadPoolExecutor() as pool:
        sending = pool.submit(client.send, url, body)
        until(lambda: server.uploads and server.uploads[0]["bytes"] == expected, "the upload to get that far")
        assert not sending.done()
        server.release_uploads(rule)
        if do == "silent":
            assert sending.result(60) == 200
        else:
            with pytest.raises(OSError):  # noqa: PT011  # which one of them is the kernel's affair
                sending.result(60)


def test_an_upload_may_pause(server: Vcenter, client: _Client, package: Path) -> None:
    url = _url(client.begin(package), ".vmdk")
    rule = server.upload_rule("pause", after_bytes=1000)
    body = bytes(range(256)) * 8192
    with ThreadPoolExecutor() as pool:
        sending = pool.submit(client.send, url, body)
        until(lambda: server.uploads and server.uploads[0]["bytes"] == 1000, "the upload to get that far")
        assert not sending.done()
        server.release_uploads(rule)
        assert sending.result(60) == 200
    [upload] = server.uploads
    assert (upload["bytes"], upload["sha1"]) == (len(body), hashlib.sha1(body).hexdigest())


def test_a_file_that_is_created_is_put(server: Vcenter, client: _Client, package: Path) -> None:
    made = client.spec(package)
    assert {item.path: item.create for item in made.fileItem} == {"disk1.vmdk": False, "web.nvram": True}
    lease = client.begin(package)
    nvram = _url(lease, ".nvram")
    assert nvram.importKey in [item.deviceId for item in made.fileItem]
    assert client.send(nvram, b"x") == 405
    assert client.send(nvram, b"x", "PUT") == 200
    assert client.send(nvram, b"", "HEAD") == 200
    lease.HttpNfcLeaseAbort()
    assert client.send(nvram, b"x", "PUT") == 404


def test_the_manifest_is_of_what_came_or_lies(server: Vcenter, client: _Client, package: Path) -> None:
    lease = client.begin(package)
    url = _url(lease, ".vmdk")
    lease.HttpNfcLeaseSetManifestChecksumType([vim.KeyValue(key=url.key, value="sha256")])
    client.send(url, b"what came")
    (entry,) = lease.HttpNfcLeaseGetManifest()
    assert (entry.key, entry.size, entry.disk) == (url.key, 9, True)
    assert entry.sha1 == hashlib.sha1(b"what came").hexdigest()
    assert (entry.checksumType, entry.checksum) == ("sha256", hashlib.sha256(b"what came").hexdigest())
    server.set(manifest_lies=True)
    (entry,) = lease.HttpNfcLeaseGetManifest()
    assert set(entry.sha1) == {"0"}


def test_many_files_may_come_at_once_and_slowly(server: Vcenter, client: _Client, tmp_path: Path) -> None:
    package = make_package(tmp_path / "many", Spec(disks=(_SMALL,) * 4, manifest=None))
    lease = client.begin(package)
    body = bytes(range(256)) * 4096 * 2
    server.set(rate_mb_s=4)
    started = time.monotonic()
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda url: client.send(url, body), lease.info.deviceUrl)) == [200] * 4
    assert time.monotonic() - started > len(body) / 4e6 * 0.9
    assert {entry.sha1 for entry in lease.HttpNfcLeaseGetManifest()} == {hashlib.sha1(body).hexdigest()}
    assert len(lease.HttpNfcLeaseGetManifest()) == 4


@pytest.mark.parametrize("how", ["right", "wrong", "empty"])
def test_a_host_takes_uploads_by_a_certificate_that_its_thumbprint_names(
    server: Vcenter, client: _Client, package: Path, how: str
) -> None:
    server.set(host_uploads=True, thumbprint=how)
    url = _url(client.begin(package), ".vmdk")
    host_port = server.host_ports[0]
    assert urlsplit(url.url).port == host_port != server.port
    found = hashlib.sha1(ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate(("127.0.0.1", host_port))))
    told = url.sslThumbprint.replace(":", "").lower()
    assert (told == found.hexdigest(), bool(told)) == {
        "right": (True, True),
        "wrong": (False, True),
        "empty": (False, False),
    }[how]
    assert url.sslCertificate is None
    with pytest.raises(ssl.SSLCertVerificationError):
        client.send(url, b"x")


@pytest.mark.parametrize("host_uploads", [False, True])
def test_a_host_s_certificate_may_be_told(server: Vcenter, client: _Client, package: Path, host_uploads: bool) -> None:
    taken = []
    for how in ("right", "wrong"):
        server.set(host_uploads=host_uploads, certificate=how)
        url = _url(client.begin(package, how), ".vmdk")
        found = ssl.get_server_certificate(("127.0.0.1", urlsplit(url.url).port or 0))
        taken.append(ssl.PEM_cert_to_DER_cert(url.sslCertificate) == ssl.PEM_cert_to_DER_cert(found))
    assert taken == [True, False]


def test_files_may_go_to_several_hosts(server: Vcenter, client: _Client, package: Path) -> None:
    server.set(host_uploads=True, hosts=2)
    urls = client.begin(package).info.deviceUrl
    assert [urlsplit(url.url).port for url in urls] == server.host_ports
    assert len({url.sslThumbprint for url in urls}) == len(urls) == 2


def test_an_esxi_host_takes_a_package(tmp_path: Path, package: Path) -> None:
    with vcenter(tmp_path, esx=True) as server:
        with _logged_in(server) as client:
            assert _url(client.begin(package, "web2"), ".vmdk").url.startswith("https://*/nfc/")
        server.govc("import.ova", *_PLACE, str(package))
        assert "/ha-datacenter/vm/web1" in server.machines()


def test_a_device_url_may_leave_out_the_host(server: Vcenter, client: _Client, package: Path) -> None:
    server.set(device_host="*")
    url = _url(client.begin(package), ".vmdk")
    assert url.url.startswith("https://*/nfc/")
    assert url.sslThumbprint == server.thumbprint


# --- pull mode


@pytest.fixture(name="web")
def _web(package: Path) -> Iterator[Callable[[str], str]]:
    """The URL of one of the package's files."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(package.parent))) as web:
        thread = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield lambda name: "http://127.0.0.1:%d/%s" % (web.server_port, name)
        web.shutdown()
        thread.join()


def test_the_server_may_fetch_files_itself(
    server: Vcenter, client: _Client, package: Path, web: Callable[[str], str]
) -> None:
    server.set(pull_mode=True)
    lease = client.begin(package)
    assert lease.capabilities.pullModeSupported
    device = _url(lease, ".vmdk").importKey
    source = vim.HttpNfcLease.SourceFile(
        targetDeviceId=device, url=web(package.name), memberName="disk1.vmdk", create=False
    )
    assert [found.serverAccessible for found in lease.HttpNfcLeaseProbeUrls([source])] == [True]
    task = lease.HttpNfcLeasePullFromUrls_Task([source])
    until(lambda: task.info.state == "success", "the server to have fetched it")
    (upload,) = server.uploads
    assert upload["sha1"] == hashlib.sha1((package.parent / "files" / "disk1.vmdk").read_bytes()).hexdigest()
    assert (upload["method"], lease.mode) == ("PULL", "pull")
    source.url = web("missing")
    assert [found.serverAccessible for found in lease.HttpNfcLeaseProbeUrls([source])] == [False]
    task = lease.HttpNfcLeasePullFromUrls_Task([source])
    until(lambda: task.info.state == "error", "the server to have failed")
    assert task.info.error.statusCode == 404
    assert lease.state == "ready"


def test_a_server_may_not_be_able_to_fetch(server: Vcenter, client: _Client, package: Path) -> None:
    lease = client.begin(package)
    assert not lease.capabilities.pullModeSupported
    with pytest.raises(vmodl.fault.NotSupported):
        lease.HttpNfcLeasePullFromUrls_Task([])


@pytest.mark.parametrize("ended_by", ["cancel", "abort"])
def test_what_the_server_fetches_may_never_end_by_itself(
    server: Vcenter, client: _Client, package: Path, ended_by: str
) -> None:
    server.set(pull_mode=True)
    with FolderServer(package.parent, Manner(cuts=1, cut_after=1000, stalls=True)).running() as web:
        lease = client.begin(package)
        device = _url(lease, ".vmdk").importKey
        source = vim.HttpNfcLease.SourceFile(
            targetDeviceId=device, url=web.url("files/disk1.vmdk"), memberName="", create=False
        )
        task = lease.HttpNfcLeasePullFromUrls_Task([source])
        assert web.stalled.wait(60)
        assert (task.info.state, server.leases[0]["pull"]) == ("running", "running")
        if ended_by == "cancel":
            task.CancelTask()
        else:
            lease.HttpNfcLeaseAbort()
        until(lambda: server.leases[0]["pull"] == "error", "the server to fetch no more")
        assert task.info.error.__class__.__name__ == "vmodl.fault.RequestCanceled"
        assert lease.state == ("ready" if ended_by == "cancel" else "error")


@pytest.mark.parametrize(("thumbprint", "fault"), [(True, None), (False, "vim.fault.SSLVerifyFault")])
def test_the_server_trusts_only_the_source_that_is_named(
    server: Vcenter, client: _Client, package: Path, tmp_path: Path, thumbprint: bool, fault: str | None
) -> None:
    server.set(pull_mode=True)
    pem = certificate(tmp_path / "web.pem", "localhost")
    with FolderServer(package.parent / "files", certificate=pem).running() as web:
        lease = client.begin(package)
        port = int(urlsplit(web.url()).port or 0)
        der = ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate(("127.0.0.1", port)))
        source = vim.HttpNfcLease.SourceFile(
            targetDeviceId=_url(lease, ".vmdk").importKey,
            url=web.url("disk1.vmdk"),
            sslThumbprint=_colons(hashlib.sha1(der).hexdigest()) if thumbprint else None,
            create=False,
        )
        task = lease.HttpNfcLeasePullFromUrls_Task([source])
        until(lambda: task.info.state in ("success", "error"), "the server to have fetched it, or not")
        assert (task.info.error.__class__.__name__ if task.info.error else None) == fault
        assert [upload["status"] for upload in server.uploads] == ([] if fault else [200])
