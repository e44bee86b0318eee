# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What lies below an overlay is not always what it seems: a backing file behind a link, chains that lead back, a file
that a machine writes to, and a commit for which there is no room.
"""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import Any

import pytest

from tests.testbed.faults import leftovers
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
        result = run(overlay, commit=True, timeout=1)
    assert result.json["error"]["kind"] == "timed_out", result.json
    assert f"another task that works on {library}" in result.msg


def test_what_a_commit_left_beside_the_file_behind_a_link_is_removed(tmp_path: Path, library: Path) -> None:
    overlay = over(tmp_path / "disk.qcow2", "base.qcow2")
    (library.parent / ".r.qcow2.vmops-new").write_bytes(b"half")
    result = run(overlay, commit=True)
    assert result.changed, result.json
    assert leftovers(library.parent) == []
