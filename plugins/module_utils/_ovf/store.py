# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What holds a package's files: an OVA, or the folder (here or on a server) in which a descriptor lies."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from .._core.errors import BadInput, storage_failed
from .._core.wait import Deadline
from .archive import HEAD_BYTES, MEMBERS_LIMIT, Archive, Member
from .href import plain
from .model import File, Problem
from .source import Access, LocalFile, NotThere, Reader, Source, SourceFailed, is_url, kind_of, open_source

_FORBIDDEN = 403


def chunk_names(file: File) -> Iterator[str]:
    """The names under which a file may be in the package; without a size it isn't known how many chunks it has."""
    name = plain(file.href)
    if file.chunk_size_bytes is None:
        yield name
        return
    count = MEMBERS_LIMIT if file.size_bytes is None else max(1, -(-file.size_bytes // file.chunk_size_bytes))
    for number in range(min(count, MEMBERS_LIMIT)):
        yield "%s.%09d" % (name, number)


def decoded(name: str) -> str:
    """What a file is named if the descriptor has its name as a URL would: some programs write them so, some don't."""
    return unquote(name) if "%" in name else name


class Store(Protocol):
    """The files of a package, by the names that its descriptor has for them."""

    def sizes(self) -> Mapping[str, int]:
        """Bytes of those that are there."""

    def faults(self) -> list[Problem]:
        """Those that are there and must not be read."""

    def head(self, name: str) -> bytes:
        """The first 1024 bytes of one that is there, fewer if it has no more."""

    def small(self, name: str, limit_bytes: int) -> bytes | None:
        """All of one that shall have no more than so many bytes; None if it isn't there. Raises BadInput."""

    def reader(self, name: str) -> Reader:
        """The content of one that is there."""

    def close(self) -> None:
        """Give back what it holds."""


class ArchiveStore:
    """The members of an OVA."""

    def __init__(self, archive: Archive, source: Source) -> None:
        self._archive = archive
        self._source = source

    def sizes(self) -> Mapping[str, int]:
        """See Store."""
        return {name: member.size_bytes for name, member in self._archive.members().items()}

    def faults(self) -> list[Problem]:
        """See Store. What is wrong with an archive is found when it is indexed, and then it isn't read at all."""
        return []

    def head(self, name: str) -> bytes:
        """See Store."""
        return self._member(name).kept[:HEAD_BYTES]

    def small(self, name: str, limit_bytes: int) -> bytes | None:
        """See Store. It is one of those that the archive keeps."""
        member = self._archive.members().get(name)
        if member is None:
            return None
        _refuse_large(name, member.size_bytes, limit_bytes)
        return member.kept

    def reader(self, name: str) -> Reader:
        """See Store."""
        return self._archive.reader(self._member(name))

    def is_plain(self, name: str) -> bool:
        """Whether a member's content is in the archive as it is, in one piece."""
        return self._member(name).is_plain

    def _member(self, name: str) -> Member:
        return self._archive.members()[name]

    def close(self) -> None:
        """See Store."""
        self._source.close()


class FolderStore:
    """The files beside the descriptor at ``location``: those of ``required``, of which a package may have some more in
    chunks, and those of ``optional``. Each is looked for when it is asked for.
    """

    def __init__(
        self, location: str, required: Sequence[File], optional: Sequence[str], access: Access, deadline: Deadline
    ) -> None:
        self._location = location
        self._required = required
        self._optional = optional
        self._access = access
        self._deadline = deadline
        self._looked: dict[str, Source | None] = {}
        self._faults: list[Problem] = []

    def sizes(self) -> Mapping[str, int]:
        """See Store."""
        for name in self._optional:
            self._look(name)
        for file in self._required:
            for name in chunk_names(file):
                if self._look(name) is None and self._look(decoded(name)) is None:
                    break  # of chunks there are as many as follow each other
        return {name: source.size_bytes for name, source in self._looked.items() if source is not None}

    def faults(self) -> list[Problem]:
        """See Store."""
        return self._faults

    def head(self, name: str) -> bytes:
        """See Store."""
        return self._there(name).read_at(0, HEAD_BYTES)

    def small(self, name: str, limit_bytes: int) -> bytes | None:
        """See Store."""
        source = self._look(name)
        if source is None:
            return None
        _refuse_large(name, source.size_bytes, limit_bytes)
        return source.read_at(0, source.size_bytes)

    def reader(self, name: str) -> Reader:
        """See Store."""
        source = self._there(name)
        return source.reader(0, source.size_bytes)

    def close(self) -> None:
        """See Store."""
        for source in self._looked.values():
            if source is not None:
                source.close()

    def _there(self, name: str) -> Source:
        source = self._look(name)
        if source is None:
            raise NotThere("The package has no %s. Get the package anew." % name)
        return source

    def _look(self, name: str) -> Source | None:
        if name not in self._looked:
            self._looked[name] = self._open(name)
        return self._looked[name]

    def _open(self, name: str) -> Source | None:
        try:
            if is_url(self._location):
                source = open_source(url_beside(self._location, name), self._access, self._deadline)
                source.close()  # its beginning is known, and more is only read by readers
                return source
            return _local(os.path.dirname(os.path.abspath(self._location)), name)
        except NotThere:
            return None
        except BadInput as error:
            self._faults.append(Problem(name, error.problem, error.expected))
            return None
        except SourceFailed as error:
            # some servers answer so for what isn't there, lest it be guessed what is
            if name in self._optional and error.facts.get("status") == _FORBIDDEN:
                return None
            raise


def _local(folder: str, name: str) -> Source:
    path = os.path.join(folder, name)
    real = os.path.realpath(path)
    if os.path.commonpath([real, os.path.realpath(folder)]) != os.path.realpath(folder):
        raise BadInput("source", "it is a link that leads out of the package's folder", "Put the file itself there")
    try:
        mode = os.stat(real).st_mode
    except FileNotFoundError:
        raise NotThere("There is no file %s." % path) from None
    except OSError as error:
        raise storage_failed(error, "Looking", path) from None
    if not stat.S_ISREG(mode):  # to open a device may already disturb it
        raise BadInput("source", "it is %s, no file" % kind_of(mode), "Put the file itself there")
    return LocalFile(real)


def url_beside(location: str, name: str) -> str:
    """A file's URL by that of the descriptor in the same folder, whose query is its own."""
    parts = urlsplit(location)
    folder = parts.path.rpartition("/")[0]
    return urlunsplit((parts.scheme, parts.netloc, "%s/%s" % (folder, quote(name)), "", ""))


def _refuse_large(name: str, size_bytes: int, limit_bytes: int) -> None:
    if size_bytes > limit_bytes:
        raise BadInput(
            "source", "%s has %d bytes, and at most %d are read" % (name, size_bytes, limit_bytes), "Mend the package"
        )
