# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where a package comes from: one file, local or at a URL, read at any place and as a stream."""

from __future__ import annotations

import os
import stat
import threading
import time
from collections.abc import Mapping
from io import FileIO
from typing import NamedTuple, Protocol

from .._core.errors import BadInput, LifecycleError, storage_failed
from .._core.wait import Deadline, ready

_SCHEMES = ("http", "https")


class Access(NamedTuple):
    """How URLs are asked. ``stall_timeout_s``: a server that is silent for so long is taken for gone. ``retries``: how
    often in a row it may fail in a way that may pass, beside the first time. ``ca_path`` is a file with the
    certificates of those who may sign the server's.
    """

    headers: Mapping[str, str] = {}
    username: str | None = None
    password: str | None = None
    validate_certs: bool = True
    ca_path: str | None = None
    use_proxy: bool = True
    stall_timeout_s: float = 60.0
    retries: int = 4


class SourceFailed(LifecycleError):
    """A package can't be read any further. Next step: mend the file, the server or the network, and run again."""

    kind = "source_failed"


class NotThere(SourceFailed):
    """There is no such file."""


class Reader(Protocol):
    """A span of a file, read from its beginning to its end, by one thread."""

    def readinto(self, buffer: memoryview) -> int:
        """Put what comes next into the buffer, as much as is at hand; how many bytes that was, 0 at the span's end.

        Raises SourceFailed, StorageFailed, TimedOut.
        """

    def close(self) -> None:
        """Give back what it holds. A second time does nothing."""


class Source(Protocol):
    """One file. ``shown`` is its name for messages, without secrets. Threads may share it."""

    shown: str
    size_bytes: int

    def read_at(self, offset: int, length: int) -> bytes:
        """The bytes there, fewer only where the file ends. Cheap for servers when it goes forward."""

    def reader(self, offset: int, length: int) -> Reader:
        """A stream of ``length`` bytes from there on, on a descriptor or a connection of its own."""

    def close(self) -> None:
        """Give back what it holds for now. It may be used on."""


def is_url(location: str) -> bool:
    """Whether this is a URL that is read here. Raises BadInput for one that isn't."""
    scheme, colon, _rest = location.partition("://")
    if not colon or not scheme.isalnum():
        return False
    if scheme.lower() not in _SCHEMES:
        raise BadInput("source", "%s:// isn't read here" % scheme, "Use a local path, or an http or https URL")
    return True


def open_source(location: str, access: Access, deadline: Deadline) -> Source:
    """The file at a path or URL. Raises BadInput, SourceFailed, StorageFailed, TimedOut."""
    if is_url(location):
        from .remote import RemoteFile

        return RemoteFile(location, access, deadline)
    return LocalFile(location)


def pause(seconds: float = 0) -> None:
    """Wait, and on the main thread raise Stopped when nobody reads the task's result any more: others can't be stopped.

    For work of unknown length.
    """
    if threading.current_thread() is threading.main_thread():
        ready((), seconds)
    elif seconds:
        time.sleep(seconds)


def read_all(reader: Reader, length: int) -> bytes:
    """The next ``length`` bytes."""
    piece = bytearray(length)
    done = 0
    while done < length:
        got = reader.readinto(memoryview(piece)[done:])
        if not got:
            raise ValueError("the span is shorter than %d bytes" % length)
        done += got
    return bytes(piece)


class LocalFile:
    """A local file. It is opened anew for each reader, which proves that it is still the file it was at first.

    Raises BadInput for what is no regular file, StorageFailed for one that can't be read.
    """

    def __init__(self, path: str) -> None:
        self.shown = self._path = path
        descriptor = self._open()
        try:
            status = os.fstat(descriptor)
        finally:
            os.close(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise BadInput("source", "%s is %s" % (path, kind_of(status.st_mode)), "Name the .ovf or .ova file itself")
        self._identity = _identity(status)
        self.size_bytes = status.st_size

    def read_at(self, offset: int, length: int) -> bytes:
        """See Source."""
        length = max(0, min(length, self.size_bytes - offset))
        reader = self.reader(offset, length)
        try:
            return read_all(reader, length)
        finally:
            reader.close()

    def reader(self, offset: int, length: int) -> Reader:
        """See Source. Raises SourceFailed where another file is there now."""
        descriptor = self._open()
        try:
            self.refuse_if_changed(descriptor)
            return _LocalReader(self, descriptor, offset, length)
        except BaseException:
            os.close(descriptor)
            raise

    def close(self) -> None:
        """See Source."""

    def refuse_if_changed(self, descriptor: int) -> None:
        """Raise SourceFailed if what is open isn't the file that it was when this was made."""
        status = os.fstat(descriptor)
        if _identity(status) == self._identity:
            return
        if status.st_size < self.size_bytes:
            how = "was truncated from %d to %d bytes" % (self.size_bytes, status.st_size)
        elif _identity(status)[:2] != self._identity[:2]:
            how = "was replaced by another file"
        else:
            how = "was written to"
        raise SourceFailed(
            "%s %s while it was read. Wait until whoever does that has ended, then run the task again."
            % (self._path, how),
            path=self._path,
        )

    def failed(self, error: OSError) -> LifecycleError:
        """The user's form of what the system said."""
        return storage_failed(error, "Reading", self._path)

    def _open(self) -> int:
        try:
            return os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            raise NotThere("There is no file %s. Correct the path, or put it there." % self._path) from None
        except OSError as error:
            raise self.failed(error) from None


class _LocalReader:
    def __init__(self, file: LocalFile, descriptor: int, offset: int, length: int) -> None:
        self._file = file
        self._left = length
        os.lseek(descriptor, offset, os.SEEK_SET)
        self._stream = FileIO(descriptor, "rb")

    def readinto(self, buffer: memoryview) -> int:
        if not self._left:
            return 0
        try:
            done = self._stream.readinto(buffer[: self._left]) or 0
        except OSError as error:
            raise self._file.failed(error) from None
        self._left -= done
        if not done or not self._left:
            self._file.refuse_if_changed(self._stream.fileno())
        if not done:
            raise SourceFailed("%s ended early." % self._file.shown)  # a file system that lies about the size
        return done

    def close(self) -> None:
        self._stream.close()


def kind_of(mode: int) -> str:
    """What a file that is no regular one is, in words."""
    kinds = {
        stat.S_IFDIR: "a directory",
        stat.S_IFLNK: "a symbolic link",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
        stat.S_IFIFO: "a named pipe",
        stat.S_IFSOCK: "a socket",
    }
    return kinds.get(stat.S_IFMT(mode), "no regular file")


def _identity(status: os.stat_result) -> tuple[int, int, int, int]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
