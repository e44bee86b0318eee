# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The files that a VMDK names, by VMware's Virtual Disk Format 5.0, and as QEMU finds them. None is followed."""

from __future__ import annotations

import os
import re
import struct
from typing import NamedTuple

DESCRIPTOR_LIMIT_BYTES = 1024 * 1024  # descriptors are a few hundred bytes
# As QEMU finds them, by sscanf: any white space, line ends too, parts the words, and none is needed after the number.
_EXTENT = rb'(?<!\S)(?:RW|RDONLY|NOACCESS)\s+[-+]?\d+\s*(\S{1,10})\s*"([^"\r\n]+)'
_PARENT = rb'(?i)parentFileNameHint[\s="]*([^"\r\n]*)'


class Vmdk(NamedTuple):
    """Other files by the names that it has for them. ``is_text``: it is a descriptor, and holds no data itself."""

    parents: tuple[str, ...]
    extents: tuple[str, ...]
    is_text: bool
    unfit: str = ""


def inspect(descriptor: int, head: bytes) -> Vmdk | None:
    """Look at an open file that begins with ``head``; None for one that is no VMDK."""
    if head[:4] == b"KDMV":
        return _sparse(descriptor, head)
    if head[:4] == b"COWD":
        return _named(os.pread(descriptor, DESCRIPTOR_LIMIT_BYTES, 0), embedded=True)
    if _is_text(head):
        return _named(os.pread(descriptor, DESCRIPTOR_LIMIT_BYTES, 0), embedded=False)._replace(is_text=True)
    return None


def _sparse(descriptor: int, head: bytes) -> Vmdk:
    if len(head) < 512:
        return Vmdk((), (), False, "cut off within its header")
    capacity, _grain, sector = struct.unpack_from("<QQQ", head, 12)
    # QEMU reads on whatever length the header states, and reckons in 64 bits. With no capacity it takes the embedded
    # text for the whole truth, as if it were a descriptor file.
    at = sector * 512 % 2**64
    in_file = sector and at < os.fstat(descriptor).st_size
    return _named(os.pread(descriptor, DESCRIPTOR_LIMIT_BYTES, at) if in_file else b"", embedded=capacity != 0)


def _is_text(head: bytes) -> bool:
    for line in head.splitlines():
        stripped = line.strip()
        if stripped and not stripped.startswith(b"#"):
            return stripped.startswith(b"version=")
        if b"disk descriptorfile" in stripped.lower():
            return True
    return False


def _named(text: bytes, embedded: bool) -> Vmdk:
    """Extents other than the one that is this very file, and a parent, are other files."""
    text = text.split(b"\0", 1)[0]
    parents = [parent.decode("utf-8", "replace") for parent in re.findall(_PARENT, text)]
    extents = [
        name.decode("utf-8", "replace")
        for kind, name in re.findall(_EXTENT, text)
        if not (embedded and kind == b"SPARSE")
    ]
    return Vmdk(tuple(parents), tuple(extents), False)
