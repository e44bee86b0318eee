# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is there: the image, its record, its source, and what the plan asks about. Reads only, by qemu-img."""

from __future__ import annotations

import os
from collections.abc import Sequence

from .._core.errors import CommandFailed, LifecycleError, Refused
from .._core.names import beside
from . import record as records
from .differences import has_unknown_option, is_current_backing, is_locked, is_recorded, needs_source
from .examine import (
    backing_seen,
    check,
    check_options,
    has_data,
    header_format,
    leads_out,
    other_files,
    refuse_foreign,
    refuse_immutable,
    refuse_other_chain,
    refuse_unwritable,
)
from .extents import extents_of
from .glance import stale, with_source_identity
from .model import Desired, Format, ImageInfo, Record, RepairMode, Seen, known_format
from .plan import plan
from .refusals import led_out, refuse_look
from .source import has_content_of, opened
from .steps import WHOLE, CommitDown, Create, Rebuild, Seed, Step, Sweep
from .tool import Node, QemuImg
from .usage import holders, refuse_written

_INSTEAD = (
    "Make it anew with source and force: true, or remove it with state: absent; if you trust its maker, make one file "
    "of it with qemu-img convert yourself"
)


class Observer:
    """Looks at one declared image.

    Costly answers are kept for as long as the files that they are about stay the same.
    """

    def __init__(self, desired: Desired, qemu_img: QemuImg) -> None:
        self._desired = desired
        self.qemu_img = qemu_img
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
        elif exists:
            extents = extents_of(desired.path, records.read(desired.path))
            seen = seen._replace(extents=extents.own, left_extents=extents.others)
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
        desired = self._desired
        record = records.read(desired.path)
        try:
            seen = seen._replace(info=self._info(record), record=record)
        except Refused as refusal:
            if desired.source is None or not desired.force:
                raise
            return self._unopened(seen, refusal)
        info = seen.info
        if info is not None and is_locked(desired, info):
            refuse_look(desired, info)
        if info is not None and (info.dirty or info.corrupt):
            # QEMU marks an image so while it is in use: only one that nobody has open was left so.
            seen = seen._replace(holders=holders(desired.path))
        if info is not None and info.backing_file is not None:
            seen = seen._replace(leads_out=leads_out(desired.path, info, self.qemu_img))
            if desired.commit:
                seen = self._with_commit(seen, info, info.backing_file)
        if desired.repair is not RepairMode.NONE:
            seen = seen._replace(check=check(self.node(seen), self.qemu_img))
        return seen

    def _unopened(self, seen: Seen, refusal: Refused) -> Seen:
        """An image that nobody opens, because of the names in it: all that is to be done is to make it anew."""
        path = self._desired.path
        used = os.stat(path).st_size
        info = ImageInfo(header_format(path), 0, used, None, None, False, False, False, {}, (), ())
        named = refusal.facts.get("references")
        return seen._replace(
            info=info, opened=False, leads_out=", ".join(named) if isinstance(named, list) else "another file"
        )

    def _with_commit(self, seen: Seen, info: ImageInfo, backing_file: str) -> Seen:
        """What lies below is the file itself, as for `path`: else a commit would replace a link, and exclude no task
        on the file.
        """
        path = self._desired.path
        named = os.path.join(os.path.dirname(path), backing_file)
        base = os.path.realpath(named) if os.path.islink(named) else named
        # A commit works beside the backing file too, and may have been killed after all else was done.
        seen = seen._replace(below=base, left_below=stale(base, alone=False, took_over=False))
        if not has_data(self.node(seen), self.qemu_img):
            return seen
        if seen.leads_out:
            raise led_out("commit %s" % path, seen.leads_out)
        declared = known_format(info.backing_format)
        if info.backing_format and declared is None:
            raise Refused(
                "commit %s" % path,
                "by its header its backing file has format %s, which is none of %s"
                % (info.backing_format, ", ".join(image_format.value for image_format in Format)),
                "If that is wrong, qemu-img rebase -u -F gives the header the right one",
            )
        below = backing_seen(base, declared, path, self.qemu_img)
        if not below.plain and named != base:
            refuse_other_chain(named, base, below.format, self.qemu_img)
        return seen._replace(commit_to=below)

    def _info(self, record: Record | None) -> ImageInfo:
        """What the image is. A raw disk can hold anything its guest wrote, so our record counts before its bytes."""
        path = self._desired.path
        if record is not None:
            try:
                return self.qemu_img.info(Node(path, record.format), instead=_INSTEAD)
            except CommandFailed:
                pass  # somebody wrote another image into the same file: then it is what it says
        node = Node(path, header_format(path))
        try:
            return self.qemu_img.info(node, instead=_INSTEAD)
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
        seen = with_source_identity(self._desired, seen)
        if seen.source_gone or source.is_url or not needs_source(self._desired, seen):
            return seen
        with opened(source, self.qemu_img) as content:
            if self._proved != content.identity:
                content.prove(self.qemu_img.deadline)
                self._proved = content.identity
            seen = seen._replace(source=content.seen)
            if seen.info is not None and not is_recorded(self._desired, seen) and self._is_comparable(seen, seen.info):
                status = os.stat(self._desired.path)
                key = (content.identity, status.st_ino, status.st_mtime_ns, status.st_size)
                if key not in self._same:
                    self._same[key] = has_content_of(
                        self.node(seen), content, seen.info.virtual_size_bytes, self._desired.least_bytes, self.qemu_img
                    )
                    content.refuse_if_changed()
                seen = seen._replace(same_content=self._same[key])
        return seen

    def _is_comparable(self, seen: Seen, info: ImageInfo) -> bool:
        return info.format is self._desired.format and not is_locked(self._desired, info) and not seen.leads_out

    def _with_backing(self, seen: Seen) -> Seen:
        """The declared backing file, looked at only when it is not the current one."""
        backing = self._desired.backing
        if backing is None or is_current_backing(self._desired, seen.info):
            return seen
        if not backing.stored:
            return seen._replace(backing_is_current=False)
        below = backing_seen(backing.path, backing.format, self._desired.path, self.qemu_img)
        refuse_written(backing.path, "use %s as backing file" % backing.path)
        return seen._replace(backing_is_current=False, backing=below)

    def _with_consequences(self, seen: Seen) -> Seen:
        """What matters only if something is to be done: who uses the image, and whether QEMU knows the options."""
        steps = plan(self._desired, seen).steps
        if has_unknown_option(self._desired, seen) or (
            self._desired.options and any(isinstance(step, (Create, Seed, Rebuild)) for step in steps)
        ):
            check_options(self._desired, self.qemu_img)
        if not steps:
            return seen
        refuse_unwritable(self._desired.path, "path")
        if not seen.exists:
            return seen
        if not all(isinstance(step, Sweep) for step in steps):
            refuse_immutable(self._desired.path)
        seen = self._with_replaced(seen, steps)
        if seen.info is not None:
            seen = seen._replace(other_files=other_files(self._desired.path, seen.info))
        found = holders(self._desired.path)
        for extent in seen.extents:
            found += holders(extent)
        if seen.commit_to is not None:
            found += holders(seen.below)
        return seen._replace(holders=found)

    def _with_replaced(self, seen: Seen, steps: Sequence[Step]) -> Seen:
        """What there is to say of files in whose place a new one comes."""
        commits = [step for step in steps if isinstance(step, CommitDown)]
        replaced = [self._desired.path] if commits or any(isinstance(step, WHOLE) for step in steps) else []
        if commits:
            refuse_unwritable(seen.below, "backing_file")
            refuse_immutable(seen.below)
            replaced += [seen.below for step in commits if not step.in_place]
        for path in replaced:
            refuse_foreign(path)
        return seen._replace(split=tuple(path for path in replaced if _has_other_names(path)))


def _has_other_names(path: str) -> bool:
    """Not counting the one under which a run that was killed just then has made it."""
    status, made_as = os.stat(path), beside(path, "new")
    own = 2 if os.path.lexists(made_as) and os.path.samestat(os.lstat(made_as), status) else 1
    return status.st_nlink > own
