# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Making a file that is an image: new, converted or copied; and running the commands that write to one."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Mapping, Sequence

from .._core.errors import CommandFailed, StorageFailed
from .._core.files import clone, copy_sparse
from .keep import Shape
from .model import Desired, Format
from .options import is_preallocated
from .parse import parse_measure
from .room import Added, data_bytes, data_side_by_side
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
NOTHING_ADDED = Added()
STAT_BLOCK_BYTES = 512  # st_blocks counts these, whatever the file system's own are


class Builder:
    """Writes images for one task.

    For the message about a full disk, ``writing`` is the file whose content is being written, wherever that grows, and
    ``needed_bytes`` the best known figure for it.
    """

    def __init__(self, desired: Desired, qemu_img: QemuImg) -> None:
        self._desired = desired
        self._qemu_img = qemu_img
        self.needed_bytes = desired.size_bytes
        self.writing = desired.path

    def begin(self, path: str) -> None:
        """What is written from now on is the content of this file."""
        self.writing, self.needed_bytes = path, None

    @property
    def free_bytes(self) -> int:
        """Where the file that is being written lies."""
        return shutil.disk_usage(os.path.dirname(self.writing)).free

    def run(self, words: Sequence[str], doing: str, *nodes: Node, ok: Sequence[int] = (0,)) -> None:
        """A command that writes; its own words for a full disk become ours, with figures."""
        done = self._qemu_img.run(words, doing, nodes, ok=())
        if done.rc in ok and not any(loss in done.stderr for loss in LOSSES):
            return
        if os.strerror(errno.ENOSPC) in done.stderr:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), os.path.dirname(self.writing))
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
        preallocated = _preallocated(size_bytes, options)
        if preallocated:
            self.refuse_without_room(preallocated)
        self.run([*words, node.path, *size], "creating %s" % self._desired.path, node)
        if node.encrypted and size_bytes is not None and is_preallocated(options) and not backing:
            self.blank(node, 0, size_bytes)

    def blank(self, node: Node, start_bytes: int, end_bytes: int) -> None:
        """Make a preallocated part of an encrypted image read as zeros: the zeros in its file decrypt to noise. Its
        room stays its own.
        """
        zeros = {"driver": "null-co", "size": end_bytes - start_bytes, "read-zeroes": True}
        words = ["convert", "-n", *WRITE_FLAGS, "json:" + json.dumps(zeros, sort_keys=True)]
        words += ["--target-image-opts", ",".join(_part_options(node, start_bytes))]
        self.run(words, "blanking what is preallocated of %s" % self._desired.path, node)

    def _creation_options(self, node: Node, declared: Mapping[str, str]) -> dict[str, str]:
        options = dict(declared)
        if node.format is Format.VPC:
            options.setdefault("force_size", "on")  # else the size is rounded to a cylinder
        if node.encrypted and self._desired.encryption is not None:
            options["encrypt.format"] = "luks"
            options["encrypt.key-secret"] = SECRET_ID
            options.update({"encrypt.%s" % name: value for name, value in self._desired.encryption.options})
        return options

    def convert(self, source: Node, node: Node, content_bytes: int, size_bytes: int, shape: Shape) -> None:
        """Create the new image in its final size, then write the content into it: so every format can be resized."""
        if size_bytes < content_bytes:
            source = source._replace(size_bytes=size_bytes)
        self._refuse_what_does_not_fit(source, _preallocated(size_bytes, shape.options), shape.compress)
        self.create(node, size_bytes, shape.options)
        words = ["convert", "-n", "--target-is-zero", *WRITE_FLAGS, *(["-c"] if shape.compress else [])]
        words += [*source.arguments(), *_target_arguments(node)]
        self.run(words, "converting %s to %s" % (source.path, self._desired.path), source, node)

    def _refuse_what_does_not_fit(self, source: Node, preallocated: int, compress: bool) -> None:
        """Before anything is written, and only what surely doesn't fit: a measurement that does settles it cheaply."""
        measured = self._measure(source)
        self.needed_bytes = max(measured, preallocated)
        self.refuse_without_room(preallocated)
        if compress:  # nobody can tell beforehand how small the data will get
            return
        # Only one file can be counted: a trusted source may have its data in several, an image that is rebuilt has not.
        is_one_file = source.alone or source.path == self._desired.path
        if measured > self.free_bytes and is_one_file:
            counted = data_bytes(source, self._qemu_img)
            self.refuse_without_room(counted, why=" (the zeros in %s were left out of account)" % source.path)
            return
        self.refuse_without_room(measured)

    def _measure(self, source: Node) -> int:
        """Bytes that the content takes as a qcow2; raw files are as sparse. Explicit zeros count: an upper bound."""
        words = ["measure", "--output=json", "-O", "qcow2", *source.arguments()]
        return parse_measure(self._qemu_img.run(words, "measuring %s" % source.path, [source]).stdout)

    def refuse_without_room(self, needed: int, why: str = "") -> None:
        """Raise StorageFailed, which ``why`` explains, if less is free."""
        free = self.free_bytes
        if needed > free:
            where = os.path.dirname(self.writing)
            raise StorageFailed("Writing %s%s" % (self.writing, why), where, errno.ENOSPC, needed, free)

    def refuse_commit_without_room(self, overlay: Node, base: Node) -> None:
        """Raise StorageFailed for a commit in place that surely doesn't fit."""
        added = self.added_by_commit(overlay, base)
        self.needed_bytes = added.most
        self.refuse_without_room(added.sure)

    def added_by_commit(self, overlay: Node, base: Node, copied: bool = False) -> Added:
        """What the overlay's data adds to ``base``, or to its copy. How much surely, is found out only if all of it
        might not fit.
        """
        most = self._measure(overlay._replace(alone=True))
        allocated = os.stat(base.path).st_blocks * STAT_BLOCK_BYTES
        if most + (allocated if copied else 0) <= self.free_bytes:
            return Added(0, most)
        fresh, data = data_side_by_side(overlay, base, self._qemu_img)
        # In place, room that was given to the file beforehand may lie just where it is needed.
        reserved = 0 if copied else max(0, allocated - data)
        return Added(max(0, fresh - reserved), max(most, fresh))

    def allocate(self, path: str) -> None:
        """Give a file all of its room: a copy leaves out what was only set aside."""
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(descriptor, 0, os.fstat(descriptor).st_size)
        finally:
            os.close(descriptor)

    def copy(self, path: str, new_path: str, added: Added = NOTHING_ADDED) -> None:
        """The same bytes in a new file, by reference where the file system can.

        Raises StorageFailed, before anything is written, where they don't fit with what is to be ``added``.
        """
        source = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            new = os.open(new_path, os.O_RDWR | os.O_CLOEXEC)
            try:
                cloned = clone(source, new)
                copied = 0 if cloned else os.fstat(source).st_blocks * STAT_BLOCK_BYTES
                self.needed_bytes = copied + added.most or self.needed_bytes
                self.refuse_without_room(copied + added.sure)
                if not cloned:
                    copy_sparse(source, new, self._qemu_img.deadline)
            finally:
                os.close(new)
        finally:
            os.close(source)


def _preallocated(size_bytes: int | None, options: Mapping[str, str]) -> int:
    return size_bytes or 0 if options.get("preallocation") in ("falloc", "full") else 0


def _target_arguments(node: Node) -> list[str]:
    """An existing target of a conversion; only as options can it bring a key."""
    if not node.encrypted:
        return ["-O", node.format.value, node.path]
    return ["--target-image-opts", ",".join(_secret_options(node))]


def _secret_options(node: Node) -> list[str]:
    name = node.path.replace(",", ",,")
    return [
        "driver=%s" % node.format.value,
        "encrypt.key-secret=%s" % SECRET_ID,
        "file.driver=file",
        "file.filename=%s" % name,
    ]


def _part_options(node: Node, start_bytes: int) -> list[str]:
    """What lies behind ``start_bytes``. As nothing may be discarded, clusters that become zeros keep their room."""
    below = ["file." + option for option in ("discard=ignore", *_secret_options(node))]
    return ["driver=raw", "discard=ignore", "offset=%d" % start_bytes, *below]
