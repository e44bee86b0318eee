# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a file says it is, read by ourselves before any other program opens it.

Formats carry names of other files (backing files, data files, extents). Whoever makes an image chooses those names,
so a program that follows them reads host files for him. The layouts are those of QEMU's docs/interop/qcow2.txt,
VMware's Virtual Disk Format 5.0, Microsoft's VHD and VHDX specifications and VirtualBox's VDICore.h.
"""

from __future__ import annotations

import os
import re
import struct
from typing import NamedTuple

from .model import Format

HEAD_BYTES = 4096
DESCRIPTOR_LIMIT_BYTES = 1024 * 1024  # VMDK descriptors are a few hundred bytes
QCOW2_DATA_FILE_BIT = 1 << 2  # incompatible feature
QCOW2_KNOWN_BITS = 0b11111  # dirty, corrupt, data file, compression type, extended L2
QCOW2_DATA_FILE_NAME = 0x44415441  # header extension
# As QEMU finds them, by sscanf: any white space, line ends too, parts the words, and none is needed after the number.
_VMDK_EXTENT = re.compile(rb'(?<!\S)(?:RW|RDONLY|NOACCESS)\s+[-+]?\d+\s*(\S{1,10})\s*"([^"\r\n]+)')
_VMDK_PARENT = re.compile(rb'parentFileNameHint[\s="]*([^"\r\n]*)', re.IGNORECASE)

# Not disk images for us: named, so that the user learns what the file is instead of finding it copied as raw.
_PACKED = {
    b"\x1f\x8b": "compressed with gzip",
    b"\xfd7zXZ\x00": "compressed with xz",
    b"BZh": "compressed with bzip2",
    b"\x28\xb5\x2f\xfd": "compressed with zstd",
    b"PK\x03\x04": "a zip archive",
    b"QED\x00": "a QED image, which QEMU only reads for old guests",
    b"LUKS\xba\xbe": "a LUKS container",
}


class Header(NamedTuple):
    """What the first bytes say. ``format`` None: no known format, so raw.

    ``references`` are other files, by the names that it has for them; ``unfit`` says why it can't serve as an image.
    """

    format: Format | None
    references: tuple[str, ...]
    unfit: str


def inspect(descriptor: int) -> Header:
    """Look at an open file. Never follows what it finds."""
    size = os.lseek(descriptor, 0, os.SEEK_END)
    head = os.pread(descriptor, HEAD_BYTES, 0)
    if head[:4] == b"QFI\xfb":
        return _qcow(descriptor, head)
    if head[:4] == b"KDMV":
        return _vmdk_sparse(descriptor, head)
    if head[:4] == b"COWD" or _is_vmdk_text(head):
        return _vmdk_text(os.pread(descriptor, DESCRIPTOR_LIMIT_BYTES, 0), head[:4] == b"COWD")
    if head[:8] == b"vhdxfile":
        return Header(Format.VHDX, (), "")
    if head[64:68] == struct.pack("<I", 0xBEDA107F):
        return Header(Format.VDI, (), "")
    if head[:8] == b"conectix" or (size >= 1024 and os.pread(descriptor, 8, size - 512) == b"conectix"):
        return Header(Format.VPC, (), "")
    for magic, what in _PACKED.items():
        if head.startswith(magic):
            return Header(None, (), what)
    return Header(None, (), "")


def _qcow(descriptor: int, head: bytes) -> Header:
    if len(head) < 72:
        return Header(Format.QCOW2, (), "cut off within its header")
    version, backing_offset, backing_size = struct.unpack_from(">IQI", head, 4)
    if version == 1:
        return Header(None, (), "a qcow (version 1) image, which QEMU only reads for old guests")
    references = []
    if backing_offset:
        references.append(_text(_read(descriptor, min(backing_size, 1023), backing_offset)))
    if version >= 3 and len(head) >= 104:
        incompatible, header_length = struct.unpack_from(">Q", head, 72)[0], struct.unpack_from(">I", head, 100)[0]
        if incompatible & ~QCOW2_KNOWN_BITS:
            return Header(Format.QCOW2, tuple(references), "made with qcow2 features that are not known here")
        if incompatible & QCOW2_DATA_FILE_BIT:
            references.append(_qcow_data_file(head, header_length) or "an external data file without a name")
    return Header(Format.QCOW2, tuple(references), "")


def _qcow_data_file(head: bytes, at: int) -> str:
    while at + 8 <= len(head):
        kind, length = struct.unpack_from(">II", head, at)
        if kind == 0:
            break
        if kind == QCOW2_DATA_FILE_NAME:
            return _text(head[at + 8 : at + 8 + length])
        at += 8 + (length + 7) // 8 * 8
    return ""


def _vmdk_sparse(descriptor: int, head: bytes) -> Header:
    if len(head) < 512:
        return Header(Format.VMDK, (), "cut off within its header")
    capacity, _grain, at = struct.unpack_from("<QQQ", head, 12)
    # QEMU reads on whatever length the header states, and reckons in 64 bits. With no capacity it takes the embedded
    # text for the whole truth, as if it were a descriptor file.
    text = _read(descriptor, DESCRIPTOR_LIMIT_BYTES, at * 512 % 2**64) if at else b""
    return _vmdk_text(text, embedded=capacity != 0)


def _is_vmdk_text(head: bytes) -> bool:
    for line in head.splitlines():
        stripped = line.strip()
        if stripped and not stripped.startswith(b"#"):
            return stripped.startswith(b"version=")
        if b"disk descriptorfile" in stripped.lower():
            return True
    return False


def _vmdk_text(text: bytes, embedded: bool) -> Header:
    """Extents other than the one that is this very file, and a parent, are other files."""
    text = text.split(b"\0", 1)[0]
    references = [_text(parent) for parent in _VMDK_PARENT.findall(text)]
    references += [_text(name) for kind, name in _VMDK_EXTENT.findall(text) if not (embedded and kind == b"SPARSE")]
    return Header(Format.VMDK, tuple(references), "")


def _read(descriptor: int, length: int, offset: int) -> bytes:
    """Nothing where a header points behind the file's end, however far."""
    return os.pread(descriptor, length, offset) if offset < os.fstat(descriptor).st_size else b""


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")
