# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Making a file that is an image: new, converted or copied; and running the commands that write to one."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Mapping, Sequence

from .._core.errors import CommandFailed, StorageFailed
from .._core.files import clone, copy_sparse
from .model import Desired, Format
from .parse import parse_measure
from .room import data_bytes
from .tool import SECRET_ID, Node, QemuImg, option_list

# How a conversion writes: through the page cache with a flush at its end; see docs/benchmarks.md for the
# alternatives' times.
WRITE_FLAGS = ("-t", "writeback")
# What qemu-img says, and answers 0, when the writing that it had put off until it closes the image fails: the image
# may then read as zeros and pass a check.
LOSSES = ("Failed to flush", "Lost persistent bitmaps")
# All that some of QEMU's drivers (VDI's) say of a failed write.
NO_CAUSE = "Error writing"
NO_CAUSE_ADVICE = "Free space if there is none, else look at the host's disk; its kernel log names the fault."
STAT_BLOCK_BYTES = 512  # st_blocks counts these, whatever the file system's own are


class Builder:
    """Writes images for one task. ``needed_bytes`` is the best known figure, for the message about a full disk."""

    def __init__(self, desired: Desired, qemu_img: QemuImg) -> None:
        self._desired = desired
        self._qemu_img = qemu_img
        self.needed_bytes = desired.size_bytes

    def run(self, words: Sequence[str], doing: str, *nodes: Node, ok: Sequence[int] = (0,)) -> None:
        """A command that writes; its own words for a full disk become ours, with figures."""
        done = self._qemu_img.run(words, doing, nodes, ok=())
        if done.rc in ok and not any(loss in done.stderr for loss in LOSSES):
            return
        if os.strerror(errno.ENOSPC) in done.stderr:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), os.path.dirname(self._desired.path))
        advice = NO_CAUSE_ADVICE if NO_CAUSE in done.stderr else ""
        raise CommandFailed(doing, done.argv, done.rc, done.stderr, advice)

    def create(
        self, node: Node, size_bytes: int | None, options: Mapping[str, str], backing: Sequence[str] = ()
    ) -> None:
        """An empty image in the file ``node``; ``backing`` are the words that name its backing file.

        Raises CommandFailed, StorageFailed, and OSError for a full disk.
        """
        creation = option_list(self._creation_options(node, options))
        words = ["create", "-q", "-f", node.format.value, *creation, *backing]
        size = [] if size_bytes is None else [str(size_bytes)]
        preallocated = self._preallocated(size_bytes)
        if preallocated:
            self.refuse_without_room(preallocated)
        self.run([*words, node.path, *size], "creating %s" % self._desired.path, node)

    def _creation_options(self, node: Node, declared: Mapping[str, str]) -> dict[str, str]:
        options = dict(declared)
        if node.format is Format.VPC:
            options.setdefault("force_size", "on")  # else the size is rounded to a cylinder
        if node.encrypted and self._desired.encryption is not None:
            options["encrypt.format"] = "luks"
            options["encrypt.key-secret"] = SECRET_ID
            options.update({"encrypt.%s" % name: value for name, value in self._desired.encryption.options})
        return options

    def _preallocated(self, size_bytes: int | None) -> int:
        return size_bytes or 0 if self._desired.options.get("preallocation") in ("falloc", "full") else 0

    def convert(self, source: Node, node: Node, content_bytes: int, size_bytes: int) -> None:
        """Create the new image in its final size, then write the content into it: so every format can be resized."""
        if size_bytes < content_bytes:
            source = source._replace(size_bytes=size_bytes)
        self._refuse_what_does_not_fit(source, self._preallocated(size_bytes))
        self.create(node, size_bytes, self._desired.options)
        words = ["convert", "-n", "--target-is-zero", *WRITE_FLAGS, *(["-c"] if self._desired.compress else [])]
        words += [*source.arguments(), *_target_arguments(node)]
        self.run(words, "converting %s to %s" % (source.path, self._desired.path), source, node)

    def _refuse_what_does_not_fit(self, source: Node, preallocated: int) -> None:
        """Before anything is written, and only what surely doesn't fit: a measurement that does settles it cheaply."""
        measured = self._measure(source)
        self.needed_bytes = max(measured, preallocated)
        self.refuse_without_room(preallocated)
        if self._desired.compress:  # nobody can tell beforehand how small the data will get
            return
        # Only one file can be counted: a trusted source may have its data in several, an image that is rebuilt has not.
        is_one_file = source.alone or source.path == self._desired.path
        if measured > self._free_bytes() and is_one_file:
            counted = data_bytes(source, self._qemu_img)
            self.refuse_without_room(counted, why=" (the zeros in %s were left out of account)" % source.path)
            return
        self.refuse_without_room(measured)

    def _free_bytes(self, folder: str | None = None) -> int:
        return shutil.disk_usage(folder or os.path.dirname(self._desired.path)).free

    def _measure(self, source: Node) -> int:
        """Bytes that the content takes as a qcow2; raw files are as sparse. Explicit zeros count: an upper bound."""
        words = ["measure", "--output=json", "-O", "qcow2", *source.arguments()]
        return parse_measure(self._qemu_img.run(words, "measuring %s" % source.path, [source]).stdout)

    def refuse_without_room(self, needed: int, folder: str | None = None, why: str = "") -> None:
        """Raise StorageFailed, which ``why`` explains, if less is free."""
        free = self._free_bytes(folder)
        if needed > free:
            where = folder or os.path.dirname(self._desired.path)
            raise StorageFailed("Writing %s%s" % (self._desired.path, why), where, errno.ENOSPC, needed, free)

    def copy(self, path: str, new_path: str) -> None:
        """The same bytes in a new file, by reference where the file system can."""
        source = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            new = os.open(new_path, os.O_RDWR | os.O_CLOEXEC)
            try:
                if clone(source, new):
                    return
                self.needed_bytes = os.fstat(source).st_blocks * STAT_BLOCK_BYTES
                self.refuse_without_room(self.needed_bytes, os.path.dirname(path))
                copy_sparse(source, new, self._qemu_img.deadline)
            finally:
                os.close(new)
        finally:
            os.close(source)


def _target_arguments(node: Node) -> list[str]:
    """An existing target of a conversion; only as options can it bring a key."""
    if not node.encrypted:
        return ["-O", node.format.value, node.path]
    name = node.path.replace(",", ",,")
    return [
        "--target-image-opts",
        "driver=%s,encrypt.key-secret=%s,file.driver=file,file.filename=%s" % (node.format.value, SECRET_ID, name),
    ]
