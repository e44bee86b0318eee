# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Corners of qemu_img in which it once went wrong: images that spread over several files, sources that are the image
itself, words that QEMU shortens, options that nothing shows.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.bench.guests import timed
from tests.testbed.images import info, qemu_img, same_content
from tests.testbed.modules import Result, run_module
from tests.testbed.untouched import untouched

MIB = 1 << 20


def run(path: Path, env: dict[str, str] | None = None, check: bool = False, **options: Any) -> Result:
    return run_module("qemu_img", {"path": str(path), **options}, env=env, check=check)


def refused(result: Result, *says: str) -> None:
    assert result.failed, result.json
    for words in says:
        assert words in result.msg


# Data in other files


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A file of the host whose name somebody wrote into an image's header."""
    path = tmp_path / "victim"
    path.write_bytes(b"precious")
    return path


@pytest.fixture
def with_data_file(tmp_path: Path, victim: Path) -> Path:
    path = tmp_path / "disk.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-o", "data_file=%s" % victim, path, "1M")
    victim.write_bytes(b"precious")
    return path


@pytest.mark.parametrize(
    "declared", [{"size": "2M"}, {"format": "raw", "force": True}, {"options": {"lazy_refcounts": True}}], ids=str
)
def test_a_data_file_named_by_an_image_is_neither_written_nor_read(
    with_data_file: Path, victim: Path, declared: dict[str, Any]
) -> None:
    before = with_data_file.read_bytes()
    refused(run(with_data_file, **declared), "it keeps its data in other files", "victim")
    assert victim.read_bytes() == b"precious"
    assert with_data_file.read_bytes() == before


def test_a_commit_does_not_write_to_the_data_file_of_a_backing_file(
    tmp_path: Path, with_data_file: Path, victim: Path
) -> None:
    overlay = tmp_path / "overlay.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-b", with_data_file, "-F", "qcow2", overlay, "1M")
    _write(overlay)
    victim.write_bytes(b"precious")
    refused(run(overlay, commit=True), "its backing file keeps its data in other files", "victim")
    assert victim.read_bytes() == b"precious"


@pytest.mark.parametrize("subformat", ["monolithicFlat", "twoGbMaxExtentSparse"])
def test_a_vmdk_of_several_files_is_not_made(tmp_path: Path, subformat: str) -> None:
    result = run(tmp_path / "disk.vmdk", format="vmdk", size="1M", options={"subformat": subformat})
    refused(result, "would put the image's data into other files", "monolithicSparse")
    assert os.listdir(tmp_path) == []


def test_a_vmdk_of_several_files_becomes_one_only_on_request(tmp_path: Path) -> None:
    path = tmp_path / "disk.vmdk"
    qemu_img("create", "-q", "-f", "vmdk", "-o", "subformat=monolithicFlat", path, "1M")
    refused(run(path, format="raw", force=True), "disk-flat.vmdk", "allow_references")
    whole = tmp_path / "whole.qcow2"
    assert run(whole, source=str(path), allow_references=True).changed
    assert same_content(path, "vmdk", whole, "qcow2")


# A source that is the image itself


@pytest.mark.parametrize("link", [os.symlink, os.link], ids=["symbolic", "hard"])
def test_a_source_that_is_the_image_by_another_name(tmp_path: Path, link: Any) -> None:
    image, other = tmp_path / "image.raw", tmp_path / "other.raw"
    image.write_bytes(b"data" * MIB)
    link(image, other)
    before = untouched(image)
    refused(run(other, format="raw", source=str(image)), "source: it is the image itself")
    assert untouched(image) == before


# Words that come out otherwise than they went in


def test_a_snapshot_name_that_qemu_would_shorten_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "disk.qcow2"
    assert run(path, size="1M").changed
    refused(run(path, snapshots=[{"name": "x" * 256}]), "longer than the 255 bytes")
    assert run(path, snapshots=[{"name": "x" * 255}]).changed
    assert not run(path, snapshots=[{"name": "x" * 255}]).changed
    assert [snapshot["name"] for snapshot in info(path)["snapshots"]] == ["x" * 255]


@pytest.mark.parametrize("check", [False, True], ids=["run", "check"])
def test_a_misspelt_option_of_an_existing_image_is_told(tmp_path: Path, check: bool) -> None:
    path = tmp_path / "disk.qcow2"
    assert run(path, size="1M").changed
    refused(run(path, check=check, options={"clustersize": "1M"}), "has no option 'clustersize'", "cluster_size")


def test_a_vpc_whose_size_would_be_rounded_is_not_made(tmp_path: Path) -> None:
    path = tmp_path / "disk.vpc"
    refused(run(path, format="vpc", size="1000000512", options={"force_size": False}), "declare size: 1000194048")
    assert os.listdir(tmp_path) == []
    assert run(path, format="vpc", size="1000194048", options={"force_size": False}).changed
    assert not run(path, format="vpc", size="1000194048", options={"force_size": False}).changed


# Backing files that can't grow


def _write(path: Path) -> None:
    import subprocess

    subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write -P 7 0 64k", str(path)], check=True, capture_output=True)


@pytest.mark.parametrize("image_format", ["vmdk", "vdi", "vhdx", "vpc"])
def test_a_commit_into_a_backing_file_of_another_format(tmp_path: Path, image_format: str) -> None:
    base, overlay, was = tmp_path / "base", tmp_path / "overlay.qcow2", tmp_path / "was.raw"
    assert run(base, format=image_format, size="8M").changed
    qemu_img("create", "-q", "-f", "qcow2", "-b", base, "-F", image_format, overlay, "16M")
    _write(overlay)
    refused(run(overlay, commit=True, check=True), "can't grow in place", "Grow the backing file first")
    assert run(base, format=image_format, size="16M").changed
    qemu_img("convert", "-f", "qcow2", "-O", "raw", overlay, was)
    assert run(overlay, commit=True).changed
    assert not run(overlay, commit=True).changed
    qemu_img("compare", "-f", image_format, "-F", "raw", base, was)


# Encryption


SECRET = {"secret": "correct horse", "options": {"iter-time": 10}}


def test_an_encrypted_overlay_is_rebased_by_a_relative_name(tmp_path: Path) -> None:
    overlay = tmp_path / "overlay.qcow2"
    for name in ("one", "two"):
        assert run(tmp_path / name, size="1M").changed
        assert run(overlay, backing_file=name, encrypt=SECRET).changed
        assert not run(overlay, backing_file=name, encrypt=SECRET).changed
        assert info(overlay)["backing-filename"] == name


@pytest.mark.parametrize("declared", [{"size": "2M"}, {"snapshots": [{"name": "a"}]}], ids=str)
def test_a_change_of_an_encrypted_image_asks_for_its_secret(tmp_path: Path, declared: dict[str, Any]) -> None:
    path = tmp_path / "disk.qcow2"
    assert run(path, size="1M", encrypt=SECRET).changed
    refused(run(path, check=True, **declared), "encrypt: ", "is encrypted, and no change is possible")
    assert not run(path, size="1M").changed
    assert run(path, state="absent").changed


def test_an_encrypted_backing_file_is_told_beforehand(tmp_path: Path) -> None:
    assert run(tmp_path / "base", size="1M", encrypt=SECRET).changed
    refused(run(tmp_path / "overlay", check=True, backing_file="base"), "backing_file: ", "is encrypted")


# Memory


def test_the_map_of_a_fragmented_image_is_not_held_in_memory(in_memory: Path) -> None:
    path, extents = in_memory / "fragmented.raw", 120_000
    with path.open("wb") as file:
        file.truncate(extents * 8192)
        for number in range(extents):
            os.pwrite(file.fileno(), b"\1", number * 8192)
    looked = timed("qemu_img_info", {"path": [str(path)], "map": True})
    assert looked.result["images"][0]["map"]["extents"] == 2 * extents
    assert looked.rss_mib < 60
