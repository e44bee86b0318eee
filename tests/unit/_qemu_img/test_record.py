# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is remembered of an image: in its attribute or in the file beside it, and never for another file."""

from __future__ import annotations

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_img import record as records
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_img.model import Format
from tests.unit._qemu_img.builders import IDENTITY, made_from_source, record


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "disk.qcow2"
    path.write_bytes(b"content")
    return path


@pytest.fixture(params=["attribute", "sidecar"])
def place(request, monkeypatch):
    if request.param == "sidecar":
        monkeypatch.setenv("VMOPS_HIDE_CAPABILITIES", "user_xattrs")
    return request.param


def names(folder):
    return sorted(os.listdir(str(folder)))


@pytest.mark.parametrize(
    "remembered",
    [
        made_from_source(options__cluster_size="65536"),
        record(None, Format.RAW),
        record(IDENTITY._replace(location="/ünïcode 'quoted'\n", checksum="sha256:00")),
        record(IDENTITY._replace(device=2**64 - 1, inode=2**64 - 1, mtime_ns=-1)),
    ],
    ids=["seeded", "empty", "odd name", "odd numbers"],
)
def test_what_was_written_is_read(image, place, remembered):
    records.write(str(image), remembered, str(image))
    assert records.read(str(image)) == remembered


def test_no_record_is_none(image, place):
    assert records.read(str(image)) is None


def test_it_is_where_it_belongs(image, place, tmp_path):
    records.write(str(image), made_from_source(), str(image))
    if place == "attribute":
        assert names(tmp_path) == ["disk.qcow2"]
        assert json.loads(os.getxattr(str(image), "user.vmops.image"))["version"] == 1
    else:
        assert names(tmp_path) == [".disk.qcow2.vmops-record", "disk.qcow2"]
        with pytest.raises(OSError, match="No data"):
            os.getxattr(str(image), "user.vmops.image")


def test_a_record_stays_with_its_image_when_that_is_renamed(image):
    records.write(str(image), made_from_source(), str(image))
    image.rename(image.with_name("other"))
    assert records.read(str(image.with_name("other"))) == made_from_source()


def test_a_file_beside_says_nothing_of_another_file_of_that_name(image, monkeypatch):
    monkeypatch.setenv("VMOPS_HIDE_CAPABILITIES", "user_xattrs")
    records.write(str(image), made_from_source(), str(image))
    image.rename(image.with_name("kept so that its inode isn't given away"))
    image.write_bytes(b"content")
    assert records.read(str(image)) is None


def test_a_file_beside_says_nothing_of_a_later_file_that_was_given_the_same_inode(image, monkeypatch):
    monkeypatch.setenv("VMOPS_HIDE_CAPABILITIES", "user_xattrs")
    for _attempt in range(20):  # ext4 gives a number away again at once, others later or never
        records.write(str(image), made_from_source(), str(image))
        before = image.stat().st_ino
        image.unlink()
        image.write_bytes(b"content")
        assert records.read(str(image)) is None
        if image.stat().st_ino == before:
            break


def test_until_the_new_image_is_in_place_the_file_beside_tells_of_both(image, monkeypatch):
    monkeypatch.setenv("VMOPS_HIDE_CAPABILITIES", "user_xattrs")
    new = image.with_name("new")
    new.touch()
    records.write(str(image), made_from_source(), str(image))
    records.write(str(new), record(None), str(image))
    assert records.read(str(image)) == made_from_source(), "killed here, the old image keeps its record"
    new.rename(image)
    assert records.read(str(image)) == record(None)
    records.write(str(image), made_from_source(), str(image))
    with open(records.sidecar(str(image))) as file:
        (key,) = json.load(file)  # what is no more is forgotten
    assert key.split("/")[0] == str(image.stat().st_ino)


GOOD = {
    "version": 1,
    "format": "qcow2",
    "source": dict(IDENTITY._asdict()),
    "arguments": {},
    "qemu_img": "7.2.22",
}
DAMAGED = {
    "nothing": b"",
    "no JSON": b"{",
    "no UTF-8": b"\xff\xfe",
    "another kind": b"[1]",
    "null": b"null",
    "another version": json.dumps({**GOOD, "version": 2}).encode(),
    "no version": json.dumps({key: value for key, value in GOOD.items() if key != "version"}).encode(),
    "no source": json.dumps({key: value for key, value in GOOD.items() if key != "source"}).encode(),
    "an unknown format": json.dumps({**GOOD, "format": "bochs"}).encode(),
    "a source with too little": json.dumps({**GOOD, "source": {"location": "/a"}}).encode(),
    "a source with too much": json.dumps({**GOOD, "source": {**GOOD["source"], "more": 1}}).encode(),
    "arguments that are none": json.dumps({**GOOD, "arguments": 7}).encode(),
}


def test_the_pattern_of_the_damaged_ones_is_good(image):
    os.setxattr(str(image), records.ATTRIBUTE, json.dumps(GOOD).encode())
    assert records.read(str(image)) == record()


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_record_is_no_record(image, place, case):
    if place == "attribute":
        os.setxattr(str(image), records.ATTRIBUTE, DAMAGED[case])
    else:
        beside = b'{"%d": %s}' % (image.stat().st_ino, DAMAGED[case])
        with open(records.sidecar(str(image)), "wb") as file:
            file.write(beside)
    assert records.read(str(image)) is None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"7", b"\xff"])
def test_a_damaged_file_beside_is_overwritten_by_the_next_record(image, monkeypatch, content):
    monkeypatch.setenv("VMOPS_HIDE_CAPABILITIES", "user_xattrs")
    with open(records.sidecar(str(image)), "wb") as file:
        file.write(content)
    assert records.read(str(image)) is None
    records.write(str(image), made_from_source(), str(image))
    assert records.read(str(image)) == made_from_source()


@given(st.binary(max_size=300))
def test_no_bytes_whatever_end_in_an_error(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any-record"
    path.touch()
    os.setxattr(str(path), records.ATTRIBUTE, content)
    assert records.read(str(path)) is None
