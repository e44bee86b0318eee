# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""nocloud_seed, its images read back by isoinfo; a guest reads one in test_qemu_guest_start_linux.py."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.testbed.modules import Result, finish, run_module, start_module
from tests.testbed.playbooks import run_tasks
from tests.testbed.untouched import untouched

DECLARED = {
    "user_data": {"users": ["admin"], "hostname": "web1"},
    "meta_data": {"instance-id": "i-1", "local-hostname": "web1"},
    "network_config": {"version": 2, "ethernets": {}},
    "vendor_data": "#cloud-config\n{}\n",
}


def seed(path: Path, check: bool = False, **options: Any) -> Result:
    return run_module("nocloud_seed", {"path": str(path), **options}, check=check)


def isoinfo(path: Path, *words: str) -> str:
    return subprocess.run(["isoinfo", *words, "-i", str(path)], capture_output=True, text=True, check=True).stdout


def read(path: Path, name: str) -> str:
    contents = {isoinfo(path, tree, "-x", f"/{name}") for tree in ("-R", "-J")}
    assert len(contents) == 1, "Rock Ridge and Joliet differ"
    return contents.pop()


@pytest.fixture(name="path")
def _path(tmp_path: Path) -> Path:
    return tmp_path / "seed.iso"


def test_another_program_reads_what_was_declared(path: Path) -> None:
    result = seed(path, **DECLARED)
    assert result.changed
    names = ["meta-data", "network-config", "user-data", "vendor-data"]
    assert isoinfo(path, "-R", "-f").split() == ["/" + name for name in names]
    assert isoinfo(path, "-J", "-f").split() == ["/" + name for name in names]
    assert "Volume id: cidata\n" in isoinfo(path, "-d")
    head, _line, body = read(path, "user-data").partition("\n")
    assert head == "#cloud-config"
    assert json.loads(body) == DECLARED["user_data"]
    assert json.loads(read(path, "meta-data")) == DECLARED["meta_data"]
    assert json.loads(read(path, "network-config")) == DECLARED["network_config"]
    assert read(path, "vendor-data") == DECLARED["vendor_data"]
    assert set(result.json["seed"]["files"]) == set(names)
    told = hashlib.sha256(read(path, "meta-data").encode()).hexdigest()
    assert result.json["seed"]["files"]["meta-data"] == told
    assert path.stat().st_size == result.json["seed"]["size"]


def test_text_is_written_as_it_is(path: Path) -> None:
    text = "#!/bin/sh\necho Grüße\n"
    seed(path, user_data=text, meta_data="instance-id: x\n")
    assert read(path, "user-data") == text
    assert read(path, "meta-data") == "instance-id: x\n"


def test_without_any_data_it_is_still_a_seed(path: Path) -> None:
    seed(path)
    assert read(path, "user-data") == "#cloud-config\n"
    assert json.loads(read(path, "meta-data"))["instance-id"].startswith("seed-")


def test_a_large_file_spans_sectors(path: Path) -> None:
    text = "#!/bin/sh\n" + "".join(f"echo {number}\n" for number in range(20000))
    seed(path, user_data=text)
    assert read(path, "user-data") == text


def test_the_same_again_is_unchanged_and_not_written(path: Path) -> None:
    seed(path, **DECLARED)
    before = untouched(path)
    again = seed(path, **DECLARED)
    assert not again.changed
    assert again.json["diff"]["before"] == again.json["diff"]["after"]
    assert untouched(path) == before


def test_the_same_declaration_makes_the_same_bytes_anywhere(path: Path, tmp_path: Path) -> None:
    seed(path, **DECLARED)
    other = tmp_path / "other.iso"
    seed(other, **{name: DECLARED[name] for name in sorted(DECLARED, reverse=True)})
    assert other.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("option", sorted(DECLARED))
def test_every_part_counts(path: Path, option: str) -> None:
    seed(path, **DECLARED)
    changed = seed(path, **{**DECLARED, option: {"other": "content"}})
    assert changed.changed
    assert changed.json["diff"]["before"] != changed.json["diff"]["after"]


def test_a_changed_seed_is_a_new_instance_unless_one_is_given(path: Path) -> None:
    def instance(**options: Any) -> str:
        seed(path, **options)
        return str(json.loads(read(path, "meta-data"))["instance-id"])

    first = instance(user_data={"a": 1}, meta_data={"local-hostname": "x"})
    assert instance(user_data={"a": 1}, meta_data={"local-hostname": "x"}) == first
    assert instance(user_data={"a": 2}, meta_data={"local-hostname": "x"}) != first
    assert instance(user_data={"a": 2}, meta_data={"instance-id": "mine"}) == "mine"


def test_check_mode_writes_and_removes_nothing(path: Path) -> None:
    assert seed(path, check=True, **DECLARED).changed
    assert not path.exists()
    seed(path, **DECLARED)
    assert not seed(path, check=True, **DECLARED).changed
    assert seed(path, check=True, user_data={}).changed
    assert seed(path, check=True, state="absent").changed
    assert json.loads(read(path, "meta-data")) == DECLARED["meta_data"]


def test_absent(path: Path) -> None:
    seed(path, **DECLARED)
    assert seed(path, state="absent").changed
    assert list(path.parent.iterdir()) == []
    assert not seed(path, state="absent").changed


def test_content_stays_out_of_results(path: Path) -> None:
    """The options themselves are Ansible's to show or hide (no_log on the task)."""
    result = seed(path, user_data={"password": "geheim-123"})
    result.json.pop("invocation", None)  # not every core shows it
    assert "geheim-123" not in json.dumps(result.json)


def test_mode(path: Path) -> None:
    seed(path, **DECLARED)
    assert path.stat().st_mode & 0o777 == 0o600
    assert seed(path, **DECLARED, mode="0640").changed
    assert path.stat().st_mode & 0o777 == 0o640
    assert not seed(path, **DECLARED, mode="0640").changed


def test_a_rewritten_seed_stays_whose_it_was(path: Path) -> None:
    seed(path, **DECLARED)
    path.chmod(0o644)  # by another task, say
    if os.geteuid() == 0:
        os.chown(path, 12345, 12346)
    before = path.stat()
    assert seed(path, user_data="other").changed
    after = path.stat()
    assert after.st_ino != before.st_ino
    assert (after.st_uid, after.st_gid, after.st_mode) == (before.st_uid, before.st_gid, before.st_mode)


def test_a_symbolic_link_is_followed(path: Path, tmp_path: Path) -> None:
    real = tmp_path / "real.iso"
    path.symlink_to(real)
    seed(path, **DECLARED)
    assert path.is_symlink()
    assert read(real, "vendor-data") == DECLARED["vendor_data"]


@pytest.mark.parametrize("kind", ["directory", "fifo"])
@pytest.mark.parametrize("state", ["present", "absent"])
def test_what_is_no_file_is_refused(path: Path, kind: str, state: str) -> None:
    if kind == "fifo":
        os.mkfifo(path)
    else:
        path.mkdir()
    result = seed(path, state=state)
    assert result.failed
    assert path.exists()
    assert not path.is_file()


@pytest.mark.parametrize("state", ["present", "absent"])
@pytest.mark.parametrize("kind", ["another label", "no image", "short"])
def test_what_is_no_seed_is_only_touched_by_force(path: Path, kind: str, state: str) -> None:
    seed(path, **DECLARED)
    image = path.read_bytes()
    other = {"another label": image.replace(b"cidata ", b"debian "), "no image": b"QFI\xfb" * 20_000, "short": b"x"}
    path.write_bytes(other[kind])
    for check in (True, False):
        result = seed(path, check=check, state=state)
        assert result.failed
        assert result.json["error"]["kind"] == "refused"
        assert "neither empty nor an ISO 9660 image labelled cidata" in result.msg
        assert "set force to true" in result.msg
        assert path.read_bytes() == other[kind]
    assert seed(path, state=state, force=True).changed
    assert list(path.parent.iterdir()) == ([path] if state == "present" else [])
    assert not seed(path, state=state).changed


@pytest.mark.parametrize("state", ["present", "absent"])
@pytest.mark.parametrize("kind", ["empty", "another tool's"])
def test_an_empty_file_and_another_tools_seed_are_seeds(path: Path, kind: str, state: str) -> None:
    path.touch()
    if kind == "another tool's":
        (path.parent / "files").mkdir()
        words = ["genisoimage", "-quiet", "-volid", "CIDATA", "-o", str(path), str(path.parent / "files")]
        subprocess.run(words, check=True)
    assert seed(path, state=state).changed
    assert path.exists() == (state == "present")


def test_bad_input(path: Path) -> None:
    assert seed(path.parent / "none" / "x.iso").json["error"]["option"] == "path"
    assert run_module("nocloud_seed", {"path": "x.iso"}).json["error"]["option"] == "path"
    assert seed(path, timeout=0).json["error"]["option"] == "timeout"
    assert seed(path, user_data=" \n").json["error"]["option"] == "user_data"
    assert seed(path, meta_data=[["a", "b"]]).json["error"]["option"] == "meta_data"
    assert not path.exists()


def test_killed_at_any_moment_it_is_the_old_or_the_new(path: Path) -> None:
    seed(path, **DECLARED)
    old = path.read_bytes()
    large = {"write_files": [{"path": "/x", "content": "y" * 4_000_000}]}
    for delay_ms in range(50, 400, 35):
        process = start_module("nocloud_seed", {"path": str(path), "user_data": large})
        time.sleep(delay_ms / 1000)  # not a wait for anything: the moment of the fault
        with suppress(ProcessLookupError):  # it was through already
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        if path.read_bytes() != old:
            assert len(read(path, "user-data")) > 4_000_000
    assert not seed(path, user_data=large).failed
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("state", ["present", "absent"])
def test_what_a_killed_task_left_is_taken_away(path: Path, state: str) -> None:
    """Also where the image itself is as declared: else the left file, with passwords in it, would stay for ever."""
    declared = DECLARED if state == "present" else {}
    if state == "present":
        seed(path, **DECLARED)
    for role in ("new", "lock"):
        (path.parent / f".seed.iso.vmops-{role}").write_text("half")
    predicted = seed(path, check=True, state=state, **declared)
    assert predicted.changed
    assert len(predicted.json["diff"]["before"]["leftovers"]) == 2
    assert seed(path, state=state, **declared).changed
    assert list(path.parent.iterdir()) == ([path] if state == "present" else [])
    assert not seed(path, state=state, **declared).changed


def test_a_task_at_work_has_left_nothing(path: Path) -> None:
    lock = path.parent / ".seed.iso.vmops-lock"
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert not seed(path, state="absent").changed
        assert lock.exists()


def test_two_tasks_at_once(path: Path) -> None:
    processes = [start_module("nocloud_seed", {"path": str(path), **DECLARED}) for _each in range(3)]
    results = [finish(process) for process in processes]
    assert sorted(result.changed for result in results) == [False, False, True]
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.every_core
def test_through_ansible_itself(tmp_path: Path, path: Path) -> None:
    task = {"name": "seed", "vmops.lifecycle.nocloud_seed": {"path": str(path), **DECLARED}}
    assert run_tasks(tmp_path, [task]).tasks["seed"]["changed"]
    play = run_tasks(tmp_path, [task])
    assert not play.tasks["seed"]["changed"]
    assert json.loads(read(path, "network-config")) == DECLARED["network_config"]
