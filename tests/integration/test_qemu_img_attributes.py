# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Owner, group, mode and a file system's own attributes: what can't be is told before any work is done."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.testbed.images import qemu_img
from tests.testbed.modules import Result, run_module


def run(name: str, path: Path, check: bool = False, **options: Any) -> Result:
    return run_module(name, {"path": str(path), "timeout": 60, **options}, check=check)


MODULES = pytest.mark.parametrize(("name", "options"), [("qemu_img", {"size": "1M"}), ("nocloud_seed", {})])
UNKNOWN = [{"owner": "no-such-name"}, {"group": "no-such-name"}]


@MODULES
@pytest.mark.parametrize(
    ("wrong", "check"),
    [(wrong, check) for wrong in ({"mode": "rw"}, {"mode": "0999"}) for check in (False, True)]
    + [(wrong, False) for wrong in UNKNOWN],
    ids=str,
)
def test_a_wrong_one_is_told_before_anything_is_written(
    tmp_path: Path, name: str, options: dict[str, Any], wrong: dict[str, str], check: bool
) -> None:
    result = run(name, tmp_path / "disk", check, **options, **wrong)
    assert result.failed
    assert result.json["error"]["kind"] == "bad_input", result.json
    assert result.msg.startswith(next(iter(wrong)) + ": ")
    assert os.listdir(tmp_path) == []


@MODULES
@pytest.mark.parametrize("unknown", UNKNOWN, ids=str)
def test_in_check_mode_an_earlier_task_may_make_the_user_of_a_file_that_is_not_there(
    tmp_path: Path, name: str, options: dict[str, Any], unknown: dict[str, str]
) -> None:
    path = tmp_path / "disk"
    result = run(name, path, check=True, **options, **unknown)
    assert not result.failed, result.msg
    assert result.changed
    assert run(name, path, **options).changed
    assert run(name, path, check=True, **options, **unknown).json["error"]["kind"] == "bad_input"


def chattr(change: str, path: Path) -> bool:
    return subprocess.run(["chattr", change, str(path)], capture_output=True, check=False).returncode == 0


@pytest.fixture(name="path")
def _path(tmp_path: Path) -> Iterator[Path]:
    """In a folder in which files can be made immutable, which takes root and a fitting file system."""
    trial = tmp_path / "trial"
    trial.touch()
    if not chattr("+i", trial):
        pytest.skip("no file can be made immutable here")
    chattr("-i", trial)
    trial.unlink()
    yield tmp_path / "disk"
    for left in tmp_path.iterdir():
        chattr("-i", left)


@MODULES
def test_an_image_may_be_made_immutable_as_the_last_thing(path: Path, name: str, options: dict[str, Any]) -> None:
    first = run(name, path, **options, attributes="+i")
    assert not first.failed, first.json
    assert first.changed
    assert os.listdir(path.parent) == ["disk"]
    again = run(name, path, **options, attributes="+i")
    assert not again.failed, again.json
    assert not again.changed
    assert not run(name, path, check=True, **options, attributes="+i").changed
    assert run(name, path, **options, attributes="-i").changed
    assert not run(name, path, **options, attributes="-i").changed


@MODULES
def test_attributes_may_be_declared_in_any_order(path: Path, name: str, options: dict[str, Any]) -> None:
    assert run(name, path, **options, attributes="+Ad").changed
    shown = subprocess.run(["lsattr", str(path)], capture_output=True, check=True, text=True).stdout.split()[0]
    letters = shown.replace("-", "")
    assert {"A", "d"} <= set(letters)
    for check in (True, False):
        for declared in (letters, letters[::-1], "=" + letters[::-1]):
            again = run(name, path, check, **options, attributes=declared)
            assert not again.failed, again.json
            assert not again.changed, declared
    fewer = letters.replace("A", "")[::-1]
    assert run(name, path, **options, attributes=fewer).changed
    assert not run(name, path, **options, attributes=fewer).changed


SELINUX = {"seuser": "system_u", "serole": "object_r", "setype": "svirt_image_t", "selevel": "s0"}


@MODULES
@pytest.mark.skipif(Path("/sys/fs/selinux/enforce").exists(), reason="this host has SELinux")
def test_on_a_host_without_selinux_a_context_is_no_difference(
    tmp_path: Path, name: str, options: dict[str, Any]
) -> None:
    """As for Ansible's own modules of files: one play is for hosts of both kinds."""
    path = tmp_path / "disk"
    assert run(name, path, **options, **SELINUX).changed
    before = path.stat()
    for check in (True, False):
        again = run(name, path, check, **options, **SELINUX)
        assert not again.failed, again.json
        assert not again.changed
        assert "warnings" not in again.json
    assert path.stat() == before
    unlike = run(name, path, **options, **SELINUX, setyp="svirt_image_t")
    assert unlike.failed
    assert "setyp" in unlike.msg


@pytest.mark.parametrize("check", [False, True], ids=["", "check mode"])
def test_an_immutable_image_is_refused_before_any_work(path: Path, check: bool) -> None:
    assert run("qemu_img", path, size="1M", attributes="+i").changed
    result = run("qemu_img", path, check, size="2M", snapshots=[{"name": "one"}])
    assert result.json["error"]["kind"] == "refused", result.json
    assert "it is marked as immutable" in result.msg
    assert os.listdir(path.parent) == ["disk"]


@pytest.mark.parametrize("check", [False, True], ids=["", "check mode"])
def test_an_immutable_backing_file_is_refused_before_it_is_copied_for_a_commit(path: Path, check: bool) -> None:
    base = path.with_name("base")
    qemu_img("create", "-q", "-f", "qcow2", base, "1M")
    qemu_img("snapshot", "-c", "one", base)  # so that the commit goes into a copy of it
    qemu_img("create", "-q", "-f", "qcow2", "-b", "base", "-F", "qcow2", path)
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write 0 64k", str(path)], check=True, capture_output=True)
    assert chattr("+i", base)
    result = run("qemu_img", path, check, commit=True)
    assert result.json["error"]["kind"] == "refused", result.json
    assert "Refused to change %s: it is marked as immutable" % base in result.msg
    assert sorted(os.listdir(path.parent)) == ["base", "disk"]
