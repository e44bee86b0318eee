# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Importing a package: the module beside govc and community.vmware, each into the same server over TLS, in turns.

The server is the tests' stand-in for a vCenter. It throws away what comes; where a manifest is verified on both sides
it hashes it first. The time of an import is that server's own: from the call that begins the lease to the one that
completes it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import ssl
import statistics
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from pyVim.connect import Disconnect, SmartConnect
from pyVmomi import vim

from tests.testbed.faults import children
from tests.testbed.module_main import ROOT
from tests.testbed.modules import MAIN, finish, start_module
from tests.testbed.ovf_packages import DiskSpec, Spec, make_package
from tests.testbed.vcenter import Vcenter, vcenter

from .guests import timed
from .peers import community_vmware
from .report import Figure

TITLE = "Imports: 2 GiB over TLS on loopback"
FOLDER = ROOT / ".testbed" / "bench"
NAME = "bench"
ROUNDS = 9
VERIFIED_ROUNDS = 9
PARALLEL_ROUNDS = 3
MIB = 1024 * 1024
BODY_MIB = 2048
SMALL_MIB, LARGE_MIB = 256, 4096
SLOW_MB_S = 20
SLOW_DISKS = 4
SLOW_MIB = 24
NO_OPS = 9
_SAMPLE_S = 0.02

# The peer in a process of its own, as its task would run it.
_PEER = """
import importlib, json, sys
sys.path.insert(0, %(root)r)
from tests.testbed.module_main import set_arguments
set_arguments(json.dumps({"ANSIBLE_MODULE_ARGS": json.load(sys.stdin)}).encode())
importlib.import_module("ansible_collections.community.vmware.plugins.modules.vmware_deploy_ovf").main()
"""


class Took(NamedTuple):
    """An import: the server's seconds from ImportVApp to Complete, and those of the whole command."""

    import_s: float
    command_s: float


class Memory(NamedTuple):
    """Of the module alone, and together with its guard; what processes share is counted once."""

    module_mib: float
    all_mib: float


Way = Callable[[], Took]


def measure() -> list[Figure]:
    """Uploads by everybody, verified ones, disks side by side, memory, and an import of what is there."""
    community_vmware()  # lest fetching it be measured
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    try:
        with vcenter(FOLDER) as server:
            bench = Bench(server)
            return [*bench.uploads(), *bench.verified(), *bench.side_by_side(), *bench.memory(), *bench.no_op()]
    finally:
        shutil.rmtree(FOLDER)


class Bench:
    """The ways to import, and what is made of them."""

    def __init__(self, server: Vcenter) -> None:
        self._server = server

    def uploads(self) -> list[Figure]:
        """Everybody without verification, and the least that a client in Python could do."""
        ovf, ova = _package("plain", BODY_MIB)
        self._server.set(hash=False)
        kinds = {"OVF": ovf, "OVA": ova}
        ways: dict[str, Way] = {}
        for kind, package in kinds.items():
            ways["ovf_import, %s" % kind] = partial(self._by_module, package, verify="ignore")
            ways["govc, %s" % kind] = partial(self._by_govc, package)
            ways["community.vmware, %s" % kind] = partial(self._by_peer, package)
        ways["readinto and sendall alone"] = partial(self._raw, ovf.with_name("disk1.vmdk"))
        took = _in_turns(ways, ROUNDS)
        note = "median of %d; the whole command: %%.2f s" % ROUNDS
        figures = [
            Figure(name, _rate(took[name]), "MB/s", note=note % statistics.median(one.command_s for one in took[name]))
            for name in ways
        ]
        for kind in kinds:
            ours = took["ovf_import, %s" % kind]
            for peer, goal in (("govc", 1.05), ("community.vmware", 2.5)):
                name = "%s, %s" % (peer, kind)
                figures.append(_ratio("… ovf_import / %s" % name, ours, took[name], goal))
        return figures

    def verified(self) -> list[Figure]:
        """The manifest compared by the client, and with the server's own account. govc does the latter only."""
        figures = []
        self._server.set(hash=True)
        for algorithm in ("sha1", "sha256"):
            ovf = _with_manifest(FOLDER / "plain" / "bench.ovf", algorithm)
            ways: dict[str, Way] = {
                "ovf_import": partial(self._by_module, ovf, verify="required"),
                "govc": partial(self._by_govc, ovf, "-m"),
            }
            if algorithm == "sha256":
                del ways["govc"]  # it never asks the server for more than SHA-1
            took = _in_turns(ways, VERIFIED_ROUNDS)
            note = "OVF, median of %d; the server hashes too" % VERIFIED_ROUNDS
            for name in ways:
                title = "%s, verified by %s" % (name, algorithm.upper())
                figures.append(Figure(title, _rate(took[name]), "MB/s", note=note))
            if "govc" in took:
                figures.append(_ratio("… ovf_import / govc, verified", took["ovf_import"], took["govc"], 1))
        self._server.set(hash=False)
        return figures

    def side_by_side(self) -> list[Figure]:
        """A server that takes only so much on each connection."""
        ovf, _ova = _package("slow", SLOW_MIB, SLOW_DISKS)
        self._server.set(rate_mb_s=SLOW_MB_S)
        ways: dict[str, Way] = {
            "parallel_disks: %d" % count: partial(self._by_module, ovf, verify="ignore", parallel_disks=count)
            for count in (1, SLOW_DISKS)
        }
        took = _in_turns(ways, PARALLEL_ROUNDS)
        self._server.set(rate_mb_s=0)
        note = "%d disks of %d MiB, %d MB/s for each connection" % (SLOW_DISKS, SLOW_MIB, SLOW_MB_S)
        figures = [Figure(name, _seconds(took[name]), "s", note=note) for name in ways]
        one_by_one, together = took.values()
        return [*figures, _ratio("… the first to the second", together, one_by_one, 3)]

    def memory(self) -> list[Figure]:
        """Of the module with its guard while it sends, over that of the module when it has nothing to do."""
        self._server.set(hash=True)
        figures = []
        used = {}
        for size_mib in (SMALL_MIB, LARGE_MIB):
            ovf, _ova = _package("memory%d" % size_mib, size_mib, sparse=True)
            with self._removed():
                busy = self._sampled(ovf)
                idle = self._sampled(ovf)
            used[size_mib] = busy.all_mib - idle.module_mib
            note = "module and guard %.1f MiB, the idle module %.1f MiB" % (busy.all_mib, idle.module_mib)
            figures.append(Figure("memory over idle, %d MiB" % size_mib, used[size_mib], "MiB", 64, note=note))
            shutil.rmtree(ovf.parent)
        more = used[LARGE_MIB] - used[SMALL_MIB]
        return [*figures, Figure("… more of it for the larger one", more, "MiB", 8)]

    def no_op(self) -> list[Figure]:
        """What is there already."""
        ovf = FOLDER / "plain" / "bench.ovf"
        arguments = self._arguments(ovf, verify="required")
        with self._removed():
            if not timed("ovf_import", arguments).result["changed"]:
                raise RuntimeError("nothing was imported")
            self._server.forget_calls()
            runs = [timed("ovf_import", arguments) for _run in range(NO_OPS)]
            calls = sum(self._server.counts.values()) / NO_OPS
        if any(run.result["changed"] for run in runs):
            raise RuntimeError("what was there was imported")
        read = statistics.median(run.read_mib for run in runs)
        main_s = statistics.median(run.main_s for run in runs)
        note = "of %d MiB and all code; median of %d" % (BODY_MIB, NO_OPS)
        return [
            Figure("already there: calls of the server", calls, "calls", 8),
            Figure("already there: read from files", read, "MiB", 16, note=note),
            Figure("already there: from main() on", main_s, "s", note="median of %d" % NO_OPS),
        ]

    def _arguments(self, package: Path, **given: Any) -> dict[str, Any]:
        return {
            **self._server.options,
            "ca_path": str(self._server.cafile),
            "source": str(package),
            "name": NAME,
            "cluster": "DC0_C0",
            "datastore": "LocalDS_0",
            **given,
        }

    def _by_module(self, package: Path, **given: Any) -> Took:
        arguments = self._arguments(package, **given)

        def run() -> None:
            # in our session as all the others: the scheduler shares the processors out between sessions
            done = subprocess.run(
                [sys.executable, MAIN, "ovf_import"],
                check=False,
                input=json.dumps(arguments),
                capture_output=True,
                text=True,
            )
            if done.returncode:
                raise RuntimeError("the module did not import: %s" % (done.stdout or done.stderr))

        return self._timed(run)

    def _by_govc(self, package: Path, *options: str) -> Took:
        def run() -> None:
            command = "import.%s" % package.suffix[1:]
            self._server.govc(command, *options, "-name", NAME, str(package))

        return self._timed(run)

    def _by_peer(self, package: Path) -> Took:
        arguments = {
            **self._server.options,
            "validate_certs": False,  # its uploader knows no authorities but the host's
            "datacenter": "DC0",
            "cluster": "DC0_C0",
            "datastore": "LocalDS_0",
            "name": NAME,
            "ovf": str(package),
            "networks": {"VM Network": "VM Network"},
            "power_on": False,
        }

        def run() -> None:
            subprocess.run(
                [sys.executable, "-c", _PEER % {"root": str(ROOT)}],
                input=json.dumps(arguments),
                env={**os.environ, "PYTHONPATH": str(community_vmware())},
                capture_output=True,
                text=True,
                check=True,
            )

        return self._timed(run)

    def _raw(self, disk: Path) -> Took:
        """The same bytes from a bare socket, by its own clock."""
        with self._lease(disk.with_name("bench.ovf")) as path, disk.open("rb", 0) as file:
            context = ssl.create_default_context(cafile=str(self._server.cafile))
            started = time.perf_counter()
            plain = socket.create_connection((self._server.host, self._server.port))
            with context.wrap_socket(plain, server_hostname=self._server.host) as sock:
                head = "POST %s HTTP/1.1\r\nHost: bench\r\nContent-Length: %d\r\n\r\n" % (path, disk.stat().st_size)
                sock.sendall(head.encode())
                buffer = memoryview(bytearray(512 * 1024))
                while length := file.readinto(buffer):
                    sock.sendall(buffer[:length])
                answer = sock.recv(4096)
            spent_s = time.perf_counter() - started
        if b" 200 " not in answer:
            raise RuntimeError("the server answered %r" % answer)
        return Took(spent_s, spent_s)

    @contextmanager
    def _lease(self, descriptor: Path) -> Iterator[str]:
        """A lease that is ready; where its disk goes."""
        server = self._server
        context = ssl.create_default_context(cafile=str(server.cafile))
        service = SmartConnect(
            host=server.host, port=server.port, user=server.username, pwd=server.password, sslContext=context
        )
        content = service.RetrieveContent()
        center = content.rootFolder.childEntity[0]
        [pool] = [found.resourcePool for found in center.hostFolder.childEntity if found.name == "DC0_C0"]
        network = vim.OvfManager.NetworkMapping(name="VM Network", network=center.network[0])
        params = vim.OvfManager.CreateImportSpecParams(entityName=NAME, networkMapping=[network])
        spec = content.ovfManager.CreateImportSpec(descriptor.read_text(), pool, center.datastore[0], params)
        lease = pool.ImportVApp(spec.importSpec, center.vmFolder)
        try:
            while lease.state == "initializing":
                time.sleep(0.01)
            yield urlsplit(lease.info.deviceUrl[0].url).path
        finally:
            lease.Abort()
            Disconnect(service)
            server.forget_uploads()

    def _timed(self, run: Callable[[], None]) -> Took:
        with self._removed():
            self._server.forget_calls()
            started = time.perf_counter()
            run()
            command_s = time.perf_counter() - started
            at = {call["method"]: call["at"] for call in self._server.state["calls"]}
        return Took(at["HttpNfcLeaseComplete"] - at["ImportVApp"], command_s)

    @contextmanager
    def _removed(self) -> Iterator[None]:
        """What is imported in this block is gone afterwards."""
        yield
        self._server.govc("vm.destroy", NAME)
        self._server.forget_uploads()

    def _sampled(self, package: Path) -> Memory:
        process = start_module("ovf_import", self._arguments(package), python=sys.executable)
        highest = Memory(0, 0)
        while process.poll() is None:
            found = _memory(process.pid, children(process.pid))
            highest = Memory(max(highest.module_mib, found.module_mib), max(highest.all_mib, found.all_mib))
            time.sleep(_SAMPLE_S)
        result = finish(process)
        if "changed" not in result.json:
            raise RuntimeError("the module did not import: %s" % (result.json or result.stderr))
        return highest


def _in_turns(ways: Mapping[str, Way], rounds: int) -> dict[str, list[Took]]:
    """What each way took, round by round. They take turns, so that a slow minute of the machine is everybody's."""
    took: dict[str, list[Took]] = {name: [] for name in ways}
    order = list(ways)
    for _round in range(rounds):
        for name in order:
            took[name].append(ways[name]())
        order.append(order.pop(0))
    return took


def _seconds(took: list[Took]) -> float:
    return statistics.median(one.import_s for one in took)


def _rate(took: list[Took]) -> float:
    """MB/s of a whole body."""
    return BODY_MIB * MIB / 1e6 / _seconds(took)


def _ratio(title: str, ours: list[Took], theirs: list[Took], goal: float) -> Figure:
    """How many times as fast we are. What is compared was measured in the same round."""
    ratios = [their.import_s / our.import_s for our, their in zip(ours, theirs, strict=True)]
    note = "median of the rounds' own ratios, %.3g to %.3g" % (min(ratios), max(ratios))
    return Figure(title, statistics.median(ratios), "x", goal, at_least=True, note=note)


def _memory(module: int, guards: list[int]) -> Memory:
    alone = _pss_mib(module)
    return Memory(alone, alone + sum(_pss_mib(guard) for guard in guards))


def _pss_mib(pid: int) -> float:
    """A process's share of the memory that it has, 0 for one that has ended."""
    try:
        rollup = Path("/proc/%d/smaps_rollup" % pid).read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) / 1024 for line in rollup.splitlines() if line.startswith("Pss:")), 0)


def _package(name: str, body_mib: int, disks: int = 1, sparse: bool = False) -> tuple[Path, Path]:
    """An OVF and, unless it is sparse, an OVA of as many disks of that size. Only their beginnings are those of VMDKs:
    the server doesn't look at more, and neither do the clients.
    """
    ovf = make_package(FOLDER / name, Spec(name="bench", archive=False, manifest=None, disks=(DiskSpec(),) * disks))
    descriptor = ovf.read_text()
    for disk in ovf.parent.glob("*.vmdk"):
        descriptor = descriptor.replace('ovf:size="%d"' % disk.stat().st_size, 'ovf:size="%d"' % (body_mib * MIB))
        _grow(disk, body_mib * MIB, sparse)
    ovf.write_text(descriptor)
    ova = ovf.with_suffix(".ova")
    if not sparse:
        with tarfile.open(ova, "w", format=tarfile.USTAR_FORMAT) as archive:
            for path in (ovf, *sorted(ovf.parent.glob("*.vmdk"))):
                archive.add(path, path.name)
    os.sync()  # lest it be written while others are measured
    return ovf, ova


def _grow(disk: Path, size: int, sparse: bool) -> None:
    piece = os.urandom(MIB)
    with disk.open("ab") as file:
        while not sparse and file.tell() + MIB <= size:
            file.write(piece)
        file.truncate(size)


def _with_manifest(ovf: Path, algorithm: str) -> Path:
    lines = []
    for path in (ovf, *ovf.parent.glob("*.vmdk")):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, algorithm).hexdigest()
        lines.append("%s(%s)= %s\n" % (algorithm.upper(), path.name, digest))
    ovf.with_suffix(".mf").write_text("".join(lines))
    return ovf
