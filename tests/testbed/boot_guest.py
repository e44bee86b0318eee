# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Starts real QEMU processes whose guests are boot sectors: up in 0.1 s, and as stubborn as a test wants them.

The guest finds the ACPI power management of an i440fx, writes B(oot) and R(eady) to its serial line, a P for each
press of the power button, and after the wanted number of presses does what its kind says.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Any

EMULATOR = "qemu-system-x86_64"
BOOT_S = 120.0  # a boot sector: 0.1 s on an idle machine; a Linux on a busy one: half a minute
# The first part finds the power management's port, and writes B.
_FIND = "fa31c08ed88ec08ed0bc007c66b8400b0080baf80c66efbafc0c66ed83e0c089c5baf803b042ee"
# The u16 after the first byte is the press count; then: enable the button, write R, wait for presses. Between two looks
# at the button it sleeps (sti; hlt; cli) until the BIOS's timer ticks, 18 times a second: a guest that spins would take
# the processor from its host's other guests, and from who measures them.
_OBEY = "bb010089eab80001ef83c202b80001efbaf803b052ee89eaeda90001740db80001efbaf803b050ee4b7405fbf4faebe6"
_POWER_OFF = "89ea83c204b80020eff4ebfd"
_SLEEP = "89ea83c204b80024eff4ebfd"  # the same register, type 1: suspend to memory
_REBOOT = "b0fee664f4ebfd"
_IDLE = "f4ebfd"
_AWAIT_KEY = "e464a80174fa"  # in al,0x64; test al,1; jz: until the keyboard has a byte
_PANIC = "ba0505b001ee"  # write 1 to pvpanic's port


class Kind(Enum):
    """What the guest does about the power button."""

    OBEYS = _FIND + _OBEY + _POWER_OFF
    REBOOTS = _FIND + _OBEY + _REBOOT
    SLEEPS = _FIND + _OBEY + _SLEEP
    IGNORES = _FIND + _IDLE
    LISTENS_AFTER_A_KEY = _FIND + _AWAIT_KEY + _OBEY + _POWER_OFF
    PANICS = _FIND + _PANIC + _IDLE  # needs -device pvpanic
    PANICS_WHEN_PRESSED = _FIND + _OBEY + _PANIC + _IDLE  # so does this one

    @property
    def listens(self) -> bool:
        """Whether it says R by itself."""
        return self in (Kind.OBEYS, Kind.REBOOTS, Kind.SLEEPS, Kind.PANICS_WHEN_PRESSED)


def image(kind: Kind, presses: int = 1) -> bytes:
    """A disk of 1 MiB with the boot sector."""
    code = bytes.fromhex(kind.value)
    once = bytes.fromhex(_OBEY)
    code = code.replace(once, once[:1] + presses.to_bytes(2, "little") + once[3:])
    return (code.ljust(510, b"\0") + b"\x55\xaa").ljust(1 << 20, b"\0")


class BootGuest:
    """One running QEMU.

    All it owns lies in `folder`; `end` kills it by the number that its own pidfile told at the start.
    """

    def __init__(
        self,
        folder: Path,
        kind: Kind = Kind.OBEYS,
        presses: int = 1,
        extra: Sequence[str] = (),
        qmp_socket: Path | None = None,
        agent: bool = False,
        second_monitor: bool = False,
        content_mib: int = 0,
        wait: bool = True,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.disk = folder / "disk.img"
        self.disk.write_bytes(image(kind, presses) + b"x" * (content_mib << 20))
        self.pidfile = folder / "qemu.pid"
        self.qmp_socket = qmp_socket or folder / "qmp.sock"
        self.agent_socket = folder / "agent.sock"
        self.serial = folder / "serial.log"
        self.serial.write_bytes(b"")
        agent_argv = [
            *["-chardev", "socket,id=ga,path=%s,server=on,wait=off" % self.agent_socket, "-device", "virtio-serial"],
            *["-device", "virtserialport,chardev=ga,name=org.qemu.guest_agent.0"],
        ]
        self.second_qmp_socket = folder / "second.sock"
        second_argv = ["-qmp", "unix:%s,server=on,wait=off" % self.second_qmp_socket] if second_monitor else []
        subprocess.run(
            [*self.argv(), *(agent_argv if agent else []), *second_argv, "-daemonize", *extra],
            check=True,
            stdin=subprocess.DEVNULL,
            timeout=BOOT_S,
        )
        self._adopt()
        if wait and "-S" not in extra:
            self.wait_for("R" if kind.listens else "B")

    def _adopt(self) -> None:
        """Hold the daemon that was started."""
        self.pid = int(self.pidfile.read_text())
        self._pidfd = os.pidfd_open(self.pid)

    def argv(self) -> list[str]:
        """QEMU's command line, without -daemonize."""
        return [
            *[EMULATOR, "-machine", "pc,accel=tcg", "-cpu", "qemu64", "-m", "16", "-display", "none", "-nodefaults"],
            *["-drive", "file=%s,format=raw,if=ide" % self.disk, "-serial", "file:%s" % self.serial],
            *["-pidfile", str(self.pidfile), "-qmp", "unix:%s,server=on,wait=off" % self.qmp_socket],
            *["-name", self.folder.name],
        ]

    @property
    def options(self) -> dict[str, Any]:
        """How a task names it."""
        return {"pidfile": str(self.pidfile), "qmp_socket": str(self.qmp_socket)}

    def said(self) -> str:
        """What came over the serial line."""
        return self.serial.read_text()

    def wait_for(self, letters: str) -> None:
        """Until the serial line has said this."""
        until(lambda: letters in self.said() or not self.alive(), "the guest to say %s" % letters)
        assert letters in self.said(), "the guest ended before it said %s" % letters

    def alive(self) -> bool:
        """As the kernel sees it."""
        return not select.select([self._pidfd], [], [], 0)[0]

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to exactly this process."""
        signal.pidfd_send_signal(self._pidfd, number)

    def stop(self) -> None:
        """Have it answer nothing any more. The signal is taken only when the process next runs, so that is awaited."""
        self.signal(signal.SIGSTOP)
        until(lambda: is_stopped(self.pid), "process %d to stop" % self.pid)

    def end(self) -> None:
        """Kill what may be left of it."""
        if self._pidfd < 0:
            return
        if self.alive():
            self.signal(signal.SIGKILL)
            until(lambda: not self.alive(), "process %d to die" % self.pid)
        os.close(self._pidfd)
        self._pidfd = -1


class Qmp:
    """The test's own, simple client of a monitor: one that holds it, or sends what a case needs."""

    def __init__(self, path: Path) -> None:
        self._connection = socket.socket(socket.AF_UNIX)
        self._connection.settimeout(BOOT_S)
        self._connection.connect(str(path))
        self._lines = self._connection.makefile("r", encoding="utf-8")
        self._lines.readline()
        self.execute("qmp_capabilities")

    def send(self, command: str, **arguments: Any) -> None:
        """Send a command, and don't wait for its answer."""
        self._connection.sendall(json.dumps({"execute": command, "arguments": arguments}).encode())

    def wait_for_event(self, name: str) -> None:
        """Until QEMU reports this."""
        while json.loads(self._lines.readline()).get("event") != name:
            pass

    def execute(self, command: str, **arguments: Any) -> Any:
        """Run a command and return its answer; events in between are dropped."""
        self.send(command, **arguments)
        while True:
            message = json.loads(self._lines.readline())
            if "error" in message:
                raise AssertionError("%s: %s" % (command, message["error"]))
            if "return" in message:
                return message["return"]

    def __enter__(self) -> Qmp:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        """Let others have the monitor."""
        self._lines.close()
        self._connection.close()


class ScriptedAgent:
    """Stands in for the guest agent's other end, behind a socket that belongs to QEMU's own process.

    A boot sector has no agent. So QEMU's process itself is made the listener (it calls listen() just before it
    becomes QEMU), while this thread accepts and answers by `script(connection)`.
    """

    def __init__(self, path: Path, script: Callable[[socket.socket], None]) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.bind(str(path))
        self._script = script
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def start(self) -> None:
        """Serve clients, one after the other, until the test ends."""
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _address = self.socket.accept()
            except OSError:
                return
            with connection:
                try:
                    self._script(connection)
                except OSError:
                    pass  # the client went away

    def close(self) -> None:
        """Stop accepting."""
        try:
            self.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.socket.close()


class GuestWithAgent(BootGuest):
    """A boot-sector guest with a scripted agent. Not daemonised: its process is a child of the test."""

    def __init__(self, folder: Path, script: Callable[[socket.socket], None], kind: Kind = Kind.OBEYS) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.disk = folder / "disk.img"
        self.disk.write_bytes(image(kind))
        self.pidfile, self.qmp_socket = folder / "qemu.pid", folder / "qmp.sock"
        self.agent_socket, self.serial = folder / "agent.sock", folder / "serial.log"
        self.serial.write_bytes(b"")
        self.second_qmp_socket = folder / "second.sock"  # by which the script acts on the guest from inside, as it were
        self._agent = ScriptedAgent(self.agent_socket, script)
        self._child = subprocess.Popen(
            [*self.argv(), "-qmp", "unix:%s,server=on,wait=off" % self.second_qmp_socket],
            stdin=subprocess.DEVNULL,
            preexec_fn=lambda: self._agent.socket.listen(4),  # noqa: PLW1509  # one system call, no locks
        )
        self.pid = self._child.pid
        self._pidfd = os.pidfd_open(self.pid)
        self._agent.start()
        self.wait_for("R" if kind.listens else "B")

    @property
    def options(self) -> dict[str, Any]:
        return {**super().options, "agent_socket": str(self.agent_socket)}

    def end(self) -> None:
        super().end()
        self._child.wait()
        self._agent.close()


def is_stopped(pid: int) -> bool:
    """Whether a process is held by SIGSTOP, as the kernel tells."""
    return Path("/proc/%d/stat" % pid).read_text().rpartition(")")[2].split()[0] == "T"


def until(true: Callable[[], bool], what: str, timeout_s: float = BOOT_S) -> None:
    """Wait for something that nobody announces."""
    ends = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < ends, "gave up waiting for %s" % what
        time.sleep(0.01)


def start_many(folder: Path, kinds: Sequence[Kind]) -> list[BootGuest]:
    """One guest for each kind, all ready: started held, so that the first ones don't take the processors from the
    next.
    """
    guests: list[BootGuest] = []
    try:
        for number, kind in enumerate(kinds):
            guests.append(BootGuest(folder / ("vm%02d" % number), kind, extra=["-S"]))
        for guest in guests:
            with Qmp(guest.qmp_socket) as monitor:
                monitor.execute("cont")
        for guest, kind in zip(guests, kinds, strict=True):
            guest.wait_for("R" if kind.listens else "B")
    except BaseException:
        for guest in guests:
            guest.end()
        raise
    return guests


@contextmanager
def ended(*guests: BootGuest) -> Iterator[None]:
    """However the block ends, the guests have ended after it."""
    try:
        yield
    finally:
        for guest in guests:
            guest.end()
