# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether KVM really works here.

/dev/kvm can be there and a guest under it never gets anywhere, so a tiny guest is booted to see.
"""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from .._core.errors import LifecycleError, TimedOut
from .._core.wait import Deadline

DEVICE = "/dev/kvm"
KEPT_BYTES = 65536  # the answer with its situation needs a few hundred
PROBE_S = 5.0  # the sector needs 0.4 s of a processor under TCG; who needs longer under KVM is no help
# A "no" may have been for want of time or memory, so it holds for those only who start at the same time.
NO_HOLDS_S = 60.0
# A boot sector, from tests/testbed/probe_sector.S: it enters 64-bit mode, counts 10^8 down, waits for 20 ticks of the
# timer, and writes 42 to port 0xf4, where isa-debug-exit makes QEMU leave with 2 * 42 + 1. The count tells a KVM that
# really runs the guest from one that only emulates it, under which a kernel needs minutes for its first line.
_SECTOR = (
    bytes.fromhex(
        "fa31c08ed88ec08ed0bc007cbf0010b9000c6631c0fc66f3abc70600100320c70600200330c706003083000f0116f07c0f01"
        "1ef67c0f20e00c200f22e066b8001000000f22d866b9800000c00f3280cc010f300f20c0660d010000800f22c066ea677c00"
        "00080066b810008ed88ed0bf00520000b8c77c000066890766c74702080066c74704008eb90000000066894f0648894f08b0"
        "11e620b020e621b004e621b001e621b0fee621b034e643b0a9e640b004e640b900e1f505ffc975fcbb14000000fbf4ebfdb0"
        "20e620ffcb740248cfb02ae6f4f4ebfd000000000000000000000000009a200000000000009200001700d87c0000ff0f0050"
    ).ljust(510, b"\0")
    + b"\x55\xaa"
)
_PROOF = 85
_X86 = ("qemu-system-x86_64", "qemu-system-i386", "qemu-kvm")


class Accelerator(NamedTuple):
    """``name`` is kvm or tcg. ``advice`` is not empty where KVM is there and can't be used."""

    name: str
    advice: str = ""


def choose(declared: str, emulator: str, base: str, deadline: Deadline) -> Accelerator:
    """The declared accelerator, or for ``auto`` the one that works. The answer is kept in the directory ``base``."""
    if declared != "auto":
        return Accelerator(declared)
    if os.path.basename(emulator) not in _X86 or not os.path.exists(DEVICE):
        return Accelerator("tcg")
    if not os.access(DEVICE, os.R_OK | os.W_OK):
        return Accelerator("tcg", "%s may not be used by this user: add it to the group that owns the device" % DEVICE)
    if _works(emulator, base, deadline):
        return Accelerator("kvm")
    return Accelerator("tcg", "%s is there, but a probe guest did not boot under it" % DEVICE)


def _works(emulator: str, base: str, deadline: Deadline) -> bool:
    """The kept answer, or a new one. Of many who ask at once one finds it out, since probes at once slow each other."""
    from .._core.files import write_whole
    from .._core.locks import exclusive
    from .._core.names import beside

    path = os.path.join(base, ".accel.json")
    situation = [_boot_id(), emulator, *_identity(emulator), *_identity(DEVICE)]
    works = _answer(path, situation)
    if works is not None:
        return works
    with exclusive(beside(path, "lock"), deadline, "another task that tries KVM"):
        works = _answer(path, situation)
        if works is None:
            works = boots(emulator, "kvm", deadline)
            answer = {"situation": situation, "works": works, "at_s": time.monotonic()}
            write_whole(path, json.dumps(answer).encode())
    return works


def _answer(path: str, situation: Sequence[object]) -> bool | None:
    """The kept answer, which holds for this boot of the host, this emulator and this device node; None without one."""
    kept = _kept(path) or {}
    if kept.get("situation") != situation:
        return None
    if kept.get("works") is True:
        return True
    at_s = kept.get("at_s")
    return False if isinstance(at_s, float) and time.monotonic() - at_s < NO_HOLDS_S else None


def _kept(path: str) -> dict[str, Any] | None:
    """What an earlier task wrote there; None where nothing is or it is nobody's answer: then a new one is written."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        seen = os.fstat(descriptor)
        if not stat.S_ISREG(seen.st_mode) or seen.st_uid != os.geteuid():
            return None
        kept = json.loads(os.read(descriptor, KEPT_BYTES))
    except ValueError:
        return None
    finally:
        os.close(descriptor)
    return kept if isinstance(kept, dict) else None


def boots(emulator: str, accel: str, deadline: Deadline) -> bool:
    """Whether a guest boots under this accelerator within PROBE_S seconds."""
    from .._core.command import run

    share = deadline.within(PROBE_S)
    descriptor = os.memfd_create("vmops-probe", 0)
    try:
        os.write(descriptor, _SECTOR)
        os.ftruncate(descriptor, 1024 * 1024)
        disk = {"driver": "file", "filename": "/proc/self/fd/%d" % descriptor, "locking": "off"}
        argv = [
            emulator,
            "-no-user-config",
            "-nodefaults",
            "-machine",
            "pc,accel=" + accel,
            "-m",
            "16",
            "-display",
            "none",
        ]
        argv += ["-vga", "none", "-blockdev", json.dumps({"driver": "raw", "node-name": "probe", "file": disk})]
        argv += ["-device", "ide-hd,drive=probe", "-device", "isa-debug-exit,iobase=0xf4,iosize=4"]
        return run(argv, "booting a probe guest", share, ok=(), pass_fds=(descriptor,)).rc == _PROOF
    except TimedOut:
        deadline.check("a probe boot under %s" % accel)
        return False
    except LifecycleError:  # it could not even be started
        return False
    finally:
        os.close(descriptor)


def _boot_id() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


def _identity(path: str) -> list[int]:
    seen = os.stat(path)
    return [seen.st_ino, seen.st_size, seen.st_mtime_ns if os.path.isfile(path) else seen.st_ctime_ns]
