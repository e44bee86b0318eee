# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A guest on the host's own network, by a tap and by a bridge: a real Linux guest, reached from the host."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.testbed import linux_guest
from tests.testbed.host_network import BRIDGE, GUEST, TAP, can_be_made, host_network
from tests.testbed.modules import run_module
from tests.testbed.start_bench import Bench

GREETING = f"import socket; print(socket.create_connection(('{GUEST}', 22), 60).recv(100).decode())"


@pytest.mark.skipif(not Path("/dev/net/tun").exists(), reason="this kernel gives no taps: there is no /dev/net/tun")
@pytest.mark.parametrize(
    ("script", "network"),
    [(TAP, {"mode": "tap", "interface": "vmops-tap"}), (BRIDGE, {"mode": "bridge", "interface": "vmops-br"})],
    ids=["tap", "bridge"],
)
def test_the_guest_is_reached_from_the_host(bench: Bench, script: str, network: Mapping[str, Any]) -> None:
    if not can_be_made(script):
        pytest.skip("only root, or who may use sudo without a password, can make a network, and a bridge in no chroot")
    guest = linux_guest.build()
    options = bench.options(
        memory="192M",
        machine="q35",
        cpu="max",
        disks=[],
        kernel=str(guest.kernel),
        initrd=str(guest.initrd),
        append="console=ttyS0 quiet",
        networks=[network],
        ready="port",
        ready_host=GUEST,
        ready_port=22,
        timeout=300,
    )
    options.pop("ready_text")
    with host_network(bench.folder, script) as host:
        started = run_module("qemu_guest_start", options, python=host.python)
        assert not started.failed, started.msg
        assert "GUEST-GREETING" in host.run(host.python, "-c", GREETING)
        assert not run_module("qemu_guest_start", options, python=host.python).changed
        down = {"pidfile": str(bench.place("qemu.pid")), "max_rung": "kill"}
        ended = run_module("qemu_guest_shutdown", down, python=host.python)
        assert not ended.failed, ended.msg


@pytest.mark.parametrize("mode", ["tap", "bridge"])
def test_a_network_device_that_the_host_has_not_is_told_before_anything_is_made(bench: Bench, mode: str) -> None:
    result = bench.start(networks=[{"mode": mode, "interface": "vmops-nowhere"}])
    assert result.failed
    assert "networks[0].interface: the host has no network device vmops-nowhere" in result.msg
    assert not bench.place("guest.json").exists()
