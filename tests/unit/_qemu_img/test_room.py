# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How much of an image is anything but zeros, counted in images that qemu-img and qemu-io made."""

from __future__ import annotations

import os
import random
import subprocess

import pytest

from ansible_collections.vmops.lifecycle.plugins.module_utils._core.wait import Deadline
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_img.model import Format
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_img.room import _Extents, _Overlap, data_bytes
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_img.tool import Node, QemuImg

MIB = 1 << 20
WRITTEN = ("write -P 7 0 1M", "write -P 0 1M 2M", "write -P 9 4M 512", "write -P 9 6M 64k")
BLOCK = 4096


def make(folder, image_format):
    path = str(folder / "image")
    subprocess.run(["qemu-img", "create", "-q", "-f", image_format, path, "8M"], check=True)
    words = [word for command in WRITTEN for word in ("-c", command)]
    subprocess.run(["qemu-io", "-f", image_format, *words, path], check=True, capture_output=True)
    return path


def count(node):
    return data_bytes(node, QemuImg(Deadline(60)))


TELLING = [image_format for image_format in Format if image_format is not Format.VHDX]


@pytest.mark.parametrize("image_format", TELLING, ids=lambda image_format: image_format.value)
@pytest.mark.parametrize(
    ("size", "expected"),
    [(None, MIB + BLOCK + 65536), (5 * MIB, MIB + BLOCK), (MIB // 2, MIB // 2), (4 * MIB + 1024, MIB + 1024)],
)
def test_zeros_do_not_count_wherever_they_come_from(tmp_path, image_format, size, expected):
    path = make(tmp_path, image_format.value)
    assert count(Node(path, image_format, alone=True, size_bytes=size)) == expected


def test_of_a_vhdx_its_file_is_counted(tmp_path):
    """QEMU's map says of all of it that it is data."""
    path = make(tmp_path, "vhdx")
    data = MIB + BLOCK + 65536
    assert data <= count(Node(path, Format.VHDX, alone=True)) <= data + 64 * BLOCK
    assert count(Node(path, Format.VHDX, alone=True, size_bytes=MIB)) == MIB


def test_the_open_file_counts_whatever_its_name_means_by_now(tmp_path):
    path = make(tmp_path, "qcow2")
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.rename(path, path + ".moved")
        assert count(Node(path, Format.QCOW2, descriptor=descriptor, alone=True)) == MIB + BLOCK + 65536
    finally:
        os.close(descriptor)


def test_what_can_not_be_looked_into_counts_whole(tmp_path):
    path = make(tmp_path, "raw")
    packed = str(tmp_path / "packed")
    subprocess.run(["qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", path, packed], check=True)
    assert count(Node(packed, Format.QCOW2, alone=True)) == MIB + 2 * 65536


@pytest.mark.parametrize("seed", range(20))
def test_what_lies_side_by_side_is_counted_as_by_sets_of_bytes(seed):
    """Of extents in order, as `qemu-img map` prints them."""

    def extents(dice):
        at, found = 0, []
        for _each in range(dice.randrange(30)):
            at += dice.randrange(3)
            length = 1 + dice.randrange(5)
            found.append((at, length))
            at += length
        return found

    dice = random.Random(seed)
    above, below = extents(dice), extents(dice)
    lower = _Extents()
    upper = _Overlap(lower)
    for reader, found in ((lower, below), (upper, above)):
        for start, length in found:
            reader.take({"start": start, "length": length, "depth": 0, "data": True, "zero": False})
    bytes_above, bytes_below = ({at for s, n in found for at in range(s, s + n)} for found in (above, below))
    assert (upper.total, lower.total) == (len(bytes_above), len(bytes_below))
    assert upper.both == len(bytes_above & bytes_below)
    assert all(end != start for end, start in zip(lower.ends, lower.starts[1:])), "what adjoins is one"
