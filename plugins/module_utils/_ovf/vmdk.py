# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a disk's file is, by its first bytes: vSphere takes streamOptimized VMDKs and nothing else.

The layouts are those of VMware's Virtual Disk Format 5.0, QEMU's docs/interop/qcow2.txt, Microsoft's VHD and VHDX
specifications and VirtualBox's VDICore.h.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

HEADER_BYTES = 512
_SECTOR_BYTES = 512
_COMPRESSED_WITH_MARKERS = 0x30000
_DEFLATE = 1
_QEMU_NAMES = {
    b"QFI\xfb": ("a qcow2 image", "qcow2"),
    b"vhdxfile": ("a VHDX image", "vhdx"),
    b"conectix": ("a VHD image", "vpc"),
}
_PACKED = {
    b"\x1f\x8b": "packed by gzip, which the descriptor doesn't say of it",
    b"\xfd7zXZ\x00": "packed by xz",
    b"BZh": "packed by bzip2",
    b"\x28\xb5\x2f\xfd": "packed by zstd",
    b"PK\x03\x04": "a zip archive",
}


class DiskFile(NamedTuple):
    """``unfit`` says what it is if it isn't a streamOptimized VMDK, and ``source_format`` is QEMU's name for that, if
    it has one.
    """

    capacity_bytes: int | None
    unfit: str = ""
    source_format: str = ""


def inspect(head: bytes) -> DiskFile:
    """Judge the beginning of a disk's file, 512 bytes if it has so many."""
    if head[:4] == b"KDMV":
        return _sparse(head)
    if head[:4] == b"COWD":
        return DiskFile(None, "a VMDK of the kind vmfsSparse", "vmdk")
    if b"# disk descriptorfile" in head.lower():
        return DiskFile(None, "only the text of a VMDK whose data is in another file (flat or split)", "vmdk")
    for magic, (what, source_format) in _QEMU_NAMES.items():
        if head.startswith(magic):
            return DiskFile(None, what, source_format)
    if head[64:68] == struct.pack("<I", 0xBEDA107F):
        return DiskFile(None, "a VDI image", "vdi")
    for magic, what in _PACKED.items():
        if head.startswith(magic):
            return DiskFile(None, what)
    return DiskFile(None, "no VMDK (a raw image, perhaps)", "raw")


def _sparse(head: bytes) -> DiskFile:
    if len(head) < HEADER_BYTES:
        return DiskFile(None, "a VMDK that is cut off within its header")
    flags, capacity = struct.unpack_from("<IQ", head, 8)
    (compression,) = struct.unpack_from("<H", head, 77)
    if flags & _COMPRESSED_WITH_MARKERS != _COMPRESSED_WITH_MARKERS or compression != _DEFLATE:
        return DiskFile(capacity * _SECTOR_BYTES, "a VMDK of the kind monolithicSparse", "vmdk")
    return DiskFile(capacity * _SECTOR_BYTES)


def remedy(found: DiskFile, name: str) -> str:
    """What to do about a file that isn't fit."""
    if not found.source_format:
        return "Get the package anew"
    return (
        "Convert the disk and make the package anew: qemu-img convert -f %s -O vmdk -o subformat=streamOptimized %s NEW"
        % (found.source_format, name)
    )
