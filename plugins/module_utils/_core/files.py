# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Files that appear only whole, and the names of what a killed run may leave beside them."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial

from .errors import attach
from .names import beside
from .signals import held
from .wait import Deadline, check_reader

FICLONE = 0x40049409  # linux/fs.h
COPY_BLOCK_BYTES = 4 * 1024 * 1024
# Of a file system that gives a file only one name, or not this file to this user.
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)


def sync_file(path: str) -> None:
    """Make a file's content durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(path: str) -> None:
    """Make the names in the folder of ``path`` durable."""
    descriptor = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems know no such thing
            raise
    finally:
        os.close(descriptor)


def publish(new: str, target: str) -> None:
    """Put the complete file ``new``, which is durable already, in the place of ``target``: in one step, which is
    durable afterwards.
    """
    with held():
        os.rename(new, target)
        sync_folder(target)


def publish_new(new: str, target: str) -> None:
    """The same where nothing is to be replaced. Raises FileExistsError for whatever has come there, and leaves that."""
    with held():
        try:
            os.link(new, target)  # unlike a rename it never replaces
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            if os.path.lexists(target):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target) from None
            os.rename(new, target)
        else:
            os.unlink(new)
        sync_folder(target)


def remove(path: str) -> bool:
    """Unlink ``path``; whether it was there."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    return True


@contextmanager
def afterwards(clean_up: Callable[[], object], doing: str) -> Iterator[None]:
    """``clean_up`` after the block, however that ends. If both fail, the second failure is attached to the first one,
    never in its place.
    """
    done: list[bool] = []
    try:
        yield
        with held():
            done.append(True)
            clean_up()
    except BaseException as error:
        if not done:  # a stop signal may have come when the block itself had ended well
            _clean_up_after(error, clean_up, doing)
        raise


@contextmanager
def on_failure(clean_up: Callable[[], object], doing: str) -> Iterator[None]:
    """``clean_up`` if the block doesn't end well; a failure of that is attached to the first error, never in its
    place.
    """
    try:
        yield
    except BaseException as error:
        _clean_up_after(error, clean_up, doing)
        raise


def removed_on_failure(path: str) -> AbstractContextManager[None]:
    """``path`` is removed if the block doesn't end well, see :func:`on_failure`."""
    return on_failure(partial(remove, path), "removing %s" % path)


def _clean_up_after(first: BaseException, clean_up: Callable[[], object], doing: str) -> None:
    with held():
        try:
            clean_up()
        except OSError as second:
            attach(first, second, doing)


def write_whole(path: str, content: bytes, keep_attributes: bool = False) -> None:
    """Write a small file so that readers find the old content or the new, never a part.

    A new file is its owner's alone; with ``keep_attributes`` one that was there keeps its owner, mode and labels.
    """
    new = beside(path, "new")
    remove(new)
    with removed_on_failure(new):
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        if keep_attributes and os.path.exists(path):
            inherit(path, new)
        sync_file(new)
        publish(new, path)


def copy_sparse(source: int, new: int, deadline: Deadline) -> None:
    """Copy an open file's data into the empty file ``new``, holes stay holes. Raises OSError, TimedOut, Stopped."""
    size = os.fstat(source).st_size
    os.ftruncate(new, size)
    start = 0
    while start < size:
        try:
            start = os.lseek(source, start, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # only a hole is left
                return
            raise
        end = os.lseek(source, start, os.SEEK_HOLE)
        while start < end:
            deadline.check("a copy", "%d of %d bytes" % (start, size))
            check_reader()
            piece = os.pread(source, min(COPY_BLOCK_BYTES, end - start), start)
            if not piece:
                raise OSError(errno.EIO, "the file became shorter while it was copied")
            start += os.pwrite(new, piece, start)


def clone(source: int, new: int) -> bool:
    """Let the empty file ``new`` share the data of ``source``, copied on write; False where the file system can't."""
    import fcntl

    try:
        fcntl.ioctl(new, FICLONE, source)
    except OSError:
        return False  # another file system, or one that can't
    return True


def inherit(old: str, new: str) -> None:
    """Give ``new`` the owner, mode and extended attributes (labels, our records) of the file whose place it takes."""
    status, current = os.stat(old), os.stat(new)
    if (status.st_uid, status.st_gid) != (current.st_uid, current.st_gid):
        os.chown(new, status.st_uid, status.st_gid)
    if hasattr(os, "listxattr"):
        _inherit_attributes(old, new)
    os.chmod(new, status.st_mode & 0o7777)  # last: who may only read a file can't give it attributes, though it is his


def _inherit_attributes(old: str, new: str) -> None:
    try:
        for name in os.listxattr(old):
            os.setxattr(new, name, os.getxattr(old, name))
    except OSError as error:
        if error.errno not in (errno.ENOTSUP, errno.ENOSYS):  # then there is nothing to inherit
            raise
