# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What we remember of an image, kept with the image: a `user.*` attribute, or a file beside it where there are none.

The attribute is written to a new image before it is published, so image and record appear in one step. A file beside
the image names the file that it is about, and holds the old image's record as well until the new image is in place.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Mapping
from typing import Any

from .._core.capabilities import Capability, has
from .._core.names import beside
from .model import Format, Record, SourceIdentity

ATTRIBUTE = "user.vmops.image"
_NO_ATTRIBUTES = (errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
VERSION = 1
FS_IOC_GETVERSION = 0x80087601  # linux/fs.h, 64-bit


def sidecar(path: str) -> str:
    """The record's file, where attributes don't exist."""
    return beside(path, "record")


def read(path: str) -> Record | None:
    """The record of the image at ``path``; None where there is none that can be understood."""
    if has(Capability.USER_XATTRS):
        try:
            return _from_text(os.getxattr(path, ATTRIBUTE))
        except OSError as error:
            if error.errno == errno.ENODATA:
                return None
            if error.errno not in _NO_ATTRIBUTES:
                raise
    return _from_data(_read_sidecar(path).get(_file_key(path)))


def write(path: str, record: Record, published_as: str) -> None:
    """Attach the record to the file ``path``, which is or will be published as ``published_as``."""
    data = _to_data(record)
    if has(Capability.USER_XATTRS):
        try:
            _set_attribute(path, json.dumps(data, sort_keys=True).encode())
            return
        except OSError as error:
            if error.errno not in _NO_ATTRIBUTES:
                raise
    from .._core.files import write_whole

    known = _read_sidecar(published_as)
    current = _file_key(published_as) if os.path.exists(published_as) else ""
    kept = {key: other for key, other in known.items() if key == current}
    kept[_file_key(path)] = data
    write_whole(sidecar(published_as), json.dumps(kept, sort_keys=True).encode())


def remove_unused(path: str) -> None:
    """Remove the record's file if it isn't about what lies at ``path``: that never came there."""
    if not os.path.exists(path) or _file_key(path) not in _read_sidecar(path):
        from .._core.files import remove

        remove(sidecar(path))


def _set_attribute(path: str, data: bytes) -> None:
    """An image that is declared read-only to its owner, as a base often is, has to be writable for that moment."""
    try:
        os.setxattr(path, ATTRIBUTE, data)
    except PermissionError:
        mode = stat.S_IMODE(os.stat(path).st_mode)
        if mode & stat.S_IWUSR:
            raise
        os.chmod(path, mode | stat.S_IWUSR)
        try:
            os.setxattr(path, ATTRIBUTE, data)
        finally:
            os.chmod(path, mode)


def _file_key(path: str) -> str:
    """What tells this file from every other that had or will have its name, though inode numbers are used again."""
    status = os.stat(path)
    return "%d/%s" % (status.st_ino, getattr(status, "st_birthtime", None) or _generation(path))


def _generation(path: str) -> int:
    """The inode's generation, which changes when its number is given to another file; 0 where nobody tells."""
    import fcntl
    import struct

    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        answer = fcntl.ioctl(descriptor, FS_IOC_GETVERSION, struct.pack("l", 0))
    except OSError:
        return 0
    finally:
        os.close(descriptor)
    return int(struct.unpack("l", answer)[0])


def _read_sidecar(path: str) -> dict[str, Any]:
    try:
        with open(sidecar(path), "rb") as file:
            data = json.loads(file.read())
    except (FileNotFoundError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def _to_data(record: Record) -> dict[str, object]:
    return {
        "version": VERSION,
        "format": record.format.value,
        "source": record.source._asdict() if record.source else None,
        "arguments": dict(record.arguments),
        "qemu_img": record.qemu_img,
    }


def _from_text(text: bytes) -> Record | None:
    try:
        return _from_data(json.loads(text))
    except ValueError:
        return None


def _from_data(data: Mapping[str, Any] | None) -> Record | None:
    """A record of another version, or damaged, is no record: the image is then compared with its source."""
    if not isinstance(data, dict) or data.get("version") != VERSION:
        return None
    try:
        source = SourceIdentity(**data["source"]) if data["source"] else None
        return Record(Format(data["format"]), source, dict(data["arguments"]), str(data["qemu_img"]))
    except (KeyError, TypeError, ValueError):
        return None
