# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names that lead elsewhere than their text says: parents of linked directories, home directories, hard links."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.testbed.images import MIB, info, make
from tests.testbed.modules import Result, run_module


def run(path: Path | str, check: bool = False, env: dict[str, str] | None = None, **options: Any) -> Result:
    return run_module("qemu_img", {"path": str(path), **options}, check=check, env=env)


# "a/link" leads to "b/c", so that "a/link/.." is "b".


@pytest.fixture
def linked(tmp_path: Path) -> Path:
    (tmp_path / "a").mkdir()
    (tmp_path / "b" / "c").mkdir(parents=True)
    (tmp_path / "a" / "link").symlink_to("../b/c")
    return tmp_path


def test_removed_is_the_file_that_the_kernel_means(linked: Path) -> None:
    right = make(linked / "b" / "x.qcow2", "qcow2", MIB)
    wrong = make(linked / "a" / "x.qcow2", "qcow2", MIB)
    result = run("%s/a/link/../x.qcow2" % linked, state="absent")
    assert result.changed, result.json
    assert (right.exists(), wrong.exists()) == (False, True)
    assert result.json["image"]["path"] == str(right)


def test_the_source_is_the_file_that_the_kernel_means(linked: Path) -> None:
    right = make(linked / "b" / "seed.qcow2", "qcow2", 2 * MIB)
    make(linked / "a" / "seed.qcow2", "qcow2", MIB)
    result = run(linked / "disk.qcow2", source="%s/a/link/../seed.qcow2" % linked)
    assert result.changed, result.json
    assert result.json["image"]["virtual_size"] == 2 * MIB
    assert result.json["diff"]["after"]["made_from"] == str(right)


def test_the_backing_file_is_the_one_that_qemu_opens(linked: Path) -> None:
    base = make(linked / "b" / "base.qcow2", "qcow2", 8 * MIB)
    make(linked / "a" / "base.qcow2", "raw", 4 * MIB)
    declared = {"path": "%s/a/link/over.qcow2" % linked, "backing_file": "../base.qcow2"}
    made = run(**declared)
    assert made.changed, made.json
    there = info(linked / "b" / "c" / "over.qcow2")
    assert (there["virtual-size"], there["backing-filename-format"]) == (8 * MIB, "qcow2")
    again = run(**declared)
    assert not again.changed, again.json
    told = run_module("qemu_img_info", {"path": [declared["path"]]})
    chain = told.json["images"][0]["backing_chain"]
    assert [(below["path"], below["virtual_size"]) for below in chain] == [(str(base), 8 * MIB)]


def test_an_image_behind_a_link_of_its_own_has_its_backing_file_beside_itself(linked: Path) -> None:
    make(linked / "b" / "base.qcow2", "qcow2", 8 * MIB)
    make(linked / "base.qcow2", "qcow2", 4 * MIB)
    over = make(linked / "b" / "c" / "over.qcow2", "qcow2", MIB)
    (linked / "a" / "over.qcow2").symlink_to(over)
    result = run(linked / "a" / "over.qcow2", backing_file="../base.qcow2", size="8M")
    assert result.changed, result.json
    assert info(over)["full-backing-filename"] == "%s/b/c/../base.qcow2" % linked
    assert not run(linked / "a" / "over.qcow2", backing_file="../base.qcow2", size="8M").changed


def test_a_backing_file_begins_with_a_home_directory(tmp_path: Path) -> None:
    base = make(tmp_path / "base.qcow2", "qcow2", MIB)
    env = {"HOME": str(tmp_path)}
    result = run(tmp_path / "over.qcow2", backing_file="~/base.qcow2", env=env)
    assert result.changed, result.json
    assert info(tmp_path / "over.qcow2")["backing-filename"] == str(base)
    assert not run(tmp_path / "over.qcow2", backing_file="~/base.qcow2", env=env).changed
