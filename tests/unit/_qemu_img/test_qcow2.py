# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Our own reading of qcow2 headers, judged by qemu-img: where it answers, it answers the same, field for field."""

from __future__ import annotations

import itertools
import os
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_img.parse import parse_info
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_img.qcow2 import read_info
from tests.testbed.images import qemu_img

MIB = 1 << 20


def ours(path):
    descriptor = os.open(str(path), os.O_RDONLY)
    try:
        return read_info(descriptor)
    finally:
        os.close(descriptor)


def theirs(path):
    """None for an image that qemu-img can't open."""
    words = ["qemu-img", "info", "-U", "--output=json", "-f", "qcow2", str(path)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return None if done.returncode else parse_info(done.stdout)


def make(folder, *words, size="8M"):
    path = Path(str(folder)) / "image.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", *words, path, size, cwd=Path(str(folder)))
    return path


def combinations():
    """Options that qemu-img takes together."""
    for cluster, l2, lazy, bits, compression in itertools.product(
        ("512", "4k", "64k", "2M"), ("off", "on"), ("off", "on"), ("1", "16", "64"), ("zlib", "zstd")
    ):
        if l2 == "off" or cluster in ("64k", "2M"):
            yield "cluster_size=%s,extended_l2=%s,lazy_refcounts=%s,refcount_bits=%s,compression_type=%s" % (
                cluster,
                l2,
                lazy,
                bits,
                compression,
            )
    for cluster, preallocation in itertools.product(("512", "64k", "2M"), ("off", "metadata", "falloc")):
        for compat in ("0.10", "1.1"):
            yield "compat=%s,cluster_size=%s,preallocation=%s" % (compat, cluster, preallocation)


def assert_read_alike(path):
    """Both tell the same, and there is something that they tell."""
    told = theirs(path)
    assert told is not None
    assert ours(path) == told


@pytest.mark.parametrize("options", list(combinations()))
def test_an_ordinary_image_reads_as_qemu_img_reads_it(tmp_path, options):
    path = make(tmp_path, "-o", options)
    assert_read_alike(path)


@pytest.mark.parametrize("size", ["512", "1M", "1000000512", "100G", "15T"])
def test_any_size(tmp_path, size):
    path = make(tmp_path, size=size)
    assert_read_alike(path)


@pytest.mark.parametrize("compat", ["0.10", "1.1"])
@pytest.mark.parametrize("name", ["base", "./a base's,name.raw", "../%s/base" % ("x" * 100), "/" + "d/" * 400 + "base"])
@pytest.mark.parametrize("base_format", ["raw", "qcow2", "vmdk"])
def test_an_overlay(tmp_path, compat, name, base_format):
    path = make(tmp_path, "-u", "-o", "compat=" + compat, "-b", name, "-F", base_format)
    assert_read_alike(path)
    assert (ours(path).backing_file, ours(path).backing_format) == (name, base_format)


def test_data_does_not_matter(tmp_path):
    path = make(tmp_path)
    subprocess.run(
        ["qemu-io", "-f", "qcow2", "-c", "write 0 3M", "-c", "discard 1M 1M", str(path)],
        check=True,
        capture_output=True,
    )
    assert_read_alike(path)


def with_snapshot(path):
    subprocess.run(["qemu-img", "snapshot", "-c", "one", str(path)], check=True)


def with_bitmap(path):
    subprocess.run(["qemu-img", "bitmap", "--add", "-f", "qcow2", str(path), "one"], check=True)


def with_nothing(path):
    pass


def patched(at, kind, value):
    def patch(path):
        with open(str(path), "r+b") as file:
            file.seek(at)
            file.write(struct.pack(kind, value))

    return patch


UNUSUAL = {
    "a snapshot": ((), with_snapshot),
    "a bitmap": ((), with_bitmap),
    "a data file": (("-o", "data_file=data"), with_nothing),
    "encryption": (
        (
            "--object",
            "secret,id=s,data=x",
            "-o",
            "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10",
        ),
        with_nothing,
    ),
    "a protocol below": (("-u", "-b", "nbd://localhost", "-F", "raw"), with_nothing),
    "a name below that is no ASCII": (("-u", "-b", "ü", "-F", "raw"), with_nothing),
    "dirty": ((), patched(72, ">Q", 1)),
    "corrupt": ((), patched(72, ">Q", 2)),
    "an unknown feature": ((), patched(72, ">Q", 1 << 9)),
    "an unknown compatible feature": ((), patched(80, ">Q", 1 << 9)),
    "an unknown autoclear feature": ((), patched(88, ">Q", 1 << 9)),
    "an unknown extension": ((), patched(112, ">I", 0x12345678)),
    "another version": ((), patched(4, ">I", 4)),
    "a first table behind the end": ((), patched(40, ">Q", 1 << 40)),
    "counts behind the end": ((), patched(48, ">Q", 1 << 40)),
}


@pytest.mark.parametrize("case", UNUSUAL)
def test_what_is_not_ordinary_is_left_to_qemu_img(tmp_path, case):
    words, spoil = UNUSUAL[case]
    path = make(tmp_path, *words)
    spoil(path)
    assert ours(path) is None


@pytest.mark.parametrize("length", [0, 4, 71, 72, 103, 104, 111, 112, 500, 65536, 3 * 65536 + 7])
def test_a_file_that_was_cut_off_is_left_to_qemu_img(tmp_path, length):
    path = make(tmp_path)
    os.truncate(str(path), length)
    assert ours(path) is None


EDGES = st.one_of(
    st.integers(0, 255).map(lambda byte: bytes([byte])),
    st.sampled_from([struct.pack(">Q", 1 << bit) for bit in range(64)]),
    st.sampled_from([struct.pack(">I", 1 << bit) for bit in range(32)]),
    st.sampled_from([b"\xff" * 8, bytes(8), bytes(4)]),
)


@settings(max_examples=300)
@given(
    st.sampled_from(["compat=1.1", "compat=0.10", "extended_l2=on,compression_type=zstd,lazy_refcounts=on"]),
    st.booleans(),
    st.lists(st.tuples(st.integers(4, 130), EDGES), min_size=1, max_size=3),
)
@example("compat=1.1", False, [(24, struct.pack(">Q", 8 * MIB + 1))])
@example("compat=1.1", False, [(24, struct.pack(">Q", 1 << 50))])
@example("compat=1.1", True, [(8, struct.pack(">Q", 100))])
@example("compat=1.1", False, [(104, b"\1")])
@example("compat=1.1", False, [(109, struct.pack(">Q", 1))])
@example("compat=1.1", False, [(63, struct.pack(">Q", 1))])
def test_whatever_a_header_holds_it_is_never_read_otherwise(tmp_path_factory, options, backing, changes):
    """An answer of ours is qemu-img's own; what it can't open we never call an image."""
    folder = tmp_path_factory.getbasetemp() / "headers"
    folder.mkdir(exist_ok=True)
    path = make(folder, "-o", options, *(("-u", "-b", "base", "-F", "raw") if backing else ()))
    with open(str(path), "r+b") as file:
        for at, content in changes:
            file.seek(at)
            file.write(content)
    mine = ours(path)
    assert mine is None or mine == theirs(path)
