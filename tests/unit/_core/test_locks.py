# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Mutual exclusion between real processes, and the view of others' record locks."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import tempfile

import pytest

from ansible_collections.vmops.lifecycle.plugins.module_utils._core import locks
from ansible_collections.vmops.lifecycle.plugins.module_utils._core.errors import LifecycleError, TimedOut
from ansible_collections.vmops.lifecycle.plugins.module_utils._core.wait import Deadline
from tests.unit.children import PATIENCE_S, as_nobody, environment, running, start

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


def test_it_tells_whether_a_killed_holder_s_file_was_taken_over(lock):
    with locks.exclusive(lock, Deadline(PATIENCE_S), "the lock") as took_over:
        assert not took_over
    open(lock, "wb").close()
    with locks.exclusive(lock, Deadline(PATIENCE_S), "the lock") as took_over:
        assert took_over


def share(lock):
    """As one who only looks does for a moment."""
    descriptor = os.open(lock, os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    return descriptor


def test_one_s_look_does_not_make_a_stale_lock_look_held_to_another(lock):
    open(lock, "wb").close()
    looks = share(lock)
    try:
        assert locks.is_stale(lock)
        assert not locks.is_held(lock)
    finally:
        os.close(looks)


def test_another_s_look_does_not_make_one_s_own_new_file_one_that_was_left(lock, monkeypatch):
    """Where a file can't be held before it has its name."""
    monkeypatch.setattr(locks, "_give_name", lambda _path: None)
    looks = []
    real = locks.try_flock

    def after_a_look(descriptor, shared=False):
        if not looks:
            looks.append(share(lock))
            held = real(descriptor, shared)
            os.close(looks[0])
            return held
        return real(descriptor, shared)

    monkeypatch.setattr(locks, "try_flock", after_a_look)
    with locks.exclusive(lock, Deadline(PATIENCE_S), "the lock") as took_over:
        assert not took_over
    assert looks


def test_a_new_lock_is_held_from_the_moment_in_which_it_is_seen(lock, tmp_path):
    """It gets its name when it is held already: only where files without a name don't exist it is created free."""
    try:
        os.close(os.open(str(tmp_path), os.O_TMPFILE | os.O_RDWR))
    except OSError:
        pytest.skip("this file system has no files without a name")
    script = """
        import os, sys
        created = []
        def audit(event, arguments):
            if event == "open" and arguments[2] & os.O_CREAT:
                created.append(arguments[0])
        sys.addaudithook(audit)
        from _core.locks import exclusive
        from _core.wait import Deadline
        with exclusive(sys.argv[1], Deadline(60), "the lock"):
            print(os.path.exists(sys.argv[1]), created)
    """
    with running(script, lock) as process:
        assert process.stdout.readline() == "True []\n", process.stderr.read()


def test_where_files_without_a_name_do_not_exist_it_works_as_well(lock, monkeypatch):
    monkeypatch.setenv("VMOPS_HIDE_CAPABILITIES", "proc")
    with locks.exclusive(lock, Deadline(PATIENCE_S), "the lock") as took_over:
        assert not took_over
        assert locks.is_held(lock)
    assert not os.path.exists(lock)


@pytest.mark.parametrize("hidden", ["", "proc"], ids=["without a name first", "by its name"])
def test_a_stop_signal_in_the_moment_of_its_coming_leaves_no_file(lock, hidden):
    script = """
        import os, signal, sys
        from _core.locks import exclusive
        from _core.signals import Stopped, stoppable
        from _core.wait import Deadline
        def stopped_after(call):
            def both(*arguments, **named):
                done = call(*arguments, **named)
                if sys.argv[1] in arguments:
                    os.kill(os.getpid(), signal.SIGTERM)
                return done
            return both
        os.open, os.link = stopped_after(os.open), stopped_after(os.link)
        try:
            with stoppable(), exclusive(sys.argv[1], Deadline(60), "the lock"):
                print("held")
        except Stopped:
            print(os.path.exists(sys.argv[1]))
    """
    with running(script, lock, env=environment(VMOPS_HIDE_CAPABILITIES=hidden)) as process:
        out, err = process.communicate(timeout=PATIENCE_S)
    assert out == "False\n", err


def test_one_that_cannot_be_removed_does_not_hide_what_went_wrong_before(lock, monkeypatch):
    def refuse(path):
        raise PermissionError(errno.EPERM, "immutable")

    monkeypatch.setattr(os, "unlink", refuse)
    taken = locks.exclusive(lock, Deadline(PATIENCE_S), "the lock")
    with pytest.raises(LifecycleError, match=r"the first Besides, while cleaning up: removing .*immutable"), taken:
        raise LifecycleError("the first")


def test_another_s_lock_of_the_same_name_is_left_alone(lock):
    """Whoever removes the file by hand lets others in; they lose nothing by it in the end."""
    with locks.exclusive(lock, Deadline(PATIENCE_S), "the lock"):
        os.unlink(lock)
        open(lock, "wb").close()
    assert os.path.exists(lock)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_s_file_cannot_be_looked_at_and_counts_neither_as_stale_nor_as_held():
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        path = os.path.join(folder, ".lock")
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        assert as_nobody(lambda: (locks.is_stale(path), locks.is_held(path))) == "(False, False)"


def test_where_only_a_file_open_for_writing_can_be_held_a_stale_one_is_known(lock, monkeypatch):
    """As on NFS, whose flock is a record lock."""

    def flock(descriptor, operation):
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")

    open(lock, "wb").close()
    monkeypatch.setattr(fcntl, "flock", flock)
    assert locks.is_stale(lock)


def test_a_file_system_without_locks_tells_of_no_stale_one(lock, monkeypatch):
    def flock(descriptor, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    open(lock, "wb").close()
    monkeypatch.setattr(fcntl, "flock", flock)
    assert not locks.is_stale(lock)
    assert not locks.is_held(lock)


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
