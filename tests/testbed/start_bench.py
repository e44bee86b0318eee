# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where guests are started by qemu_guest_start: the options, the guest's directory, and what really runs."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from .boot_guest import Kind, Qmp, image, until
from .faults import Held
from .modules import Result, finish, run_module, start_module


class Bench:
    """A directory with a disk, and every guest that a test starts below it; `end` kills those that are left."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runs = folder / "r"
        self.disk = folder / "boot.img"
        self.disk.write_bytes(image(Kind.OBEYS))

    def options(self, **changes: Any) -> dict[str, Any]:
        options = {
            "name": "g",
            "run_dir": str(self.runs),
            "memory": "32M",
            "machine": "pc",
            "cpu": "qemu64",
            "accel": "tcg",
            "disks": [{"path": str(self.disk), "format": "raw", "interface": "ide"}],
            "networks": [],
            "ready": "console",
            "ready_text": "BR",
            "timeout": 300,
        }
        return {name: value for name, value in {**options, **changes}.items() if value is not None}

    def start(self, check: bool = False, diff: bool = False, **changes: Any) -> Result:
        return run_module("qemu_guest_start", self.options(**changes), check=check, diff=diff)

    def start_unready(self, text: bytes = b"BR", **changes: Any) -> int:
        """A guest that is up, and whose start was killed while it waited for what never comes; its process."""
        start = start_module("qemu_guest_start", self.options(ready_text="NEVER", **changes))
        pid = wait_for_the_wait(self, start, text)
        start.kill()
        finish(start)
        return pid

    def place(self, name: str, guest: str = "g") -> Path:
        return self.runs / guest / name

    def pid(self, guest: str = "g") -> int:
        return int(self.place("qemu.pid", guest).read_text())

    def end(self) -> None:
        """Kill every guest, and return when the kernel has torn them down: their files are closed then, too."""
        for pid in running(self.folder):
            with suppress(ProcessLookupError):
                _kill(pid)


def _kill(pid: int) -> None:
    """A process that is being torn down has no words in /proc any more long before it has closed its files."""
    process = Held(pid)
    process.kill()
    assert process.ends_within(60), f"process {pid} outlived SIGKILL by 60 s"


def running(folder: Path) -> list[int]:
    """The QEMU processes with this directory on their command line, as the kernel tells."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes()
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if words.startswith(b"/usr/bin/qemu-system") and os.fsencode(folder) in words and state != "Z":
            found.append(int(entry.name))
    return found


def arguments(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")[:-1]


def held_by(pid: int) -> list[int]:
    """The processes that a process holds by descriptors, as a task does with the guest that it waits for."""
    found = []
    for entry in Path(f"/proc/{pid}/fdinfo").glob("*"):
        with suppress(OSError):  # it was closed meanwhile
            found += [int(line.split()[1]) for line in entry.read_text().splitlines() if line[:4] == "Pid:"]
    return found


def ask(path: Path, command: str, arguments: Mapping[str, Any] | None = None) -> Any:
    """One command over a monitor, by a client that isn't the collection's."""
    with Qmp(path) as monitor:
        return monitor.execute(command, **(arguments or {}))


def wait_for_the_wait(bench: Bench, start: subprocess.Popen[bytes], text: bytes = b"BR") -> int:
    """Until a task waits for its guest to be ready, and the guest has said this; the guest's process."""
    pid = wait_for_console(bench, text)
    until(lambda: pid in held_by(start.pid), "the task to wait for its guest")
    return pid


def wait_for_console(bench: Bench, text: bytes = b"BR") -> int:
    ends = time.monotonic() + 120
    while time.monotonic() < ends:
        try:
            if text in bench.place("console.log").read_bytes():
                return bench.pid()
        except (FileNotFoundError, ValueError):
            pass
        time.sleep(0.01)  # a file that grows is announced to nobody
    raise AssertionError("the guest said nothing")
