# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What lies below an overlay is not always what it seems: a backing file behind a link, chains that lead back, a file
that a machine writes to, and a commit for which there is no room.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.testbed.faults import free_bytes, leftovers, small_disk
from tests.testbed.images import MIB, holds, info, make, qemu_img, qemu_io
from tests.testbed.modules import Result, run_module


def run(path: Path, check: bool = False, **options: Any) -> Result:
    return run_module("qemu_img", {"path": str(path), "timeout": 60, **options}, check=check)


def over(path: Path, backing: str, *commands: str) -> Path:
    """An overlay, whether its backing file is there or not."""
    qemu_img("create", "-q", "-u", "-f", "qcow2", "-b", backing, "-F", "qcow2", path, "8M")
    if commands:
        qemu_io(path, *commands)
    return path


# Links


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """A base in a folder of its own, and the link by which overlays name it."""
    base = tmp_path / "lib" / "r.qcow2"
    base.parent.mkdir()
    make(base, "qcow2", 8 * MIB, "write -P 0x11 0 1M")
    (tmp_path / "base.qcow2").symlink_to("lib/r.qcow2")
    return base


@pytest.mark.parametrize("plain", [True, False], ids=["in place", "by a copy"])
def test_a_commit_goes_to_the_file_that_a_link_leads_to(tmp_path: Path, library: Path, plain: bool) -> None:
    if not plain:
        qemu_img("snapshot", "-c", "one", library)
    overlay = over(tmp_path / "disk.qcow2", "base.qcow2", "write -P 0x77 512k 1M")
    result = run(overlay, commit=True)
    assert not result.failed, result.json
    assert (tmp_path / "base.qcow2").is_symlink()
    holds(library, "0x11 0 512k", "0x77 512k 1M")
    holds(overlay, "0x11 0 512k", "0x77 512k 1M")
    assert info(overlay)["backing-filename"] == "base.qcow2"
    assert leftovers(tmp_path) == leftovers(library.parent) == []


def test_a_commit_through_a_link_waits_for_a_task_on_the_file_itself(tmp_path: Path, library: Path) -> None:

    overlay = over(tmp_path / "disk.qcow2", "base.qcow2", "write -P 0x77 512k 1M")
    with (library.parent / ".r.qcow2.vmops-lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        result = run(overlay, commit=True, timeout=10)
    assert result.json["error"]["kind"] == "timed_out", result.json
    assert f"another task that works on {library}" in result.msg


def test_what_a_commit_left_beside_the_file_behind_a_link_is_removed(tmp_path: Path, library: Path) -> None:
    overlay = over(tmp_path / "disk.qcow2", "base.qcow2")
    (library.parent / ".r.qcow2.vmops-new").write_bytes(b"half")
    result = run(overlay, commit=True)
    assert result.changed, result.json
    assert leftovers(library.parent) == []


def test_a_commit_through_a_link_by_which_other_files_lie_below_is_refused(tmp_path: Path, library: Path) -> None:
    """QEMU looks for a relative backing file beside the name by which it opened the image."""
    for folder, pattern in ((tmp_path, 1), (library.parent, 2)):
        make(folder / "bottom.qcow2", "qcow2", 8 * MIB, f"write -P {pattern} 0 8M")
    over(library, "bottom.qcow2")
    overlay = over(tmp_path / "disk.qcow2", "base.qcow2", "write -P 0x77 512 512")
    before = overlay.read_bytes(), library.read_bytes()
    result = run(overlay, commit=True)
    assert result.json["error"]["kind"] == "refused", result.json
    assert str(tmp_path / "bottom.qcow2") in result.msg
    assert str(library.parent / "bottom.qcow2") in result.msg
    assert (overlay.read_bytes(), library.read_bytes()) == before
    (library.parent / "bottom.qcow2").unlink()
    (library.parent / "bottom.qcow2").symlink_to("../bottom.qcow2")
    assert run(overlay, commit=True).changed
    holds(library, "1 0 512", "0x77 512 512", "1 1024 512")


# Chains that lead back


@pytest.fixture
def tower(tmp_path: Path) -> tuple[Path, Path, Path]:
    """c over b over a, each with data."""
    a = make(tmp_path / "a.qcow2", "qcow2", 8 * MIB, "write -P 0x11 0 1M")
    b = over(tmp_path / "b.qcow2", "a.qcow2", "write -P 0x22 1M 1M")
    return a, b, over(tmp_path / "c.qcow2", "b.qcow2", "write -P 0x33 2M 1M")


@pytest.mark.parametrize("check", [False, True], ids=["run", "check"])
@pytest.mark.parametrize("backing", ["b.qcow2", "c.qcow2", "link.qcow2"])
def test_a_rebase_that_would_close_a_loop_is_refused(
    tmp_path: Path, tower: tuple[Path, Path, Path], backing: str, check: bool
) -> None:
    (tmp_path / "link.qcow2").symlink_to("c.qcow2")
    before = [path.read_bytes() for path in tower]
    result = run(tower[0], check=check, backing_file=backing)
    assert result.json["error"]["kind"] == "bad_input", result.json
    assert f"backing_file: {tmp_path / backing} has the image itself below it" in result.msg
    assert [path.read_bytes() for path in tower] == before
    holds(tower[2], "0x11 0 1M", "0x22 1M 1M", "0x33 2M 1M")


def test_a_rebase_within_a_chain_that_ends_stays_possible(tower: tuple[Path, Path, Path]) -> None:
    result = run(tower[2], backing_file="a.qcow2")
    assert result.changed, result.json
    holds(tower[2], "0x11 0 1M", "0x22 1M 1M", "0x33 2M 1M")


def test_a_new_image_that_would_close_a_loop_is_not_made(tmp_path: Path) -> None:
    over(tmp_path / "b.qcow2", "a.qcow2")
    result = run(tmp_path / "a.qcow2", backing_file="b.qcow2")
    assert result.json["error"]["kind"] == "bad_input", result.json
    assert "has the image itself below it" in result.msg
    assert not (tmp_path / "a.qcow2").exists()


@pytest.fixture
def loop(tower: tuple[Path, Path, Path]) -> tuple[Path, Path]:
    """a over b over a."""
    a, b, _c = tower
    qemu_img("rebase", "-u", "-f", "qcow2", "-b", "b.qcow2", "-F", "qcow2", a)
    return a, b


@pytest.mark.parametrize(
    "declared",
    [
        {"size": "16M"},
        {"commit": True},
        {"repair": "all"},
        {"backing_file": ""},
        {"snapshots": [{"name": "one"}]},
        {"format": "raw", "force": True},
    ],
    ids=str,
)
def test_an_image_whose_chain_leads_back_is_left_alone_at_once(
    loop: tuple[Path, Path], declared: dict[str, Any]
) -> None:
    before = [path.read_bytes() for path in loop]
    result = run(loop[0], **declared)
    assert result.json["error"]["kind"] == "refused", result.json
    assert f"its chain of backing files leads back to {loop[0]}" in result.msg
    assert [path.read_bytes() for path in loop] == before


def test_such_an_image_can_be_removed(loop: tuple[Path, Path]) -> None:
    assert run(loop[0], state="absent").changed
    assert not loop[0].exists()


def test_nothing_is_put_over_a_chain_that_leads_back(tmp_path: Path, loop: tuple[Path, Path]) -> None:
    result = run(tmp_path / "disk.qcow2", backing_file="b.qcow2")
    assert result.json["error"]["kind"] == "bad_input", result.json
    assert f"the chain below it leads back to {loop[1]}" in result.msg
    assert not (tmp_path / "disk.qcow2").exists()


def test_a_raw_backing_file_is_followed_no_further(tmp_path: Path, loop: tuple[Path, Path]) -> None:
    """Its bytes are its guest's, whatever they look like."""
    result = run(tmp_path / "disk.qcow2", backing_file="b.qcow2", backing_format="raw")
    assert result.changed, result.json


# Room for a commit


@pytest.fixture
def apart(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """The names of an overlay, and of its base on a disk of 6 MiB."""
    with small_disk(tmp_path, "6m") as folder:
        yield tmp_path / "disk.qcow2", folder / "base"


def with_4_mib(overlay: Path, base: Path, image_format: str) -> None:
    qemu_img("create", "-q", "-f", "qcow2", "-b", base, "-F", image_format, overlay)
    qemu_io(overlay, "write -P 0x77 4M 4M")


def commands(result: Result) -> list[str]:
    return [argv[1] for argv in result.json["commands"]]


@pytest.mark.parametrize("kind", ["raw", "qcow2", "qcow2 with a snapshot"])
def test_a_commit_that_does_not_fit_is_found_before_anything_is_written(apart: tuple[Path, Path], kind: str) -> None:
    overlay, base = apart
    image_format = kind.split()[0]
    make(base, image_format, 8 * MIB, "write -P 0x11 0 %s" % ("1M" if kind.endswith("snapshot") else "3M"))
    if kind.endswith("snapshot"):
        qemu_img("snapshot", "-c", "one", base)
        (base.parent / "other").write_bytes(b"x" * MIB)
    with_4_mib(overlay, base, image_format)
    before = base.read_bytes(), overlay.read_bytes()
    result = run(overlay, commit=True)
    assert result.failed, result.json
    assert result.json["error"]["kind"] == "storage_failed"
    assert "commit" not in commands(result)
    needed, free = result.json["error"]["needed_bytes"], result.json["error"]["free_bytes"]
    assert 4 * MIB - 512 * 1024 < needed < 6 * MIB
    assert free < 4 * MIB
    assert f"Writing {base} failed at {base.parent}: No space left on device." in result.msg
    assert f"It needs {needed} bytes, and {free} are free there." in result.msg
    assert (base.read_bytes(), overlay.read_bytes()) == before
    assert leftovers(base.parent) == leftovers(overlay.parent) == []


@pytest.mark.parametrize("kind", ["raw", "qcow2", "raw, reserved"])
def test_a_commit_over_what_is_there_already_needs_no_room(apart: tuple[Path, Path], kind: str) -> None:
    overlay, base = apart
    image_format = kind.split(",")[0]
    make(base, image_format, 8 * MIB)
    if "reserved" in kind:
        with base.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 4 * MIB, 4 * MIB)
    else:
        qemu_io(base, "write -P 0x11 4M 4M", image_format=image_format)
    with_4_mib(overlay, base, image_format)
    result = run(overlay, commit=True)
    assert result.changed, result.json
    holds(base, "0x77 4M 4M", image_format=image_format)


def test_a_disk_that_fills_up_during_a_commit(apart: tuple[Path, Path]) -> None:
    """Nobody can tell beforehand that all of the base's data belongs to its snapshot, too."""
    overlay, base = apart
    make(base, "qcow2", 8 * MIB, "write -P 0x11 4M 1M")
    qemu_img("snapshot", "-c", "one", base)
    with_4_mib(overlay, base, "qcow2")
    before = base.read_bytes(), overlay.read_bytes()
    result = run(overlay, commit=True)
    assert result.json["error"]["kind"] == "storage_failed", result.json
    assert f"Writing {base} failed at {base.parent}: No space left on device." in result.msg
    assert "commit" in commands(result)
    needed, free = result.json["error"]["needed_bytes"], result.json["error"]["free_bytes"]
    assert needed > free == free_bytes(base.parent)
    assert (base.read_bytes(), overlay.read_bytes()) == before
    assert leftovers(base.parent) == []


# Hostile headers


@pytest.mark.parametrize("name", ["luks", "qed", "host_device", "json:{", "\u00e4"])
def test_a_commit_into_what_no_image_of_ours_is_is_refused(tmp_path: Path, name: str) -> None:
    make(tmp_path / "base", "qcow2", 8 * MIB)
    overlay = over(tmp_path / "disk.qcow2", "base", "write -P 1 0 64k")
    format_extension = b"\xe2\x79\x2a\xca"
    before = (tmp_path / "base").read_bytes()
    with overlay.open("r+b") as file:
        at = file.read(4096).index(format_extension) + 4
        length = len(name.encode())
        assert length <= 16
        file.seek(at)
        rest = file.read(4096)[4 + 8 :]
        file.seek(at)
        file.write(length.to_bytes(4, "big") + name.encode().ljust(16 if length > 8 else 8, b"\0"))
        file.write(rest if length <= 8 else bytes(8))
    result = run(overlay, commit=True)
    assert result.json["error"]["kind"] == "refused", result.json
    assert "its backing file has format %s" % name in result.msg
    assert (tmp_path / "base").read_bytes() == before
