# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The costlier looks at images: taken only when something declared depends on them. Reads only."""

from __future__ import annotations

import os
import stat
import struct
import sys
from collections.abc import Iterator

from .._core.errors import BadInput, CommandFailed, Refused
from .found import BackingSeen, CheckResult
from .header import Header, inspect_path, may_wait
from .model import CHECKED_FORMATS, Desired, Format, ImageInfo, is_protocol, known_format
from .options import OWN_OPTIONS
from .parse import MapReader, parse_check
from .tool import Node, QemuImg

OVERLAYS = (Format.QCOW2, Format.VMDK)  # formats that can have a backing file
_GET_FLAGS = 0x80086601  # FS_IOC_GETFLAGS of 64-bit Linux, and two of its flags (linux/fs.h)
_IMMUTABLE, _APPEND_ONLY = 0x10, 0x20
_CHECK_OK, _CHECK_CORRUPT, _CHECK_LEAKS = 0, 2, 3  # exit codes of `qemu-img check`


def header_format(path: str) -> Format:
    """The format that a file's own header shows; raw where it shows none."""
    return inspect_path(path).format or Format.RAW


def has_data(node: Node, qemu_img: QemuImg) -> bool:
    """Whether an overlay holds data of its own. What is below it isn't opened."""
    return read_map(node._replace(alone=True), qemu_img).holds_data


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
    if _identity(path) == _identity(overlay):
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
    info = qemu_img.info(Node(path, image_format), advice="Restore the backing file, or name another one.")
    if info.encrypted:
        raise BadInput(
            "backing_file", "%s is encrypted, and its passphrase can't be given here" % path, "Name another image"
        )
    _refuse_to_close_loop(path, info, overlay, qemu_img)
    plain = not (info.backing_file or info.snapshots or info.bitmaps)
    return BackingSeen(image_format, info.virtual_size_bytes, plain, _other_files(header, info))


def _refuse_to_close_loop(path: str, info: ImageInfo, overlay: str, qemu_img: QemuImg) -> None:
    back = _led_back(_chain(path, info, qemu_img), overlay)
    if _is_strange(back):
        raise BadInput(
            "backing_file",
            "%s has %s below it, which is no disk image's name: QEMU may take it for a protocol, or wait for it"
            % (path, back),
            "Name an image that stands on image files alone",
        )
    if back and _identity(back) == _identity(overlay):
        raise BadInput("backing_file", "%s has the image itself below it" % path, "Name another image")
    if back:
        raise BadInput("backing_file", "%s: the chain below it leads back to %s" % (path, back), "Name another image")


def leads_out(path: str, info: ImageInfo, qemu_img: QemuImg) -> str:
    """The name in an image's chain of backing files that is no disk's, if there is one (see `Seen.leads_out`).

    Raises Refused for a chain that has no end: whoever opens such an image never comes back.
    """
    back = _led_back(_chain(path, info, qemu_img))
    if _is_strange(back):
        return back
    if back:
        raise Refused(
            "use %s" % path,
            "its chain of backing files leads back to %s, so nobody can read it" % back,
            "Restore it from a backup, or remove it with state: absent; if you know what it was made over, qemu-img "
            "rebase -u names that file again",
        )
    return ""


def refuse_other_chain(named: str, real: str, image_format: Format, qemu_img: QemuImg) -> None:
    """Raise Refused for a backing file that has other files below it by the overlay's name for it than by its own."""
    info = qemu_img.info(Node(real, image_format))
    chains = [list(_chain(path, info, qemu_img))[1:] for path in (named, real)]
    by_name, by_itself = ([_identity(path) for path in chain] for chain in chains)
    if by_name != by_itself:
        raise Refused(
            "commit into %s" % named,
            "it is a link to %s, and QEMU finds other files below that than below the link (%s; %s)"
            % (real, ", ".join(chains[1]), ", ".join(chains[0])),
            "Give %s an absolute backing_file first" % real,
        )


def _chain(path: str, info: ImageInfo, qemu_img: QemuImg) -> Iterator[str]:
    """An image and those below it, nearest first, by the names under which QEMU opens them: a relative one starts
    beside the name above. Without end where they lead back. No file and a name that QEMU takes for a protocol, which is
    the only one that isn't absolute, end it, and so does what can't be read: whoever opens it says that best.
    """
    yield path
    while info.backing_file is not None:
        if is_protocol(info.backing_file):
            yield info.backing_file
            return
        path = os.path.join(os.path.dirname(path), info.backing_file)
        yield path
        if not os.path.isfile(path):
            return
        try:
            image_format = known_format(info.backing_format) or header_format(path)
            if image_format is Format.RAW:
                return
            info = qemu_img.info(Node(path, image_format))
        except (CommandFailed, OSError):
            return


def _is_strange(name: str) -> bool:
    """Whether a name in a chain is none of a disk's: QEMU would connect there, or wait for somebody to come."""
    if is_protocol(name):
        return True
    try:
        mode = os.stat(name).st_mode
    except OSError:
        return False
    return may_wait(mode)


def _led_back(chain: Iterator[str], above: str = "") -> str:
    """The first strange name, or the first of a file that was passed already or is ``above``; empty for a chain that
    ends.
    """
    passed = {_identity(above)} if above else set()
    for path in chain:
        if _is_strange(path):
            return path
        identity = _identity(path)
        if identity in passed:
            return path
        passed.add(identity)
    return ""


def _identity(path: str) -> tuple[object, ...]:
    """What tells one file from another, whatever their names; of one that can't be seen (yet), its name."""
    if is_protocol(path):
        return (path,)
    try:
        status = os.stat(path)
    except OSError:
        return (os.path.realpath(path),)
    return status.st_dev, status.st_ino


def refuse_unwritable(path: str, option: str) -> None:
    """Raise BadInput where nothing can be written beside ``path``: not even a lock."""
    folder = os.path.dirname(path)
    as_acting = os.access in os.supports_effective_ids  # what this user may do, not whoever called him
    if os.path.isdir(folder) and not os.access(folder, os.W_OK | os.X_OK, effective_ids=as_acting):
        raise BadInput(
            option,
            "user %d can't write in its directory %s" % (os.geteuid(), folder),
            "Run the task as a user who can, such as with become: true; or mount it for writing",
        )


def refuse_immutable(path: str) -> None:
    """Raise Refused for a file that its file system lets nobody change or replace, not even root (chattr)."""
    if not sys.platform.startswith("linux"):
        return
    import fcntl

    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        flags = int(struct.unpack_from("i", fcntl.ioctl(descriptor, _GET_FLAGS, bytes(8)))[0])
    except OSError:
        return  # it knows no such thing
    finally:
        os.close(descriptor)
    if flags & (_IMMUTABLE | _APPEND_ONLY):
        raise Refused(
            "change %s" % path,
            "it is marked as immutable or append-only",
            "Take that away first (chattr -i -a); attributes of the same task are set in the end",
        )


def refuse_foreign(path: str) -> None:
    """Raise Refused for an image whose owner and group a new one in its place could not have."""
    user, status = os.geteuid(), os.stat(path)
    groups = (os.getegid(), *os.getgroups())
    if user == 0 or (status.st_uid == user and status.st_gid in groups):
        return
    raise Refused(
        "replace %s" % path,
        "it belongs to user %d and group %d, and user %d can't give that to the new image"
        % (status.st_uid, status.st_gid, user),
        "Run the task as its owner or as root, such as with become: true",
    )


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
    if node.format in OVERLAYS:  # nothing below counts for it, and what a header names is nothing to be opened unasked
        node = node._replace(alone=True, backing=None)
    words = ["check", "-U", "--output=json", *node.arguments()]
    return parse_check(qemu_img.run(words, "checking %s" % node.path, [node], ok=ok).stdout)
