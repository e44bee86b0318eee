# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The costlier looks at images: taken only when something declared depends on them. Reads only."""

from __future__ import annotations

import os
import stat

from .._core.errors import BadInput
from .found import BackingSeen, CheckResult
from .header import Header, inspect_path
from .model import CHECKED_FORMATS, Desired, Format, ImageInfo
from .options import OWN_OPTIONS
from .parse import MapReader, parse_check
from .tool import Node, QemuImg

_CHECK_OK, _CHECK_CORRUPT, _CHECK_LEAKS = 0, 2, 3  # exit codes of `qemu-img check`


def header_format(path: str) -> Format:
    """The format that a file's own header shows; raw where it shows none."""
    return inspect_path(path).format or Format.RAW


def has_data(node: Node, qemu_img: QemuImg) -> bool:
    """Whether an overlay holds data of its own."""
    return read_map(node, qemu_img).holds_data


def read_map(node: Node, qemu_img: QemuImg) -> MapReader:
    """Which parts of an image hold what."""
    reader = MapReader()
    words = ["map", "-U", "--output=json", *node.arguments()]
    qemu_img.run(words, "mapping %s" % node.path, [node], on_output=reader.feed)
    reader.finish()
    return reader


def backing_seen(path: str, declared: Format | None, overlay: str, qemu_img: QemuImg) -> BackingSeen:
    """A backing file as it is. Raises BadInput for what ``overlay`` can't have below it."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        raise BadInput(
            "backing_file",
            "%s is not there" % path,
            "Correct the name; a relative one starts at the image's directory",
        ) from None
    if not stat.S_ISREG(mode):
        raise BadInput("backing_file", "%s is no regular file" % path, "Name an image file")
    header = inspect_path(path)
    if os.path.realpath(path) == os.path.realpath(overlay):
        raise BadInput("backing_file", "it is the image itself", "Name another image")
    if header.unfit and declared is not Format.RAW:
        raise BadInput("backing_file", "%s is %s" % (path, header.unfit), "Name an image that QEMU can read as it is")
    image_format = declared or header.format or Format.RAW
    if image_format is not Format.RAW and header.format is not image_format:
        found = header.format.value if header.format else "raw"
        raise BadInput(
            "backing_format",
            "%s isn't %s; it looks like %s" % (path, image_format.value, found),
            "Correct it, or leave it out",
        )
    info = qemu_img.info(Node(path, image_format))
    if info.encrypted:
        raise BadInput(
            "backing_file", "%s is encrypted, and its passphrase can't be given here" % path, "Name another image"
        )
    plain = not (info.backing_file or info.snapshots or info.bitmaps)
    return BackingSeen(image_format, info.virtual_size_bytes, plain, _other_files(header, info))


def other_files(path: str, info: ImageInfo) -> tuple[str, ...]:
    """Files, beside a backing file, that hold an image's data, by the names that its header has for them."""
    return _other_files(inspect_path(path), info)


def _other_files(header: Header, info: ImageInfo) -> tuple[str, ...]:
    if info.format is Format.VMDK:
        return header.references
    data_file = info.options.get("data_file")
    return (data_file,) if data_file else ()


def check_options(desired: Desired, qemu_img: QemuImg) -> None:
    """Raise BadInput for a creation option that this qemu-img doesn't know."""
    image_format = desired.format.value
    done = qemu_img.run(
        ["create", "-f", image_format, "-o", "help", desired.path], "asking for the options of %s" % image_format
    )
    known = [line.split("=")[0].strip() for line in done.stdout.splitlines() if line.startswith("  ") and "=" in line]
    for name in desired.options:
        if name not in known:
            offered = sorted(other for other in known if other not in OWN_OPTIONS and "." not in other)
            raise BadInput("options", "%s has no option %r" % (image_format, name), "Known are %s" % ", ".join(offered))


def check(node: Node, qemu_img: QemuImg) -> CheckResult | None:
    """What `qemu-img check` finds; None for a format that can't be checked.

    Raises CommandFailed when it can't be done.
    """
    if node.format not in CHECKED_FORMATS:
        return None
    ok = (_CHECK_OK, _CHECK_CORRUPT, _CHECK_LEAKS)
    words = ["check", "-U", "--output=json", *node.arguments()]
    return parse_check(qemu_img.run(words, "checking %s" % node.path, [node], ok=ok).stdout)
