# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""qemu_img, feature by feature: every declaration in check mode, for real, and again, with the world looked at by
qemu-img itself.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import stat
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.testbed.faults import until
from tests.testbed.images import FORMATS, MIB, faults, holds, info, make, qemu_img, qemu_io, same_content
from tests.testbed.module_main import ROOT
from tests.testbed.modules import Result, finish, run_module, start_module
from tests.testbed.playbooks import run_tasks
from tests.testbed.tool_gate import gate

SECRET = "correct horse, 'battery' staple"
QUICK_LUKS = {"secret": SECRET, "options": {"iter-time": 10}}
ODD = 8 * MIB + 3 * 512  # whole sectors, and no whole anything else
DATA = ("write -P 0x11 0 192k", "write -P 0x22 3M 64k", "write -P 0x33 8388608 1536")
DATA_SEEN = ("0x11 0 192k", "0x22 3M 64k", "0x33 8388608 1536")


def img(path: Path, **arguments: Any) -> Result:
    result = run_module("qemu_img", {"path": str(path), **arguments}, diff=True)
    assert not result.failed, result.json
    return result


def refused(path: Path, **arguments: Any) -> Result:
    """The refusal, which must come in check mode as well, and must leave everything as it was."""
    before = state_of(path.parent)
    result = run_module("qemu_img", {"path": str(path), **arguments})
    assert result.failed, result.json
    checked = run_module("qemu_img", {"path": str(path), **arguments}, check=True)
    assert checked.json["msg"] == result.msg
    assert state_of(path.parent) == before
    return result


def state_of(folder: Path) -> dict[str, tuple[object, ...]]:
    """Names, content, times, owners and modes of all files."""
    return {
        path.name: (path.read_bytes() if path.is_file() else b"", path.lstat()[:6], path.lstat().st_mtime_ns)
        for path in folder.iterdir()
    }


def changes(path: Path, **arguments: Any) -> Result:
    """Check mode predicts and touches nothing, the run does just that, and the next one finds nothing to do."""
    given = {"path": str(path), **arguments}
    before = state_of(path.parent)
    checked = run_module("qemu_img", given, check=True, diff=True)
    assert not checked.failed, checked.json
    assert state_of(path.parent) == before, "check mode touched something"
    real = run_module("qemu_img", given, diff=True)
    assert not real.failed, real.json
    assert (checked.changed, real.changed) == (True, True)
    assert checked.json["diff"] == real.json["diff"]
    assert real.json["diff"]["before"] != real.json["diff"]["after"]
    nothing_to_do(path, False, arguments)
    assert [name for name in os.listdir(path.parent) if "vmops-" in name] == [], "something was left beside"
    return real


def unchanged(path: Path, **arguments: Any) -> None:
    """Nothing is to be done, in check mode or not."""
    nothing_to_do(path, False, arguments)
    nothing_to_do(path, True, arguments)


def nothing_to_do(path: Path, check: bool, arguments: dict[str, Any]) -> None:
    before = state_of(path.parent)
    result = run_module("qemu_img", {"path": str(path), **arguments}, check=check, diff=True)
    assert not result.failed, result.json
    assert result.changed is False, result.json["diff"]
    assert result.json["diff"]["before"] == result.json["diff"]["after"]
    assert not [argv for argv in result.json["commands"] if argv[1] not in ("info", "check", "map", "compare")]
    assert state_of(path.parent) == before


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "disk.qcow2"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "seeds"
    folder.mkdir()
    return make(folder / "seed.raw", "raw", ODD, *DATA)


# the matrix, through Ansible itself


@pytest.mark.every_core
def test_create_change_and_delete_in_plays(tmp_path, path):
    """Each declaration four times in one play: in check mode, for real, again, and again in check mode."""
    states = {
        "created": {"size": "64M"},
        "grown": {"size": "128M"},
        "snapshot": {"size": "128M", "snapshots": [{"name": "one"}]},
        "amended": {"options": {"lazy_refcounts": True}, "mode": "0600"},
        "deleted": {"state": "absent"},
    }
    tasks = []
    for name, arguments in states.items():
        module = {"vmops.lifecycle.qemu_img": {"path": str(path), **arguments}, "diff": True}
        look = {"ansible.builtin.command": "qemu-img info --output=json %s" % path, "ignore_errors": True}
        tasks += [
            {"name": name + " checked", "check_mode": True, **module},
            {"name": name + " world before", **look},
            {"name": name, **module},
            {"name": name + " world", **look},
            {"name": name + " again", **module},
            {"name": name + " again checked", "check_mode": True, **module},
        ]
    play = run_tasks(tmp_path, tasks)
    assert play.rc == 0, play.text

    def world(name: str) -> dict[str, Any]:
        done = play.tasks[name]
        return json.loads(done["stdout"]) if done["rc"] == 0 else {}

    for before, name in zip(["", *states], states):
        checked, real = play.tasks[name + " checked"], play.tasks[name]
        assert (checked["changed"], real["changed"]) == (True, True), name
        assert checked["diff"] == real["diff"], name
        assert play.tasks[name + " again"]["changed"] is False, name
        assert play.tasks[name + " again checked"]["changed"] is False, name
        if before:
            assert world(name + " world before") == world(before + " world"), name
        image, seen = real["image"], world(name + " world")
        assert image["exists"] is bool(seen), name
        if seen:
            assert image["virtual_size"] == seen["virtual-size"]
            assert image["snapshots"] == [snapshot["name"] for snapshot in seen.get("snapshots", [])]
    assert world("created world")["virtual-size"] == 64 * MIB
    assert world("grown world")["virtual-size"] == 128 * MIB
    assert world("amended world")["format-specific"]["data"]["lazy-refcounts"] is True
    assert play.tasks["amended"]["diff"]["after"]["mode"] == "0600"
    assert play.tasks["amended again"]["image"]["exists"] is True
    assert not path.exists()


# create


@pytest.mark.parametrize("image_format", FORMATS)
def test_a_new_image_of_each_format_has_exactly_the_declared_size(path, image_format):
    result = changes(path, format=image_format, size=str(ODD - 1))  # rounded up to a sector
    assert info(path, image_format)["virtual-size"] == ODD
    assert (result.json["image"]["format"], result.json["image"]["virtual_size"]) == (image_format, ODD)
    assert result.json["bytes"] == path.stat().st_blocks * 512
    changes(path, format=image_format, state="absent")
    assert not path.exists()


@pytest.mark.parametrize(
    ("image_format", "options", "shown"),
    [
        (
            "qcow2",
            {"cluster_size": "128k", "lazy_refcounts": True, "extended_l2": "yes", "refcount_bits": 64},
            {"cluster_size": "131072", "lazy_refcounts": "on", "extended_l2": "on", "refcount_bits": "64"},
        ),
        ("qcow2", {"compression_type": "zstd"}, {"compression_type": "zstd"}),
        ("qcow2", {"compat": "0.10"}, {"compat": "0.10"}),
        ("qcow2", {"preallocation": "metadata"}, {}),
        ("vmdk", {"subformat": "streamOptimized"}, {"subformat": "streamOptimized"}),
        ("vmdk", {"adapter_type": "lsilogic"}, {}),
        ("vdi", {"static": True}, {}),
        ("vhdx", {"block_size": "2M", "subformat": "fixed"}, {"block_size": "2097152"}),
        ("vpc", {"subformat": "fixed"}, {}),
    ],
    ids=str,
)
def test_creation_options_however_spelled(path, image_format, options, shown):
    result = changes(path, format=image_format, size="8M", options=options)
    assert {name: result.json["image"]["options"][name] for name in shown} == shown
    spelled = {name: str(value).upper() if value is True else value for name, value in options.items()}
    unchanged(path, format=image_format, size="8388608", options=spelled)


@pytest.mark.parametrize(
    ("image_format", "options"),
    [("raw", {"preallocation": "falloc"}), ("raw", {"preallocation": "full"}), ("qcow2", {"preallocation": "falloc"})],
    ids=str,
)
def test_preallocation_takes_its_room_at_once(path, image_format, options):
    changes(path, format=image_format, size="4M", options=options)
    assert path.stat().st_blocks * 512 >= 4 * MIB


@pytest.mark.parametrize(
    ("image_format", "options"),
    [
        ("raw", {"preallocation": "falloc"}),
        ("qcow2", {"preallocation": "falloc"}),
        ("vdi", {"static": True}),
        ("vhdx", {"subformat": "fixed"}),
        ("vpc", {"subformat": "fixed"}),
    ],
    ids=str,
)
def test_what_no_image_shows_is_known_to_be_otherwise_all_the_same(path, image_format, options):
    changes(path, format=image_format, size="4M")
    (name,) = options
    result = refused(path, format=image_format, options=options)
    assert "it was made with another options.%s" % name in result.msg
    changes(path, format=image_format, options=options, force=True)
    assert path.stat().st_size >= 4 * MIB
    unchanged(path, format=image_format, options=options)
    changes(
        path,
        format=image_format,
        options={name: {"falloc": "off", True: False, "fixed": "dynamic"}[options[name]]},
        force=True,
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"size": "4M", "options": {"clutser_size": "64k"}},
            "qcow2 has no option 'clutser_size'. Known are .*cluster",
        ),
        ({"format": "vdi", "size": "4M", "options": {"cluster_size": "64k"}}, "vdi has no option 'cluster_size'"),
        ({}, "a new image needs a size"),
        ({"size": "10 GiBs"}, "is no size"),
        ({"size": "4M", "backing_file": "nowhere.qcow2"}, "nowhere.qcow2 is not there"),
        ({"source": "/nowhere/seed.raw"}, "/nowhere/seed.raw is not there"),
    ],
    ids=str,
)
def test_what_cannot_be_made_is_refused_before_anything_is_touched(path, arguments, message):
    assert re.search(message, refused(path, **arguments).msg)
    assert not path.exists()


# convert


@pytest.mark.parametrize("pair", list(itertools.product(FORMATS, FORMATS)), ids=" to ".join)
def test_every_format_into_every_format(tmp_path, path, pair):
    source_format, image_format = pair
    source = make(tmp_path / "source", source_format, ODD, *DATA)
    result = img(path, format=image_format, source=str(source), verify="compare")
    assert result.changed
    assert any(argv[1] == "compare" for argv in result.json["commands"])
    assert info(path, image_format)["virtual-size"] == ODD
    qemu_img("compare", "-q", "-f", source_format, "-F", image_format, source, path)
    holds(path, *DATA_SEEN, image_format=image_format)
    assert img(path, format=image_format, source=str(source), verify="compare").changed is False


@pytest.mark.parametrize("image_format", FORMATS)
def test_grown_while_it_is_converted_then_grown_then_shrunk(tmp_path, path, source, image_format):
    arguments = {"format": image_format, "source": str(source)}
    changes(path, **arguments, size="12M")
    assert info(path, image_format)["virtual-size"] == 12 * MIB
    holds(path, *DATA_SEEN, "0 9M 3M", image_format=image_format)
    changes(path, **arguments, size="20M")
    assert info(path, image_format)["virtual-size"] == 20 * MIB
    holds(path, *DATA_SEEN, "0 9M 11M", image_format=image_format)
    unchanged(path, **arguments)
    message = refused(path, **arguments, size="4M").msg
    assert "Refused to shrink %s: it has 20971520 bytes and size says 4194304" % path in message
    assert "allow_shrink" in message
    changes(path, **arguments, size="4M", allow_shrink=True)
    assert info(path, image_format)["virtual-size"] == 4 * MIB
    holds(path, *DATA_SEEN[:2], image_format=image_format)


def test_a_source_larger_than_the_declared_size_is_cut_off_only_with_leave(path, source):
    message = refused(path, source=str(source), size="4M").msg
    assert "%s has %d bytes and size says %d" % (source, ODD, 4 * MIB) in message
    changes(path, source=str(source), size="4M", allow_shrink=True, verify="compare")
    assert info(path)["virtual-size"] == 4 * MIB
    holds(path, *DATA_SEEN[:2])


@pytest.mark.parametrize(
    ("image_format", "options"),
    [
        ("qcow2", {"compression_type": "zstd"}),
        ("qcow2", {}),
        ("vmdk", {"subformat": "streamOptimized"}),
    ],
    ids=str,
)
def test_compressed(tmp_path, path, image_format, options):
    source = make(tmp_path / "source", "raw", 8 * MIB, "write -P 0x11 0 6M")
    folder = path.parent / "images"
    folder.mkdir()
    path = folder / "disk"
    changes(path, format=image_format, source=str(source), options=options, compress=True)
    assert path.stat().st_blocks * 512 < MIB
    qemu_img("compare", "-q", "-f", "raw", "-F", image_format, source, path)


def test_a_checksum_is_proved_before_anything_is_written(path, source):
    digest = subprocess.run(["sha256sum", str(source)], capture_output=True, text=True, check=True).stdout.split()[0]
    wrong = "sha256:" + digest[::-1]
    message = refused(path, source=str(source), checksum=wrong).msg
    assert "sha256:%s, not %s" % (digest, wrong) in message
    assert not path.exists()
    changes(path, source=str(source), checksum="sha256:" + digest)


# a source only seeds


def test_what_the_guest_wrote_stays_whatever_becomes_of_the_source(path, source):
    img(path, source=str(source))
    qemu_io(path, "write -P 0x77 1M 64k")
    unchanged(path, source=str(source))
    moved = source.rename(source.with_name("renamed.raw"))
    unchanged(path, source=str(moved))
    unchanged(path, source=str(source))
    moved.unlink()
    unchanged(path, source=str(source))
    holds(path, "0x77 1M 64k")


def test_a_source_written_to_since_is_another_source(path, source):
    img(path, source=str(source))
    os.utime(source)
    result = changes(path, source=str(source))
    assert result.json["diff"]["before"]["made_from"] == "another source or arguments"
    qemu_io(path, "write -P 0x77 1M 64k")
    os.utime(source)
    message = refused(path, source=str(source)).msg
    assert "made from %s, or from another state of it, and has another content" % source in message
    holds(path, "0x77 1M 64k")


def test_with_a_checksum_only_the_content_of_a_source_counts(path, source):
    digest = subprocess.run(["sha256sum", str(source)], capture_output=True, text=True, check=True).stdout.split()[0]
    img(path, source=str(source), checksum="sha256:" + digest)
    qemu_io(path, "write -P 0x77 1M 64k")
    os.utime(source)
    unchanged(path, source=str(source), checksum="sha256:" + digest)
    source.unlink()
    unchanged(path, source=str(source), checksum="sha256:" + digest)


def test_an_image_without_a_record_is_adopted_if_equal_and_refused_if_not(path, source):
    qemu_img("convert", "-f", "raw", "-O", "qcow2", source, path)
    result = changes(path, source=str(source))
    assert not [argv for argv in result.json["commands"] if argv[1] in ("convert", "create")]
    assert result.json["diff"]["before"]["made_from"] == "unknown"
    qemu_io(path, "write -P 0x77 1M 64k")
    unchanged(path, source=str(source))
    os.removexattr(path, "user.vmops.image")
    assert "nothing tells what it was made from" in refused(path, source=str(source)).msg


def test_force_makes_it_anew_and_only_once(path, source):
    img(path, source=str(source))
    qemu_io(path, "write -P 0x77 1M 64k")
    os.utime(source)
    changes(path, source=str(source), force=True, verify="compare")
    holds(path, *DATA_SEEN, "0 1M 64k")
    qemu_io(path, "write -P 0x77 1M 64k")
    unchanged(path, source=str(source), force=True)


def test_other_arguments_are_another_image(path, source):
    img(path, source=str(source))
    qemu_io(path, "write -P 0x77 1M 64k")
    assert "made with another compress" in refused(path, source=str(source), compress=True).msg
    assert (
        "its cluster_size is 65536, not 131072"
        in refused(path, source=str(source), options={"cluster_size": "128k"}).msg
    )


def test_force_also_makes_anew_what_was_made_otherwise(path, source):
    """Equal content is no excuse: it is known not to be compressed."""
    plain = img(path, source=str(source))
    compressed = changes(path, source=str(source), compress=True, force=True)
    assert compressed.json["bytes"] < plain.json["bytes"]


@pytest.mark.parametrize("word", ["convert", "check"])
def test_the_throughput_is_that_of_all_the_work_on_the_image(tmp_path: Path, word: str) -> None:
    source, target = tmp_path / "seed.raw", tmp_path / "disk.qcow2"
    source.write_bytes(os.urandom(8 * MIB))
    held_s = 0.5  # far more than the rest takes on an idle machine
    held = gate(tmp_path / "gate", word, 1)
    began = time.monotonic()
    module = start_module("qemu_img", {"path": str(target), "source": str(source)}, env=held.env)
    held.wait()
    came = time.monotonic()
    until(lambda: time.monotonic() > came + held_s, "the time to pass")
    held.open()
    result = finish(module)
    whole_s = time.monotonic() - began
    assert not result.failed, result.json
    assert result.json["bytes"] == target.stat().st_blocks * 512 >= 8 * MIB
    megabytes, told = result.json["bytes"] / 1e6, result.json["throughput_mb_s"]
    half_a_digit = 0.05
    assert megabytes / whole_s - half_a_digit <= told <= megabytes / held_s + half_a_digit
    again = img(target, source=str(source))
    assert (again.json["bytes"], again.json["throughput_mb_s"]) == (0, 0.0)


def test_without_force_an_equal_image_is_adopted_as_it_is(path, source):
    img(path, source=str(source))
    result = img(path, source=str(source), compress=True)
    assert not any(argv[1] == "convert" for argv in result.json["commands"])
    unchanged(path, source=str(source), compress=True)


def test_without_attributes_the_record_lies_beside_and_goes_with_the_image(path, source):
    hidden = {"VMOPS_HIDE_CAPABILITIES": "user_xattrs"}
    arguments = {"path": str(path), "source": str(source)}
    assert run_module("qemu_img", arguments, env=hidden).changed
    assert "user.vmops.image" not in os.listxattr(path)
    qemu_io(path, "write -P 0x77 1M 64k")
    assert run_module("qemu_img", arguments, env=hidden).changed is False
    assert run_module("qemu_img", {**arguments, "size": "20M"}, env=hidden).changed
    assert run_module("qemu_img", {**arguments, "size": "20M"}, env=hidden).changed is False
    removed = run_module("qemu_img", {"path": str(path), "state": "absent"}, env=hidden)
    assert removed.changed
    assert os.listdir(path.parent) == ["seeds"]


# change into what can't be changed in place


@pytest.mark.parametrize(
    "wanted",
    [{"format": "raw"}, {"format": "vhdx"}, {"options": {"cluster_size": "128k"}}, {"encrypt": QUICK_LUKS}],
    ids=["raw", "vhdx", "cluster size", "encryption"],
)
def test_a_rebuild_needs_leave_and_keeps_the_content(tmp_path, path, wanted):
    make(path, "qcow2", ODD, *DATA)
    before = tmp_path / "before.raw"
    qemu_img("convert", "-f", "qcow2", "-O", "raw", path, before)
    assert "needs a conversion" in refused(path, **wanted).msg
    changes(path, **wanted, force=True)
    if "encrypt" in wanted:
        assert info(path)["encrypted"] is True
        return
    image_format = wanted.get("format", "qcow2")
    assert info(path, image_format)["virtual-size"] == ODD
    qemu_img("compare", "-q", "-f", "raw", "-F", image_format, before, path)


def test_an_option_that_does_not_show_needs_leave_too(path):
    img(path, size="4M", options={"preallocation": "off"})
    wanted = {"options": {"preallocation": "metadata"}}
    assert "another options.preallocation" in refused(path, **wanted).msg
    result = changes(path, **wanted, force=True)
    assert result.json["diff"]["after"]["options"] == {"preallocation": "metadata"}


def test_a_rebuild_that_would_lose_something_is_refused(path):
    make(path, "qcow2", 4 * MIB)
    qemu_img("snapshot", "-c", "one", path)
    assert "it would lose its snapshots" in refused(path, format="raw", force=True).msg


# overlays


@pytest.fixture
def base(path: Path) -> Path:
    return make(path.with_name("base.qcow2"), "qcow2", 8 * MIB, "write -P 0x11 0 1M", "write -P 0x22 4M 1M")


def test_an_overlay_is_made_grown_rebased_and_made_to_stand_alone(path, base):
    changes(path, backing_file="base.qcow2")
    seen = info(path)
    assert (seen["backing-filename"], seen["backing-filename-format"]) == ("base.qcow2", "qcow2")
    assert seen["virtual-size"] == 8 * MIB
    qemu_io(path, "write -P 0x77 2M 64k")
    changes(path, backing_file="base.qcow2", size="16M")
    other = make(base.with_name("other.raw"), "raw", 8 * MIB, "write -P 0x99 0 64k")
    changes(path, backing_file="other.raw", backing_format="raw")
    assert info(path)["backing-filename"] == "other.raw"
    holds(path, "0x11 0 1M", "0x77 2M 64k", "0x22 4M 1M", "0 8M 8M")
    unchanged(path)
    changes(path, backing_file="")
    assert "backing-filename" not in info(path)
    other.unlink()
    base.unlink()
    holds(path, "0x11 0 1M", "0x77 2M 64k", "0x22 4M 1M", "0 8M 8M")
    assert faults(path) == {"corruptions": 0, "leaks": 0}


def test_the_same_backing_file_by_another_name_is_no_change(path, base):
    img(path, backing_file="base.qcow2", backing_format="qcow2")
    unchanged(path, backing_file=str(base))
    unchanged(path, backing_file="./base.qcow2")
    unchanged(path)


def test_an_image_behind_a_link_finds_its_backing_file_beside_itself(tmp_path, path, base):
    link = tmp_path / "links" / "disk"
    link.parent.mkdir()
    link.symlink_to(path)
    img(path, backing_file="base.qcow2")
    result = run_module("qemu_img", {"path": str(link), "backing_file": "base.qcow2"})
    assert not result.failed, result.json
    assert result.changed is False
    assert result.json["image"]["path"] == str(path)


@pytest.mark.parametrize("kind", ["raw", "qcow2", "qcow2 with a snapshot", "smaller"])
def test_a_commit_empties_the_overlay_into_its_backing_file(path, kind):
    image_format = "raw" if kind == "raw" else "qcow2"
    size = (4 if kind == "smaller" else 8) * MIB
    base = make(path.with_name("base"), image_format, size, "write -P 0x11 0 1M")
    if kind == "qcow2 with a snapshot":
        qemu_img("snapshot", "-c", "one", base)
    qemu_img("create", "-q", "-f", "qcow2", "-o", "cluster_size=128k", "-b", "base", "-F", image_format, path, "8M")
    qemu_io(path, "write -P 0x77 512k 1M", "write -z 0 64k", "write -P 0x88 7M 64k")
    changes(path, commit=True)
    seen = ("0 0 64k", "0x11 64k 448k", "0x77 512k 1M", "0x88 7M 64k")
    holds(base, *seen, image_format=image_format)
    holds(path, *seen)
    assert info(path)["backing-filename"] == "base"
    assert info(path)["cluster-size"] == 131072
    assert not [extent for extent in json.loads(qemu_img("map", "--output=json", path)) if extent["depth"] == 0]
    if image_format == "qcow2":
        assert faults(base) == {"corruptions": 0, "leaks": 0}
        names = [snapshot["name"] for snapshot in info(base).get("snapshots", [])]
        assert names == (["one"] if kind == "qcow2 with a snapshot" else [])


def test_an_image_that_stands_alone_has_nothing_to_commit(path):
    make(path, "qcow2", 4 * MIB, "write 0 64k")
    unchanged(path, commit=True)


# a task with nothing to do


@pytest.mark.parametrize("image_format", ["raw", "qcow2"])
def test_a_task_with_nothing_to_do_runs_no_program(tmp_path, path, source, image_format):
    arguments = {"path": str(path), "format": image_format, "source": str(source), "size": "12M", "mode": "0600"}
    made = img(**{**arguments, "path": path}).json["image"]
    again = run_module("qemu_img", arguments, env={"PATH": str(tmp_path)})
    assert not again.failed, again.json
    assert (again.changed, again.json["commands"]) == (False, [])
    assert again.json["image"] == made, "read by ourselves it looks as qemu-img told it"


# what lies within an image


def test_snapshots_come_and_go_and_others_stay(path):
    make(path, "qcow2", 4 * MIB, "write -P 0x11 0 64k")
    qemu_img("snapshot", "-c", "other", path)
    changes(path, snapshots=[{"name": "before"}])
    qemu_io(path, "write -P 0x22 0 64k")
    result = changes(path, snapshots=[{"name": "after"}, {"name": "other", "state": "absent"}])
    assert result.json["image"]["snapshots"] == ["before", "after"]
    qemu_img("snapshot", "-a", "before", path)
    holds(path, "0x11 0 64k")
    assert faults(path) == {"corruptions": 0, "leaks": 0}


def test_a_snapshot_that_is_there_twice_is_taken_away_wholly(path):
    make(path, "qcow2", 4 * MIB)
    qemu_img("snapshot", "-c", "twin", path)
    qemu_img("snapshot", "-c", "twin", path)
    unchanged(path, snapshots=[{"name": "twin"}])
    changes(path, snapshots=[{"name": "twin", "state": "absent"}])
    assert "snapshots" not in info(path)


@pytest.mark.parametrize("name", ["1", "a b", "-c", "x,y", "ünïcode"])
def test_odd_names_of_snapshots_and_bitmaps(path, name):
    make(path, "qcow2", 4 * MIB)
    qemu_img("snapshot", "-c", "first", path)  # its id is 1
    changes(path, snapshots=[{"name": name}], bitmaps=[{"name": name}])
    assert [snapshot["name"] for snapshot in info(path)["snapshots"]] == ["first", name]
    absent = [{"name": name, "state": "absent"}]
    changes(path, snapshots=absent, bitmaps=absent)
    assert [snapshot["name"] for snapshot in info(path)["snapshots"]] == ["first"]


def test_bitmaps_come_and_go_with_their_granularity(path):
    make(path, "qcow2", 4 * MIB)
    changes(path, bitmaps=[{"name": "coarse", "granularity": "128k"}, {"name": "default"}])
    found = {one["name"]: one["granularity"] for one in info(path)["format-specific"]["data"]["bitmaps"]}
    assert found == {"coarse": 131072, "default": 65536}
    unchanged(path, bitmaps=[{"name": "coarse", "granularity": "64k"}])
    changes(path, bitmaps=[{"name": "coarse", "state": "absent"}], size="8M")
    assert [one["name"] for one in info(path)["format-specific"]["data"]["bitmaps"]] == ["default"]


def test_what_can_be_amended_is(path):
    make(path, "qcow2", 4 * MIB, "write -P 0x11 0 64k", options="compat=0.10")
    changes(path, options={"compat": "1.1", "lazy_refcounts": True, "refcount_bits": 32})
    assert info(path)["format-specific"]["data"]["refcount-bits"] == 32
    holds(path, "0x11 0 64k")


# encryption


def test_an_encrypted_image_is_made_grown_and_snapshot_with_its_secret_alone(path):
    result = changes(path, size="4M", encrypt=QUICK_LUKS)
    assert info(path)["encrypted"] is True
    secret = ["--object", "secret,id=s,data=%s" % SECRET.replace(",", ",,")]
    opened = "driver=qcow2,encrypt.key-secret=s,file.filename=%s" % path
    qemu_img("map", *secret, "--image-opts", opened)
    result = changes(path, size="8M", encrypt=QUICK_LUKS, snapshots=[{"name": "one"}])
    assert SECRET not in json.dumps(result.json)
    assert "battery" not in json.dumps(result.json)
    unchanged(path)
    wrong = run_module(
        "qemu_img", {"path": str(path), "size": "16M", "encrypt": {"secret": "a wrong passphrase"}}, check=False
    )
    assert wrong.failed
    assert wrong.json["error"]["kind"] == "bad_input"
    assert "encrypt.secret: it doesn't open %s: wrong passphrase" % path in wrong.msg
    assert "a wrong passphrase" not in json.dumps(wrong.json)
    assert info(path)["virtual-size"] == 8 * MIB


def test_a_wrong_passphrase_is_found_out_only_when_something_is_to_be_done(path):
    """To try it takes as long as its maker wanted, a second or two: too dear for every run."""
    img(path, size="4M", encrypt=QUICK_LUKS)
    other = {"secret": "another"}
    unchanged(path, size="4M", encrypt=other)
    for change in ({"size": "8M"}, {"snapshots": [{"name": "one"}]}):
        before = state_of(path.parent)
        result = run_module("qemu_img", {"path": str(path), "encrypt": other, **change})
        assert result.failed, result.json
        assert "wrong passphrase" in result.msg
        assert state_of(path.parent) == before


def test_the_options_of_an_encryption_are_compared_as_far_as_they_show(path):
    made = {"cipher-alg": "aes-128", "cipher-mode": "cbc", "ivgen-alg": "essiv", "ivgen-hash-alg": "sha256"}
    changes(path, size="4M", encrypt={"secret": SECRET, "options": {**made, "iter-time": 10}})
    qemu = info(path)["format-specific"]["data"]["encrypt"]
    assert (qemu["cipher-alg"], qemu["cipher-mode"]) == ("aes-128", "cbc")
    unchanged(path, encrypt={"secret": SECRET, "options": {**made, "iter-time": 2000}})
    wanted = {"secret": SECRET, "options": {"cipher-alg": "aes-256", "cipher-mode": "xts", "iter-time": 10}}
    message = refused(path, encrypt=wanted).msg
    assert "its encrypt.cipher-alg is aes-128, not aes-256" in message
    assert "needs a conversion" in message
    changes(path, encrypt=wanted, force=True)
    assert info(path)["format-specific"]["data"]["encrypt"]["cipher-alg"] == "aes-256"
    assert "LUKS has no option 'cipher_alg'" in refused(path, encrypt={"secret": "x", "options": {"cipher_alg": 1}}).msg


def test_a_source_is_encrypted_on_its_way(path, source):
    changes(path, source=str(source), encrypt=QUICK_LUKS, verify="compare")
    assert b"\x11" * 4096 in source.read_bytes()
    assert b"\x11" * 4096 not in path.read_bytes()


# repair


def spoil(path: Path, cluster: int, count: int) -> None:
    """Set a reference count. In a new image the block of counts is the third cluster; each has 16 bits."""
    with path.open("r+b") as file:
        file.truncate(max(path.stat().st_size, (cluster + 1) * 65536))
        file.seek(2 * 65536 + 2 * cluster)
        file.write(count.to_bytes(2, "big"))


def test_leaks_are_mended_on_request(path):
    make(path, "qcow2", 4 * MIB, "write -P 0x11 0 64k")
    spoil(path, 6, 1)
    assert faults(path) == {"corruptions": 0, "leaks": 1}
    unchanged(path)
    result = changes(path, repair="leaks")
    assert result.json["diff"]["before"]["check"] == {"corruptions": 0, "leaks": 1}
    assert faults(path) == {"corruptions": 0, "leaks": 0}
    holds(path, "0x11 0 64k")


def test_corruption_is_mended_only_if_all_shall_be(path):
    make(path, "qcow2", 4 * MIB, "write -P 0x11 0 64k")
    spoil(path, 5, 0)
    assert faults(path)["corruptions"]
    assert "repair: leaks doesn't mend those" in refused(path, repair="leaks").msg
    changes(path, repair="all")
    assert faults(path) == {"corruptions": 0, "leaks": 0}
    holds(path, "0x11 0 64k")


@pytest.mark.parametrize("image_format", FORMATS)
def test_a_sound_image_needs_no_repair(path, image_format):
    make(path, image_format, 4 * MIB)
    unchanged(path, format=image_format, repair="all")


# file attributes


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_image_has_its_mode_from_the_first_moment(path):
    changes(path, size="4M", mode="0600")
    assert mode_of(path) == 0o600
    assert run_module("qemu_img", {"path": str(path), "mode": "0640"}, check=True).changed
    assert mode_of(path) == 0o600
    assert img(path, mode="0640").changed
    assert mode_of(path) == 0o640
    unchanged(path, mode="0640")


def test_a_replaced_image_keeps_what_is_not_declared(path):
    make(path, "qcow2", 4 * MIB)
    path.chmod(0o2750)
    os.setxattr(path, "user.note", b"kept")
    img(path, snapshots=[{"name": "one"}])
    assert mode_of(path) == 0o2750
    assert os.getxattr(path, "user.note") == b"kept"


def test_a_replaced_image_gets_what_is_declared(path):
    make(path, "qcow2", 4 * MIB)
    path.chmod(0o644)
    img(path, snapshots=[{"name": "one"}], mode="0600")
    assert mode_of(path) == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_the_owner_of_new_and_replaced_images(path):
    changes(path, size="4M", owner="nobody", group="daemon")
    owner = (path.stat().st_uid, path.stat().st_gid)
    assert owner == (65534, 1)
    img(path, snapshots=[{"name": "one"}])
    assert (path.stat().st_uid, path.stat().st_gid) == owner
    assert img(path, owner="root").changed
    assert (path.stat().st_uid, path.stat().st_gid) == (0, 1)
    img(path, bitmaps=[{"name": "b"}], owner="nobody")
    assert (path.stat().st_uid, path.stat().st_gid) == owner


# a system with less


def test_without_linux_it_works_and_says_which_protections_are_missing(path, source):
    hidden = {"VMOPS_HIDE_CAPABILITIES": "ofd_locks,proc,pidfd,user_xattrs,parent_death_signal"}
    arguments = {"path": str(path), "format": "raw", "size": "12M"}
    result = run_module("qemu_img", arguments, env=hidden)
    assert result.changed
    warnings = json.dumps(result.json["warnings"])
    assert "locks cannot be seen" in warnings
    assert "/proc is missing" in warnings
    assert run_module("qemu_img", arguments, env=hidden).changed is False
    assert run_module("qemu_img", {**arguments, "size": "20M"}, env=hidden).changed
    assert info(path, "raw")["virtual-size"] == 20 * MIB


# the documentation


def documentation(module: str, part: str) -> Any:
    text = (ROOT / "plugins" / "modules" / (module + ".py")).read_text()
    return yaml.safe_load(re.search(part + r' = r"""\n(.*?)"""', text, re.DOTALL).group(1))


OF_ANSIBLE = {"changed", "diff", "invocation", "warnings", "deprecations", "failed", "msg", "exception"}
OF_FAILURES = {"error", "secondary_errors"}


@pytest.mark.every_core
def test_documented(path, source):
    documented = documentation("qemu_img", "RETURN")
    result = img(path, source=str(source)).json
    assert set(result) - OF_ANSIBLE == set(documented) - OF_FAILURES
    assert set(result["image"]) == set(documented["image"]["contains"])
    assert set(documented["image"]["sample"]) == set(result["image"])
    assert set(documented["image"]["sample"]["options"]) == set(result["image"]["options"])
    failed = refused(path, size="1M").json
    assert set(failed) - OF_ANSIBLE == set(documented) - {"image", "secondary_errors"}
    gone = img(path, state="absent").json["image"]
    always = {name for name, one in documented["image"]["contains"].items() if one["returned"] == "always"}
    assert set(gone) == always


@pytest.mark.every_core
def test_the_examples_run(tmp_path, source):
    """In one play, with the machine's paths moved into the test's folder and a source that the test has."""
    text = json.dumps(documentation("qemu_img", "EXAMPLES"))
    for folder in ("/var/lib/vms", "/srv/images", "/srv/export"):
        text = text.replace(folder, str(tmp_path) + folder)
    tasks = json.loads(text)
    digest = subprocess.run(["sha256sum", str(source)], capture_output=True, text=True, check=True).stdout.split()[0]
    for task in tasks:
        arguments = task["vmops.lifecycle.qemu_img"]
        Path(arguments["path"]).parent.mkdir(parents=True, exist_ok=True)
        if "checksum" in arguments:
            arguments["checksum"] = "sha256:" + digest
            Path(arguments["source"]).parent.mkdir(parents=True, exist_ok=True)
            Path(arguments["source"]).write_bytes(source.read_bytes())
        if "encrypt" in arguments:
            arguments["encrypt"]["options"] = {"iter-time": 10}
    make(tmp_path / "srv/images/base.qcow2", "qcow2", 4 * MIB)
    play = run_tasks(tmp_path, tasks, "-e", "vault_disk_passphrase=secret")
    assert play.rc == 0, play.text
    changed = {name: done["changed"] for name, done in play.tasks.items()}
    assert changed.pop("Mend lost space") is False
    assert set(changed.values()) == {True}
    assert len(changed) == len(tasks) - 1
    assert same_content(source, "raw", tmp_path / "srv/export/web.vmdk", "vmdk")
