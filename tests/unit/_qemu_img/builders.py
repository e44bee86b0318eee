# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Short ways to say what is declared and what was seen, with everything that a case doesn't mention at rest."""

from __future__ import annotations

from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_img import model as m

PATH = "/images/disk.qcow2"
BASE = "/images/base.qcow2"
SEED = "/seeds/debian.raw"
GIB = 1 << 30
SHA = "sha256:" + "a" * 64

IDENTITY = m.SourceIdentity(SEED, "", 1, 100, 5000, 1_000_000_000)


def source(location=SEED, image_format=None, checksum=None, allow_references=False):
    split = tuple(checksum.split(":")) if checksum else None
    return m.Source(location, image_format, split, allow_references)


def desired(**changes):
    """An image of format qcow2 that is to be there."""
    at_rest = m.Desired(
        path=PATH,
        present=True,
        format=m.Format.QCOW2,
        size_bytes=None,
        source=None,
        backing=None,
        options={},
        compress=False,
        encryption=None,
        allow_shrink=False,
        force=False,
        verify=m.Verify.CHECK,
        repair=m.RepairMode.NONE,
        snapshots=(),
        bitmaps=(),
        commit=False,
    )
    return at_rest._replace(**changes)


def info(image_format=m.Format.QCOW2, size=GIB, **changes):
    """An existing image of a GiB without anything special."""
    options = {}
    if image_format is m.Format.QCOW2:
        options = {
            "cluster_size": "65536",
            "compat": "1.1",
            "lazy_refcounts": "off",
            "refcount_bits": "16",
            "extended_l2": "off",
            "compression_type": "zlib",
        }
    at_rest = m.ImageInfo(image_format, size, 200704, None, None, False, False, False, options, (), ())
    return at_rest._replace(**changes)


def record(identity=IDENTITY, image_format=m.Format.QCOW2, **arguments):
    """What was remembered; keyword arguments as in the record, with two underscores for a dot."""
    shaped = {name.replace("__", "."): value for name, value in arguments.items()}
    return m.Record(image_format, identity, shaped, "7.2.22")


def made_from_source(**arguments):
    return record(source_format="", compress="off", **arguments)


def seen_source(identity=IDENTITY, image_format=m.Format.RAW, size=GIB):
    return m.SourceSeen(identity, image_format, size)


def existing(**changes):
    return m.Seen(exists=True, info=changes.pop("info", info()), **changes)


ABSENT = m.Seen(exists=False)
