# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""qemu_img beside running machines, on systems that protect less, and with secrets."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.testbed.faults import WAIT_S, child_that, digest, leftovers, until, words
from tests.testbed.images import info, qemu_img, same_content
from tests.testbed.modules import Result, finish, run_module, start_module
from tests.testbed.tool_gate import gate

MIB = 1 << 20
MACHINE = ["qemu-system-x86_64", "-S", "-machine", "pc,accel=tcg", "-m", "16", "-display", "none", "-nodefaults"]


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A machine's disk, with a snapshot and a lost cluster, so that there is something to do for every task."""
    path = tmp_path / "images" / "disk.qcow2"
    path.parent.mkdir()
    qemu_img("create", "-q", "-f", "qcow2", path, "2M")
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write -P 7 0 1M", str(path)], check=True, capture_output=True)
    qemu_img("snapshot", "-c", "old", path)
    _leak(path)
    return path


def _leak(path: Path) -> None:
    """One cluster at the end counts as used and isn't: QEMU's docs/interop/qcow2.txt."""
    with path.open("r+b") as file:
        data = file.read()
        table = int.from_bytes(data[48:56], "big")
        block = int.from_bytes(data[table : table + 8], "big")
        cluster = -(-len(data) // 65536)
        file.truncate((cluster + 1) * 65536)
        file.seek(block + 2 * cluster)
        file.write(b"\0\1")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source.raw"
    path.write_bytes(os.urandom(2 * MIB))
    return path


def run(path: Path, hides: str = "", check: bool = False, **options: Any) -> Result:
    return run_module("qemu_img", {"path": str(path), **options}, check=check, env={"VMOPS_HIDE_CAPABILITIES": hides})


def tasks(source: Path) -> dict[str, dict[str, Any]]:
    """Everything that changes an image."""
    return {
        "replace": {"source": str(source), "force": True},
        "resize": {"size": "4M"},
        "shrink": {"size": "1M", "allow_shrink": True},
        "amend": {"options": {"lazy_refcounts": True}},
        "snapshot": {"snapshots": [{"name": "new"}]},
        "snapshot away": {"snapshots": [{"name": "old", "state": "absent"}]},
        "bitmap": {"bitmaps": [{"name": "changes"}]},
        "repair": {"repair": "leaks"},
        "remove": {"state": "absent"},
        "remove by force": {"state": "absent", "force": True},
    }


# Machines


@contextmanager
def machine(drive: str) -> Iterator[int]:
    """A paused QEMU with this drive; its pid."""
    process = subprocess.Popen(
        [*MACHINE, "-drive", drive, "-qmp", "stdio"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        assert b"QMP" in process.stdout.readline(), "the machine did not start"
        yield process.pid
    finally:
        process.kill()
        process.communicate()


@contextmanager
def exported(path: Path, folder: Path, *options: str) -> Iterator[int]:
    """The image behind a qemu-nbd; its pid."""
    listens = folder / "nbd.sock"
    process = subprocess.Popen(["qemu-nbd", "-f", "qcow2", "-t", "-k", str(listens), *options, str(path)])
    try:
        until(lambda: listens.exists() or process.poll() is not None, "qemu-nbd to listen")
        yield process.pid
    finally:
        process.kill()
        process.wait()


def holders(disk: Path, folder: Path, kind: str) -> Any:
    return {
        "machine": lambda: machine(f"file={disk},format=qcow2,if=ide"),
        "machine without locks": lambda: machine(f"file={disk},format=qcow2,if=ide,file.locking=off"),
        "machine that only reads": lambda: machine(f"file={disk},format=qcow2,if=virtio,readonly=on"),
        "drive without a device": lambda: machine(f"file={disk},format=qcow2,if=none,id=spare"),
        "nbd": lambda: exported(disk, folder),
        "nbd that only reads": lambda: exported(disk, folder, "--read-only"),
    }[kind]()


HOLDERS = (
    "machine",
    "machine without locks",
    "machine that only reads",
    "drive without a device",
    "nbd",
    "nbd that only reads",
)


@pytest.mark.parametrize("kind", HOLDERS)
def test_an_image_in_use_is_left_alone(tmp_path: Path, disk: Path, source: Path, kind: str) -> None:
    with holders(disk, tmp_path, kind) as pid:
        before = digest(disk), disk.stat().st_ino
        name = "qemu-nbd" if kind.startswith("nbd") else "qemu-system-x86_64"
        for task, options in tasks(source).items():
            result = run(disk, **options)
            assert result.failed, task
            assert result.json["error"]["kind"] == "refused", (task, result.json)
            assert f"in use by {name} (pid {pid})" in result.msg, task
            assert result.json["error"]["holders"] == [{"pid": pid, "name": name}], task
            assert (digest(disk), disk.stat().st_ino) == before, task
        assert os.listdir(disk.parent) == ["disk.qcow2"]
        assert not run(disk, size="2M", snapshots=[{"name": "old"}]).changed  # nothing to do is no offence
    assert run(disk, repair="leaks", size="4M").changed


def test_a_machine_in_the_way_is_told_in_check_mode_too(tmp_path: Path, disk: Path) -> None:
    with machine(f"file={disk},format=qcow2,if=ide") as pid:
        result = run(disk, check=True, size="4M")
        assert result.failed
        assert f"pid {pid}" in result.msg


def test_one_who_merely_reads_is_no_hindrance(disk: Path) -> None:
    with disk.open("rb") as reader:
        reader.read(100)
        other = subprocess.Popen(["sleep", "100"], stdin=reader)
        try:
            for options in ({"size": "4M"}, {"snapshots": [{"name": "new"}]}, {"state": "absent"}):
                result = run(disk, **options)
                assert result.changed, result.json
        finally:
            other.kill()
            other.wait()


def test_one_who_writes_is_a_hindrance_without_being_a_qemu(disk: Path) -> None:
    with disk.open("r+b") as writer:
        other = subprocess.Popen(["sleep", "100"], stdin=writer)
    try:
        result = run(disk, size="4M")
        assert result.failed
        assert f"sleep (pid {other.pid})" in result.msg
    finally:
        other.kill()
        other.wait()


def test_a_source_that_a_machine_writes_to_is_not_read(tmp_path: Path, disk: Path) -> None:
    with machine(f"file={disk},format=qcow2,if=ide") as pid:
        result = run(tmp_path / "copy.qcow2", source=str(disk))
        assert result.failed
        assert f"it is being written by qemu-system-x86_64 (pid {pid})" in result.msg
    assert not (tmp_path / "copy.qcow2").exists()


@pytest.mark.parametrize("check", [False, True], ids=["run", "check"])
def test_nothing_is_put_over_an_image_that_a_machine_writes_to(tmp_path: Path, disk: Path, check: bool) -> None:
    """What the machine goes on writing would show through, and not fit what the overlay holds."""
    existing = tmp_path / "existing.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", existing, "2M")
    before = digest(existing)
    with machine(f"file={disk},format=qcow2,if=ide") as pid:
        for path in (tmp_path / "overlay.qcow2", existing):
            result = run(path, check=check, backing_file=str(disk))
            assert result.failed, result.json
            assert result.json["error"]["kind"] == "refused"
            assert f"use {disk} as backing file: it is being written by qemu-system-x86_64 (pid {pid})" in result.msg
    assert not (tmp_path / "overlay.qcow2").exists()
    assert digest(existing) == before


@pytest.mark.parametrize("kind", ["machine that only reads", "nbd that only reads"])
def test_an_overlay_over_an_image_that_others_read(tmp_path: Path, disk: Path, kind: str) -> None:
    with holders(disk, tmp_path, kind):
        assert run(tmp_path / "overlay.qcow2", backing_file=str(disk)).changed
        assert not run(tmp_path / "overlay.qcow2", backing_file=str(disk)).changed


def test_a_machine_that_has_come_between_does_not_disturb_an_overlay_at_rest(tmp_path: Path, disk: Path) -> None:
    assert run(tmp_path / "overlay.qcow2", backing_file=str(disk)).changed
    with machine(f"file={disk},format=qcow2,if=ide"):
        assert not run(tmp_path / "overlay.qcow2", backing_file=str(disk)).changed


def test_a_backing_file_in_use_is_not_committed_into(tmp_path: Path, disk: Path) -> None:
    overlay = disk.parent / "overlay.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", "disk.qcow2", overlay)
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write -P 9 0 64k", str(overlay)], check=True, capture_output=True)
    with machine(f"file={disk},format=qcow2,if=ide") as pid:
        before = digest(disk), digest(overlay)
        result = run(overlay, commit=True)
        assert result.failed
        assert f"pid {pid}" in result.msg
        assert (digest(disk), digest(overlay)) == before
    assert run(overlay, commit=True).changed


def test_a_machine_that_starts_during_the_work_is_kept_out(tmp_path: Path, disk: Path) -> None:
    """Between the look and the rename QEMU would go on with a file that has no name any more."""
    big = tmp_path / "big.raw"
    with big.open("wb") as file:
        for _attempt in range(64):
            file.write(os.urandom(MIB))
    module = start_module("qemu_img", {"path": str(disk), "source": str(big), "force": True, "compress": True})
    new = disk.parent / ".disk.qcow2.vmops-new"
    child = child_that(module.pid, "convert")
    until(lambda: new.exists() and new.stat().st_size > MIB, "the new image to grow")
    child.stop()
    late = subprocess.run(
        [*MACHINE, "-drive", f"file={disk},format=qcow2,if=ide"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    assert new.exists(), "the work was over too soon for this to tell anything"
    child.go_on()
    assert late.returncode == 1
    assert 'Failed to get "write" lock' in late.stderr
    assert finish(module).changed
    assert same_content(big, "raw", disk, "qcow2")


# Systems that protect less


HIDDEN = ("ofd_locks", "proc", "ofd_locks,proc", "parent_death_signal", "user_xattrs", "descriptor_paths")


@pytest.mark.parametrize("hidden", HIDDEN)
def test_it_works_where_a_protection_is_missing(disk: Path, source: Path, hidden: str) -> None:
    folder = disk.parent
    new = folder / "new.qcow2"
    made = run(new, hides=hidden, source=str(source))
    assert made.changed, made.json
    assert same_content(source, "raw", new, "qcow2")
    warned = json.dumps(made.json.get("warnings", []))  # texts, or since core 2.19 more than that
    told = {
        "ofd_locks": "an image in use is only protected by QEMU's own checks",
        "proc": "the process that holds an image cannot be found or named",
        "parent_death_signal": "goes on if the task itself is killed",
        "user_xattrs": "an image's record is kept in a file beside it",
        "descriptor_paths": "a source is read by its own name",
    }
    for name in hidden.split(","):
        assert told[name] in warned
    again = run(new, hides=hidden, source=str(source))
    assert not again.changed, again.json
    assert run(disk, hides=hidden, size="4M", snapshots=[{"name": "new"}]).changed
    assert run(new, hides=hidden, state="absent").changed
    record = [".disk.qcow2.vmops-record"] if hidden == "user_xattrs" else []
    assert sorted(os.listdir(folder)) == [*record, "disk.qcow2"]


@pytest.mark.parametrize("check", [False, True], ids=["", "check mode"])
def test_a_missing_protection_is_told_of_before_it_matters(disk: Path, check: bool) -> None:
    """Where something would be done, and where it is refused; not where nothing is to be done."""
    env = {"VMOPS_HIDE_CAPABILITIES": "ofd_locks"}
    for options, is_told in (({"size": "4M"}, True), ({"size": "1M"}, True), ({}, False)):
        result = run_module("qemu_img", {"path": str(disk), **options}, check=check, env=env)
        assert ("locks cannot be seen" in json.dumps(result.json.get("warnings", []))) is is_told, options


def test_a_passphrase_needs_no_names_for_open_files(tmp_path: Path) -> None:
    path = tmp_path / "disk.qcow2"
    assert run(path, hides="proc,descriptor_paths", size="1M", encrypt=QUICK).changed
    assert run(path, hides="proc,descriptor_paths", encrypt=QUICK, snapshots=[{"name": "one"}]).changed


def test_nothing_is_warned_of_where_nothing_is_missing(disk: Path) -> None:
    assert "warnings" not in run(disk, size="4M").json


def test_the_record_beside_the_image_holds_as_an_attribute_does(tmp_path: Path, source: Path) -> None:
    path = tmp_path / "disk.qcow2"
    assert run(path, hides="user_xattrs", source=str(source)).changed
    assert sorted(os.listdir(tmp_path)) == [".disk.qcow2.vmops-record", "disk.qcow2", "source.raw"]
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write -P 7 0 1M", str(path)], check=True, capture_output=True)
    assert not run(path, hides="user_xattrs", source=str(source)).changed
    path.rename(tmp_path / "away.qcow2")
    qemu_img("create", "-q", "-f", "qcow2", path, "2M")  # another image by the same name
    assert run(path, hides="user_xattrs", source=str(source)).failed


@pytest.mark.parametrize(
    ("hidden", "kind", "named"),
    [
        ("ofd_locks", "machine", True),
        ("ofd_locks", "machine without locks", True),
        ("proc", "machine", False),
        ("proc", "nbd that only reads", False),
    ],
)
def test_one_protection_is_enough(tmp_path: Path, disk: Path, hidden: str, kind: str, named: bool) -> None:
    with holders(disk, tmp_path, kind) as pid:
        before = digest(disk)
        for options in ({"size": "4M"}, {"snapshots": [{"name": "new"}]}, {"state": "absent"}):
            result = run(disk, hides=hidden, **options)
            assert result.failed, options
            assert result.json["error"]["kind"] == "refused"
            assert (f"pid {pid}" in result.msg) is named
            assert digest(disk) == before


# Secrets


SECRET = "correct-horse-battery-staple"
QUICK = {"secret": SECRET, "options": {"iter-time": "10"}}


class Watcher:
    """Reads what every process shows of itself, again and again, while the block runs."""

    def __init__(self) -> None:
        self.shown: set[bytes] = set()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        while not self._over.is_set():
            for pid in filter(str.isdigit, os.listdir("/proc")):
                for file in ("cmdline", "environ"):
                    try:
                        with open(f"/proc/{pid}/{file}", "rb") as shown:
                            self.shown.add(shown.read())
                    except OSError:
                        continue
            time.sleep(0.001)

    def __enter__(self) -> Watcher:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._over.set()
        self._thread.join()


def test_a_secret_is_seen_nowhere(tmp_path: Path, source: Path) -> None:
    path = tmp_path / "images" / "disk.qcow2"
    path.parent.mkdir()
    results = []
    held = gate(
        tmp_path / "gate", "convert", 1
    )  # so that the watcher comes to see one that has the secret, in any case
    with Watcher() as watcher:
        given = {"path": str(path), "source": str(source), "encrypt": QUICK, "verify": "compare"}
        first = start_module("qemu_img", given, env=held.env)
        until(lambda: any(b"secret,id=" in shown for shown in set(watcher.shown)), "the watcher to see a command")
        held.open()
        results.append(finish(first))
        results.append(run(path, source=str(source), encrypt=QUICK))
        results.append(run(path, encrypt=QUICK, size="4M", snapshots=[{"name": "one"}]))
        results.append(run(path, encrypt={"secret": "wrong-" + SECRET, "options": {}}, repair="all"))
    assert [result.failed for result in results[:3]] == [False] * 3, results
    assert [result.changed for result in results[:3]] == [True, False, True]
    assert not [shown for shown in watcher.shown if SECRET.encode() in shown]
    for result in results:
        # Ansible masks what it knows as secret; the words that were run must not need that.
        assert SECRET not in json.dumps(result.json)
        assert "secret,id=" in json.dumps(result.json["commands"]) or not result.changed
    assert info(path)["encrypted"] is True
    for name in os.listdir(path.parent):
        assert SECRET.encode() not in (path.parent / name).read_bytes()
    for attribute in os.listxattr(path):
        assert SECRET.encode() not in os.getxattr(path, attribute)
    assert leftovers(path.parent) == []


def test_the_content_of_an_encrypted_image_needs_the_secret(tmp_path: Path, source: Path) -> None:
    path = tmp_path / "disk.qcow2"
    assert run(path, source=str(source), encrypt=QUICK).changed
    assert source.read_bytes()[: 64 * 1024] not in path.read_bytes()
    passphrase = tmp_path / "passphrase"
    passphrase.write_text(SECRET)
    opened = {"driver": "qcow2", "encrypt.key-secret": "s", "file": {"driver": "file", "filename": str(path)}}
    flat = tmp_path / "flat"
    key = f"secret,id=s,file={passphrase}"
    qemu_img("convert", "--object", key, "-O", "raw", "json:" + json.dumps(opened), flat)
    assert flat.read_bytes() == source.read_bytes()


def test_children_are_told_of_a_secret_through_a_pipe(tmp_path: Path, source: Path) -> None:
    """What a file or an environment would keep, a pipe forgets."""
    held = gate(tmp_path / "gate", "convert", 1)
    given = {"path": str(tmp_path / "disk.qcow2"), "source": str(source), "encrypt": QUICK}
    module = start_module("qemu_img", given, env=held.env)
    told = words(child_that(module.pid, "convert").pid)
    key = told[told.index("--object") + 1]
    held.open()
    assert key.startswith("secret,id=")
    assert ",file=/dev/fd/" in key
    assert finish(module).changed
