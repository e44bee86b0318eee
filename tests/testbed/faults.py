# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What tests of faults need of the system: processes held by descriptors, small disks."""

from __future__ import annotations

import hashlib
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

WAIT_S = 90.0  # for what takes milliseconds on an idle machine


def until(true: Callable[[], Any], what: str, timeout_s: float = WAIT_S) -> Any:
    """Wait for something that nobody announces; what it answered."""
    ends = time.monotonic() + timeout_s
    while not (answer := true()):
        assert time.monotonic() < ends, f"gave up waiting for {what}"
        time.sleep(0.002)
    return answer


class Held:
    """A process that no other can be taken for."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._pidfd = os.pidfd_open(pid)

    def kill(self) -> None:
        signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def stop(self) -> None:
        """From now on it stands still, and ends by nothing but SIGKILL."""
        signal.pidfd_send_signal(self._pidfd, signal.SIGSTOP)

    def go_on(self) -> None:
        """After :meth:`stop`."""
        signal.pidfd_send_signal(self._pidfd, signal.SIGCONT)

    def ends_within(self, timeout_s: float = WAIT_S) -> bool:
        """Whether it ends in that time."""
        ended = bool(select.select([self._pidfd], [], [], timeout_s)[0])
        if ended:
            os.close(self._pidfd)
        return ended


def children(pid: int) -> list[int]:
    """Those that a process has now."""
    try:
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as listing:
            return [int(child) for child in listing.read().split()]
    except FileNotFoundError:
        return []


def words(pid: int) -> list[str]:
    """A process's command line."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as cmdline:
            return os.fsdecode(cmdline.read()).split("\0")[:-1]
    except OSError:
        return []


def open_files(pid: int) -> list[str]:
    """The names of what a process has open."""
    found = []
    for descriptor in os.listdir(f"/proc/{pid}/fd"):
        try:
            found.append(os.readlink(f"/proc/{pid}/fd/{descriptor}"))
        except FileNotFoundError:
            continue
    return found


def child_that(pid: int, does: str) -> Held:
    """Wait for a child with this word on its command line."""

    def find() -> Held | None:
        for child in children(pid):
            if does in words(child):
                try:
                    return Held(child)
                except ProcessLookupError:
                    return None
        return None

    held = until(find, f"a child that does {does}")
    assert isinstance(held, Held)
    return held


def digest(path: Path) -> str:
    """Of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def leftovers(folder: Path) -> list[str]:
    """Files of the modules' own beside the images."""
    return sorted(name for name in os.listdir(folder) if ".vmops-" in name and not name.endswith("-record"))


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of this size, whoever we are: in a mount namespace of its own, or where there is none for us (in a
    chroot, say) by sudo.
    """
    mounted = folder / "mounted"
    mounted.mkdir()
    disk = _disk_of_a_namespace if _has_user_namespaces() else _disk_by_sudo
    with disk(mounted, size) as path:
        yield path


def _has_user_namespaces() -> bool:
    return subprocess.run([*_NAMESPACE, "true"], capture_output=True, check=False).returncode == 0


_NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount")


@contextmanager
def _disk_of_a_namespace(mounted: Path, size: str) -> Iterator[Path]:
    """It is reached through the process that keeps the namespace, and gone with it."""
    script = f"mount -t tmpfs -o size={size},mode=700 small {mounted} && echo mounted && read ended"
    keeper = subprocess.Popen([*_NAMESPACE, "sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert keeper.stdout is not None
        assert keeper.stdout.readline() == b"mounted\n", "no file system could be mounted in a user namespace"
        yield Path(f"/proc/{keeper.pid}/root{mounted}")
    finally:
        keeper.communicate()


@contextmanager
def _disk_by_sudo(mounted: Path, size: str) -> Iterator[Path]:
    options = f"size={size},mode=700,uid={os.geteuid()},gid={os.getegid()}"
    subprocess.run(["sudo", "-n", "mount", "-t", "tmpfs", "-o", options, "small", str(mounted)], check=True)
    try:
        yield mounted
    finally:
        subprocess.run(["sudo", "-n", "umount", "--lazy", str(mounted)], check=True)


def free_bytes(folder: Path) -> int:
    """What is left on its file system."""
    return shutil.disk_usage(folder).free
