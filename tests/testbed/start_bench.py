# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where guests are started by qemu_guest_start: the options, the guest's directory, and what really runs."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from .boot_guest import Kind, image
from .faults import Held
from .modules import Result, run_module


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
            "timeout": 60,
        }
        return {name: value for name, value in {**options, **changes}.items() if value is not None}

    def start(self, check: bool = False, diff: bool = False, **changes: Any) -> Result:
        return run_module("qemu_guest_start", self.options(**changes), check=check, diff=diff)

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


def ask(path: Path, command: str, arguments: Mapping[str, Any] | None = None) -> Mapping[str, Any]:
    """One command over a monitor, by a client that isn't the collection's."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(30)
        connection.connect(str(path))
        file = connection.makefile("rw")
        file.readline()
        answers = []
        for message in ({"execute": "qmp_capabilities"}, {"execute": command, "arguments": dict(arguments or {})}):
            file.write(json.dumps(message) + "\n")
            file.flush()
            answers.append(json.loads(file.readline()))
    return answers[-1]


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
