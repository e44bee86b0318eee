# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is there: the image, its record, its source, and what the plan asks about. Reads only."""

from __future__ import annotations

import os
import stat

from .._core.errors import BadInput, CommandFailed, LifecycleError
from .._core.names import beside
from .identity import identify, source_is_image
from .model import (
    Create,
    Desired,
    Format,
    ImageInfo,
    Rebuild,
    Record,
    RepairMode,
    Seed,
    Seen,
    SourceSeen,
)
from .plan import needs_source, plan
from .tool import Node, QemuImg

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
            backing = backing._replace(path=os.path.abspath(os.path.join(os.path.dirname(real), backing.stored)))
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


class Observer:
    """Looks at one declared image.

    Costly answers are kept for as long as the files that they are about stay the same.
    """

    def __init__(self, desired: Desired, qemu_img: QemuImg) -> None:
        self._desired = desired
        self._qemu_img = qemu_img
        self._same: dict[object, bool] = {}
        self._proved: object = None

    def observe(self, leftovers: tuple[str, ...]) -> Seen:
        """Everything that the plan needs, and no more: what isn't asked for isn't looked up."""
        desired = self._desired
        exists = os.path.lexists(desired.path)
        seen = Seen(exists=exists, leftovers=leftovers)
        if desired.present:
            if exists:
                seen = self._existing(seen)
            seen = self._with_source(seen)
            seen = self._with_backing(seen)
        if exists or leftovers or desired.present:
            seen = self._with_consequences(seen)
        return seen

    def node(self, seen: Seen) -> Node:
        """The existing image, as qemu-img is to open it."""
        if seen.info is None:
            return Node(self._desired.path, self._desired.format)
        encrypted = seen.info.encrypted and self._desired.encryption is not None
        return Node(self._desired.path, seen.info.format, encrypted=encrypted)

    def _existing(self, seen: Seen) -> Seen:
        from . import record as records

        desired = self._desired
        record = records.read(desired.path)
        seen = seen._replace(info=self._info(record), record=record)
        info = seen.info
        if desired.commit and info is not None and info.backing_file is not None:
            from .examine import backing_seen, has_data

            base = os.path.join(os.path.dirname(desired.path), info.backing_file)
            # A commit works beside the backing file too, and may have been killed after all else was done.
            seen = seen._replace(left_below=stale(base, alone=False, found_lock=False))
            if has_data(self.node(seen), self._qemu_img):
                declared = Format(info.backing_format) if info.backing_format else None
                seen = seen._replace(commit_to=backing_seen(base, declared, desired.path, self._qemu_img))
        if desired.repair is not RepairMode.NONE:
            from .examine import check

            seen = seen._replace(check=check(self.node(seen), self._qemu_img))
        return seen

    def _info(self, record: Record | None) -> ImageInfo:
        """What the image is. A raw disk can hold anything its guest wrote, so our record counts before its bytes."""
        path = self._desired.path
        if record is not None:
            try:
                return self._qemu_img.info(Node(path, record.format))
            except CommandFailed:
                pass  # somebody wrote another image into the same file: then it is what it says
        from .examine import header_format

        node = Node(path, header_format(path))
        try:
            return self._qemu_img.info(node)
        except CommandFailed as error:
            said = str(error.facts["stderr"]).strip() or "qemu-img was killed by its limits"
            raise LifecycleError(
                "%s is there, but can't be read as %s: %s. Restore it from a backup, or remove it with state: absent."
                % (path, node.format.value, said)
            ) from None

    def _with_source(self, seen: Seen) -> Seen:
        """The source's identity always; its content only when the record doesn't settle the matter."""
        source = self._desired.source
        if source is None:
            return seen
        identity = identify(source)
        if identity is None:
            return seen._replace(source_gone=True)
        if (
            seen.exists
            and not source.is_url
            and (identity.device, identity.inode) == _device_and_inode(self._desired.path)
        ):
            raise source_is_image()
        seen = seen._replace(source=SourceSeen(identity, None, None))
        if source.is_url or not needs_source(self._desired, seen):
            return seen
        from .source import has_content_of, opened

        with opened(source, self._qemu_img) as content:
            if self._proved != content.identity:
                content.prove(self._qemu_img.deadline)
                self._proved = content.identity
            seen = seen._replace(source=content.seen)
            if seen.info is not None and seen.info.format is self._desired.format:
                status = os.stat(self._desired.path)
                key = (content.identity, status.st_ino, status.st_mtime_ns, status.st_size)
                if key not in self._same:
                    self._same[key] = has_content_of(
                        self.node(seen), content, seen.info.virtual_size_bytes, self._qemu_img
                    )
                seen = seen._replace(same_content=self._same[key])
        return seen

    def _with_backing(self, seen: Seen) -> Seen:
        """The declared backing file, looked at only when it is not the current one."""
        backing = self._desired.backing
        if backing is None:
            return seen
        info = seen.info
        if not backing.stored:
            return seen._replace(backing_is_current=info is None or info.backing_file is None)
        current = None
        if info is not None and info.backing_file is not None:
            current = os.path.abspath(os.path.join(os.path.dirname(self._desired.path), info.backing_file))
        format_fits = backing.format is None or (info is not None and info.backing_format == backing.format.value)
        if current == backing.path and format_fits:
            return seen
        from .examine import backing_seen

        below = backing_seen(backing.path, backing.format, self._desired.path, self._qemu_img)
        return seen._replace(backing_is_current=False, backing=below)

    def _with_consequences(self, seen: Seen) -> Seen:
        """What matters only if something is to be done: who uses the image, and whether QEMU knows the options."""
        steps = plan(self._desired, seen).steps
        if _unknown_yet(self._desired, seen) or (
            self._desired.options and any(isinstance(step, (Create, Seed, Rebuild)) for step in steps)
        ):
            from .examine import check_options

            check_options(self._desired, self._qemu_img)
        if not steps or not seen.exists:
            return seen
        if seen.info is not None:
            from .examine import other_files

            seen = seen._replace(other_files=other_files(self._desired.path, seen.info))
        from .usage import holders

        found = holders(self._desired.path)
        if seen.commit_to is not None and seen.info and seen.info.backing_file:
            backing = os.path.join(os.path.dirname(self._desired.path), seen.info.backing_file)
            found += holders(backing) if os.path.exists(backing) else ()
        return seen._replace(holders=found)


def _device_and_inode(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _unknown_yet(desired: Desired, seen: Seen) -> bool:
    """Whether an option is declared of an existing image that neither it nor its record shows: it may be misspelt."""
    if not desired.present or seen.info is None:
        return False
    recorded = seen.record.arguments if seen.record else {}
    return any(name not in seen.info.options and "options.%s" % name not in recorded for name in desired.options)


def stale(path: str, alone: bool, found_lock: bool) -> tuple[str, ...]:
    """Names that a killed run left beside ``path``; none while another task holds the lock: they are that task's.

    :param alone: this task holds the lock.
    :param found_lock: this task found a lock file that nobody held when it took it.
    """
    lock = beside(path, "lock")
    own = [beside(path, "new"), beside(path, "download"), beside(beside(path, "record"), "new")]
    if not os.path.lexists(path):
        own.append(beside(path, "record"))
    there = [name for name in own if os.path.lexists(name)]
    if alone:
        return tuple([lock, *there] if found_lock else there)
    if os.path.lexists(lock):
        from .._core.locks import is_stale

        return (lock, *there) if is_stale(lock) else ()
    # Looked at again: a task that was at work may have ended meanwhile.
    return tuple(name for name in there if os.path.lexists(name))
