# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""qemu_img_info: each field against what qemu-img itself says, and nothing changed by looking."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.testbed.boot_guest import BootGuest, Kind, ended
from tests.testbed.images import FORMATS, MIB, info, make, qemu_img, qemu_io
from tests.testbed.module_main import ROOT
from tests.testbed.modules import run_module
from tests.testbed.playbooks import run_tasks
from tests.testbed.tool_gate import gate


def look(*paths: Path, **arguments: Any) -> list[dict[str, Any]]:
    """The entries; looking changes nothing, not even a time."""
    result = run_module("qemu_img_info", {"path": [str(path) for path in paths], **arguments})
    assert not result.failed, result.json
    assert result.changed is False
    assert [image["path"] for image in result.json["images"]] == [str(path) for path in paths]
    return result.json["images"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "disk"


def test_all_formats_in_one_task(tmp_path):
    size = 8 * MIB + 1536
    paths = [make(tmp_path / name, name, size, "write -P 1 0 64k") for name in FORMATS]
    for image_format, path, image in zip(FORMATS, paths, look(*paths)):
        said = info(path, image_format)
        assert image["format"] == image_format
        assert image["virtual_size"] == said["virtual-size"] == size
        assert image["actual_size"] == said["actual-size"]
        assert image["file_size"] == path.stat().st_size
        assert image["exists"] is True
        assert (image["in_use_by"], image["references"], image["backing_chain"]) == ([], [], [])
        assert (image["made_from"], image["backing_file"], image["encrypted"]) == (None, None, False)


def test_what_lies_within_an_image(path):
    make(path, "qcow2", 4 * MIB, options="cluster_size=128k,lazy_refcounts=on")
    qemu_img("snapshot", "-c", "one", path)
    qemu_img("bitmap", "--add", "-f", "qcow2", path, "b0")
    before = (path.read_bytes(), path.stat().st_mtime_ns)
    (image,) = look(path)
    assert (image["snapshots"], image["bitmaps"]) == (["one"], ["b0"])
    assert image["options"]["cluster_size"] == "131072"
    assert image["options"]["lazy_refcounts"] == "on"
    assert (image["dirty"], image["corrupt"]) == (False, False)
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before


def test_dirty_and_corrupt_and_encrypted_show(tmp_path):
    marked = []
    for bit in (1, 2):
        path = make(tmp_path / str(bit), "qcow2", 4 * MIB)
        with path.open("r+b") as file:
            file.seek(79)  # the lowest byte of the incompatible features
            file.write(bytes([bit]))
        marked.append(path)
    locked = tmp_path / "locked"
    options = "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10"
    qemu_img("create", "-q", "-f", "qcow2", "--object", "secret,id=s,data=x", "-o", options, locked, "1M")
    images = look(*marked, locked)
    assert [image["dirty"] for image in images] == [True, False, False]
    assert [image["corrupt"] for image in images] == [False, True, False]
    assert [image["encrypted"] for image in images] == [False, False, True]


def test_what_is_not_there_or_no_image_is_an_entry_too(tmp_path, path):
    make(path, "qcow2", 4 * MIB)
    cut = tmp_path / "cut"
    cut.write_bytes(path.read_bytes()[:70])
    packed = tmp_path / "packed.gz"
    packed.write_bytes(b"\x1f\x8b" + bytes(600))
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    missing, broken, unfit, folder, pipe, good = look(tmp_path / "nowhere", cut, packed, tmp_path, fifo, path)
    assert missing == {"path": str(tmp_path / "nowhere"), "exists": False}
    assert (broken["exists"], "cut off within its header" in broken["error"]) == (True, True)
    assert "compressed with gzip" in unfit["error"]
    assert "is no regular file" in folder["error"]
    assert "is no regular file" in pipe["error"]
    assert good["virtual_size"] == 4 * MIB


def test_a_declared_format_counts_for_more_than_the_header(path):
    make(path, "qcow2", 4 * MIB)
    (image,) = look(path, format="raw")
    assert (image["format"], image["virtual_size"]) == ("raw", -(-path.stat().st_size // 512) * 512)


def test_our_record_counts_for_more_than_what_a_guest_wrote(tmp_path, path):
    source = make(tmp_path / "seed", "raw", 4 * MIB)
    made = run_module("qemu_img", {"path": str(path), "format": "raw", "source": str(source)})
    assert not made.failed, made.json
    qemu_io(path, "write -P 0 0 512", image_format="raw")
    with path.open("r+b") as file:
        file.write(make(tmp_path / "qcow2", "qcow2", 1 << 40).read_bytes())
    (image,) = look(path)
    assert (image["format"], image["virtual_size"]) == ("raw", 4 * MIB)
    assert image["made_from"] == str(source)


def test_a_record_in_a_file_is_found_by_a_link_too(tmp_path, path):
    source = make(tmp_path / "seed", "raw", 4 * MIB)
    hidden = {"VMOPS_HIDE_CAPABILITIES": "user_xattrs"}
    folder = tmp_path / "images"
    folder.mkdir()
    assert run_module("qemu_img", {"path": str(folder / "disk"), "source": str(source)}, env=hidden).changed
    (tmp_path / "link").symlink_to(folder / "disk")
    result = run_module("qemu_img_info", {"path": [str(tmp_path / "link")]}, env=hidden)
    assert result.json["images"][0]["made_from"] == str(source)
    assert "no extended attributes" in json.dumps(result.json["warnings"])


# the chain


def test_a_chain_is_followed_nearest_first(tmp_path):
    make(tmp_path / "bottom.raw", "raw", 4 * MIB)
    over(tmp_path / "middle", "bottom.raw", "raw")
    over(tmp_path / "top", "middle", "qcow2")
    (image,) = look(tmp_path / "top")
    assert [(below["path"], below["format"]) for below in image["backing_chain"]] == [
        (str(tmp_path / "middle"), "qcow2"),
        (str(tmp_path / "bottom.raw"), "raw"),
    ]
    assert image["references"] == ["middle"]
    (image,) = look(tmp_path / "top", backing_chain=False)
    assert "backing_chain" not in image


def over(path: Path, backing: str, image_format: str) -> Path:
    qemu_img("create", "-q", "-u", "-f", "qcow2", "-b", backing, "-F", image_format, path, "4M")
    return path


def test_a_chain_ends_where_a_file_is_missing(tmp_path):
    (image,) = look(over(tmp_path / "top", "gone", "qcow2"))
    assert image["backing_chain"] == [
        {"path": str(tmp_path / "gone"), "exists": False, "error": "the backing file is not there"}
    ]


@pytest.mark.parametrize("name", ["nbd:localhost:10809", "json:{}", "https://host/a", "x:y.qcow2"])
def test_a_chain_does_not_follow_a_protocol(tmp_path, name):
    (image,) = look(over(tmp_path / "top", name, "raw"))
    (below,) = image["backing_chain"]
    assert (below["path"], below["exists"]) == (name, False)
    assert "not followed" in below["error"]


@pytest.mark.parametrize("loop", [["top"], ["other", "top"]], ids=["to itself", "over another"])
def test_a_chain_that_leads_back_is_told(tmp_path, loop):
    names = ["top", *loop]
    for name, backing in zip(names, loop):
        over(tmp_path / name, backing, "qcow2")
    (image,) = look(tmp_path / "top")
    assert len(image["backing_chain"]) == len(loop)
    assert image["backing_chain"][-1]["error"] == "the chain leads back to this file"


@pytest.mark.parametrize("wanted", [{"map": True}, {"measure": "raw"}], ids=["map", "measure"])
@pytest.mark.parametrize("name", ["top", "nbd:localhost:10809", "gone"])
def test_what_reads_below_an_image_refuses_what_it_could_only_hang_on(tmp_path, name, wanted):
    (image,) = look(over(tmp_path / "top", name, "qcow2"), timeout=60, **wanted)
    assert "map or measure" in image["error"]
    assert name in image["error"]


@pytest.mark.parametrize("name", ["top", "nbd:localhost:10809", "gone"])
def test_a_check_opens_nothing_below(tmp_path, name):
    (image,) = look(over(tmp_path / "top", name, "qcow2"), timeout=60, check=True)
    assert image["check"] == {"corruptions": 0, "leaks": 0}


# on request


def test_a_check_a_map_and_a_measurement(tmp_path, path):
    make(path, "qcow2", 4 * MIB, "write -P 1 0 64k", "write -z 1M 64k")
    raw = make(tmp_path / "raw", "raw", 4 * MIB)
    image, other = look(path, raw, check=True, map=True, measure="qcow2")
    assert image["check"] == {"corruptions": 0, "leaks": 0}
    assert other["check"] is None, "raw has nothing to check"
    assert image["map"] == {"data": 65536, "zero": 65536, "unallocated": 4 * MIB - 2 * 65536, "extents": 4}
    said = json.loads(qemu_img("measure", "--output=json", "-O", "qcow2", "-f", "qcow2", path))
    assert image["required_size"] == said["required"]


def test_a_check_counts_what_is_wrong(path):
    make(path, "qcow2", 4 * MIB, "write -P 1 0 64k")
    with path.open("r+b") as file:
        file.truncate(7 * 65536)
        file.seek(2 * 65536 + 2 * 6)
        file.write(b"\0\1")
    assert look(path, check=True)[0]["check"] == {"corruptions": 0, "leaks": 1}


def test_a_measurement_heeds_its_options(path):
    make(path, "qcow2", 4 * MIB, "write -P 1 0 64k")
    sizes = [
        look(path, measure="qcow2", measure_options={"cluster_size": size})[0]["required_size"] for size in ("4k", "2M")
    ]
    assert sizes[0] < sizes[1]
    assert look(path, measure="raw")[0]["required_size"] >= 65536


def test_what_fails_on_request_leaves_what_was_read_before(tmp_path, path):
    qemu_img("create", "-q", "-f", "qcow2", "-o", "data_file=%s" % (tmp_path / "data"), path, "4M")
    (tmp_path / "data").unlink()
    (image,) = look(path, check=True)
    assert "Could not open" in image["error"]
    assert (image["virtual_size"], image["references"]) == (4 * MIB, [str(tmp_path / "data")])


def test_what_lies_below_and_cannot_be_read_is_an_entry_of_the_chain(tmp_path):
    (tmp_path / "broken").write_bytes(b"QFI\xfb" + bytes(200))
    (image,) = look(over(tmp_path / "top", "broken", "qcow2"))
    (below,) = image["backing_chain"]
    assert (below["path"], below["exists"]) == (str(tmp_path / "broken"), True)
    assert ("reading %s failed" % (tmp_path / "broken")).lower() in below["error"].lower()
    assert image["virtual_size"] == 4 * MIB


def test_without_qemu_img_the_task_fails(tmp_path, path):
    make(path, "qcow2", 4 * MIB)
    result = run_module("qemu_img_info", {"path": [str(path)]}, env={"PATH": str(tmp_path)})
    assert result.failed
    assert result.json["error"]["kind"] == "tool_missing"


def test_when_its_time_is_over_the_task_fails(tmp_path, path):
    make(path, "qcow2", 4 * MIB)
    held = gate(tmp_path / "gate", "check", 1)
    result = run_module("qemu_img_info", {"path": [str(path)], "check": True, "timeout": 10}, env=held.env)
    assert result.failed
    assert result.json["error"]["kind"] == "timed_out"
    held.wait()  # it was at its work by then


# in use


def test_a_running_machine_is_named(tmp_path):
    guest = BootGuest(tmp_path / "vm", Kind.IGNORES)
    with ended(guest):
        (image,) = look(guest.disk, format="raw")
        assert image["in_use_by"] == [{"pid": guest.pid, "name": "qemu-system-x86_64", "writes": True}]
        assert guest.alive()
    assert look(guest.disk, format="raw")[0]["in_use_by"] == []


def test_without_linux_it_works_and_says_what_is_missing(path):
    make(path, "qcow2", 4 * MIB)
    result = run_module("qemu_img_info", {"path": [str(path)]}, env={"VMOPS_HIDE_CAPABILITIES": "ofd_locks,proc"})
    assert result.json["images"][0]["virtual_size"] == 4 * MIB
    assert "/proc is missing" in json.dumps(result.json["warnings"])


# the documentation


def documentation(part: str) -> Any:
    text = (ROOT / "plugins" / "modules" / "qemu_img_info.py").read_text()
    return yaml.safe_load(re.search(part + r' = r"""\n(.*?)"""', text, re.DOTALL).group(1))


@pytest.mark.every_core
def test_documented(tmp_path, path):
    make(path, "qcow2", 4 * MIB)
    arguments = {"path": [str(path), str(tmp_path), str(tmp_path / "x")], "check": True, "map": True, "measure": "raw"}
    result = run_module("qemu_img_info", arguments).json
    documented = documentation("RETURN")
    assert set(result) - {"changed", "invocation"} == set(documented)
    fields = documented["images"]["contains"]
    image, unreadable, missing = result["images"]
    assert set(image) == set(fields) - {"error"}
    assert set(unreadable) == {"path", "exists", "error"}
    assert set(missing) == {name for name, field in fields.items() if field["returned"] == "always"}
    on_request = {name for name, field in fields.items() if field["returned"].startswith("with ")}
    assert on_request == {"backing_chain", "check", "map", "required_size"}
    assert set(documented["images"]["sample"][0]) == set(fields) - {"error", "check", "map", "required_size"}


@pytest.mark.every_core
def test_the_examples_run_in_check_mode_or_not(tmp_path):
    tasks = json.loads(json.dumps(documentation("EXAMPLES")).replace("/var/lib/vms", str(tmp_path)))
    for name in ("web", "db"):
        (tmp_path / name).mkdir()
        make(tmp_path / name / "root.qcow2", "qcow2", 4 * MIB)
    for arguments in ((), ("--check",)):
        play = run_tasks(tmp_path, tasks, *arguments)
        assert play.rc == 0, play.text
        assert len(play.tasks) == len(tasks)
        assert not any(done["changed"] for done in play.tasks.values())
        assert play.tasks["What is this image?"]["images"][0]["format"] == "qcow2"
