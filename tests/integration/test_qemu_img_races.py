# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What others can do while the module is at work. The source's name is given to another file: what is read is what was
proven, or the task is refused. The new image is opened before it has its mode: nobody can.

qemu-img itself is held at a gate before it starts, so the swap comes at exactly the chosen moment.
"""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.testbed import held_call, module_main, syscalls
from tests.testbed.faults import WAIT_S, digest, leftovers, open_files, until
from tests.testbed.images import qemu_img
from tests.testbed.modules import Result, finish, start_module
from tests.testbed.tool_gate import Gate, gate

MIB = 1 << 20


@pytest.fixture(params=["raw", "qcow2"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """What the user means, in a folder of its own."""
    (tmp_path / "seeds").mkdir()
    return image(tmp_path / "seeds" / "source", request.param, 1)


def image(path: Path, image_format: str, first: int) -> Path:
    raw = path.with_name(path.name + ".raw")
    raw.write_bytes(bytes([first]) * MIB)
    qemu_img("convert", "-f", "raw", "-O", image_format, raw, path)
    raw.unlink()
    return path


def swapped_at(word: str, nth: int, tmp_path: Path, source: Path, **options: Any) -> Result:
    """The module's run, at which the source's name came to another file of the same size and time at that moment."""
    image_format = "qcow2" if source.read_bytes()[:4] == b"QFI\xfb" else "raw"
    kept = source.with_name("kept")
    os.link(source, kept)
    evil = image(source.with_name("evil"), image_format, 2)
    status = source.stat()
    os.utime(evil, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert evil.stat().st_size == status.st_size
    held = gate(tmp_path / "gate", word, nth)
    target = tmp_path / "images"
    target.mkdir()
    arguments = {"path": str(target / "disk.raw"), "format": "raw", "source": str(source), "timeout": 60, **options}
    module = start_module("qemu_img", arguments, env=held.env)
    held.wait()
    evil.rename(source)
    held.open()
    return finish(module)


def checked(source: Path, with_checksum: bool) -> dict[str, str]:
    return {"checksum": "sha256:" + digest(source)} if with_checksum else {}


with_and_without = pytest.mark.parametrize("with_checksum", [True, False], ids=["checksum", "no checksum"])


@with_and_without
@pytest.mark.parametrize("word", ["measure", "convert"])
def test_what_is_read_is_what_was_opened_and_proven(
    tmp_path: Path, source: Path, word: str, with_checksum: bool
) -> None:
    result = swapped_at(word, 1, tmp_path, source, **checked(source, with_checksum))
    assert not result.failed, result.json
    made = (tmp_path / "images" / "disk.raw").read_bytes()
    assert made == b"\1" * MIB


@with_and_without
def test_another_file_after_the_decision_is_refused(tmp_path: Path, source: Path, with_checksum: bool) -> None:
    """The first look, the decisive look under the lock, at which it is swapped; then it is opened to be read."""
    result = swapped_at("info", 2, tmp_path, source, **checked(source, with_checksum))
    assert result.failed, result.json
    assert result.json["error"]["kind"] == "refused"
    assert str(source) in result.msg
    assert os.listdir(tmp_path / "images") == []


def test_another_file_after_the_proof_is_proven_itself(tmp_path: Path, source: Path) -> None:
    result = swapped_at("info", 1, tmp_path, source, **checked(source, True))
    assert result.failed, result.json
    assert result.json["error"]["kind"] == "bad_input"
    assert "checksum: " in result.msg
    assert os.listdir(tmp_path / "images") == []


def test_the_comparison_with_an_image_that_is_there_reads_what_was_opened(tmp_path: Path, source: Path) -> None:
    """Equal to what was opened, so it is adopted as made from that, and from nothing else."""
    images = tmp_path / "elsewhere"
    images.mkdir()
    target = images / "disk.raw"
    target.write_bytes(b"\1" * MIB)
    result = swapped_at("compare", 1, tmp_path, source, path=str(target))
    assert result.failed, result.json  # under the lock it is looked at again, and is another by then
    assert result.json["error"]["kind"] == "refused"
    assert target.read_bytes() == b"\1" * MIB


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize(
    ("old_mode", "declared", "becomes"),
    [(None, None, 0o640), (None, "0600", 0o600), (None, "0666", 0o666), (0o660, None, 0o660), (0o644, "0600", 0o600)],
)
def test_a_new_image_is_its_makers_alone_while_it_is_written(
    tmp_path: Path, source: Path, old_mode: int | None, declared: str | None, becomes: int
) -> None:
    target = tmp_path / "disk.qcow2"
    if old_mode is not None:
        qemu_img("create", "-q", "-f", "qcow2", target, "1M")
        target.chmod(old_mode)
    held = gate(tmp_path / "gate", "convert", 1)
    arguments = {"path": str(target), "source": str(source), "force": True, "mode": declared, "timeout": 60}
    module = start_module("qemu_img", arguments, env=held.env, umask=0o027)
    held.wait()
    assert mode_of(tmp_path / ".disk.qcow2.vmops-new") == 0o600
    held.open()
    assert finish(module).changed
    assert mode_of(target) == becomes


def test_a_copy_of_a_backing_file_is_its_makers_alone_while_it_is_written(tmp_path: Path) -> None:
    base, overlay = tmp_path / "base.qcow2", tmp_path / "disk.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", base, "1M")
    qemu_img("snapshot", "-c", "one", base)
    base.chmod(0o640)
    qemu_img("create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", overlay)
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write 0 64k", str(overlay)], check=True, capture_output=True)
    held = gate(tmp_path / "gate", "commit", 1)
    module = start_module("qemu_img", {"path": str(overlay), "commit": True, "timeout": 60}, env=held.env)
    held.wait()
    assert mode_of(tmp_path / ".base.qcow2.vmops-new") == 0o600
    held.open()
    assert finish(module).changed
    assert mode_of(base) == 0o640


@pytest.mark.parametrize("hidden", ["", "user_xattrs"])
def test_a_machine_that_heeds_no_locks_and_came_meanwhile_keeps_its_image(
    tmp_path: Path, source: Path, hidden: str
) -> None:
    target = tmp_path / "disk.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", target, "1M")
    held = gate(tmp_path / "gate", "convert", 1)
    env = {**held.env, "VMOPS_HIDE_CAPABILITIES": hidden}
    module = start_module("qemu_img", {"path": str(target), "source": str(source), "force": True}, env=env)
    held.wait()
    inode = target.stat().st_ino
    options = f"driver=qcow2,file.driver=file,file.filename={target},file.locking=off"
    with subprocess.Popen(
        ["qemu-io", "--image-opts", options], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as machine:
        assert machine.stdout is not None
        until(lambda: str(target) in open_files(machine.pid), "the machine to open its image")
        held.open()
        result = finish(module)
    assert result.failed
    assert "it came into use by qemu-io (pid %d)" % machine.pid in result.msg
    assert result.json["error"]["holders"] == [{"pid": machine.pid, "name": "qemu-io"}]
    assert target.stat().st_ino == inode
    assert leftovers(tmp_path) == []
    assert not (tmp_path / ".disk.qcow2.vmops-record").exists()


@pytest.mark.parametrize("hidden", ["", "user_xattrs"])
def test_what_came_meanwhile_is_not_replaced_by_a_new_image_and_gets_no_record(
    tmp_path: Path, source: Path, hidden: str
) -> None:
    target = tmp_path / "disk.qcow2"
    held = gate(tmp_path / "gate", "convert", 1)
    env = {**held.env, "VMOPS_HIDE_CAPABILITIES": hidden}
    module = start_module("qemu_img", {"path": str(target), "source": str(source)}, env=env)
    held.wait()
    target.write_text("another's")
    held.open()
    result = finish(module)
    assert result.json["error"]["kind"] == "refused", result.json
    assert target.read_text() == "another's"
    assert sorted(os.listdir(tmp_path)) == ["disk.qcow2", "gate", "seeds"]


on_known_calls = pytest.mark.skipif(not held_call.WORKS_HERE, reason="holding a call takes Linux on x86_64")


@pytest.fixture(name="publication")
def _publication(tmp_path: Path) -> Iterator[held_call.Gate]:
    """Holds a module at the very call that gives the new image the name disk.qcow2."""
    (tmp_path / "gate").mkdir()
    held = held_call.Gate(tmp_path / "gate", "disk.qcow2")
    yield held
    held.close()


@on_known_calls
@pytest.mark.parametrize("hidden", ["", "user_xattrs"])
def test_what_comes_at_the_last_moment_is_not_replaced_by_a_new_image(
    tmp_path: Path, publication: held_call.Gate, hidden: str
) -> None:
    target = tmp_path / "images" / "disk.qcow2"
    target.parent.mkdir()
    program = str(publication.wrap(sys.executable))
    env = {"VMOPS_HIDE_CAPABILITIES": hidden}
    module = start_module("qemu_img", {"path": str(target), "size": "1M"}, env=env, python=program)
    assert publication.reached.wait(WAIT_S)
    target.write_text("another's")
    publication.released.set()
    result = finish(module)
    assert result.json["error"]["kind"] == "refused", result.json
    assert "another file of that name came meanwhile" in result.msg
    assert target.read_text() == "another's"
    assert os.listdir(target.parent) == ["disk.qcow2"]


def struck(folder: Path, fault: syscalls.Fault | None) -> syscalls.Run:
    """A run whose record is a file beside the image."""
    given = {"path": str(folder / "disk.qcow2"), "size": "1M", "_ansible_remote_tmp": "~/.ansible/tmp"}

    def target() -> None:
        os.environ["VMOPS_HIDE_CAPABILITIES"] = "user_xattrs"
        module_main.set_arguments(json.dumps({"ANSIBLE_MODULE_ARGS": given}).encode())
        module_main.load("qemu_img").main()

    folder.mkdir()
    return syscalls.run(target, fault, below=folder)


@on_known_calls
def test_an_image_that_does_not_get_its_name_leaves_no_record(tmp_path: Path) -> None:
    names = [point.name for point in struck(tmp_path / "well", None).points]
    assert sorted(os.listdir(tmp_path / "well")) == [".disk.qcow2.vmops-record", "disk.qcow2"]
    run = struck(tmp_path / "badly", syscalls.Fault(names.index("link") + 1, syscalls.Action.EIO))
    assert run.status == 1, run
    assert b"Input/output error" in run.stdout
    assert os.listdir(tmp_path / "badly") == []


@on_known_calls
def test_an_image_that_got_its_name_keeps_its_record_whatever_fails_then(tmp_path: Path) -> None:
    names = [point.name for point in struck(tmp_path / "well", None).points]
    run = struck(tmp_path / "badly", syscalls.Fault(names.index("link") + 2, syscalls.Action.EIO))
    assert run.status == 1, run
    assert run.hit is not None
    assert run.hit.name == "unlink"
    assert sorted(os.listdir(tmp_path / "badly")) == [".disk.qcow2.vmops-record", "disk.qcow2"]


@on_known_calls
def test_an_image_whose_maker_was_killed_before_it_had_one_name_only_is_an_image_like_any(
    tmp_path: Path, source: Path
) -> None:
    names = [point.name for point in struck(tmp_path / "well", None).points]
    folder = tmp_path / "badly"
    struck(folder, syscalls.Fault(names.index("link") + 2, syscalls.Action.KILL_TREE))
    assert {".disk.qcow2.vmops-new", "disk.qcow2"} < set(os.listdir(folder))
    assert (folder / "disk.qcow2").stat().st_nlink == 2
    other = {"path": str(folder / "disk.qcow2"), "source": str(source), "force": True}
    result = finish(start_module("qemu_img", other, env={"VMOPS_HIDE_CAPABILITIES": "user_xattrs"}))
    assert not result.failed, result.json
    assert "other names" not in str(result.json["warnings"])
    assert sorted(os.listdir(folder)) == [".disk.qcow2.vmops-record", "disk.qcow2"]


def swapped_and_back(held: Gate, source: Path, back: bool) -> None:
    evil, aside = source.with_name("evil"), source.with_name("aside")
    status = source.stat()
    os.utime(evil, ns=(status.st_atime_ns, status.st_mtime_ns))
    held.wait()
    source.rename(aside)
    evil.rename(source)
    if back:
        source.rename(evil)
        aside.rename(source)
    held.open()


@pytest.mark.parametrize("word", ["measure", "convert"])
@pytest.mark.parametrize("back", [False, True], ids=["swapped", "swapped and back"])
def test_a_source_that_names_others_and_is_exchanged_is_refused(tmp_path: Path, word: str, back: bool) -> None:
    """It is read by its name, since those in it start where it lies."""
    seeds = tmp_path / "seeds"
    seeds.mkdir()
    image(seeds / "base", "qcow2", 1)
    for name in ("source", "evil"):
        qemu_img("create", "-q", "-f", "qcow2", "-b", "base", "-F", "qcow2", seeds / name)
    held = gate(tmp_path / "gate", word, 1)
    target = tmp_path / "images" / "disk.qcow2"
    target.parent.mkdir()
    options = {"path": str(target), "source": str(seeds / "source"), "allow_references": True, "timeout": 60}
    module = start_module("qemu_img", options, env=held.env)
    swapped_and_back(held, seeds / "source", back)
    result = finish(module)
    assert result.json["error"]["kind"] == "refused", result.json
    assert "another took its place" in result.msg
    assert os.listdir(target.parent) == []


@pytest.mark.parametrize("back", [False, True], ids=["swapped", "swapped and back"])
def test_where_open_files_have_no_names_an_exchange_is_noticed(tmp_path: Path, source: Path, back: bool) -> None:
    image_format = "qcow2" if source.read_bytes()[:4] == b"QFI\xfb" else "raw"
    image(source.with_name("evil"), image_format, 2)
    held = gate(tmp_path / "gate", "convert", 1)
    target = tmp_path / "images" / "disk.qcow2"
    target.parent.mkdir()
    env = {**held.env, "VMOPS_HIDE_CAPABILITIES": "descriptor_paths"}
    module = start_module("qemu_img", {"path": str(target), "source": str(source), "timeout": 60}, env=env)
    swapped_and_back(held, source, back)
    result = finish(module)
    assert result.json["error"]["kind"] == "refused", result.json
    assert os.listdir(target.parent) == []
