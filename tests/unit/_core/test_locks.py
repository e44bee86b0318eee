# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Mutual exclusion between real processes, and the view of others' record locks."""

from __future__ import annotations

import os
import struct

import pytest

from ansible_collections.vmops.lifecycle.plugins.module_utils._core import locks
from ansible_collections.vmops.lifecycle.plugins.module_utils._core.errors import TimedOut
from ansible_collections.vmops.lifecycle.plugins.module_utils._core.wait import Deadline
from tests.unit.children import PATIENCE_S, running, start

_HOLDS = """
    import sys
    from _core.locks import exclusive
    from _core.wait import Deadline
    with exclusive(sys.argv[1], Deadline(60), "the lock"):
        print("held")
        sys.stdin.readline()
    print("released")
    sys.stdin.readline()
"""
_RECORD_LOCKS = """
    import fcntl, os, struct, sys
    descriptor = os.open(sys.argv[1], os.O_RDWR)
    for word in sys.argv[2:]:
        kind, start, length = word.split(":")
        command, kind = (fcntl.F_OFD_SETLK if kind.isupper() else fcntl.F_SETLK), kind.upper()
        lock = fcntl.F_WRLCK if kind == "W" else fcntl.F_RDLCK
        fcntl.fcntl(descriptor, command, struct.pack("hhqqii", lock, 0, int(start), int(length), 0, 0))
    print("held")
    sys.stdin.readline()
"""


@pytest.fixture
def lock(tmp_path):
    return str(tmp_path / ".lock")


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "image"
    path.write_bytes(b"\0" * 512)
    descriptor = os.open(str(path), os.O_RDWR)
    yield str(path), descriptor
    os.close(descriptor)


def test_the_file_is_there_only_while_it_is_held(lock):
    with locks.exclusive(lock, Deadline(PATIENCE_S), "the lock"):
        assert os.path.exists(lock)
        assert not locks.is_stale(lock)
    assert not os.path.exists(lock)
    assert not locks.is_stale(lock)


def test_it_is_given_back_after_an_error(lock):
    with pytest.raises(ZeroDivisionError), locks.exclusive(lock, Deadline(PATIENCE_S), "the lock"):
        raise ZeroDivisionError
    assert not os.path.exists(lock)


def test_another_process_waits_until_it_is_free(lock):
    with running(_HOLDS, lock) as first:
        assert first.stdout.readline() == "held\n"
        with running(_HOLDS, lock) as second:
            with pytest.raises(TimedOut, match="for the other"), locks.exclusive(lock, Deadline(0.2), "the other"):
                pytest.fail("two at a time")
            first.stdin.write("\n")
            first.stdin.flush()
            assert first.stdout.readline() == "released\n"
            assert second.stdout.readline() == "held\n"
            assert not locks.is_stale(lock)


def test_a_killed_holder_s_file_is_a_leftover_and_the_next_takes_it_over(lock):
    with running(_HOLDS, lock) as process:
        assert process.stdout.readline() == "held\n"
        process.kill()
        process.wait(PATIENCE_S)
    assert os.path.exists(lock)
    assert locks.is_stale(lock)
    with locks.exclusive(lock, Deadline(PATIENCE_S), "the lock"):
        assert not locks.is_stale(lock)
    assert not os.path.exists(lock)


def test_a_link_in_the_lock_s_place_is_not_followed(lock, tmp_path):
    os.symlink(str(tmp_path / "elsewhere"), lock)
    with pytest.raises(OSError, match="symbolic links"), locks.exclusive(lock, Deadline(PATIENCE_S), "the lock"):
        pytest.fail("followed")
    assert not (tmp_path / "elsewhere").exists()


def test_the_file_s_coming_and_going_lets_no_two_in(lock, tmp_path):
    """Each holder unlinks the file that others wait on: an increment that isn't atomic shows any overlap."""
    counter = tmp_path / "counter"
    counter.write_text("0")
    script = """
        import sys
        from _core.locks import exclusive
        from _core.wait import Deadline
        for _each in range(50):
            with exclusive(sys.argv[1], Deadline(60), "the lock"):
                with open(sys.argv[2]) as file:
                    count = int(file.read())
                with open(sys.argv[2], "w") as file:
                    file.write(str(count + 1))
    """
    processes = [start(script, lock, str(counter)) for _each in range(4)]
    for process in processes:
        _out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
    assert counter.read_text() == "200"
    assert not os.path.exists(lock)


def test_others_record_locks_are_seen_with_kind_place_and_owner(image):
    path, descriptor = image
    with running(_RECORD_LOCKS, path, "R:100:1", "W:201:1", "r:203:1") as process:
        assert process.stdout.readline() == "held\n"
        assert locks.conflicts(descriptor, 100, 299) == [
            locks.Conflict(100, False, -1),
            locks.Conflict(201, True, -1),
            locks.Conflict(203, False, process.pid),
        ]
        assert locks.conflicts(descriptor, 102, 200) == []


def test_a_lock_that_covers_more_than_was_asked_is_reported_once_from_there(image):
    path, descriptor = image
    with running(_RECORD_LOCKS, path, "W:50:200") as process:
        assert process.stdout.readline() == "held\n"
        assert locks.conflicts(descriptor, 100, 299) == [locks.Conflict(100, True, -1)]
    with running(_RECORD_LOCKS, path, "W:150:0") as process:
        assert process.stdout.readline() == "held\n"
        assert locks.conflicts(descriptor, 100, 299) == [locks.Conflict(150, True, -1)]


def test_one_s_own_locks_are_no_conflict(image):
    path, descriptor = image
    locks.share(descriptor, 201, 203)
    assert locks.conflicts(descriptor, 100, 299) == []
    other = os.open(path, os.O_RDWR)
    try:
        found = locks.conflicts(other, 100, 299)
    finally:
        os.close(other)
    assert [conflict.start for conflict in found] == [201, 203], "another open file is another owner"


def test_a_shared_byte_keeps_writers_out_and_a_writer_keeps_it_from_being_shared(image):
    path, descriptor = image
    with running(_RECORD_LOCKS, path, "W:201:1") as process:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(BlockingIOError):
            locks.share(descriptor, 201)
    locks.share(descriptor, 203)
    with running(_RECORD_LOCKS, path, "W:203:1") as process:
        assert "BlockingIOError" in process.stderr.read()


def test_where_such_locks_are_unknown_nothing_is_seen_and_nothing_is_held(image, monkeypatch):
    path, descriptor = image
    monkeypatch.setenv("VMOPS_HIDE_CAPABILITIES", "ofd_locks")
    with running(_RECORD_LOCKS, path, "W:201:1") as process:
        assert process.stdout.readline() == "held\n"
        assert locks.conflicts(descriptor, 100, 299) == []
        locks.share(descriptor, 201)


def test_the_layout_of_struct_flock_has_the_size_that_the_kernel_reads():
    assert struct.calcsize(locks._FLOCK) == 32
