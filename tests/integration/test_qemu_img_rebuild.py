# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An image that is converted into itself keeps how it was made, and its record tells the truth afterwards."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.testbed.images import MIB, holds, info, make
from tests.testbed.modules import Result, run_module

DATA = ("write -P 7 1M 2M",)
VDI_STATIC = 2  # the type in a VDI's header


def img(path: Path, **arguments: Any) -> Result:
    result = run_module("qemu_img", {"path": str(path), **arguments})
    assert not result.failed, result.json
    return result


def arguments_of(path: Path) -> dict[str, str]:
    return json.loads(os.getxattr(path, "user.vmops.image"))["arguments"]


def is_fixed(path: Path, image_format: str) -> bool:
    """Whether a file has its whole size at once, by its own format."""
    head = path.read_bytes()[:512]
    if image_format == "vdi":
        return head[0x4C] == VDI_STATIC
    if image_format == "vpc":  # only one that grows begins with a copy of its footer
        return head[:8] != b"conectix"
    return path.stat().st_size > info(path, image_format)["virtual-size"]


FIXED = [
    ("vhdx", {"subformat": "fixed"}),
    ("vdi", {"static": True}),
    ("vpc", {"subformat": "fixed"}),
]


@pytest.mark.parametrize(("image_format", "options"), FIXED, ids=str)
def test_a_fixed_image_is_fixed_after_it_has_grown(path: Path, image_format: str, options: dict[str, Any]) -> None:
    img(path, format=image_format, size="20M", options=options)
    assert is_fixed(path, image_format)
    assert img(path, format=image_format, size="30M").changed
    assert is_fixed(path, image_format)
    assert not img(path, format=image_format, size="30M", options=options).changed


@pytest.mark.parametrize(("image_format", "options"), FIXED, ids=str)
def test_what_is_declared_counts_before_what_was(path: Path, image_format: str, options: dict[str, Any]) -> None:
    img(path, format=image_format, size="20M", options=options)
    grows = {"static": False} if image_format == "vdi" else {"subformat": "dynamic"}
    assert img(path, format=image_format, options=grows, force=True).changed
    assert not is_fixed(path, image_format)
    assert not img(path, format=image_format, options=grows).changed


def test_a_fixed_image_made_from_a_source_is_fixed_after_it_has_grown(tmp_path: Path, path: Path) -> None:
    source = make(tmp_path / "source.raw", "raw", 8 * MIB, *DATA)
    img(path, format="vdi", source=str(source), options={"static": True})
    assert img(path, format="vdi", source=str(source), size="9M").changed
    assert is_fixed(path, "vdi")
    assert not img(path, format="vdi", source=str(source), size="9M", options={"static": True}).changed


def test_an_image_made_anew_from_its_source_is_as_declared_only(tmp_path: Path, path: Path) -> None:
    source = make(tmp_path / "source.raw", "raw", 8 * MIB, *DATA)
    img(path, format="vdi", size="8M", options={"static": True})
    assert img(path, format="vdi", source=str(source), force=True).changed
    assert not is_fixed(path, "vdi")
    assert arguments_of(path)["options.static"] == "off"


def test_a_stream_optimized_image_stays_one(path: Path) -> None:
    make(path, "raw", 8 * MIB, *DATA)
    img(path, format="vmdk", options={"subformat": "streamOptimized"}, force=True)
    assert img(path, format="vmdk", size="16M").changed
    seen = info(path, "vmdk")
    assert (seen["format-specific"]["data"]["create-type"], seen["virtual-size"]) == ("streamOptimized", 16 * MIB)
    holds(path, "7 1M 2M", image_format="vmdk")


QCOW2 = {"cluster_size": "2M", "compression_type": "zstd", "lazy_refcounts": True, "preallocation": "metadata"}


def test_one_other_option_leaves_the_others(path: Path) -> None:
    img(path, size="8M", options=QCOW2)
    assert img(path, options={"extended_l2": True}, force=True).changed
    shown = info(path, "qcow2")
    data = shown["format-specific"]["data"]
    assert (shown["cluster-size"], data["extended-l2"], data["compression-type"]) == (2 * MIB, True, "zstd")
    assert data["lazy-refcounts"] is True
    assert arguments_of(path)["options.preallocation"] == "metadata"
    assert not img(path, options={**QCOW2, "extended_l2": True}).changed


def test_an_encryption_keeps_its_cipher(path: Path) -> None:
    quick = {"secret": "correct horse", "options": {"iter-time": "10"}}
    img(path, size="2M", encrypt={**quick, "options": {"cipher-alg": "aes-128", "iter-time": "10"}})
    assert img(path, encrypt=quick, options={"cluster_size": "128k"}, force=True).changed
    assert info(path, "qcow2")["format-specific"]["data"]["encrypt"]["cipher-alg"] == "aes-128"


def test_data_that_was_compressed_is_compressed_again(tmp_path: Path, path: Path) -> None:
    source = make(tmp_path / "source.raw", "raw", 8 * MIB, *DATA)
    img(path, source=str(source), compress=True)
    img(path, options={"cluster_size": "128k"}, force=True)
    assert path.stat().st_size < 2 * MIB
    assert not img(path, source=str(source), compress=True).changed


def test_another_format_forgets_the_options_of_the_old_one(path: Path) -> None:
    img(path, size="8M", options=QCOW2)
    assert img(path, format="vdi", force=True).changed
    made_with = {name: value for name, value in arguments_of(path).items() if name.startswith("options.")}
    assert made_with == {"options.static": "off"}, "what a vdi is without a word"


@pytest.mark.parametrize("check", [False, True])
def test_what_does_not_fit_what_is_kept_is_told_beforehand(path: Path, check: bool) -> None:
    img(path, size="8M", options={"compression_type": "zstd"})
    before = path.read_bytes()
    wanted = {"options": {"compat": "0.10", "cluster_size": "128k"}, "force": True}
    result = run_module("qemu_img", {"path": str(path), **wanted}, check=check)
    assert result.failed
    assert "options.compat" in result.msg
    assert "compression_type" in result.msg
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("declared", "says"),
    [
        ({"options": {"refcount_bits": 3}}, "options.refcount_bits"),
        ({"options": {"preallocation": "metadata"}, "backing_file": "base"}, "extended_l2: true"),
    ],
    ids=str,
)
def test_what_qemu_img_never_makes_is_told_in_check_mode(path: Path, declared: dict[str, Any], says: str) -> None:
    make(path.with_name("base"), "qcow2", 8 * MIB)
    result = run_module("qemu_img", {"path": str(path), "size": "8M", **declared}, check=True)
    assert result.failed
    assert says in result.msg
    assert "qemu-img exited" not in result.msg


def test_a_preallocated_overlay_with_extended_entries(path: Path) -> None:
    make(path.with_name("base"), "qcow2", 8 * MIB)
    wanted = {"backing_file": "base", "options": {"preallocation": "metadata", "extended_l2": True}}
    assert img(path, **wanted).changed
    assert not img(path, **wanted).changed


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "disk"
