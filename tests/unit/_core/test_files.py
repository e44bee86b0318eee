# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# ruff: noqa: PT012  # what raises here is what a block does
"""Files that appear only whole, names beside them, and copies that keep holes."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.vmops.lifecycle.plugins.module_utils._core import files
from ansible_collections.vmops.lifecycle.plugins.module_utils._core.errors import (
    LifecycleError,
    TimedOut,
    secondary_errors,
    storage_failed,
)
from ansible_collections.vmops.lifecycle.plugins.module_utils._core.signals import Stopped
from ansible_collections.vmops.lifecycle.plugins.module_utils._core.wait import Deadline
from tests.unit.children import NOBODY, as_nobody

MIB = 1 << 20


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/images/a.qcow2", "/images/.a.qcow2.vmops-new"),
        ("a.qcow2", ".a.qcow2.vmops-new"),
        ("/images/-rf", "/images/.-rf.vmops-new"),
        ("/images/.hidden", "/images/..hidden.vmops-new"),
    ],
)
def test_the_name_beside_is_hidden_in_the_same_directory(path, expected):
    assert files.beside(path, "new") == expected


@pytest.mark.parametrize("name", ["x" * 255, "ü" * 127, "x" * 244])
def test_a_name_too_long_for_an_addition_gets_one_that_fits(tmp_path, name):
    own = files.beside(str(tmp_path / name), "new")
    with open(own, "w"):
        pass
    other = files.beside(str(tmp_path / (name[:-1] + "y")), "new")
    assert own != other
    assert own != files.beside(str(tmp_path / name), "lock")
    assert own == files.beside(str(tmp_path / name), "new"), "the next run must find it"


def test_the_longest_name_that_still_fits_is_kept():
    name = "x" * (255 - len("..vmops-new"))
    assert files.beside("/" + name, "new") == "/.%s.vmops-new" % name


def test_publishing_replaces_the_target_in_one_step(tmp_path):
    new, target = tmp_path / "new", tmp_path / "target"
    new.write_text("new")
    target.write_text("old")
    with target.open() as reader:
        files.publish(str(new), str(target))
        assert reader.read() == "old", "who has the old one open keeps it whole"
    assert target.read_text() == "new"
    assert not new.exists()


def test_publishing_what_is_not_there_leaves_the_target(tmp_path):
    (tmp_path / "target").write_text("old")
    with pytest.raises(FileNotFoundError):
        files.publish(str(tmp_path / "new"), str(tmp_path / "target"))
    assert (tmp_path / "target").read_text() == "old"


def a_file_system_without_links(*_names):
    raise PermissionError(errno.EPERM, "Operation not permitted")


@pytest.fixture(name="link", params=[os.link, a_file_system_without_links], ids=["links", "no links"])
def _link(request, monkeypatch):
    monkeypatch.setattr(os, "link", request.param)


@pytest.mark.usefixtures("link")
def test_a_new_file_gets_its_name_and_has_no_other(tmp_path):
    new, target = tmp_path / "new", tmp_path / "target"
    new.write_text("new")
    files.publish_new(str(new), str(target))
    assert target.read_text() == "new"
    assert target.stat().st_nlink == 1
    assert os.listdir(str(tmp_path)) == ["target"]


@pytest.mark.usefixtures("link")
@pytest.mark.parametrize("other", [Path.touch, Path.mkdir, lambda path: path.symlink_to("nowhere")])
def test_a_new_file_takes_no_place_that_is_taken(tmp_path, other):
    new, target = tmp_path / "new", tmp_path / "target"
    new.write_text("new")
    other(target)
    there = target.lstat()
    with pytest.raises(FileExistsError):
        files.publish_new(str(new), str(target))
    assert target.lstat() == there
    assert new.read_text() == "new"


def test_removing_tells_whether_it_was_there(tmp_path):
    (tmp_path / "file").touch()
    assert files.remove(str(tmp_path / "file")) is True
    assert files.remove(str(tmp_path / "file")) is False


def test_a_small_file_is_written_whole_for_its_owner_alone_and_nothing_beside(tmp_path):
    path = tmp_path / "record"
    (tmp_path / ".record.vmops-new").write_text("left by a killed run")
    files.write_whole(str(path), b"content")
    assert path.read_bytes() == b"content"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(str(tmp_path)) == ["record"]


def test_a_small_file_that_cannot_be_published_leaves_nothing_beside(tmp_path):
    (tmp_path / "record").mkdir()
    with pytest.raises(IsADirectoryError):
        files.write_whole(str(tmp_path / "record"), b"content")
    assert os.listdir(str(tmp_path)) == ["record"]


def test_a_block_that_ends_well_keeps_its_file(tmp_path):
    path = tmp_path / "file"
    with files.removed_on_failure(str(path)):
        path.touch()
    assert path.exists()


@pytest.mark.parametrize("kind", [LifecycleError, OSError, KeyboardInterrupt])
def test_a_block_that_fails_leaves_no_file_and_the_error_is_the_first_one(tmp_path, kind):
    path = tmp_path / "file"
    with pytest.raises(kind, match="the first"), files.removed_on_failure(str(path)):
        path.touch()
        raise kind("the first")
    assert not path.exists()


def test_a_failing_clean_up_is_attached_to_the_first_error(tmp_path):
    (tmp_path / "file").mkdir()  # unlink refuses a directory
    besides = r"the first Besides, while cleaning up: removing .*/file: "
    with pytest.raises(LifecycleError, match=besides) as caught, files.removed_on_failure(str(tmp_path / "file")):
        raise LifecycleError("the first")
    assert len(caught.value.secondary) == 1


@pytest.mark.parametrize("kind", [ZeroDivisionError, OSError, Stopped])
def test_a_failing_clean_up_goes_along_with_an_error_of_any_kind(tmp_path, kind):
    (tmp_path / "file").mkdir()
    with pytest.raises(kind, match="the first") as caught, files.removed_on_failure(str(tmp_path / "file")):
        raise kind("the first")
    (told,) = secondary_errors(caught.value)
    assert told.startswith("removing %s" % (tmp_path / "file"))


def test_what_a_file_system_refused_takes_over_the_failure_of_the_clean_up(tmp_path):
    (tmp_path / "file").mkdir()
    with pytest.raises(OSError, match="full") as caught, files.removed_on_failure(str(tmp_path / "file")):
        raise OSError(errno.ENOSPC, "full")
    error = storage_failed(caught.value, "Writing")
    assert "Besides, while cleaning up: removing " in str(error)


def test_what_is_done_afterwards_is_done_in_any_case_and_once(tmp_path):
    done = []
    with files.afterwards(lambda: done.append("well"), "it"):
        pass
    with pytest.raises(ZeroDivisionError), files.afterwards(lambda: done.append("badly"), "it"):
        raise ZeroDivisionError
    assert done == ["well", "badly"]


def test_what_fails_afterwards_is_an_error_unless_there_was_one_before(tmp_path):
    def fail():
        raise OSError(errno.EIO, "broken")

    with pytest.raises(OSError, match="broken"), files.afterwards(fail, "it"):
        pass
    besides = "the first Besides, while cleaning up: it: broken"
    with pytest.raises(LifecycleError, match=besides), files.afterwards(fail, "it"):
        raise LifecycleError("the first")


def copy(source, target, deadline=None):
    with source.open("rb") as reading, target.open("wb") as writing:
        files.copy_sparse(reading.fileno(), writing.fileno(), deadline or Deadline(60))


def test_a_copy_keeps_data_holes_and_size(tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    with source.open("wb") as file:
        file.truncate(256 * MIB)
        for place in (0, 100 * MIB + 123, 256 * MIB - 10):
            file.seek(place)
            file.write(b"0123456789")
    copy(source, target)
    assert target.stat().st_size == 256 * MIB
    assert target.stat().st_blocks == source.stat().st_blocks
    with target.open("rb") as file:
        for place in (0, 100 * MIB + 123, 256 * MIB - 10):
            file.seek(place)
            assert file.read(10) == b"0123456789"


@pytest.mark.parametrize("size", [0, 1, 5 * MIB], ids=["empty", "a byte", "more than a block"])
def test_a_copy_of_a_file_that_is_all_hole_or_all_data(tmp_path, size):
    source, target = tmp_path / "source", tmp_path / "target"
    with source.open("wb") as file:
        file.truncate(size)
    copy(source, target)
    assert (target.stat().st_size, target.stat().st_blocks) == (size, 0)
    source.write_bytes(os.urandom(size))
    copy(source, target)
    assert target.read_bytes() == source.read_bytes()


@settings(max_examples=25)
@given(st.lists(st.tuples(st.integers(0, 8 * MIB), st.binary(min_size=1, max_size=9000)), max_size=8), st.data())
def test_any_copy_reads_the_same(tmp_path_factory, writes, data):
    folder = tmp_path_factory.mktemp("copy")
    source, target = folder / "source", folder / "target"
    with source.open("wb") as file:
        for place, content in writes:
            file.seek(place)
            file.write(content)
        file.truncate(data.draw(st.integers(0, 9 * MIB)))
    copy(source, target)
    assert target.read_bytes() == source.read_bytes()


def test_a_copy_bows_to_the_deadline(tmp_path):
    (tmp_path / "source").write_bytes(b"x" * 100)
    with pytest.raises(TimedOut, match="0 of 100 bytes"):
        copy(tmp_path / "source", tmp_path / "target", Deadline(0))


def test_a_clone_is_the_same_or_is_refused_without_a_trace(tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"x" * 8192)
    with source.open("rb") as reading, target.open("wb") as writing:
        cloned = files.clone(reading.fileno(), writing.fileno())
    assert target.read_bytes() == (b"x" * 8192 if cloned else b"")


def test_a_file_takes_over_mode_and_attributes(tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    old.touch(0o600)
    new.touch(0o644)
    old.chmod(0o2751)
    os.setxattr(str(old), "user.vmops.test", b"label")
    files.inherit(str(old), str(new))
    assert stat.S_IMODE(new.stat().st_mode) == 0o2751
    assert os.getxattr(str(new), "user.vmops.test") == b"label"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_file_that_its_owner_may_only_read_is_taken_over_by_him():
    with tempfile.TemporaryDirectory() as folder:
        old, new = Path(folder, "old"), Path(folder, "new")
        for path in (old, new):
            path.touch(0o600)
            os.chown(str(path), NOBODY, NOBODY)
        os.setxattr(str(old), "user.vmops.test", b"label")
        old.chmod(0o400)
        os.chmod(folder, 0o755)
        assert as_nobody(lambda: files.inherit(str(old), str(new))) == "None"
        assert stat.S_IMODE(new.stat().st_mode) == 0o400
        assert os.getxattr(str(new), "user.vmops.test") == b"label"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_file_takes_over_the_owner_and_keeps_special_bits(tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    old.touch()
    new.touch()
    os.chown(str(old), 12, 34)
    old.chmod(0o4755)
    files.inherit(str(old), str(new))
    status = new.stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (12, 34, 0o4755)


def test_syncing_follows_no_link(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    files.sync_file(str(tmp_path / "file"))
    with pytest.raises(OSError, match="symbolic links") as caught:
        files.sync_file(str(tmp_path / "link"))
    assert caught.value.errno == errno.ELOOP
