# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The proofs around a new image: that what it is made from is whole, and that it came out right."""

from __future__ import annotations

from .._core.errors import LifecycleError, Refused
from .examine import check
from .model import Desired, Format, Verify
from .source import OpenSource
from .tool import Node, QemuImg, pair


def refuse_corrupt(node: Node, name: str, verify: Verify, qemu_img: QemuImg) -> None:
    """Before its content is used: what was cut off or overwritten reads as zeros, and a later check can't tell."""
    faults = None if verify is Verify.NONE else check(node, qemu_img)
    if faults is not None and faults.corruptions:
        raise Refused(
            "use %s" % name,
            "a check finds %d corruptions in it, so part of its content may be lost" % faults.corruptions,
            "Restore it from where it came; repair: all mends what can be mended of an image",
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


def prove(node: Node, content: OpenSource | None, desired: Desired, qemu_img: QemuImg) -> None:
    """The new image before anybody can see it: consistent, and on demand equal to its source."""
    if desired.verify is Verify.NONE:
        return
    faults = check(node, qemu_img)
    if faults is not None and faults.corruptions:
        raise LifecycleError(
            "The new image for %s has %d corruptions, so it wasn't used and all is as it was. If the image had "
            "them before, repair it (repair: all); else look at the host's disk and memory."
            % (desired.path, faults.corruptions)
        )
    if desired.verify is Verify.COMPARE and content is not None:
        _prove_equal(node, content, desired, qemu_img)


def _prove_equal(node: Node, content: OpenSource, desired: Desired, qemu_img: QemuImg) -> None:
    size = qemu_img.info(node).virtual_size_bytes
    source = content.node._replace(size_bytes=size) if size < content.virtual_size_bytes else content.node
    words = ["compare", *pair(source, node)]
    done = qemu_img.run(words, "comparing the new image with %s" % source.path, [source, node], ok=(0, 1))
    if done.rc:
        raise LifecycleError(
            "The new image for %s differs from its source, so it wasn't used and all is as it was: %s"
            % (desired.path, done.stdout.strip())
        )
