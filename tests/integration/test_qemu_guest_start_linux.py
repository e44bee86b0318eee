# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""qemu_guest_start with a real Linux guest: what it sees of its disks, its seed and its network, its answers."""

from __future__ import annotations

import socket
import subprocess
from typing import Any

from tests.testbed import linux_guest
from tests.testbed.modules import Result, run_module
from tests.testbed.start_bench import Bench, arguments, running


def options(bench: Bench, append: str = "", **changes: Any) -> dict[str, Any]:
    guest = linux_guest.build()
    return bench.options(
        **{
            "memory": "192M",
            "machine": "q35",
            "cpu": "max",
            "disks": [],
            "kernel": str(guest.kernel),
            "initrd": str(guest.initrd),
            "append": f"console=ttyS0 quiet {append}",
            "ready_text": "GUEST-READY",
            "timeout": 300,
            **changes,
        }
    )


def start(bench: Bench, append: str = "", **changes: Any) -> Result:
    result = run_module("qemu_guest_start", options(bench, append, **changes))
    assert not result.failed, result.msg
    return result


def given_up(bench: Bench, append: str = "", **changes: Any) -> Result:
    """What a task says that gives up on a guest that came up long ago, and yet isn't ready."""
    start(bench, append, **{**changes, "ready": "console", "ready_text": "GUEST-READY"})
    return run_module("qemu_guest_start", options(bench, append, **changes, timeout=4))


def console(bench: Bench) -> str:
    return bench.place("console.log").read_text(errors="replace")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_the_guest_mounts_and_reads_its_seed(bench: Bench) -> None:
    path = bench.folder / "seed.iso"
    told = run_module(
        "nocloud_seed",
        {
            "path": str(path),
            "user_data": {"users": ["admin"]},
            "meta_data": {"local-hostname": "box1"},
            "network_config": {"version": 2},
            "vendor_data": "#cloud-config\n" + "# filler\n" * 1000,
        },
    )
    start(bench, seed=str(path))
    files = told.json["seed"]["files"]
    assert len(files) == 4
    for name, digest in files.items():
        assert f"GUEST-FILE {name} {digest}" in console(bench)
    assert "GUEST-NAME box1" in console(bench)
    assert " ro=1 " in console(bench)


def test_disks_arrive_in_order_with_size_serial_and_format(bench: Bench) -> None:
    first, second, third = (bench.folder / name for name in ("first.qcow2", "second.raw", "third,x.vmdk"))
    for path, form, size in ((first, "qcow2", "80M"), (second, "raw", "8M"), (third, "vmdk", "16M")):
        subprocess.run(["qemu-img", "create", "-q", "-f", form, str(path), size], check=True)
    with second.open("r+b") as file:
        file.write(b"DISK-TEXT second\n")
    start(
        bench,
        disks=[
            {"path": str(first), "serial": "ONE", "cache": "none"},
            {"path": str(second), "format": "raw", "readonly": True, "serial": "TWO", "discard": "ignore"},
            {"path": str(third), "format": "vmdk", "cache": "unsafe"},
        ],
    )
    said = console(bench)
    assert "GUEST-DISK vda 83886080 ro=0 serial=ONE" in said
    assert "GUEST-DISK vdb 8388608 ro=1 serial=TWO" in said
    assert "GUEST-DISK vdc 16777216 ro=0 serial=" in said
    assert "GUEST-DISK-TEXT second" in said


def test_ready_when_the_agent_answers(bench: Bench) -> None:
    start(bench, ready="agent", ready_text=None)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(60)
        connection.connect(str(bench.place("agent.sock")))
        connection.sendall(b'{"execute": "guest-ping"}\n')
        assert b"return" in connection.recv(200)


def test_not_ready_where_nobody_is_behind_the_agent_channel(bench: Bench) -> None:
    result = given_up(bench, "noqga", ready="agent")
    assert result.failed
    assert "the guest agent of g" in result.msg
    assert "GUEST-READY" in result.msg  # its console's last words
    assert running(bench.folder) == [bench.pid()]


def test_ready_when_the_guest_takes_a_connection_to_a_forwarded_port(bench: Bench) -> None:
    port = free_port()
    start(bench, networks=[{"forwards": [{"host_port": port, "guest_port": 22}]}], ready="port", ready_text=None)
    assert "GUEST-NET" in console(bench)
    with socket.create_connection(("127.0.0.1", port), 60) as connection:
        assert connection.recv(100) == b"GUEST-GREETING\n"


def test_a_port_that_the_guest_refuses_is_not_ready(bench: Bench) -> None:
    port = free_port()
    networks = [{"forwards": [{"host_port": port, "guest_port": 99}]}]
    result = given_up(bench, networks=networks, ready="port", ready_text=None)
    assert result.failed
    assert "GUEST-READY" in result.msg
    assert f"port {port} of g" in result.msg


def test_cards_have_the_declared_addresses(bench: Bench) -> None:
    mac = "52:54:00:aa:bb:cc"
    start(bench, networks=[{"mac": mac}])
    assert f"GUEST-NET {mac}" in console(bench)


def test_a_panicking_kernel_is_reported_at_once(bench: Bench) -> None:
    """Without its initramfs it finds no root, panics and, being told not to reboot, QEMU ends."""
    given = options(bench, "panic=-1", initrd=None, extra_args=["-no-reboot"], ready_text="never")
    result = run_module("qemu_guest_start", given)
    assert result.failed
    assert result.json["error"]["kind"] == "guest_ended"
    assert "Kernel panic" in result.json["error"]["console"]
    assert running(bench.folder) == []


def test_kernel_and_its_words(bench: Bench) -> None:
    start(bench, "foo=a,b bar='c d'")
    words = arguments(bench.pid())
    assert words[words.index("-append") + 1] == "console=ttyS0 quiet foo=a,b bar='c d'"


def test_a_restart_with_a_kernel_that_boots(bench: Bench) -> None:
    start(bench)
    result = run_module("qemu_guest_start", options(bench, cpus=2, restart="if_needed", max_rung="quit"))
    assert result.changed, result.msg
    assert running(bench.folder) == [bench.pid()]
