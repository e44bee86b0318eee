# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A QEMU that hangs where it should end."""

from __future__ import annotations

import signal
import subprocess
from contextlib import nullcontext
from pathlib import Path

from .boot_guest import BootGuest, Qmp, is_stopped, until


class Stalled:
    """A mirror job to a qemu-nbd that stops answering: QEMU can neither quit nor heed SIGTERM then."""

    def __init__(self, guest: BootGuest, folder: Path, monitor: Qmp | None = None) -> None:
        self._guest = guest
        self._folder = folder
        self._monitor = monitor

    def __enter__(self) -> None:
        target, sock = self._folder / "target.img", self._folder / "nbd.sock"
        target.write_bytes(bytes(1 << 20))
        self._nbd = subprocess.Popen(["qemu-nbd", "-t", "-f", "raw", "-k", str(sock), str(target)])
        try:
            self._mirror(sock)
        except BaseException:
            self.__exit__()
            raise
        self._nbd.send_signal(signal.SIGSTOP)
        until(lambda: is_stopped(self._nbd.pid), "qemu-nbd to stop")

    def _mirror(self, sock: Path) -> None:
        until(sock.exists, "qemu-nbd to listen")
        with nullcontext(self._monitor) if self._monitor is not None else Qmp(self._guest.qmp_socket) as monitor:
            device = monitor.execute("query-block")[0]["device"]
            monitor.execute(
                "drive-mirror",
                device=device,
                target="nbd+unix:///?socket=%s" % sock,
                sync="full",
                mode="existing",
                format="raw",
            )
            until(lambda: monitor.execute("query-block-jobs")[0]["ready"], "the mirror to be ready")

    def __exit__(self, *_error: object) -> None:
        self._nbd.kill()
        self._nbd.wait()
