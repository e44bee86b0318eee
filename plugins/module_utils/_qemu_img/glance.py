# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A first look at an image, by its own first bytes and without any other program. Mostly it finds nothing to do."""

from __future__ import annotations

import os
import stat

from .._core.errors import BadInput
from .._core.names import absolute, beside
from . import record as records
from .differences import has_unknown_option, is_at_rest, is_current_backing
from .identity import identify, source_is_image
from .model import Desired, Format, ImageInfo, Record, RepairMode, Seen, SourceSeen, round_to_sector
from .qcow2 import MAGIC, read_info

_KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISBLK, "a block device"),
    (stat.S_ISCHR, "a character device"),
)


def resolve(desired: Desired) -> Desired:
    """Follow a symbolic link to the image that is meant. Raises BadInput for what is no image file."""
    try:
        status = os.lstat(desired.path)
    except (FileNotFoundError, NotADirectoryError):
        _check_folder(desired)
        return desired
    if stat.S_ISLNK(status.st_mode):
        real = os.path.realpath(desired.path)
        if not desired.present:
            raise BadInput(
                "path", "%s is a symbolic link to %s" % (desired.path, real), "Name the image itself to remove it"
            )
        if not os.path.exists(real):
            raise BadInput(
                "path",
                "%s is a symbolic link to %s, which is not there" % (desired.path, real),
                "Name the image itself",
            )
        backing = desired.backing
        if backing is not None and backing.stored:  # a relative name starts where the image itself is
            backing = backing._replace(path=absolute(backing.stored, os.path.dirname(real)))
        return resolve(desired._replace(path=real, backing=backing))
    for test, what in _KINDS:
        if test(status.st_mode):
            raise BadInput(
                "path", "%s is %s" % (desired.path, what), "Name a regular file: this module manages image files"
            )
    return desired


def _check_folder(desired: Desired) -> None:
    folder = os.path.dirname(desired.path)
    if desired.present and not os.path.isdir(folder):
        raise BadInput(
            "path", "its directory %s is not there" % folder, "Create it first, such as with ansible.builtin.file"
        )


def glance(desired: Desired) -> Seen | None:
    """What is there if that is as declared; None where something is to be done, or where only qemu-img can tell.

    Raises BadInput for a source that can't be one.
    """
    exists = os.path.lexists(desired.path)
    if not (exists and desired.present):
        return None if exists or desired.present else Seen(exists=False)
    if desired.commit or desired.repair is not RepairMode.NONE:
        return None
    record = records.read(desired.path)
    info = _info(desired.path, record)
    if info is None:
        return None
    seen = Seen(exists=True, info=info, record=record, backing_is_current=is_current_backing(desired, info))
    seen = with_source_identity(desired, seen)
    return seen if is_at_rest(desired, seen) and not has_unknown_option(desired, seen) else None


def _info(path: str, record: Record | None) -> ImageInfo | None:
    """The answer of qemu-img's info as far as it can be had without. A record counts before the bytes: a raw disk can
    hold anything its guest wrote.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        if record is not None:
            image_format: Format | None = record.format
        elif os.pread(descriptor, len(MAGIC), 0) == MAGIC:
            image_format = Format.QCOW2
        else:
            from .header import inspect

            header = inspect(descriptor)
            image_format = None if header.unfit else header.format or Format.RAW
        if image_format is Format.QCOW2:
            return read_info(descriptor)
        return _raw_info(os.fstat(descriptor)) if image_format is Format.RAW else None
    finally:
        os.close(descriptor)


def _raw_info(status: os.stat_result) -> ImageInfo:
    return ImageInfo(
        format=Format.RAW,
        virtual_size_bytes=round_to_sector(status.st_size),
        actual_size_bytes=status.st_blocks * 512,
        backing_file=None,
        backing_format=None,
        encrypted=False,
        dirty=False,
        corrupt=False,
        options={},
        snapshots=(),
        bitmaps=(),
    )


def with_source_identity(desired: Desired, seen: Seen) -> Seen:
    """Which state of the source is there now. Raises BadInput for what can't be a source."""
    source = desired.source
    if source is None:
        return seen
    identity = identify(source)
    if identity is None:
        return seen._replace(source_gone=True)
    if seen.exists and not source.is_url and (identity.device, identity.inode) == _device_and_inode(desired.path):
        raise source_is_image()
    return seen._replace(source=SourceSeen(identity, None, None))


def _device_and_inode(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def stale(path: str, alone: bool, took_over: bool) -> tuple[str, ...]:
    """Names that a killed run left beside ``path``; none while another task holds the lock: they are that task's.

    :param alone: this task holds the lock.
    :param took_over: its lock file is one that a killed task left, which goes when this task gives it back.
    """
    lock = beside(path, "lock")
    own = [beside(path, "new"), beside(path, "download"), beside(beside(path, "record"), "new")]
    if not os.path.lexists(path):
        own.append(beside(path, "record"))
    there = [name for name in own if os.path.lexists(name)]
    if alone:
        return tuple([lock, *there] if took_over else there)
    if os.path.lexists(lock):
        from .._core.locks import is_stale

        return (lock, *there) if is_stale(lock) else ()
    # Looked at again: a task that was at work may have ended meanwhile.
    return tuple(name for name in there if os.path.lexists(name))
