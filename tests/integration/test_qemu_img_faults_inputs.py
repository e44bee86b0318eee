# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What qemu_img is given may be hostile, odd or broken: images that name other files, names that look like protocols,
files that are no files, sizes that are no sizes.
"""

from __future__ import annotations

import json
import os
import socket
import stat
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.testbed.faults import digest
from tests.testbed.images import info, qemu_img, same_content
from tests.testbed.modules import Result, run_module
from tests.testbed.untouched import untouched

MIB = 1 << 20
SECRET = b"the host's secret, line %04d\n"


def run(path: Path | str, env: dict[str, str] | None = None, cwd: Path | None = None, **options: Any) -> Result:
    return run_module("qemu_img", {"path": str(path), **options}, env=env, cwd=cwd)


def refused(result: Result, kind: str, *says: str) -> None:
    """It failed by this kind of error, and its message holds these words."""
    assert result.failed, result.json
    assert result.json["error"]["kind"] == kind, result.json
    for words in says:
        assert words in result.msg


def filled(path: Path, image_format: str = "qcow2") -> Path:
    """An image with something to lose."""
    qemu_img("create", "-q", "-f", image_format, path, "2M")
    named = json.dumps({"driver": image_format, "file": {"driver": "file", "filename": str(path)}})
    subprocess.run(["qemu-io", "-c", "write -P 7 0 1M", "json:" + named], check=True, capture_output=True)
    return path


# Images that name other files


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file of the host that whoever made the image wants to read."""
    path = tmp_path / "secret"
    path.write_bytes(b"".join(SECRET % number for number in range(3000))[: 64 * 1024])
    return path


def with_backing_file(source: Path, secret: Path) -> None:
    qemu_img("create", "-q", "-f", "qcow2", "-F", "raw", "-b", secret, source)


def with_data_file(source: Path, secret: Path) -> None:
    """A raw external data file: every byte of it is the image's content."""
    qemu_img("create", "-q", "-f", "qcow2", "-o", f"data_file={source}.data,data_file_raw=on", source, "64k")
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write 0 64k", str(source)], check=True, capture_output=True)
    os.unlink(f"{source}.data")
    os.link(secret, f"{source}.data")


def _descriptor(secret: Path) -> bytes:
    lines = (
        "# Disk DescriptorFile",
        "version=1",
        "CID=fffffffe",
        "parentCID=ffffffff",
        'createType="monolithicFlat"',
        f'RW 128 FLAT "{secret}" 0',
        'ddb.adapterType = "ide"',
    )
    return "\n".join(lines).encode() + b"\n"


def with_flat_extent(source: Path, secret: Path) -> None:
    source.write_bytes(_descriptor(secret))


def with_flat_extent_behind_a_sparse_header(source: Path, secret: Path) -> None:
    """A capacity of zero makes QEMU believe the embedded text alone."""
    head = struct.pack("<4sIIQQQQIQQQ", b"KDMV", 1, 3, 0, 128, 1, 20, 512, 0, 0, 0)
    source.write_bytes(head.ljust(512, b"\0") + _descriptor(secret).ljust(20 * 512, b"\0"))


ATTACKS: tuple[tuple[Callable[[Path, Path], None], str], ...] = (
    (with_backing_file, "qcow2"),
    (with_data_file, "qcow2"),
    (with_flat_extent, "vmdk"),
    (with_flat_extent_behind_a_sparse_header, "vmdk"),
)
attacks = pytest.mark.parametrize(
    ("attack", "image_format"), ATTACKS, ids=lambda value: getattr(value, "__name__", value)
)


@attacks
@pytest.mark.parametrize("named", [True, False], ids=["format-named", "format-found"])
def test_a_source_that_names_another_file_is_refused(
    tmp_path: Path, secret: Path, attack: Callable[[Path, Path], None], image_format: str, named: bool
) -> None:
    source, images = tmp_path / "source.img", tmp_path / "images"
    images.mkdir()
    attack(source, secret)
    given = {"source_format": image_format} if named else {}
    result = run(images / "disk.qcow2", source=str(source), **given)
    refused(result, "refused", "it names other files of this host", "allow_references: true")
    assert os.listdir(images) == []


@attacks
def test_such_a_source_would_bring_the_secret_along(
    tmp_path: Path, secret: Path, attack: Callable[[Path, Path], None], image_format: str
) -> None:
    """That the attacks work: with leave, the other file's content comes, in an image that stands alone."""
    source, target = tmp_path / "source.img", tmp_path / "disk.raw"
    attack(source, secret)
    result = run(target, source=str(source), source_format=image_format, format="raw", allow_references=True)
    assert not result.failed, result.json
    assert target.read_bytes()[: secret.stat().st_size] == secret.read_bytes()
    assert info(target, "raw").get("backing-filename") is None


@attacks
def test_such_a_source_taken_for_raw_is_only_its_own_bytes(
    tmp_path: Path, secret: Path, attack: Callable[[Path, Path], None], image_format: str
) -> None:
    source, target = tmp_path / "source.img", tmp_path / "disk.raw"
    attack(source, secret)
    result = run(target, source=str(source), source_format="raw", format="raw")
    assert not result.failed, result.json
    assert SECRET % 1 not in target.read_bytes()
    assert same_content(source, "raw", target, "raw")


# Names


NAMES = (
    'json:{"driver":"file"}',
    "nbd:localhost",
    "x:y.qcow2",
    "a,b,,c.qcow2",
    "two words.qcow2",
    "übung-Дискета-磁盘.qcow2",
    "-leading-dash.qcow2",
    "new\nline.qcow2",
    "file:disk.qcow2",
    "quote'\"s.qcow2",
    "100%s{curly}.qcow2",
)
names = pytest.mark.parametrize("name", NAMES)


@names
def test_a_name_is_a_file_and_only_that(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    made = run(path, size="2M")
    assert made.changed, made.json
    assert os.listdir(tmp_path) == [path.name]
    assert info(path)["virtual-size"] == 2 * MIB
    grown = run(path, size="4M", snapshots=[{"name": "one"}], bitmaps=[{"name": "changes"}])
    assert grown.changed, grown.json
    assert not run(path, size="4M", snapshots=[{"name": "one"}], bitmaps=[{"name": "changes"}]).changed
    assert os.listdir(tmp_path) == [path.name]
    assert run(path, state="absent").changed
    assert os.listdir(tmp_path) == []


@names
def test_a_relative_name_is_a_file_and_only_that(tmp_path: Path, name: str) -> None:
    assert run(name, cwd=tmp_path, size="2M").changed
    assert os.listdir(tmp_path) == [name]
    assert not run(name, cwd=tmp_path, size="2M").changed


@names
def test_a_source_of_any_name(tmp_path: Path, name: str) -> None:
    source, target = filled(tmp_path / name), tmp_path / "disk.qcow2"
    result = run(target, source=str(source))
    assert result.changed, result.json
    plain = tmp_path / "plain"
    source.rename(plain)
    assert same_content(plain, "qcow2", target, "qcow2")


@names
def test_a_backing_file_of_any_name(tmp_path: Path, name: str) -> None:
    base, target = filled(tmp_path / name), tmp_path / "disk.qcow2"
    result = run(target, backing_file=name, backing_format="qcow2")
    assert result.changed, result.json
    told = info(target)
    assert os.path.join(tmp_path, told["backing-filename"]) == str(base)
    # What a machine reads through it is the file of that name.
    flat = tmp_path / "flat"
    qemu_img("convert", "-f", "qcow2", "-O", "raw", target, flat)
    assert flat.read_bytes()[:MIB] == b"\7" * MIB
    assert not run(target, backing_file=name, backing_format="qcow2").changed


# What is no regular file


def a_directory(path: Path) -> None:
    path.mkdir()


def a_fifo(path: Path) -> None:
    os.mkfifo(path)


def a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


def a_device(path: Path) -> None:
    """A link to a block device where there is one; else to another device."""
    with os.scandir("/dev") as entries:
        block = [entry.path for entry in entries if stat.S_ISBLK(entry.stat().st_mode)]
    path.symlink_to(sorted(block)[0] if block else "/dev/null")


def a_character_device(path: Path) -> None:
    path.symlink_to("/dev/null")


KINDS = (a_directory, a_fifo, a_socket, a_device, a_character_device)
kinds = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)


@kinds
@pytest.mark.parametrize("options", [{"size": "2M"}, {"state": "absent"}], ids=["present", "absent"])
def test_a_path_that_is_no_regular_file(tmp_path: Path, kind: Callable[[Path], None], options: dict[str, Any]) -> None:
    path = tmp_path / "disk.qcow2"
    kind(path)
    before = untouched(path), os.stat(path).st_mode
    result = run(path, **options)
    refused(result, "bad_input", "path: ", os.path.realpath(path))
    assert (untouched(path), os.stat(path).st_mode) == before
    assert os.listdir(tmp_path) == ["disk.qcow2"]


@kinds
@pytest.mark.parametrize("option", ["source", "backing_file"])
def test_an_input_that_is_no_regular_file(tmp_path: Path, kind: Callable[[Path], None], option: str) -> None:
    odd, images = tmp_path / "odd", tmp_path / "images"
    images.mkdir()
    kind(odd)
    result = run(images / "disk.qcow2", **{option: str(odd)}, timeout=60)
    refused(result, "bad_input", "no regular file", str(odd))
    assert os.listdir(images) == []


def test_a_link_is_followed_to_the_image(tmp_path: Path) -> None:
    real, link = filled(tmp_path / "real.qcow2"), tmp_path / "link.qcow2"
    link.symlink_to("real.qcow2")
    result = run(link, size="4M", snapshots=[{"name": "one"}])
    assert result.changed, result.json
    assert os.readlink(link) == "real.qcow2"
    assert not real.is_symlink()
    assert info(real)["virtual-size"] == 4 * MIB
    assert sorted(os.listdir(tmp_path)) == ["link.qcow2", "real.qcow2"]


def test_a_link_is_not_removed_in_the_place_of_its_image(tmp_path: Path) -> None:
    real, link = filled(tmp_path / "real.qcow2"), tmp_path / "link.qcow2"
    link.symlink_to("real.qcow2")
    refused(run(link, state="absent"), "bad_input", "symbolic link", str(real))
    assert real.exists()
    assert link.is_symlink()


def test_a_link_that_leads_nowhere(tmp_path: Path) -> None:
    link = tmp_path / "link.qcow2"
    link.symlink_to(tmp_path / "gone.qcow2")
    refused(run(link, size="2M"), "bad_input", "symbolic link", "not there")
    assert os.listdir(tmp_path) == ["link.qcow2"]


@pytest.mark.parametrize("name", [".disk.qcow2.vmops-new", ".disk.qcow2.vmops-lock"])
def test_a_link_laid_where_the_module_writes(tmp_path: Path, name: str) -> None:
    """Somebody else may write in the folder: nothing is written through his links."""
    victim, images = tmp_path / "victim", tmp_path / "images"
    victim.write_bytes(b"precious")
    images.mkdir()
    (images / name).symlink_to(victim)
    run(images / "disk.qcow2", size="2M")
    assert victim.read_bytes() == b"precious"


# Corrupt and truncated


def cut_within_its_header(path: Path) -> None:
    os.truncate(path, 60)


def cut_within_its_tables(path: Path) -> None:
    os.truncate(path, 70000)


def cut_within_its_data(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 512 * 1024)


def with_a_broken_header(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(40)
        file.write(b"\xff" * 8)  # where the first table lies


def with_an_absurd_table(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(36)
        file.write(b"\x7f\xff\xff\xff")  # its length


def empty(path: Path) -> None:
    os.truncate(path, 0)


BROKEN = (cut_within_its_header, cut_within_its_tables, cut_within_its_data, with_a_broken_header, with_an_absurd_table)
broken = pytest.mark.parametrize("breaks", BROKEN, ids=lambda breaks: breaks.__name__)


@broken
def test_a_broken_source_never_becomes_an_image(tmp_path: Path, breaks: Callable[[Path], None]) -> None:
    source, images = filled(tmp_path / "source.qcow2"), tmp_path / "images"
    images.mkdir()
    breaks(source)
    result = run(images / "disk.qcow2", source=str(source), source_format="qcow2")
    assert result.failed, result.json
    assert str(source) in result.msg
    assert os.listdir(images) == []


@broken
def test_a_broken_image_is_left_as_it_is(tmp_path: Path, breaks: Callable[[Path], None]) -> None:
    path = filled(tmp_path / "disk.qcow2")
    breaks(path)
    before = digest(path)
    result = run(path, snapshots=[{"name": "one"}])
    assert result.failed, result.json
    assert str(path) in result.msg
    assert digest(path) == before
    assert os.listdir(tmp_path) == ["disk.qcow2"]
    assert run(path, state="absent").changed


def test_an_empty_file_is_no_qcow2(tmp_path: Path) -> None:
    path = filled(tmp_path / "disk.qcow2")
    empty(path)
    refused(run(path, size="2M"), "refused", "its format is raw, not qcow2", "force: true")
    assert path.stat().st_size == 0


# Options


@pytest.mark.parametrize(
    ("size", "says"),
    [
        ("9E", "more than any file can hold"),
        ("-1", "relative or negative"),
        ("+1G", "relative or negative"),
        ("10 GiBs", "no size"),
        ("0", "no size for a disk"),
        ("20GB", "powers of 1000 or of 1024"),
        ("", "no size"),
        ("ten", "no size"),
        ("1e3", "no size"),
        ("0x10", "no size"),
        ("1.5", "part of a byte"),
        ("8E", "more than any file can hold"),
        ("9223372036854775807", "more than any file can hold"),
    ],
)
def test_an_absurd_size(tmp_path: Path, size: str, says: str) -> None:
    refused(run(tmp_path / "disk.qcow2", size=size), "bad_input", "size: ", says)
    assert os.listdir(tmp_path) == []


def test_a_size_that_the_format_cannot_hold(tmp_path: Path) -> None:
    refused(run(tmp_path / "disk.qcow2", size="7E"), "bad_input", "size: ", "are more than format qcow2 can hold")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("image_format", ["raw", "qcow2", "vdi"])
def test_a_shrink_without_leave(tmp_path: Path, image_format: str) -> None:
    path = filled(tmp_path / "disk.img", image_format)
    before = digest(path)
    refused(run(path, size="1M", format=image_format), "refused", "shrink", "allow_shrink: true")
    assert digest(path) == before


def test_a_source_that_does_not_fit(tmp_path: Path) -> None:
    source = filled(tmp_path / "source.raw", "raw")
    refused(run(tmp_path / "disk.qcow2", source=str(source), size="1M"), "refused", "smaller than its source")
    assert os.listdir(tmp_path) == ["source.raw"]


def test_an_unknown_option(tmp_path: Path) -> None:
    refused(
        run(tmp_path / "disk.qcow2", size="2M", options={"cluster_siez": "64K"}),
        "bad_input",
        "cluster_siez",
        "cluster_size",
    )
    assert os.listdir(tmp_path) == []


def test_a_value_that_an_option_does_not_take(tmp_path: Path) -> None:
    result = run(tmp_path / "disk.qcow2", size="2M", options={"cluster_size": "3K"})
    assert result.failed
    assert "power of two" in result.msg
    assert os.listdir(tmp_path) == []


def test_no_qemu_img_on_this_host(tmp_path: Path) -> None:
    result = run(tmp_path / "disk.qcow2", env={"PATH": str(tmp_path)}, size="2M")
    refused(result, "tool_missing", "qemu-img was not found", "qemu-utils")
    assert os.listdir(tmp_path) == []


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    refused(run(tmp_path / "no" / "disk.qcow2", size="2M"), "bad_input", str(tmp_path / "no"), "is not there")
    assert not run(tmp_path / "no" / "disk.qcow2", state="absent").changed
