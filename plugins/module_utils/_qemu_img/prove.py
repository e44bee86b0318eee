# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The proofs around a new image: that what it is made from is whole, and that it came out right."""

from __future__ import annotations

from typing import NamedTuple

from .._core.errors import LifecycleError, Refused
from .examine import check
from .model import Desired, Format, Verify
from .tool import Node, QemuImg, pair


class Original(NamedTuple):
    """The image whose content another shall have, and its name for messages."""

    node: Node
    virtual_size_bytes: int
    name: str


def refuse_corrupt(node: Node, name: str, verify: Verify, qemu_img: QemuImg) -> None:
    """Before its content is used: what was cut off or overwritten reads as zeros, and a later check can't tell."""
    faults = None if verify is Verify.NONE else check(node, qemu_img)
    if faults is not None and faults.corruptions:
        raise Refused(
            "use %s" % name,
            "a check finds %d corruptions in it, so part of its content may be lost" % faults.corruptions,
            "Restore it from where it came; repair: all mends what can be mended of an image, verify: none uses it as "
            "it is",
        )


def refuse_rounded(node: Node, desired: Desired, qemu_img: QemuImg) -> None:
    """With force_size off a vpc has whole cylinders, and only qemu-img knows how many."""
    wanted = desired.size_bytes
    if node.format is not Format.VPC or wanted is None:
        return
    made = qemu_img.info(node).virtual_size_bytes
    if made != wanted:
        raise Refused(
            "make %s" % desired.path,
            "format vpc without force_size makes %d bytes of the declared %d" % (made, wanted),
            "Leave force_size out, or declare size: %d" % made,
        )


def prove(node: Node, original: Original | None, desired: Desired, qemu_img: QemuImg) -> None:
    """The new image before anybody can see it: consistent, and on demand equal to what it was made from."""
    if desired.verify is Verify.NONE:
        return
    faults = check(node, qemu_img)
    if faults is not None and faults.corruptions:
        raise LifecycleError(
            "The new image for %s has %d corruptions, so it wasn't used and all is as it was. If the image had "
            "them before, repair it (repair: all); else look at the host's disk and memory."
            % (desired.path, faults.corruptions)
        )
    if desired.verify is not Verify.COMPARE or original is None:
        return
    size = qemu_img.info(node).virtual_size_bytes
    first = original.node._replace(size_bytes=size) if size < original.virtual_size_bytes else original.node
    difference = _difference(first, node, qemu_img)
    if difference:
        raise LifecycleError(
            "The new image for %s differs from %s, so it wasn't used and all is as it was: %s"
            % (desired.path, original.name, difference)
        )


def prove_committed(base: Node, name: str, overlay: Original, verify: Verify, qemu_img: QemuImg) -> None:
    """The backing file ``name``, or the copy ``base`` of it, before the overlay is emptied."""
    faults = None if verify is Verify.NONE else check(base, qemu_img)
    if faults is not None and faults.corruptions:
        raise _not_committed(name, overlay, "it has %d corruptions" % faults.corruptions)
    if verify is not Verify.COMPARE:
        return
    # A longer backing file goes on behind what the overlay shows of it.
    below = base
    if overlay.virtual_size_bytes < qemu_img.info(base).virtual_size_bytes:
        below = base._replace(size_bytes=overlay.virtual_size_bytes)
    difference = _difference(overlay.node, below, qemu_img)
    if difference:
        raise _not_committed(name, overlay, difference)


def _not_committed(name: str, overlay: Original, why: str) -> LifecycleError:
    return LifecycleError(
        "The commit of %s into %s went wrong: %s. Nothing is lost, as %s was not emptied. Look at the host's disk and "
        "memory." % (overlay.name, name, why, overlay.name)
    )


def _difference(first: Node, second: Node, qemu_img: QemuImg) -> str:
    """What qemu-img says of two images that show different content; empty for equal ones."""
    doing = "comparing %s with %s" % (second.path, first.path)
    done = qemu_img.run(["compare", *pair(first, second)], doing, [first, second], ok=(0, 1))
    return done.stdout.strip() if done.rc else ""
