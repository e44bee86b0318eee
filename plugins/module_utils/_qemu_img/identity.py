# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What tells one state of a source from another, without reading it."""

from __future__ import annotations

import os
import stat

from .._core.errors import BadInput
from .model import Source, SourceIdentity


def source_is_image() -> BadInput:
    """The refusal to make an image from itself."""
    return BadInput(
        "source", "it is the image itself", "Name another file; to change the format use force without source"
    )


def identify(source: Source) -> SourceIdentity | None:
    """What tells this state of the source from another, without reading it; None when a local source is gone.

    Raises BadInput.
    """
    checksum = "%s:%s" % source.checksum if source.checksum else ""
    if source.is_url:
        return SourceIdentity(source.shown, checksum, 0, 0, 0, 0)
    try:
        status = os.stat(source.location)
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(status.st_mode):
        raise BadInput("source", "%s is no regular file" % source.location, "Name an image file")
    return identity_of(source, status)


def identity_of(source: Source, status: os.stat_result) -> SourceIdentity:
    """The identity of a local source whose status is known."""
    checksum = "%s:%s" % source.checksum if source.checksum else ""
    return SourceIdentity(source.shown, checksum, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
