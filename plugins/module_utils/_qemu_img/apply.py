# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Carrying a plan out.

A new image grows in a file beside the target and takes its place in one step; the rest works in place.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING

from .._core.errors import LifecycleError, Refused, storage_failed
from .._core.files import (
    afterwards,
    inherit,
    on_failure,
    publish,
    publish_new,
    remove,
    removed_on_failure,
    sync_folder,
)
from .._core.locks import exclusive
from .._core.names import beside
from . import record as records
from .build import STAT_BLOCK_BYTES, Builder
from .examine import check
from .extras import Named
from .found import Holder
from .glance import stale
from .keep import declared_shape, kept_shape, remembered
from .limits import refuse_too_large
from .model import Desired, Format, ImageInfo, Record, RepairMode, Seen
from .prove import Original, prove, prove_committed, refuse_corrupt, refuse_rounded
from .refusals import cut_off, not_the_source, refuse_unclosed_source
from .source import OpenSource, has_content_of, opened
from .steps import (
    WHOLE,
    Adopt,
    Amend,
    CommitDown,
    Copy,
    Create,
    Rebase,
    Rebuild,
    Remove,
    Repair,
    Resize,
    Seed,
    SetBitmap,
    SetSnapshot,
    Step,
    Sweep,
    SweepBelow,
)
from .tool import Node, QemuImg, option_list
from .usage import hold, holders, newcomers

if TYPE_CHECKING:
    from .download import Attempt

NEW_IMAGE_MODE = 0o644  # what qemu-img itself gives a new image; the umask takes its part


class Work:
    """One task's changes to one image. ``seen`` is the decisive observation, made while alone."""

    def __init__(
        self,
        desired: Desired,
        seen: Seen,
        qemu_img: QemuImg,
        target: Node,
        dress: Callable[[str, int | None], object],
    ) -> None:
        self.desired = desired
        self.seen = seen
        self.qemu_img = qemu_img
        self.bytes_written = 0
        self.elapsed_s = 0.0
        self.attempts: list[Attempt] = []
        self._dress = dress
        self._target = target
        self._new = beside(desired.path, "new")
        self._builder = Builder(desired, qemu_img)
        self._identity = seen.record.source if seen.record else None
        self._new_descriptor = -1
        self._steps: Sequence[Step] = ()
        self._content_seen = seen.source

    def carry_out(self, steps: Sequence[Step]) -> None:
        """All steps, in order. When one fails the target is what it was, or what a completed step made of it."""
        started = time.monotonic()
        try:
            for part in _parts(steps):
                self._carry_out(part)
        except OSError as error:
            free = self._builder.free_bytes
            needed = self._builder.needed_bytes if error.errno == errno.ENOSPC else None
            if needed is not None and needed <= free:
                needed = None  # a figure that explains nothing: what was begun is gone, or others had the room
            raise storage_failed(
                error, "Writing %s" % self._builder.writing, needed_bytes=needed, free_bytes=free
            ) from error
        finally:
            self.elapsed_s = time.monotonic() - started

    def _carry_out(self, steps: Sequence[Step]) -> None:
        self._steps = steps
        rest = [step for step in steps if not self._did_alone(step)]
        if any(isinstance(step, WHOLE) for step in rest):
            self._replace(rest)
        elif rest:
            self._in_place(rest)
        if any(isinstance(step, Adopt) for step in steps) and not any(isinstance(step, WHOLE) for step in rest):
            self._remember(self.desired.path, self.desired.format)

    def _did_alone(self, step: Step) -> bool:
        """Carry out a step that is complete in itself; False for one that changes the image together with others."""
        if isinstance(step, Sweep):
            self._sweep(step.names)
        elif isinstance(step, SweepBelow):
            self._sweep_below(step.backing_path)
        elif isinstance(step, Remove):
            self._remove(step.extents)
        elif isinstance(step, Adopt):
            self._prove_adoption(step)
        elif isinstance(step, CommitDown):
            self._commit_down(step)
        else:
            return False
        return True

    def _sweep(self, names: Sequence[str]) -> None:
        """All but the lock that was taken over: without it others would work here too, so it goes when all is done."""
        for name in names:
            if name != beside(self.desired.path, "lock"):
                remove(name)

    def _sweep_below(self, backing_path: str) -> None:
        """Under the backing file's own lock, whose file goes with it."""
        waiting_for = "another task that works on %s" % backing_path
        with exclusive(beside(backing_path, "lock"), self.qemu_img.deadline, waiting_for):
            for name in stale(backing_path, alone=True, took_over=False):
                remove(name)

    def _remove(self, extents: Sequence[str]) -> None:
        """The image itself goes last: while it is there, the next run knows what else has to go."""
        with ExitStack() as stack:
            for path in (self.desired.path, *extents):
                stack.enter_context(self._held("remove", path))
            for path in extents:
                remove(path)
            if extents:
                sync_folder(self.desired.path)
            remove(self.desired.path)
            remove(records.sidecar(self.desired.path))
            sync_folder(self.desired.path)

    @contextmanager
    def _held(self, operation: str, path: str | None = None) -> Iterator[None]:
        """Nobody starts to write to the image while the block runs. Raises Refused where somebody does already."""
        path = path or self.desired.path
        with hold(path) as alone:
            if not alone:
                raise _came_into_use(operation, path, holders(path))
            yield

    def _prove_adoption(self, step: Adopt) -> None:
        """Find out, where it isn't known yet, whether the image has the source's content."""
        if step.compared and self.seen.source is not None:
            self._identity = self.seen.source.identity
            return
        with ExitStack() as stack:
            content = self._content(stack)
            info = self.seen.info or self.qemu_img.info(self._target)
            if not has_content_of(
                self._target, content, info.virtual_size_bytes, self.desired.least_bytes, self.qemu_img
            ):
                raise not_the_source(self.desired, self.seen.record, info)
            self._identity = content.identity

    def _content(self, stack: ExitStack) -> OpenSource:
        """The source, opened; a URL is fetched first, and the download disappears with the stack."""
        source = self.desired.source
        if source is None:
            raise LifecycleError("%s has no source." % self.desired.path)
        path = ""
        if source.is_url:
            path = beside(self.desired.path, "download")
            remove(path)
            stack.enter_context(afterwards(partial(remove, path), "removing %s" % path))
            from .download import fetch  # Ansible's code for URLs takes longer to load than a small image to make

            fetch(source, path, self.qemu_img.deadline, self.attempts)
        content = stack.enter_context(opened(source, self.qemu_img, path))
        if not source.is_url and self.seen.source is not None:
            content.refuse_if_changed(self.seen.source.identity)  # what was proved and decided upon is this very file
        self._content_seen = content.seen
        return content

    # In place: only what qemu-img can be interrupted in (see plan.py).

    def _in_place(self, steps: Sequence[Step]) -> None:
        refuse_corrupt(self._target, self.desired.path, self.desired.verify, self.qemu_img)
        # Opened beforehand: qemu-img ignores some write errors when it closes; the kernel tells them to our fsync.
        descriptor = os.open(self.desired.path, os.O_RDWR | os.O_CLOEXEC)
        try:
            for step in steps:
                self._modify(step, self._target)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _modify(self, step: Step, node: Node) -> None:
        """One change of an existing image file, the target itself or the new one."""
        path = self.desired.path
        if isinstance(step, Repair):
            self._repair(step.mode, node)
        elif isinstance(step, Resize):
            self._resize(step, node)
        elif isinstance(step, Rebase):
            self._rebase(step, node)
        elif isinstance(step, Amend):
            self._builder.run(
                ["amend", "-q", *option_list(dict(step.options)), *node.arguments()], "amending %s" % path, node
            )
        elif isinstance(step, SetSnapshot):
            flag, verb = ("-c", "taking") if step.present else ("-d", "deleting")
            doing = "%s snapshot %s of %s" % (verb, step.name, path)
            self._builder.run(["snapshot", "-q", flag, step.name, node.name], doing, node)
        elif isinstance(step, SetBitmap):
            self._set_bitmap(step.bitmap, node)

    def _resize(self, step: Resize, node: Node) -> None:
        words = ["--shrink"] if step.shrinks else []
        if step.preallocation != "off":
            words.append("--preallocation=" + step.preallocation)
        if step.preallocation in ("falloc", "full") and self.seen.info is not None:
            self._builder.needed_bytes = step.size_bytes - self.seen.info.virtual_size_bytes
            self._builder.refuse_without_room(self._builder.needed_bytes)
        doing = "resizing %s" % self.desired.path
        self._builder.run(["resize", "-q", *words, *node.arguments(), str(step.size_bytes)], doing, node)
        if step.preallocation != "off" and node.encrypted and self.seen.info is not None:
            self._builder.blank(node, self.seen.info.virtual_size_bytes, step.size_bytes)

    def _rebase(self, step: Rebase, node: Node) -> None:
        """To an absolute name first where the image needs a secret: a relative one has no beginning for QEMU then."""
        words = ["rebase", "-q", *(["-F", step.format.value] if step.format else [])]
        doing = "rebasing %s" % self.desired.path
        by_way = node.encrypted and step.backing.stored and not os.path.isabs(step.backing.stored)
        self._builder.run(
            [*words, "-b", step.backing.path if by_way else step.backing.stored, *node.arguments()], doing, node
        )
        if by_way:
            self._builder.run([*words, "-u", "-b", step.backing.stored, *node.arguments()], doing, node)

    def _set_bitmap(self, bitmap: Named, node: Node) -> None:
        words = ["--add" if bitmap.present else "--remove"]
        if bitmap.present and bitmap.granularity_bytes:
            words += ["-g", str(bitmap.granularity_bytes)]
        doing = "%s bitmap %s of %s" % ("adding" if bitmap.present else "removing", bitmap.name, self.desired.path)
        self._builder.run(["bitmap", *words, *node.arguments(), "--", bitmap.name], doing, node)

    def _repair(self, mode: RepairMode, node: Node) -> None:
        # Its exit code tells what was found, not what is left: that is what the check afterwards is for.
        words = ["check", "-q", "-r", mode.value, *node.arguments()]
        self._builder.run(words, "repairing a copy of %s" % self.desired.path, node, ok=(0, 2, 3))
        left = check(node, self.qemu_img)
        if left is not None and (left.corruptions or left.leaks):
            raise Refused(
                "replace %s by its repaired copy" % self.desired.path,
                "the copy still has %d corruptions and %d leaks" % (left.corruptions, left.leaks),
                "Restore it from a backup; the image was left as it was",
            )

    # Whole: everything happens on a new file, and the target changes hands at the end.

    def _replace(self, steps: Sequence[Step]) -> None:
        with ExitStack() as stack:
            stack.enter_context(self._held("replace"))
            node = self._new_file(stack, self._new, self._format(steps), self._is_encrypted(steps))
            content: OpenSource | None = None
            original: Original | None = None
            if self.seen.info is not None and _keeps_content(steps):
                refuse_corrupt(self._target, self.desired.path, self.desired.verify, self.qemu_img)
                original = Original(self._target, self.seen.info.virtual_size_bytes, self.desired.path)
            for step in steps:
                if isinstance(step, Seed):
                    content = self._content(stack)
                    refuse_unclosed_source(self.desired, content.seen)
                    name = self.desired.source.shown if self.desired.source else ""
                    refuse_corrupt(content.node, name, self.desired.verify, self.qemu_img)
                    original = Original(content.node, content.virtual_size_bytes, name)
                    self._seed(content, node, step.size_bytes)
                elif isinstance(step, WHOLE):
                    self._build(step, node)
                else:
                    self._modify(step, node)
            refuse_rounded(node, self.desired, self.qemu_img)
            prove(node, original, self.desired, self.qemu_img)
            if content is not None:
                content.refuse_if_changed()
                self._identity = content.identity
            self._publish(node.format)

    def _format(self, steps: Sequence[Step]) -> Format:
        """The new file's: a copy has the image's own, and may be converted afterwards."""
        if self.seen.info is not None and any(isinstance(step, Copy) for step in steps):
            return self.seen.info.format
        return self.desired.format

    def _is_encrypted(self, steps: Sequence[Step]) -> bool:
        """Whether the new file opens with the task's secret: a copy as the image does, the others as declared."""
        if any(isinstance(step, Copy) for step in steps):
            return self._target.encrypted
        return self.desired.encryption is not None

    def _new_file(self, stack: ExitStack, path: str, image_format: Format, encrypted: bool) -> Node:
        """An empty file that is surely ours, not another's behind a link; removed unless it gets published.

        Nobody else may read it: who has opened it keeps that right, whatever mode it gets in the end.
        """
        remove(path)
        stack.enter_context(removed_on_failure(path))
        # Open until the end: a write error that qemu-img was told of and ignored is told to this descriptor as well.
        self._new_descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        stack.callback(os.close, self._new_descriptor)
        return Node(path, image_format, encrypted=encrypted)

    def _build(self, step: Step, node: Node) -> None:
        info = self.seen.info
        if isinstance(step, Create):
            self._builder.create(node, step.size_bytes, self.desired.options, self._declared_backing())
        elif isinstance(step, Rebuild) and info is not None:
            shape = kept_shape(self.desired, self.seen)
            self._builder.convert(self._target, node, info.virtual_size_bytes, step.size_bytes, shape)
        elif isinstance(step, Copy):
            self._builder.copy(self.desired.path, node.path)
            if kept_shape(self.desired, self.seen).options.get("preallocation") == "falloc":
                self._builder.allocate(node.path)

    def _declared_backing(self) -> list[str]:
        declared = self.desired.backing
        if declared is None or not declared.stored or self.seen.backing is None:
            return []
        return ["-b", declared.stored, "-F", self.seen.backing.format.value]

    def _seed(self, content: OpenSource, node: Node, size_bytes: int | None) -> None:
        size = content.virtual_size_bytes if size_bytes is None else size_bytes
        if size < content.virtual_size_bytes and not self.desired.allow_shrink:
            raise cut_off(self.desired, content.virtual_size_bytes)
        refuse_too_large(self.desired, self.desired.options, Seed(size))  # a URL's is known only now
        self._builder.convert(content.node, node, content.virtual_size_bytes, size, declared_shape(self.desired))

    def _publish(self, image_format: Format) -> None:
        if self.seen.exists:
            inherit(self.desired.path, self._new)
        self._dress(self._new, None if self.seen.exists else NEW_IMAGE_MODE & ~_umask())
        self._put_in_place(self._new, self.desired.path, self.seen.exists, self._record(image_format))
        self.bytes_written = os.fstat(self._new_descriptor).st_blocks * STAT_BLOCK_BYTES

    def _put_in_place(self, new: str, target: str, exists: bool, record: Record | None) -> None:
        """At once after a last look: making the new file may have taken hours, and not everybody heeds locks.

        The record may be a file beside the target: only what comes there itself keeps one.
        """
        with on_failure(partial(records.remove_unused, target), "removing the record of %s" % target):
            if record is not None:
                records.write(new, record, target)
            os.fsync(self._new_descriptor)
            if not exists:
                _publish_new(new, target)
                return
            found = newcomers(target)
            if found:
                raise _came_into_use("replace", target, found)
            publish(new, target)

    def _remember(self, path: str, image_format: Format) -> None:
        """Write the record of the image."""
        records.write(path, self._record(image_format), self.desired.path)

    def _record(self, image_format: Format) -> Record:
        shaped = remembered(self.desired, self.seen, self._steps, self._content_seen)
        return Record(image_format, self._identity, shaped, self.qemu_img.version())

    # Commit: into the backing file or its copy; the overlay is emptied by putting a fresh one in its place, as
    # qemu-img's own emptying has moments in which it is torn.

    def _commit_down(self, step: CommitDown) -> None:
        info = self.seen.info
        if info is None:
            return
        base = self.seen.below
        untouched = os.stat(self.desired.path)
        self._builder.begin(base)
        with ExitStack() as stack:
            waiting_for = "another task that works on %s" % base
            stack.enter_context(exclusive(beside(base, "lock"), self.qemu_img.deadline, waiting_for))
            below = Node(base, step.backing.format)
            for node in (self._target, below):
                refuse_corrupt(node, node.path, self.desired.verify, self.qemu_img)
            above = self._target._replace(backing=(base, step.backing.format))
            overlay = Original(above, info.virtual_size_bytes, self.desired.path)
            if step.in_place:
                descriptor = os.open(base, os.O_RDWR | os.O_CLOEXEC)
                stack.callback(os.close, descriptor)
                self._builder.refuse_commit_without_room(self._target, below)
                self._commit_into(below)
                os.fsync(descriptor)
                prove_committed(below, base, overlay, self.desired.verify, self.qemu_img)
            else:
                self._commit_into_copy(stack, below, overlay)
            self._builder.begin(self.desired.path)
            stack.enter_context(self._held("empty"))
            now = os.stat(self.desired.path)
            if (now.st_mtime_ns, now.st_size) != (untouched.st_mtime_ns, untouched.st_size):
                raise Refused(
                    "empty %s after its commit" % self.desired.path,
                    "it was written to meanwhile",
                    "Nothing is lost. Shut down whoever writes it, then run the task again",
                )
            self._empty_overlay(stack, info)

    def _commit_into(self, below: Node) -> None:
        """`commit -d` leaves the overlay as it is. The backing file is named by us, not by the overlay's header."""
        node = self._target._replace(backing=(below.path, below.format))
        doing = "committing %s into %s" % (self.desired.path, below.path)
        self._builder.run(["commit", "-q", "-d", *node.arguments()], doing, node)

    def _commit_into_copy(self, stack: ExitStack, below: Node, overlay: Original) -> None:
        base = below.path
        stack.enter_context(self._held("replace", base))
        node = self._new_file(stack, beside(base, "new"), below.format, False)
        added = self._builder.added_by_commit(self._target, below, copied=True)
        self._builder.copy(base, node.path, added)
        self._commit_into(node)
        prove_committed(node, base, overlay, self.desired.verify, self.qemu_img)
        inherit(base, node.path)
        self._put_in_place(node.path, base, True, records.read(base))

    def _empty_overlay(self, stack: ExitStack, info: ImageInfo) -> None:
        node = self._new_file(stack, self._new, Format.QCOW2, info.encrypted)
        options = {name: value for name, value in info.options.items() if not name.startswith("data_file")}
        backing = ["-b", str(info.backing_file), "-F", info.backing_format or Format.RAW.value]
        self._builder.create(node, info.virtual_size_bytes, options, backing)
        self._publish(node.format)


def _publish_new(new: str, target: str) -> None:
    try:
        publish_new(new, target)
    except FileExistsError:
        raise Refused(
            "make %s" % target, "another file of that name came meanwhile", "Look at it, then run the task again"
        ) from None


def _came_into_use(operation: str, path: str, found: Sequence[Holder]) -> Refused:
    return Refused(
        "%s %s" % (operation, path),
        "it came into use by %s" % (", ".join(holder.shown for holder in found) or "another process"),
        "Shut that machine down first, then run the task again",
        holders=[{"pid": holder.pid, "name": holder.name} for holder in found],
    )


def _parts(steps: Sequence[Step]) -> Iterator[Sequence[Step]]:
    """A repair is complete before the data is committed or converted: both read the image under its own name."""
    repaired = [at for at, step in enumerate(steps, 1) if isinstance(step, Repair)]
    is_used = any(isinstance(step, (CommitDown, Rebuild)) for step in steps)
    end = repaired[0] if repaired and is_used else 0
    yield steps[:end]
    yield steps[end:]


def _keeps_content(steps: Sequence[Step]) -> bool:
    """Whether the new image shows what the old one did; what a repair makes of it nobody knows."""
    made_of_itself = any(isinstance(step, (Rebuild, Copy)) for step in steps)
    return made_of_itself and not any(isinstance(step, Repair) for step in steps)


def _umask() -> int:
    """The process's; it can only be learnt by setting another."""
    umask = os.umask(0o077)
    os.umask(umask)
    return umask
