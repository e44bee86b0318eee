# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What can be known before anything is begun: check mode refuses what the run would refuse, in the same words."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.testbed.images import MIB, make, qemu_img
from tests.testbed.modules import Result, run_module
from tests.testbed.web_server import Temper, WebServer

NOBODY = 65534
LARGEST = {
    "qcow2": [
        ({}, 2 << 50),
        ({"cluster_size": "512"}, 128 << 30),
        ({"cluster_size": "16K", "extended_l2": True}, 64 << 40),
        ({"cluster_size": "2M"}, 2 << 60),
    ],
    "vmdk": [({}, 1 << 50)],
    "vdi": [({}, 0x1FFFFF8000000)],
    "vhdx": [({}, 64 << 40)],
    "vpc": [({}, 2040 << 30)],
}
SIZES = [(image_format, *case) for image_format, cases in LARGEST.items() for case in cases]


def run(path: Path, check: bool = False, **options: Any) -> Result:
    return run_module("qemu_img", {"path": str(path), **options}, check=check)


def refused(path: Path, *says: str, **options: Any) -> None:
    """In check mode and out of it, with the image and all beside it left as it was."""
    before = (path.read_bytes() if path.exists() else None, sorted(os.listdir(path.parent)))
    foretold, done = run(path, check=True, **options), run(path, **options)
    assert foretold.failed, foretold.json
    assert foretold.msg == done.msg
    for words in says:
        assert words in done.msg
    assert (path.read_bytes() if path.exists() else None, sorted(os.listdir(path.parent))) == before


# Sizes


@pytest.mark.parametrize(("image_format", "options", "largest"), SIZES, ids=str)
def test_a_size_that_no_image_of_the_format_has(
    tmp_path: Path, image_format: str, options: dict[str, Any], largest: int
) -> None:
    path = tmp_path / "disk"
    says = "are more than format %s can hold (%d)" % (image_format, largest)
    refused(path, says, format=image_format, options=options, size=str(largest + 512))
    refused(path, says, format=image_format, options=options, size="7E")
    words = [",".join("%s=%s" % (name, {True: "on"}.get(value, value)) for name, value in options.items())]
    given = ["-o", *words] if options else ["-o", "force_size=on"] if image_format == "vpc" else []
    qemu_img("create", "-q", "-f", image_format, *given, path, largest)  # so much there can be


def test_an_image_is_not_grown_beyond_what_its_clusters_hold(tmp_path: Path) -> None:
    path = make(tmp_path / "disk", "qcow2", MIB, options="cluster_size=512")
    refused(path, "are more than format qcow2 can hold", size="129G")


@pytest.mark.parametrize("served", [False, True], ids=["file", "url"])
def test_a_source_that_is_too_large_for_the_format(tmp_path: Path, served: bool) -> None:
    content = make(tmp_path / "content", "qcow2", 3 << 40)
    path = tmp_path / "disk"
    says = "are more than format vpc can hold (%d)" % (2040 << 30)
    if not served:
        name = str(content)
        refused(path, f"source: {name} is too large: its {3 << 40} bytes {says}", format="vpc", source=name)
        refused(path, f"size: {3 << 40} bytes {says}", format="vpc", source=name, size="3T")
        return
    with WebServer(content.read_bytes(), Temper.GOOD).running() as server:
        checksum = "sha256:" + hashlib.sha256(content.read_bytes()).hexdigest()
        result = run(path, format="vpc", source=server.url, checksum=checksum)
        assert result.failed, result.json
        assert f"source: {server.url} is too large: its {3 << 40} bytes {says}" in result.msg
        assert not any("create" in words for words in result.json["commands"])
    assert os.listdir(tmp_path) == ["content"]


def test_an_image_that_is_too_large_for_its_new_shape(tmp_path: Path) -> None:
    path = make(tmp_path / "disk", "qcow2", 3 << 40)
    refused(path, "format: the image is too large: its ", "Keep the image as it is", format="vpc", force=True)
    small = {"options": {"cluster_size": "512"}, "force": True}
    refused(path, "options: the image is too large: its ", "a larger cluster_size", **small)


def test_a_backing_file_that_is_too_large_for_the_clusters(tmp_path: Path) -> None:
    base = make(tmp_path / "base", "qcow2", 3 << 40)
    small = {"cluster_size": "512"}
    refused(
        tmp_path / "disk", f"backing_file: {base} is too large", "a smaller size", backing_file=str(base), options=small
    )


# Old headers


def test_an_old_header_has_no_bitmaps(tmp_path: Path) -> None:
    bitmaps = [{"name": "b"}]
    refused(
        tmp_path / "new", "bitmaps: an image with compat 0.10", size="1M", options={"compat": "0.10"}, bitmaps=bitmaps
    )
    old = make(tmp_path / "old", "qcow2", MIB, options="compat=0.10")
    refused(old, "bitmaps: an image with compat 0.10", bitmaps=bitmaps)
    assert run(old, options={"compat": "1.1"}, bitmaps=bitmaps).changed


def test_bitmaps_are_not_lost_to_an_old_header(tmp_path: Path) -> None:
    path = make(tmp_path / "disk", "qcow2", MIB)
    qemu_img("bitmap", "--add", path, "b")
    refused(path, "it would lose its bitmaps: b", options={"compat": "0.10"})


@pytest.mark.parametrize("made", ["refcount_bits=8", "extended_l2=on"])
def test_what_an_old_header_can_not_have(tmp_path: Path, made: str) -> None:
    path = make(tmp_path / "disk", "qcow2", MIB, options=made)
    refused(path, "0.10 can't have %s" % made.replace("=", ": "), options={"compat": "0.10"})


def test_an_old_header_does_not_learn_what_it_can_not_have(tmp_path: Path) -> None:
    path = make(tmp_path / "disk", "qcow2", MIB, options="compat=0.10")
    refused(path, "0.10 can't have lazy_refcounts: on", options={"lazy_refcounts": True})
    assert run(path, options={"lazy_refcounts": True, "compat": "1.1"}).changed


def test_an_old_image_with_snapshots_keeps_its_size(tmp_path: Path) -> None:
    path = make(tmp_path / "disk", "qcow2", MIB, options="compat=0.10")
    qemu_img("snapshot", "-c", "a", path)
    refused(path, "it has compat 0.10 and snapshots", size="2M")


# Values of the encryption


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("cipher-alg", "nope", "cipher-alg has no value 'nope'"),
        ("cipher-mode", "gcm", "cipher-mode has no value 'gcm'"),
        ("hash-alg", "sha", "hash-alg has no value 'sha'"),
        ("ivgen-alg", "none", "ivgen-alg has no value 'none'"),
        ("ivgen-hash-alg", "crc32", "ivgen-hash-alg has no value 'crc32'"),
        ("iter-time", "soon", "'soon' is no number of milliseconds"),
        ("iter-time", -5, "'-5' is no number of milliseconds"),
        ("iter-time", 10**20, "is no number of milliseconds"),
    ],
)
def test_a_value_that_no_encryption_has(tmp_path: Path, option: str, value: object, says: str) -> None:
    refused(tmp_path / "disk", says, size="1M", encrypt={"secret": "horse", "options": {option: value}})


# Other users' files


@pytest.fixture
def as_nobody(tmp_path: Path) -> str:
    """An interpreter that runs as an ordinary user, who may read all: the interpreter may lie in a home directory."""
    if os.geteuid():
        pytest.skip("only root can become another user")
    script = tmp_path / "python"
    caps = "--inh-caps=+dac_read_search --ambient-caps=+dac_read_search"
    who = "--reuid=%d --regid=%d --clear-groups" % (NOBODY, NOBODY)
    script.write_text('#!/bin/sh\nexec setpriv %s %s "%s" "$@"\n' % (who, caps, sys.executable))
    script.chmod(0o755)
    return str(script)


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(0o777)
    return folder


def refused_to(python: str, path: Path, *says: str, **options: Any) -> None:
    before = sorted(os.listdir(path.parent))
    for check in (True, False):
        result = run_module(
            "qemu_img", {"path": str(path), **options}, check=check, python=python, env={"HOME": str(path.parent)}
        )
        assert result.failed, result.json
        for words in says:
            assert words in result.msg
    assert sorted(os.listdir(path.parent)) == before


@pytest.mark.parametrize(
    "declared",
    [{"size": "2M"}, {"snapshots": [{"name": "a"}]}, {"state": "absent"}],
    ids=str,
)
def test_a_directory_that_this_user_can_not_write_in(as_nobody: str, shared: Path, declared: dict[str, Any]) -> None:
    shared.chmod(0o755)
    path = make(shared / "disk", "qcow2", MIB)
    refused_to(as_nobody, path, "path: user %d can't write in its directory %s" % (NOBODY, shared), **declared)
    if declared.get("state") != "absent":
        refused_to(as_nobody, shared / "new", "can't write in its directory", **{"size": "1M", **declared})


def test_another_users_image_is_changed_but_not_replaced(as_nobody: str, shared: Path) -> None:
    path = make(shared / "disk", "qcow2", MIB)
    path.chmod(0o666)
    refused_to(as_nobody, path, "it belongs to user 0", "become: true", snapshots=[{"name": "a"}])
    grown = run_module("qemu_img", {"path": str(path), "size": "2M"}, python=as_nobody, env={"HOME": str(shared)})
    assert not grown.failed, grown.json
    assert grown.changed


def test_an_ordinary_user_makes_what_he_may_only_read(shared: Path, request: pytest.FixtureRequest) -> None:
    """As the base of overlays is, which nobody should write to."""
    python = None if os.geteuid() else request.getfixturevalue("as_nobody")
    for name, declared in (("new", {"size": "1M"}), ("seeded", {"source": str(shared / "new")})):
        given = {"path": str(shared / name), "mode": "0400", **declared}
        for changed in (True, False):
            result = run_module("qemu_img", given, python=python, env={"HOME": str(shared)})
            assert not result.failed, result.msg
            assert result.changed is changed
        assert (shared / name).stat().st_mode & 0o777 == 0o400


CHANGES = {
    "snapshot": {"snapshots": [{"name": "one"}]},
    "made anew": {"source": "other", "force": True},
    "converted": {"options": {"cluster_size": "128k"}, "force": True},
}


@pytest.mark.parametrize("change", CHANGES)
def test_an_ordinary_user_replaces_what_he_may_only_read(
    shared: Path, change: str, request: pytest.FixtureRequest
) -> None:
    """Its record is an attribute, which only a file that can be written to takes."""
    python = None if os.geteuid() else request.getfixturevalue("as_nobody")
    (shared / "other").write_bytes(b"\1" * (1 << 20))
    (shared / "other").chmod(0o644)
    given = {"path": str(shared / "new"), "mode": "0400"}
    env = {"HOME": str(shared)}
    assert run_module("qemu_img", {**given, "size": "1M"}, python=python, env=env).changed
    declared = {name: str(shared / value) if name == "source" else value for name, value in CHANGES[change].items()}
    result = run_module("qemu_img", {**given, **declared}, python=python, env=env)
    assert not result.failed, result.msg
    assert result.changed
    assert (shared / "new").stat().st_mode & 0o777 == 0o400
    assert sorted(os.listdir(shared)) == ["new", "other"]


def test_another_users_lock_is_no_concern_of_a_task_with_nothing_to_do(
    shared: Path, request: pytest.FixtureRequest
) -> None:
    python = None if os.geteuid() else request.getfixturevalue("as_nobody")
    given = {"path": str(shared / "new"), "size": "1M"}
    env = {"HOME": str(shared)}
    assert run_module("qemu_img", given, python=python, env=env).changed
    lock = shared / ".new.vmops-lock"
    lock.touch()
    lock.chmod(0o000 if os.geteuid() else 0o600)
    result = run_module("qemu_img", given, python=python, env=env)
    assert not result.failed, result.msg
    assert not result.changed


# Hard links


@pytest.mark.parametrize("check", [True, False])
def test_an_image_with_another_name_is_replaced_with_a_warning(tmp_path: Path, check: bool) -> None:
    path = make(tmp_path / "disk", "qcow2", MIB)
    os.link(path, tmp_path / "other")
    result = run(path, check=check, snapshots=[{"name": "a"}])
    assert result.changed, result.json
    warnings = " ".join(str(warning) for warning in result.json["warnings"])
    assert "%s has other names (hard links)" % path in warnings


@pytest.mark.parametrize("declared", [{"size": "1M"}, {"size": "2M"}, {"state": "absent"}], ids=str)
def test_another_name_of_what_is_not_replaced_is_no_matter(tmp_path: Path, declared: dict[str, Any]) -> None:
    path = make(tmp_path / "disk", "qcow2", MIB)
    os.link(path, tmp_path / "other")
    assert "hard links" not in str(run(path, **declared).json)
