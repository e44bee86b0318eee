# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The header of a qcow2 image, by QEMU's docs/interop/qcow2.txt. What it points to is never followed."""

from __future__ import annotations

import os
import struct

from .model import Format, ImageInfo

MAGIC = b"QFI\xfb"
HEAD_BYTES = 4096
SHORTEST_BYTES = 72  # version 2's header
DATA_FILE_BIT = 1 << 2  # incompatible feature
KNOWN_BITS = 0b11111  # dirty, corrupt, data file, compression type, extended L2
DATA_FILE_NAME = 0x44415441  # header extension
_COMPRESSION_BIT, _EXTENDED_L2_BIT = 1 << 3, 1 << 4  # incompatible features
_LAZY_BIT = 1 << 0  # compatible feature
_BACKING_FORMAT, _FEATURE_NAMES = 0xE2792ACA, 0x6803F857  # header extensions
_COMPRESSIONS = ("zlib", "zstd")
# QEMU's own limits (block/qcow2.h).
_L1_LIMIT_BYTES, _COUNTS_LIMIT_BYTES = 32 << 20, 8 << 20
_BACKING_NAME_LIMIT_BYTES, _BACKING_FORMAT_LIMIT_BYTES = 1023, 15


class Qcow2:
    """The fields of a header, of which ``head`` (at least SHORTEST_BYTES) is the file's beginning."""

    def __init__(self, head: bytes) -> None:
        self._head = head
        self.version: int
        self.virtual_size_bytes: int
        self.encryption: int
        self.snapshots: int
        (
            self.version,
            self.backing_at,
            self.backing_length,
            self.cluster_bits,
            self.virtual_size_bytes,
            self.encryption,
            self.l1_entries,
            self.l1_at,
            self.counts_at,
            self.counts_clusters,
            self.snapshots,
            self.snapshots_at,
        ) = struct.unpack_from(">IQIIQIIQQIIQ", head, 4)
        self.incompatible = self.compatible = self.autoclear = self.compression = 0
        self.count_order, self.length = 4, SHORTEST_BYTES
        if self.version >= 3 and len(head) >= 104:
            self.incompatible, self.compatible, self.autoclear, self.count_order, self.length = struct.unpack_from(
                ">QQQII", head, 72
            )
            if self.length > 104 and len(head) > 104:
                self.compression = head[104]

    def extensions(self) -> list[tuple[int, int, bytes]]:
        """Kind, length and content of each header extension, as far as the head holds it; kind 0 marks the end."""
        found = []
        at = self.length
        while at + 8 <= len(self._head):
            kind, length = struct.unpack_from(">II", self._head, at)
            found.append((kind, length, self._head[at + 8 : at + 8 + length]))
            if kind == 0:
                break
            at += 8 + (length + 7) // 8 * 8
        return found

    def info(self, file_bytes: int, actual_bytes: int) -> ImageInfo | None:
        """What qemu-img's info says of the image; None for one that isn't quite ordinary: that is QEMU's to judge."""
        cluster_bytes = 1 << min(self.cluster_bits, 63)
        if not (self._is_plain() and self._is_sound(cluster_bytes, file_bytes)):
            return None
        backing = self._backing(cluster_bytes)
        if backing is None:
            return None
        name, image_format = backing
        return ImageInfo(
            format=Format.QCOW2,
            virtual_size_bytes=self.virtual_size_bytes,
            actual_size_bytes=actual_bytes,
            backing_file=name or None,
            backing_format=(image_format or None) if name else None,
            encrypted=False,
            dirty=False,
            corrupt=False,
            options=self._options(cluster_bytes),
            snapshots=(),
            bitmaps=(),
        )

    def _is_plain(self) -> bool:
        """Neither snapshots, encryption, bitmaps, a data file nor marks of trouble, nor anything unknown."""
        if self.version == 2:
            features = True
        else:
            features = (
                self.version == 3
                and self.length in (104, 112)
                and self.count_order <= 6
                and not self.incompatible & ~(_COMPRESSION_BIT | _EXTENDED_L2_BIT)
                and not self.compatible & ~_LAZY_BIT
                and not self.autoclear
                and self.compression < len(_COMPRESSIONS)
                and bool(self.incompatible & _COMPRESSION_BIT) == bool(self.compression)
            )
        return features and not (self.encryption or self.snapshots or self.snapshots_at)

    def _is_sound(self, cluster_bytes: int, file_bytes: int) -> bool:
        """What QEMU checks when it opens an image: its tables have sizes that fit, and lie within the file."""
        entry_bytes = 16 if self.incompatible & _EXTENDED_L2_BIT else 8
        mapped_bytes = cluster_bytes // entry_bytes * cluster_bytes  # by one entry of the first table
        counts_bytes = self.counts_clusters * cluster_bytes
        return (
            (14 if entry_bytes == 16 else 9) <= self.cluster_bits <= 21
            and 0 < self.virtual_size_bytes < 2**63
            and self.virtual_size_bytes % 512 == 0
            and -(-self.virtual_size_bytes // mapped_bytes) <= self.l1_entries <= _L1_LIMIT_BYTES // 8
            and 0 < counts_bytes <= _COUNTS_LIMIT_BYTES
            and self.l1_at % cluster_bytes == self.counts_at % cluster_bytes == 0
            and 0 < self.l1_at <= file_bytes - self.l1_entries * 8
            and 0 < self.counts_at <= file_bytes - counts_bytes
        )

    def _backing(self, cluster_bytes: int) -> tuple[str, str] | None:
        """The backing file's name and format, empty where there is none; None where they aren't plain text."""
        ends = self.backing_at + self.backing_length
        if self.backing_at and not (
            self.length <= self.backing_at
            and 0 < self.backing_length <= _BACKING_NAME_LIMIT_BYTES
            and ends <= min(cluster_bytes, len(self._head))
        ):
            return None
        image_format = b""
        extensions = self.extensions()
        for kind, _length, content in extensions:
            if kind == _BACKING_FORMAT and len(content) <= _BACKING_FORMAT_LIMIT_BYTES:
                image_format = content
            elif kind not in (0, _FEATURE_NAMES):
                return None
        extensions_end = self.length + sum(8 + (length + 7) // 8 * 8 for _kind, length, _content in extensions)
        if not extensions or extensions[-1][0] != 0 or extensions_end > (self.backing_at or cluster_bytes):
            return None
        name = self._head[self.backing_at : ends] if self.backing_at else b""
        if not (_is_plain_text(name) and _is_plain_text(image_format)):
            return None
        return name.decode("ascii"), image_format.decode("ascii")

    def _options(self, cluster_bytes: int) -> dict[str, str]:
        return {
            "compat": "0.10" if self.version == 2 else "1.1",
            "compression_type": _COMPRESSIONS[self.compression],
            "lazy_refcounts": _switch(self.compatible & _LAZY_BIT),
            "refcount_bits": str(1 << self.count_order),
            "extended_l2": _switch(self.incompatible & _EXTENDED_L2_BIT),
            "cluster_size": str(cluster_bytes),
            "data_file_raw": "off",
        }


def _is_plain_text(raw: bytes) -> bool:
    """Printable ASCII, and nothing that QEMU could take for a protocol."""
    return raw.isascii() and b":" not in raw and all(32 <= byte < 127 for byte in raw)


def _switch(bit: int) -> str:
    return "on" if bit else "off"


def read_info(descriptor: int) -> ImageInfo | None:
    """Of an open file; None where qemu-img has to be asked."""
    head = os.pread(descriptor, HEAD_BYTES, 0)
    if head[:4] != MAGIC or len(head) < SHORTEST_BYTES:
        return None
    status = os.fstat(descriptor)
    return Qcow2(head).info(status.st_size, status.st_blocks * 512)
