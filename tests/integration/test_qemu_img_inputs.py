# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is declared is taken for what it means, and what can't be is told in our own words, also in check mode."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.testbed.images import MIB, holds, info, make, qemu_io
from tests.testbed.modules import Result, run_module

SECRET = {"secret": "correct horse", "options": {"iter-time": 10}}


def img(path: Path, **arguments: Any) -> Result:
    result = run_module("qemu_img", {"path": str(path), **arguments})
    assert not result.failed, result.json
    return result


def refused(path: Path, *says: str, **arguments: Any) -> None:
    """In check mode and out of it, with the image left as it was."""
    before = path.read_bytes() if path.exists() else None
    for check in (True, False):
        result = run_module("qemu_img", {"path": str(path), **arguments}, check=check)
        assert result.failed, result.json
        assert "qemu-img exited" not in result.msg
        for words in says:
            assert words in result.msg
    assert (path.read_bytes() if path.exists() else None) == before


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "disk"


@pytest.fixture(params=["raw", "qcow2"])
def source(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    return make(tmp_path / ("source." + request.param), request.param, 4 * MIB, "write -P 7 1M 1M")


# The source's format


@pytest.mark.parametrize("first", [True, False], ids=["then-left-out", "then-stated"])
def test_the_format_that_a_source_has_anyway_may_be_stated_or_not(path: Path, source: Path, first: bool) -> None:
    stated = {"source": str(source), "source_format": source.suffix[1:]}
    left_out = {"source": str(source)}
    img(path, **(stated if first else left_out))
    qemu_io(path, "write -P 9 0 64k")
    again = img(path, **(left_out if first else stated))
    assert not again.changed
    assert again.json["commands"] == []
    holds(path, "9 0 64k", "7 1M 1M")


def test_a_source_taken_for_another_format_is_another_source(tmp_path: Path, path: Path) -> None:
    source = make(tmp_path / "source.qcow2", "qcow2", 4 * MIB, "write -P 7 1M 1M")
    img(path, source=str(source))
    refused(path, "source_format", source=str(source), source_format="raw")


def test_an_adopted_image_knows_its_sources_format_too(path: Path, source: Path) -> None:
    make(path, "qcow2", 4 * MIB, "write -P 7 1M 1M")
    assert img(path, source=str(source)).json["commands"]
    assert img(path, source=str(source), source_format=source.suffix[1:]).json["commands"] == []


# An encrypted image without its passphrase


def test_an_encrypted_image_asks_for_its_passphrase_before_it_is_compared(path: Path, source: Path) -> None:
    img(path, size="4M", encrypt=SECRET)
    refused(path, "encrypt: ", "is encrypted", "force: true", source=str(source))


def test_an_encrypted_image_is_made_anew_by_force(path: Path, source: Path) -> None:
    img(path, size="4M", encrypt=SECRET)
    assert img(path, source=str(source), force=True).changed
    assert not info(path).get("encrypted", False)
    holds(path, "7 1M 1M")
    assert not img(path, source=str(source), force=True).changed


@pytest.mark.parametrize("repair", ["leaks", "all"])
def test_an_encrypted_image_asks_for_its_passphrase_before_it_is_repaired(path: Path, repair: str) -> None:
    img(path, size="4M", encrypt=SECRET)
    refused(path, "encrypt: ", "is encrypted", "Give it", repair=repair)
    assert not img(path, repair=repair, encrypt=SECRET).changed


def test_an_encrypted_overlay_asks_for_its_passphrase_before_a_commit(path: Path) -> None:
    make(path.with_name("base"), "qcow2", 4 * MIB)
    img(path, backing_file="base", encrypt=SECRET)
    refused(path, "encrypt: ", "is encrypted", commit=True)


# Preallocation of what is added


@pytest.mark.parametrize("mode", ["falloc", "full"])
@pytest.mark.parametrize("image_format", ["raw", "qcow2"])
def test_what_an_image_grows_by_is_preallocated_as_the_rest(path: Path, image_format: str, mode: str) -> None:
    made = {"format": image_format, "options": {"preallocation": mode}}
    img(path, size="1M", **made)
    assert img(path, size="9M", **made).changed
    assert path.stat().st_blocks * 512 >= 9 * MIB
    assert img(path, size="17M", format=image_format).changed  # as it was made
    assert path.stat().st_blocks * 512 >= 17 * MIB
    assert not img(path, size="17M", **made).changed


def test_a_snapshot_and_its_image_grow_with_metadata_preallocated(path: Path) -> None:
    wanted = {"options": {"preallocation": "metadata"}, "encrypt": SECRET}
    img(path, size="1M", snapshots=[{"name": "a"}], **wanted)
    assert img(path, size="9M", **wanted).changed
    assert path.stat().st_size >= 8 * MIB  # where all clusters have their place
    assert not img(path, size="9M", **wanted).changed
    assert [snapshot["name"] for snapshot in info(path)["snapshots"]] == ["a"]


@pytest.mark.parametrize("mode", ["falloc", "full"])
def test_a_copy_keeps_the_room_that_was_set_aside(path: Path, mode: str) -> None:
    img(path, size="8M", options={"preallocation": mode})
    img(path, snapshots=[{"name": "a"}])
    assert path.stat().st_blocks * 512 >= 8 * MIB


@pytest.mark.parametrize("image_format", ["raw", "qcow2"])
def test_an_image_that_would_not_fit_does_not_grow(path: Path, image_format: str) -> None:
    make(path, image_format, MIB)
    before = path.read_bytes()
    size = shutil.disk_usage(path.parent).free + (1 << 40)
    result = run_module(
        "qemu_img",
        {"path": str(path), "size": str(size), "format": image_format, "options": {"preallocation": "full"}},
    )
    assert result.failed
    assert result.json["error"]["kind"] == "storage_failed", result.json
    assert path.read_bytes() == before


# The diff of a source that nobody has looked at


def test_a_size_that_only_the_download_tells_is_not_predicted(path: Path) -> None:
    wanted = {"path": str(path), "source": "https://host.invalid/a.img", "checksum": "sha256:" + "0" * 64}
    result = run_module("qemu_img", wanted, check=True, diff=True)
    assert result.changed
    assert "virtual_size" not in result.json["diff"]["after"]
    sized = run_module("qemu_img", {**wanted, "size": "1M"}, check=True, diff=True)
    assert sized.json["diff"]["after"]["virtual_size"] == MIB


# What an info task is given


def test_a_path_that_names_a_directory_is_an_entry_too(path: Path) -> None:
    make(path, "qcow2", 4 * MIB)
    result = run_module("qemu_img_info", {"path": [f"{path.parent}/", f"{path}.none/", str(path)]})
    assert not result.failed, result.json
    folder, none, image = result.json["images"]
    assert "names a directory" in folder["error"]
    assert (folder["exists"], none["exists"], image["exists"]) == (True, False, True)


def test_a_time_in_which_nothing_can_be_done_is_refused(path: Path) -> None:
    for module, given in (("qemu_img", {"path": str(path), "size": "1M"}), ("qemu_img_info", {"path": [str(path)]})):
        result = run_module(module, {**given, "timeout": 0})
        assert result.failed
        assert "timeout: 0 seconds are no time" in result.msg
    assert not path.exists()
