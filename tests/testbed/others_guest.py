# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A guest that belongs to another user than the task: root, or sudo, is needed to make one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from .boot_guest import BOOT_S, EMULATOR, BootGuest, Kind, image, until
from .start_bench import running

NOBODY = 65534


def _as_anybody() -> list[str] | None:
    """The words before a program that this user wants to run as anybody; None where that can't be."""
    if os.geteuid() == 0:
        return []
    sudo = ["sudo", "--non-interactive"]
    if shutil.which("sudo") and subprocess.run([*sudo, "true"], capture_output=True, check=False).returncode == 0:
        return sudo
    return None


AS_ANYBODY = _as_anybody()


def ordinary_python(folder: Path) -> str:
    """A Python for the module that may do no more than its files' owner: root's own without any capability."""
    if os.geteuid() != 0:
        return sys.executable
    path = folder / "ordinary-python"
    path.write_text(f'#!/bin/sh\nexec setpriv --inh-caps=-all --bounding-set=-all -- {sys.executable} "$@"\n')
    path.chmod(0o700)
    return str(path)


class OthersGuest(BootGuest):
    """A boot-sector guest of the user nobody, in a directory that everybody may look into."""

    def __init__(self, folder: Path) -> None:
        assert AS_ANYBODY is not None
        folder.mkdir(mode=0o777)
        folder.chmod(0o777)
        self.folder = folder
        self.disk, self.serial = folder / "disk.img", folder / "serial.log"
        self.pidfile, self.qmp_socket = folder / "qemu.pid", folder / "qmp.sock"
        self.disk.write_bytes(image(Kind.OBEYS))
        self.serial.write_bytes(b"")
        for path in (self.disk, self.serial):
            path.chmod(0o666)
        nobody = [*AS_ANYBODY, "setpriv", "--reuid=%d" % NOBODY, "--regid=%d" % NOBODY, "--clear-groups", "--"]
        words = [shutil.which(EMULATOR) or EMULATOR, *self.argv()[1:], "-daemonize"]
        subprocess.run([*nobody, *words], check=True, stdin=subprocess.DEVNULL, timeout=BOOT_S)
        (self.pid,) = running(folder)
        self._pidfd = os.pidfd_open(self.pid)
        self.wait_for("R")

    @property
    def options(self) -> dict[str, Any]:
        return {**super().options, "name": self.folder.name}

    def end(self) -> None:
        if self._pidfd >= 0 and self.alive():
            subprocess.run([*(AS_ANYBODY or []), "kill", "-KILL", str(self.pid)], check=True)
            until(lambda: not self.alive(), "process %d to die" % self.pid)
        super().end()
