# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is damaged is not used, and what went wrong on its way doesn't take the place of the only copy."""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.testbed.faults import leftovers
from tests.testbed.images import MIB, faults, holds, info, make, qemu_img, qemu_io
from tests.testbed.modules import Result, run_module

SECRET = {"secret": "correct horse", "options": {"iter-time": 10}}


def run(path: Path, env: dict[str, str] | None = None, check: bool = False, **options: Any) -> Result:
    return run_module("qemu_img", {"path": str(path), **options}, env=env, check=check)


def verbs(result: Result) -> list[str]:
    """What qemu-img was told to do, in order."""
    return [words[1] for words in result.json["commands"]]


def struck(folder: Path, after: str, *blow: object) -> dict[str, str]:
    """The environment in which this command follows each qemu-img of one kind, as if the disk had erred meanwhile."""
    folder.mkdir()
    real = shutil.which("qemu-img")
    assert real is not None
    script = f"""#!/bin/sh
{shlex.quote(real)} "$@"
rc=$?
if [ "$1" = {after} ]; then
    {shlex.join(map(str, blow))} > /dev/null || exit 99
fi
exit $rc
"""
    (folder / "qemu-img").write_text(script)
    (folder / "qemu-img").chmod(0o755)
    return {"PATH": "%s:%s" % (folder, os.environ["PATH"])}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "images"
    path.mkdir()
    return path


# Before a commit


def base_and_overlay(folder: Path, kind: str) -> tuple[Path, Path]:
    """An overlay that hides some of what its base holds."""
    image_format = "raw" if kind == "raw" else "qcow2"
    base = make(folder / "base", image_format, 4 * MIB, "write -P 1 0 4M")
    if kind == "qcow2 with a snapshot":
        qemu_img("snapshot", "-c", "one", base)
    overlay = folder / "disk"
    qemu_img("create", "-q", "-f", "qcow2", "-b", "base", "-F", image_format, overlay)
    qemu_io(overlay, "write -P 2 0 2M")
    return base, overlay


@pytest.mark.parametrize("kind", ["raw", "qcow2", "qcow2 with a snapshot"])
def test_an_overlay_that_was_cut_off_is_not_committed(folder: Path, kind: str) -> None:
    base, overlay = base_and_overlay(folder, kind)
    os.truncate(overlay, MIB)
    assert faults(overlay)["corruptions"]
    before = base.read_bytes(), overlay.read_bytes()
    for verify in ("check", "compare"):
        result = run(overlay, commit=True, verify=verify)
        assert result.json["error"]["kind"] == "refused", result.json
        for words in (f"use {overlay}", "corruptions in it", "repair: all", "verify: none"):
            assert words in result.msg
    assert (base.read_bytes(), overlay.read_bytes()) == before
    assert run(overlay, commit=True, verify="none").changed
    assert leftovers(folder) == []


@pytest.mark.parametrize("kind", ["qcow2", "qcow2 with a snapshot"])
def test_nothing_is_committed_into_a_damaged_image(folder: Path, kind: str) -> None:
    base, overlay = base_and_overlay(folder, kind)
    os.truncate(base, MIB)
    before = base.read_bytes(), overlay.read_bytes()
    result = run(overlay, commit=True)
    assert result.json["error"]["kind"] == "refused", result.json
    assert f"use {base}" in result.msg
    assert (base.read_bytes(), overlay.read_bytes()) == before
    assert leftovers(folder) == []


@pytest.mark.parametrize("kind", ["raw", "qcow2", "qcow2 with a snapshot"])
def test_an_overlay_is_repaired_before_its_commit(folder: Path, kind: str) -> None:
    base, overlay = base_and_overlay(folder, kind)
    with overlay.open("r+b") as file:  # the count of its sixth cluster, which is in use
        file.seek(2 * 65536 + 2 * 5)
        file.write(b"\0\0")
    assert faults(overlay)["corruptions"]
    result = run(overlay, commit=True, repair="all", size="5M")
    assert not result.failed, result.json
    at = next(at for at, words in enumerate(result.json["commands"]) if "-r" in words)
    assert at < verbs(result).index("commit")
    holds(base, "2 0 2M", "1 2M 2M", image_format="raw" if kind == "raw" else "qcow2")
    holds(overlay, "2 0 2M", "1 2M 2M", "0 4M 1M")
    assert faults(overlay) == {"corruptions": 0, "leaks": 0}
    assert not run(overlay, commit=True, repair="all", size="5M").changed
    assert leftovers(folder) == []


def test_a_repair_stays_when_the_conversion_fails(tmp_path: Path, folder: Path) -> None:
    """The image has its old format then, and is known to have it."""
    path = make(folder / "disk", "qcow2", 4 * MIB, "write -P 1 0 4M")
    assert run(path, options={"lazy_refcounts": True}, force=True).changed
    with path.open("r+b") as file:
        file.seek(72)  # where it is marked as dirty
        file.write((1).to_bytes(8, "big"))
    declared: dict[str, Any] = {"format": "raw", "force": True, "repair": "all"}
    result = run(path, struck(tmp_path / "bin", "convert", "false"), **declared)
    assert result.failed, result.json
    assert info(path)["format"] == "qcow2"
    assert faults(path) == {"corruptions": 0, "leaks": 0}
    holds(path, "1 0 4M")
    assert leftovers(folder) == []
    assert run(path, **declared).changed
    holds(path, "1 0 4M", image_format="raw")
    assert not run(path, **declared).changed


# After a commit


@pytest.mark.parametrize("kind", ["raw", "qcow2", "qcow2 with a snapshot"])
def test_an_overlay_whose_data_did_not_arrive_is_not_emptied(tmp_path: Path, folder: Path, kind: str) -> None:
    base, overlay = base_and_overlay(folder, kind)
    before = overlay.read_bytes()
    image_format = "raw" if kind == "raw" else "qcow2"
    written = folder / ".base.vmops-new" if "snapshot" in kind else base
    env = struck(tmp_path / "bin", "commit", "qemu-io", "-f", image_format, "-c", "write -P 9 1M 512", written)
    result = run(overlay, env, commit=True, verify="compare")
    assert result.failed, result.json
    assert f"The commit of {overlay} into {base} went wrong: Content mismatch" in result.msg
    assert f"Nothing is lost, as {overlay} was not emptied" in result.msg
    assert overlay.read_bytes() == before
    assert run(overlay, commit=True, verify="compare").changed
    holds(base, "2 0 2M", "1 2M 2M", image_format=image_format)
    assert leftovers(folder) == []


@pytest.mark.parametrize("kind", ["qcow2", "qcow2 with a snapshot"])
def test_an_overlay_stays_that_was_committed_into_what_is_damaged_now(tmp_path: Path, folder: Path, kind: str) -> None:
    base, overlay = base_and_overlay(folder, kind)
    before = overlay.read_bytes()
    written = folder / ".base.vmops-new" if "snapshot" in kind else base
    result = run(overlay, struck(tmp_path / "bin", "commit", "truncate", "-s", "1M", written), commit=True)
    assert result.failed, result.json
    assert "corruptions. Nothing is lost" in result.msg
    assert overlay.read_bytes() == before
    assert leftovers(folder) == []


@pytest.mark.parametrize("sizes", [("4M", "2M"), ("2M", "4M")], ids=["larger", "smaller"])
@pytest.mark.parametrize("encrypt", [None, SECRET], ids=["plain", "encrypted"])
def test_a_commit_into_an_image_of_another_size_is_compared(
    folder: Path, sizes: tuple[str, str], encrypt: dict[str, Any] | None
) -> None:
    base = folder / "base"
    qemu_img("create", "-q", "-f", "qcow2", base, sizes[0])
    qemu_io(base, "write -P 1 0 2M")
    given = {"encrypt": encrypt} if encrypt else {}
    overlay = folder / "disk"
    assert run(overlay, backing_file="base", size=sizes[1], **given).changed
    if encrypt is None:
        qemu_io(overlay, "write -P 2 1M 1M")
    else:
        node = f"driver=qcow2,encrypt.key-secret=s,file.filename={overlay}"
        io = ("qemu-io", "--object", "secret,id=s,data=correct horse", "--image-opts", "-c", "write -P 2 1M 1M", node)
        assert os.spawnvp(os.P_WAIT, io[0], io) == 0
    result = run(overlay, commit=True, verify="compare", **given)
    assert not result.failed, result.json
    assert "compare" in verbs(result)
    holds(base, "1 0 1M", "2 1M 1M")


# A conversion of the image into itself


CONVERSIONS = {
    "another format": ("qcow2", {"format": "raw", "force": True}),
    "another cluster size": ("qcow2", {"options": {"cluster_size": "128k"}, "force": True}),
    "another cluster size, over another image": (
        "qcow2",
        {"options": {"cluster_size": "4k"}, "force": True, "backing_file": "base"},
    ),
    "a larger vmdk": ("vmdk", {"format": "vmdk", "size": "6M"}),
    "a smaller vdi": ("vdi", {"format": "vdi", "size": "3M", "allow_shrink": True}),
    "a snapshot": ("qcow2", {"snapshots": [{"name": "a"}]}),
}


@pytest.mark.parametrize("case", CONVERSIONS)
def test_what_replaces_an_image_is_compared_with_it(folder: Path, case: str) -> None:
    image_format, declared = CONVERSIONS[case]
    make(folder / "base", "qcow2", 4 * MIB, "write -P 5 0 4M")
    path = make(folder / "disk", image_format, 4 * MIB, "write -P 7 1M 1M")
    result = run(path, **declared, verify="compare")
    assert not result.failed, result.json
    assert "compare" in verbs(result)
    holds(path, "0 0 1M", "7 1M 1M", "0 2M 1M", image_format=declared.get("format", "qcow2"))
    assert not run(path, **declared, verify="compare").changed


@pytest.mark.parametrize("case", ["another format", "another cluster size", "a larger vmdk", "a smaller vdi"])
def test_an_image_is_not_replaced_by_one_with_another_content(tmp_path: Path, folder: Path, case: str) -> None:
    image_format, declared = CONVERSIONS[case]
    path = make(folder / "disk", image_format, 4 * MIB, "write -P 7 1M 1M")
    before = path.read_bytes()
    new = (folder / ".disk.vmops-new", declared.get("format", "qcow2"))
    env = struck(tmp_path / "bin", "convert", "qemu-io", "-f", new[1], "-c", "write -P 9 2M 512", new[0])
    result = run(path, env, **declared, verify="compare")
    assert result.failed, result.json
    assert f"The new image for {path} differs from {path}, so it wasn't used" in result.msg
    assert path.read_bytes() == before
    assert leftovers(folder) == []


def test_encrypted_images_are_compared_too(folder: Path) -> None:
    path = make(folder / "disk", "qcow2", 4 * MIB, "write -P 7 1M 1M")
    for declared in ({}, {"options": {"cluster_size": "128k"}, "size": "6M"}):
        result = run(path, encrypt=SECRET, force=True, verify="compare", **declared)
        assert not result.failed, result.json
        assert "compare" in verbs(result)
    assert info(path)["encrypted"] is True


# A commit and another backing file


@pytest.mark.parametrize("written", [True, False])
def test_a_commit_and_a_rebase_are_two_tasks(folder: Path, written: bool) -> None:
    """Else the second run would commit into the new base what the old one holds and the new one doesn't."""
    base, overlay = base_and_overlay(folder, "qcow2")
    other = make(folder / "other", "qcow2", 4 * MIB)
    if not written:
        assert run(overlay, commit=True).changed
    before = [path.read_bytes() for path in (base, overlay, other)]
    for check in (True, False):
        result = run(overlay, check=check, backing_file="other", commit=True)
        assert result.json["error"]["kind"] == "refused", result.json
        assert f"commit {overlay}: it lies over base, and backing_file names another" in result.msg
        assert "a task of its own" in result.msg
    assert [path.read_bytes() for path in (base, overlay, other)] == before
    assert run(overlay, backing_file="base", commit=True).changed is written
    assert run(overlay, backing_file="other").changed
