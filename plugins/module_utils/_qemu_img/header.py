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
import stat
import struct
import sys
from typing import NamedTuple

from .._core.errors import Refused
from . import qcow2, vmdk
from .model import Format, is_protocol

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
    ``parts`` are those of them that hold its own data (extents, a data file), which QEMU opens with it.
    """

    format: Format | None
    references: tuple[str, ...]
    unfit: str
    parts: tuple[str, ...] = ()


def inspect_path(path: str) -> Header:
    """Look at the file of this name."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        return inspect(descriptor)
    finally:
        os.close(descriptor)


def inspect(descriptor: int) -> Header:
    """Look at an open file. Never follows what it finds."""
    size = os.lseek(descriptor, 0, os.SEEK_END)
    head = os.pread(descriptor, qcow2.HEAD_BYTES, 0)
    if head[:4] == qcow2.MAGIC:
        return _qcow(descriptor, head)
    found = vmdk.inspect(descriptor, head)
    if found is not None:
        return Header(Format.VMDK, (*found.parents, *found.extents), found.unfit, found.extents)
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


_ANEW = "Get that image anew, or make one file of it with qemu-img convert yourself if you trust its maker"


def refuse_strange_parts(path: str, header: Header, instead: str = "") -> None:
    """Raise Refused for an image whose data QEMU would look for where no image has its own: it opens what a header
    names, only to tell what the image is. ``instead``: what the task can do about this one.
    """
    for name in header.parts:
        fault = _strangeness(path, name, header.format)
        if fault:
            raise Refused(
                "open %s" % path,
                "its header names %s as a part of it, and %s" % (name, fault),
                "Whoever made it chose that name. %s" % (instead or _ANEW),
                references=list(header.references),
            )


def _strangeness(path: str, name: str, image_format: Format | None) -> str:
    if is_protocol(name):
        return "QEMU may take that for a protocol"
    if image_format is Format.VMDK and (os.path.isabs(name) or ".." in name.split("/")):
        return "that lies elsewhere"
    try:
        mode = os.stat(os.path.join(os.path.dirname(path), name)).st_mode
    except OSError:
        return ""  # whoever opens it says that best
    return "that is no disk" if may_wait(mode) else ""


def may_wait(mode: int) -> bool:
    """Whether who opens a file of this mode may wait for somebody, or disturb a device. Systems other than Linux have
    disks as character devices.
    """
    is_device = stat.S_ISCHR(mode) and sys.platform.startswith("linux")
    return is_device or stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


def _qcow(descriptor: int, head: bytes) -> Header:
    if len(head) < qcow2.SHORTEST_BYTES:
        return Header(Format.QCOW2, (), "cut off within its header")
    fields = qcow2.Qcow2(head)
    if fields.version == 1:
        return Header(None, (), "a qcow (version 1) image, which QEMU only reads for old guests")
    references = []
    if fields.backing_at:
        references.append(_text(_read(descriptor, min(fields.backing_length, 1023), fields.backing_at)))
    if fields.incompatible & ~qcow2.KNOWN_BITS:
        return Header(Format.QCOW2, tuple(references), "made with qcow2 features that are not known here")
    if fields.incompatible & qcow2.DATA_FILE_BIT:
        names = [_text(content) for kind, _length, content in fields.extensions() if kind == qcow2.DATA_FILE_NAME]
        references.append("".join(names[:1]) or "an external data file without a name")
        return Header(Format.QCOW2, tuple(references), "", tuple(names[:1]))
    return Header(Format.QCOW2, tuple(references), "")


def _read(descriptor: int, length: int, offset: int) -> bytes:
    """Nothing where a header points behind the file's end, however far."""
    return os.pread(descriptor, length, offset) if offset < os.fstat(descriptor).st_size else b""


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")
