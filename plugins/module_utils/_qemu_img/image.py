# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One declared image as the subject that `_core.converge` drives."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from .._core.capabilities import Capability, missing_protections
from .._core.converge import Plan
from .._core.errors import LifecycleError, TimedOut, ToolMissing, describe
from .._core.names import beside
from .._core.wait import Deadline, poll_until
from .differences import is_at_rest
from .glance import glance, resolve, stale
from .model import Desired, ImageInfo, Seen
from .view import view

if TYPE_CHECKING:
    from .observe import Observer
    from .steps import Step

PROTECTIONS = (
    Capability.OFD_LOCKS,
    Capability.PROC,
    Capability.PARENT_DEATH_SIGNAL,
    Capability.USER_XATTRS,
    Capability.DESCRIPTOR_PATHS,
)

_LEFT = (
    "%s names other files, which are left alone because they aren't surely its own: %s. If they hold its data, remove "
    "them yourself."
)
_SPLIT = "%s has other names (hard links). A new file takes its place, so those keep the image as it was."


class Image:
    """Observes and changes the image file of one task.

    :param dress: gives a new file its declared owner, mode and labels before it is published; told the mode that it
        has without a declared one, or None where it replaces another and has that one's.
    """

    def __init__(self, desired: Desired, deadline: Deadline, dress: Callable[[str, int | None], object]) -> None:
        self._desired = resolve(desired)
        self._deadline = deadline
        self._dress = dress
        self._closer: Observer | None = None
        self._alone = False
        self._acts = False  # something is to be done, or refused
        self._took_over = False  # the lock is one that a killed task left
        self._seen: Seen | None = None
        self._extras: dict[str, object] = {}
        self._left_extents: tuple[str, ...] = ()
        self._split: tuple[str, ...] = ()

    @property
    def path(self) -> str:
        """The image file itself, a symbolic link followed."""
        return self._desired.path

    def observe(self) -> Seen:
        """See Subject. What is refused because of another task at work is looked at again when that has ended."""
        if self._alone:
            return self._look()
        while True:
            was_busy = self._is_busy()
            try:
                seen = self._look()
                self.plan(seen)
            except (ToolMissing, TimedOut):  # no other task's doing
                self._acts = True
                raise
            except (LifecycleError, OSError) as error:
                self._acts = True
                if not (was_busy or self._is_busy()):
                    raise
                self._wait_for_others(describe(error))
            else:
                return seen

    def _is_busy(self) -> bool:
        """Whether another task works on the image, or on the one into which this one commits."""
        names = [lock for lock in self._locks() if os.path.lexists(lock)]
        if not names:
            return False
        from .._core.locks import is_held

        return any(is_held(name) for name in names)

    def _locks(self) -> list[str]:
        below = self._seen.below if self._seen else ""
        return [beside(path, "lock") for path in (self.path, below) if path]

    def _wait_for_others(self, refusal: str) -> None:
        waiting_for = "another task that works on %s" % self.path
        poll_until(lambda: not self._is_busy(), self._deadline, waiting_for, last_seen=refusal)

    def _look(self) -> Seen:
        leftovers = stale(self.path, self._alone, self._took_over)
        # Whoever is going to change the image, or has changed it, has qemu-img itself look at it.
        seen = None if self._alone or leftovers else glance(self._desired)
        self._seen = seen or self._observer().observe(leftovers)
        self._left_extents = self._seen.left_extents or self._left_extents
        self._split = self._seen.split or self._split
        return self._seen

    def _observer(self) -> Observer:
        """It keeps what it has seen. All that it needs is loaded here: a task with nothing to do goes without."""
        from .observe import Observer
        from .tool import QemuImg

        if self._closer is None:
            self._closer = Observer(self._desired, QemuImg(self._deadline, self._desired.encryption))
        return self._closer

    def plan(self, seen: Seen) -> Plan[Step]:
        """See Subject."""
        if is_at_rest(self._desired, seen):
            return Plan((), {})
        self._acts = True
        from .plan import plan

        return plan(self._desired, seen)

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """See Subject. Two tasks on one image take turns; each looks again when it is its turn."""
        from .._core.locks import exclusive

        with exclusive(beside(self.path, "lock"), self._deadline, "another task that works on %s" % self.path) as over:
            self._alone, self._took_over = True, over
            try:
                yield
            finally:
                self._alone = self._took_over = False

    def apply(self, plan: Plan[Step]) -> None:
        """See Subject."""
        from .apply import Work

        if self._seen is None:
            return
        observer = self._observer()
        work = Work(self._desired, self._seen, observer.qemu_img, observer.node(self._seen), self._dress)
        try:
            work.carry_out(plan.steps)
        finally:
            self._took_over = False
            self._extras["bytes"] = work.bytes_written
            self._extras["throughput_mb_s"] = (
                round(work.bytes_written / 1e6 / work.elapsed_s, 1) if work.elapsed_s else 0.0
            )
            self._extras["attempts"] = [attempt._asdict() for attempt in work.attempts]

    def view(self, seen: Seen) -> Mapping[str, object]:
        """See Subject."""
        return view(self._desired, seen)

    def result(self, seen: Seen) -> Mapping[str, object]:
        """See Subject."""
        if not (seen.exists and seen.info):
            return {"image": {"path": self.path, "exists": seen.exists}}
        if not seen.opened:
            return {"image": {"path": self.path, "exists": True, "format": seen.info.format.value}}
        return {"image": describe_image(self.path, seen.info)}

    def extras(self) -> Mapping[str, object]:
        """See Subject."""
        commands = self._closer.qemu_img.commands if self._closer else []
        return {"bytes": 0, "throughput_mb_s": 0.0, "attempts": [], **self._extras, "commands": commands}

    def warnings(self) -> Sequence[str]:
        """See Subject."""
        told = missing_protections(PROTECTIONS) if self._acts else []
        if self._left_extents:
            told.append(_LEFT % (self.path, ", ".join(self._left_extents)))
        return told + [_SPLIT % path for path in self._split]


def describe_image(path: str, info: ImageInfo) -> dict[str, object]:
    """An image for a result, in the words of qemu-img's own info."""
    return {
        "path": path,
        "exists": True,
        "format": info.format.value,
        "virtual_size": info.virtual_size_bytes,
        "actual_size": info.actual_size_bytes,
        "file_size": os.stat(path).st_size,
        "backing_file": info.backing_file,
        "backing_format": info.backing_format,
        "encrypted": info.encrypted,
        "dirty": info.dirty,
        "corrupt": info.corrupt,
        "options": dict(info.options),
        "snapshots": list(info.snapshots),
        "bitmaps": list(info.bitmaps),
    }
