# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""qemu_guest_shutdown with a real Linux guest: a real agent, and a real init that hears the power button."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.testbed import linux_guest
from tests.testbed.boot_guest import BOOT_S, EMULATOR, BootGuest, until
from tests.testbed.modules import run_module


class LinuxGuest(BootGuest):
    """Debian's kernel with busybox, acpid and the guest agent."""

    def __init__(self, folder: Path, words: str = "") -> None:
        folder.mkdir()
        built = linux_guest.build()
        self.folder, self.kernel, self.initrd, self.words = folder, built.kernel, built.initrd, words
        self.pidfile, self.qmp_socket = folder / "qemu.pid", folder / "qmp.sock"
        self.agent_socket, self.serial = folder / "agent.sock", folder / "serial.log"
        self.serial.write_bytes(b"")
        subprocess.run([*self.argv(), "-daemonize"], check=True, stdin=subprocess.DEVNULL, timeout=BOOT_S)
        self._adopt()
        self.wait_for("GUEST-READY")

    def argv(self) -> list[str]:
        return [
            *[EMULATOR, "-machine", "q35,accel=tcg", "-cpu", "max", "-m", "192", "-display", "none", "-nodefaults"],
            *["-kernel", str(self.kernel), "-initrd", str(self.initrd)],
            *["-append", "console=ttyS0 quiet " + self.words, "-serial", "file:%s" % self.serial],
            *["-pidfile", str(self.pidfile), "-qmp", "unix:%s,server=on,wait=off" % self.qmp_socket],
            *["-chardev", "socket,id=ga,path=%s,server=on,wait=off" % self.agent_socket, "-device", "virtio-serial"],
            *["-device", "virtserialport,chardev=ga,name=org.qemu.guest_agent.0", "-name", self.folder.name],
        ]

    @property
    def options(self) -> dict[str, Any]:
        return {**super().options, "agent_socket": str(self.agent_socket)}


@pytest.fixture
def boot(tmp_path: Path) -> Iterator[Callable[..., LinuxGuest]]:
    guests: list[LinuxGuest] = []

    def start(words: str = "") -> LinuxGuest:
        guests.append(LinuxGuest(tmp_path / "linux", words))
        return guests[-1]

    yield start
    for guest in guests:
        guest.end()


def shutdown(guest: LinuxGuest, **options: Any) -> dict[str, Any]:
    result = run_module("qemu_guest_shutdown", {"timeout": 60, **guest.options, **options})
    assert result.changed, result.json
    assert not guest.alive()
    record: dict[str, Any] = result.json["guest"]
    return record


def test_a_real_agent_shuts_the_guest_down(boot):
    guest = boot()

    def connected() -> bool:  # its agent needs a moment more than its last word on the console
        seen = run_module("qemu_guest_info", guest.options).json["guest"]
        assert seen["state"] == "running"
        return bool(seen["agent_connected"])

    until(connected, "the guest's agent to open its port")
    record = shutdown(guest, max_rung="agent")
    assert (record["method"], record["graceful"], record["shutdown_reason"]) == ("agent", True, "guest-shutdown")
    assert "GUEST-SHUTDOWN" in guest.said(), "the agent is to have run the guest's own shutdown"


def test_without_an_agent_the_power_button_is_heard(boot):
    guest = boot("noqga")
    record = shutdown(guest, max_rung="acpi")
    assert (record["method"], record["graceful"]) == ("acpi", True)
    assert [a["outcome"] for a in record["attempts"] if a["rung"] == "agent"] == ["nobody_listens"]


def test_a_deaf_one_is_told_to_quit(boot):
    guest = boot("noqga noacpid")
    record = shutdown(guest, timeout=12)
    assert (record["method"], record["graceful"]) == ("quit", False)
