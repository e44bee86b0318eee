# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One declared image as the subject that `_core.converge` drives."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from .._core.capabilities import Capability, missing_protections
from .._core.converge import Plan
from .._core.names import beside
from .._core.wait import Deadline
from .model import Desired, ImageInfo, Seen, Step
from .observe import Observer, resolve, stale
from .plan import plan, view
from .tool import QemuImg

PROTECTIONS = (Capability.OFD_LOCKS, Capability.PROC, Capability.PARENT_DEATH_SIGNAL, Capability.USER_XATTRS)


class Image:
    """Observes and changes the image file of one task.

    :param dress: gives a new file its declared owner, mode and labels before it is published; told whether it
        replaces another.
    """

    def __init__(self, desired: Desired, deadline: Deadline, dress: Callable[[str, bool], object]) -> None:
        self._desired = resolve(desired)
        self._deadline = deadline
        self._dress = dress
        self._qemu_img = QemuImg(deadline, desired.encryption)
        self._observer = Observer(self._desired, self._qemu_img)
        self._alone = False
        self._found_lock = False
        self._seen: Seen | None = None
        self._extras: dict[str, object] = {}

    @property
    def path(self) -> str:
        """The image file itself, a symbolic link followed."""
        return self._desired.path

    def observe(self) -> Seen:
        """See Subject."""
        leftovers = stale(self.path, self._alone, self._found_lock)
        self._found_lock = any(name == beside(self.path, "lock") for name in leftovers)
        self._seen = self._observer.observe(leftovers)
        return self._seen

    def plan(self, seen: Seen) -> Plan[Step]:
        """See Subject."""
        return plan(self._desired, seen)

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """See Subject. Two tasks on one image take turns; each looks again when it is its turn."""
        from .._core.locks import exclusive

        with exclusive(beside(self.path, "lock"), self._deadline, "another task that works on %s" % self.path):
            self._alone = True
            try:
                yield
            finally:
                self._alone = False

    def apply(self, plan: Plan[Step]) -> None:
        """See Subject."""
        from .apply import Work

        if self._seen is None:
            return
        target = self._observer.node(self._seen)
        work = Work(self._desired, self._seen, self._qemu_img, target, self._dress)
        try:
            work.carry_out(plan.steps)
        finally:
            self._found_lock = False
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
        return {
            "image": describe_image(self.path, seen.info)
            if seen.exists and seen.info
            else {"path": self.path, "exists": seen.exists}
        }

    def extras(self) -> Mapping[str, object]:
        """See Subject."""
        return {"bytes": 0, "throughput_mb_s": 0.0, "attempts": [], **self._extras, "commands": self._qemu_img.commands}

    def warnings(self) -> Sequence[str]:
        """See Subject."""
        return missing_protections(PROTECTIONS) if self._extras else []


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
