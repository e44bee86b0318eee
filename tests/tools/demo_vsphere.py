# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Imports two machines twice, kills an import, takes all away twice, and looks at each step by govc.

The server is the tests' stand-in for a vCenter: govmomi's simulator, with leases as VMware documents them.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from tests.testbed.appliance import APPLIANCE
from tests.testbed.faults import children, until, words
from tests.testbed.ovf_packages import make_package
from tests.testbed.vcenter import Vcenter, vcenter
from tests.tools import plays
from tests.tools.failure import Failure
from tests.tools.paths import ROOT, STATE

_INVENTORY = ROOT / "tests" / "demo" / "vsphere.yml"
_PACKAGES = STATE / "demo-packages"
_KILLED = "demo3"
_MADE = "machines:!" + _KILLED


def main() -> int:
    """Answers 0 only where every step did what it should."""
    started = time.monotonic()
    try:
        with tempfile.TemporaryDirectory() as folder, vcenter(Path(folder)) as server:
            _demonstrate(server)
    except Failure as failure:
        print(f"\nerror: {failure}", file=sys.stderr)
        return 1
    plays.say(f"done in {time.monotonic() - started:.0f} s: imported once, taken away once, nothing left")
    return 0


def _demonstrate(server: Vcenter) -> None:
    print(f"a stand-in for a vCenter: govmomi's simulator {server.version}, on {server.host} port {server.port}")
    shutil.rmtree(_PACKAGES, ignore_errors=True)
    variables = {
        "demo_ova": str(make_package(_PACKAGES / "ova", APPLIANCE)),
        "demo_ovf": str(make_package(_PACKAGES / "ovf", APPLIANCE._replace(archive=False))),
        "demo_cafile": str(server.cafile),
        "demo_server": server.options,
    }
    plays.say("1. import an OVA and an OVF: send the disks, compare them with the manifest, power on, get an address")
    plays.play("provision", _INVENTORY, variables, True, "--limit", _MADE)
    plays.say("2. what is there now, as govc sees it")
    _show(server)
    plays.say("3. the same playbook again: nothing to do")
    plays.play("provision", _INVENTORY, variables, False, "--limit", _MADE)
    plays.say("4. another import, its task killed (SIGKILL) while it sends: the guard ends the lease")
    _kill_midway(server, variables)
    plays.say("5. take all away: power off, remove with the disks")
    plays.play("teardown", _INVENTORY, variables, True)
    _prove_gone(server, [])
    plays.say("6. the same again: nothing to do")
    plays.play("teardown", _INVENTORY, variables, False)


def _show(server: Vcenter) -> None:
    for machine in server.machines():
        told = server.govc_json("vm.info", machine)["virtualMachines"][0]
        print(f"{machine}: {told['runtime']['powerState']}, {told['guest']['ipAddress']}")
    for upload in server.uploads:
        print(f"received {upload['target']}: {upload['bytes']} bytes, SHA-256 {upload['sha256'][:16]}…")
    leases = server.leases
    print(f"{len(leases)} leases: {', '.join(lease['state'] for lease in leases)}")


def _kill_midway(server: Vcenter, variables: Mapping[str, object]) -> None:
    """The task's process alone, by SIGKILL, as by a kernel that is out of memory."""
    server.upload_rule("stall", after_bytes=1024)
    before = server.machines()
    with plays.started("provision", _INVENTORY, variables, "--limit", _KILLED) as play:
        killed: list[float] = []
        killer = threading.Thread(target=lambda: killed.append(_kill(server, play.pid)))
        killer.start()
        recap = plays.followed(play)
        killer.join()
    if not killed or not recap.failed:
        raise Failure("the import was not killed midway")
    until(lambda: not server.live_leases and not server.sessions, "the guard to end what was begun")
    print(f"the lease was over {killed[0]:.1f} s after the kill")
    server.release_uploads()
    _prove_gone(server, before)


def _kill(server: Vcenter, play: int) -> float:
    """Waits for the upload and kills the task; the seconds until the lease was over."""
    until(lambda: any(lease["entity_name"] == _KILLED for lease in server.live_leases), "the import to begin")
    until(lambda: server.uploads[-1]["bytes"] == 1024, "the upload to be under way")
    os.kill(_module(play), signal.SIGKILL)
    at = time.monotonic()
    until(lambda: not server.live_leases, "the lease to end")
    return time.monotonic() - at


def _module(play: int) -> int:
    """The process of the task that a playbook runs: the first Python below it that was given a module's file."""
    below = [play]
    for pid in below:
        said = words(pid)
        if len(said) == 2 and said[1].endswith("AnsiballZ_ovf_import.py"):
            return pid
        below += children(pid)
    raise Failure("the import's process was not found")


def _prove_gone(server: Vcenter, expected: list[str]) -> None:
    there = server.machines()
    left = [*there, *(lease["lease"] for lease in server.live_leases), *(each["user"] for each in server.sessions)]
    if there != expected or len(left) > len(expected):
        raise Failure(f"there: {', '.join(left) or 'nothing'}; expected: {', '.join(expected) or 'nothing'}")
    print(f"machines: {', '.join(there) or 'none'}; no lease is left, and nobody is logged in", flush=True)


if __name__ == "__main__":
    sys.exit(main())
