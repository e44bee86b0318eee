# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One declared seed image as the subject that `_core.converge` drives."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import Enum
from typing import Any, NamedTuple

from .._core.converge import Plan
from .._core.errors import BadInput, Refused
from .._core.names import beside
from .._core.wait import Deadline, check_timeout
from .content import LABEL, Files, files

View = Mapping[str, object]


class Step(str, Enum):
    """What may have to be done."""

    WRITE = "write"
    REMOVE = "remove"
    TIDY = "remove what a killed task left beside it"


class Seen(NamedTuple):
    """The image's content, or None without a file; and our own files beside it that nobody works with any more.
    ``foreign``: what lies there is no seed.
    """

    content: bytes | None
    leftovers: tuple[str, ...]
    foreign: bool = False


class Seed:
    """Observes, writes and removes the seed image of one task."""

    def __init__(self, options: Mapping[str, Any], deadline: Deadline) -> None:
        check_timeout(options["timeout"])
        self._deadline = deadline
        self._path = os.path.realpath(_absolute(options["path"]))
        self._may_replace_foreign: bool = options["force"]
        self._wanted: bytes | None = None
        self._files: Files = {}
        self._alone = False
        self._took_over = False  # the lock is one that a killed task left
        if options["state"] == "present":
            from .iso import iso_image

            self._files = files(options)
            self._wanted = iso_image(LABEL, self._files)

    def observe(self) -> Seen:
        """See Subject. Raises BadInput for what is no regular file."""
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            return Seen(None, self._leftovers())
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise BadInput("path", "%s is no regular file" % self._path, "Name the image file itself")
            content = self._content(descriptor, status.st_size)
            foreign = status.st_size > 0 and not _is_seed(descriptor)
        finally:
            os.close(descriptor)
        return Seen(content, self._leftovers(), foreign)

    def _content(self, descriptor: int, size: int) -> bytes:
        # A file of another size is another one, however large: it needs no reading.
        if self._wanted is None or size != len(self._wanted):
            return b""
        return _read(descriptor, size)

    def _leftovers(self) -> tuple[str, ...]:
        new, lock = beside(self._path, "new"), beside(self._path, "lock")
        found = [path for path in (new, lock) if os.path.lexists(path)]
        lock_is_left = self._took_over
        if not self._alone and lock in found:
            from .._core.locks import is_stale

            lock_is_left = is_stale(lock)
            if not lock_is_left:
                return ()  # somebody is at work
        # Looked at again: a task that was at work may have ended meanwhile.
        return tuple(path for path in found if (path != lock or lock_is_left) and os.path.lexists(path))

    def plan(self, seen: Seen) -> Plan[Step]:
        """See Subject. Raises Refused for a file that is no seed: a mistyped path must not cost a disk."""
        predicted = self.view(Seen(self._wanted, ()))
        if seen.content == self._wanted:
            return Plan((Step.TIDY,) if seen.leftovers else (), predicted)
        if seen.foreign and not self._may_replace_foreign:
            raise Refused(
                "%s %s" % ("remove" if self._wanted is None else "replace", self._path),
                "it is neither empty nor an ISO 9660 image labelled %s" % LABEL,
                "Correct the path. If the file may go all the same, set force to true",
            )
        return Plan((Step.REMOVE if self._wanted is None else Step.WRITE,), predicted)

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """See Subject. Two tasks on one seed take turns."""
        from .._core.locks import exclusive

        folder = os.path.dirname(self._path)
        if self._wanted is not None and not os.path.isdir(folder):
            raise BadInput("path", "the directory %s is not there" % folder, "Create it first")
        with exclusive(
            beside(self._path, "lock"), self._deadline, "another task that works on %s" % self._path
        ) as over:
            self._alone, self._took_over = True, over
            yield

    def apply(self, plan: Plan[Step]) -> None:
        """See Subject. The lock that a killed task left goes with ours."""
        from .._core.files import remove, sync_folder, write_whole

        self._took_over = False
        if Step.WRITE in plan.steps and self._wanted is not None:
            write_whole(self._path, self._wanted, keep_attributes=True)
            return
        if Step.REMOVE in plan.steps:
            remove(self._path)
        remove(beside(self._path, "new"))
        sync_folder(self._path)

    def view(self, seen: Seen) -> View:
        """See Subject. Digests only: user data hold keys and passwords."""
        left = {"leftovers": list(seen.leftovers)} if seen.leftovers else {}
        if seen.content is None:
            return {"state": "absent", **left}
        digest = hashlib.sha256(seen.content).hexdigest() if seen.content else "another content"
        return {"state": "present", "sha256": digest, **left}

    def result(self, seen: Seen) -> View:
        """See Subject."""
        names = {name: hashlib.sha256(content).hexdigest() for name, content in self._files.items()}
        seed = {"path": self._path, "exists": seen.content is not None, "label": LABEL, "files": names}
        return {"seed": dict(seed, size=len(seen.content) if seen.content else 0)}

    def extras(self) -> View:
        """See Subject."""
        return {}

    def warnings(self) -> Sequence[str]:
        """See Subject."""
        return []


def _is_seed(descriptor: int) -> bool:
    """By its primary volume descriptor, at the beginning of sector 16 (ECMA-119, 8.4): any tool's seed counts."""
    found = os.pread(descriptor, 72, 16 * 2048)
    return found[:6] == b"\x01CD001" and found[40:].rstrip(b" \0").lower() == LABEL.encode()


def _read(descriptor: int, size: int) -> bytes:
    with os.fdopen(os.dup(descriptor), "rb") as file:
        return file.read(size)


def _absolute(path: str) -> str:
    if not os.path.isabs(path):
        raise BadInput("path", "%r is no absolute path" % path, "Write it from the root on")
    return path
