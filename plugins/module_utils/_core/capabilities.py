# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What this operating system offers: the one place that knows where a protection exists and where it doesn't.

The environment variable ``VMOPS_HIDE_CAPABILITIES`` (names separated by commas) hides capabilities, so that a Linux
host can show what happens on macOS or FreeBSD.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from enum import Enum


class Capability(str, Enum):
    """A thing that not every system has; the value is its name in warnings."""

    OFD_LOCKS = "ofd_locks"
    PROC = "proc"
    PIDFD = "pidfd"
    PEER_PIDFD = "peer_pidfd"
    USER_XATTRS = "user_xattrs"
    PARENT_DEATH_SIGNAL = "parent_death_signal"
    DESCRIPTOR_PATHS = "descriptor_paths"


_PROTECTS = {
    Capability.OFD_LOCKS: "an image's locks cannot be seen, so an image in use is only protected by QEMU's own checks",
    Capability.PROC: "/proc is missing, so the process that holds an image cannot be found or named",
    Capability.PIDFD: "processes have no descriptors, so a reused process id cannot be told for certain",
    Capability.PEER_PIDFD: "sockets don't hand out their listener's descriptor, so it is held by its number",
    Capability.USER_XATTRS: "files carry no extended attributes, so an image's record is kept in a file beside it",
    Capability.PARENT_DEATH_SIGNAL: "a program started by this task goes on if the task itself is killed by SIGKILL",
    Capability.DESCRIPTOR_PATHS: "open files have no names (FreeBSD's fdescfs isn't mounted), so a source is read by "
    "its own name, and another in its place is noticed only afterwards",
}


def has(capability: Capability) -> bool:
    """Whether this system offers the capability (a file system or a permission may still refuse it at the moment of
    use).
    """
    hidden = os.environ.get("VMOPS_HIDE_CAPABILITIES", "")
    return capability.value not in hidden.split(",") and _present(capability)


def missing_protections(needed: Iterable[Capability]) -> list[str]:
    """One warning for each of the capabilities that isn't there."""
    return [
        "On this system (%s) %s." % (sys.platform, _PROTECTS[capability])
        for capability in needed
        if not has(capability)
    ]


def _present(capability: Capability) -> bool:
    if capability is Capability.OFD_LOCKS:
        import fcntl

        return hasattr(fcntl, "F_OFD_GETLK")
    if capability is Capability.PROC:
        return os.path.exists("/proc/self/fd")
    if capability is Capability.PIDFD:
        return hasattr(os, "pidfd_open")
    if capability is Capability.USER_XATTRS:
        return hasattr(os, "getxattr")
    if capability is Capability.DESCRIPTOR_PATHS:
        return os.path.exists("/proc/self/fd") or _has_descriptor_names()
    return sys.platform.startswith("linux")


def _has_descriptor_names() -> bool:
    """Of 0 to 2 every system knows them."""
    reading, writing = os.pipe()
    try:
        return all(os.path.exists("/dev/fd/%d" % descriptor) for descriptor in (reading, writing))
    finally:
        os.close(reading)
        os.close(writing)
