# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who has an image open: locks and descriptors of real processes, and holding it against them."""

from __future__ import annotations

import os
import subprocess
import tempfile
from contextlib import contextmanager

import pytest

from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_img import usage
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_img.found import Holder
from tests.testbed.faults import open_files, until
from tests.unit.children import NOBODY, as_nobody, running

_OPENS = """
    import fcntl, os, struct, sys
    descriptor = os.open(sys.argv[1], os.O_RDWR if sys.argv[2] == "write" else os.O_RDONLY)
    for offset in sys.argv[3:]:
        lock = struct.pack("hhqqii", fcntl.F_RDLCK, 0, int(offset), 1, 0, 0)
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, lock)
    print("open")
    sys.stdin.readline()
"""
# QEMU's bytes for an image that a machine writes to: it reads, writes and lets nobody else write or resize
WRITER = ("100", "101", "201", "203")


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "disk"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(path), "1M"], check=True)
    return str(path)


def opened(image, *how):
    return running(_OPENS, image, *how)


def test_nobody(image):
    assert usage.holders(image) == ()
    assert usage.writers(image) == ()


def test_who_writes_is_named_with_or_without_locks(image):
    for locks in (WRITER, ()):
        with opened(image, "write", *locks) as process:
            assert process.stdout.readline() == "open\n"
            (holder,) = usage.holders(image)
            assert (holder.pid, holder.writes) == (process.pid, True)
            assert holder.name.startswith("python")
            assert usage.writers(image) == (holder,)
    assert usage.holders(image) == ()


def test_a_mere_reader_is_no_user(image):
    with opened(image, "read") as process:
        assert process.stdout.readline() == "open\n"
        assert usage.holders(image) == ()


def test_a_reader_that_takes_qemu_s_locks_is_a_user_that_does_not_write(image):
    with opened(image, "read", "100", "203") as process:
        assert process.stdout.readline() == "open\n"
        (holder,) = usage.holders(image)
        assert (holder.pid, holder.writes) == (process.pid, False)
        assert usage.writers(image) == ()


@contextmanager
def looking(image, *words):
    """A real qemu-img that reads as long as nobody reads what it writes."""
    raw = image + ".raw"
    with open(raw, "wb") as file:
        for at in range(0, 32 << 20, 8192):
            os.pwrite(file.fileno(), b"data", at)
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", "-o", "cluster_size=4k", "-f", "raw", raw, image], check=True)
    process = subprocess.Popen(
        ["qemu-img", "map", *words, "-f", "qcow2", "--output=json", image], stdout=subprocess.PIPE
    )
    try:
        until(lambda: image in open_files(process.pid), "qemu-img to open the image")
        yield process
        assert process.poll() is None, "its answer was too short to hold it"
    finally:
        process.kill()
        process.communicate()


def test_a_look_in_passing_is_no_use(image):
    with looking(image, "-U"):
        assert usage.holders(image) == ()
        assert usage.newcomers(image) == ()
        with usage.hold(image) as alone:
            assert alone


def test_a_tool_that_wants_nobody_to_write_is_a_user_but_no_reason_not_to_replace_the_image(image):
    with looking(image) as process:
        until(lambda: usage.holders(image), "its locks")
        assert usage.holders(image) == (Holder(process.pid, "qemu-img", False),)
        with usage.hold(image) as alone:
            assert not alone
        assert usage.newcomers(image) == ()


def test_one_s_own_descriptors_do_not_count(image):
    descriptor = os.open(image, os.O_RDWR)
    try:
        assert usage.holders(image) == ()
    finally:
        os.close(descriptor)


def test_another_name_of_the_same_file_is_the_same_image(image, tmp_path):
    os.link(image, str(tmp_path / "other"))
    with opened(str(tmp_path / "other"), "write", *WRITER) as process:
        assert process.stdout.readline() == "open\n"
        assert [holder.pid for holder in usage.holders(image)] == [process.pid]


def test_without_proc_the_locks_still_tell_that_somebody_is_there(image, monkeypatch):
    monkeypatch.setenv("VMOPS_HIDE_CAPABILITIES", "proc")
    with opened(image, "write", *WRITER) as process:
        assert process.stdout.readline() == "open\n"
        assert usage.holders(image) == (Holder(0, "a process that this user can't see", True),)
    with opened(image, "read", "100", "203") as process:
        assert process.stdout.readline() == "open\n"
        assert usage.holders(image) == (Holder(0, "a process that this user can't see", False),)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_writer_that_cannot_be_seen_is_not_taken_for_a_reader_that_can():
    """A machine of another user shows by its locks alone, while one's own backup is seen in /proc."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        image = os.path.join(folder, "disk")
        with open(image, "wb") as file:
            file.truncate(1 << 20)
        with open(image, "rb") as file, opened(image, "write", *WRITER) as machine:
            assert machine.stdout.readline() == "open\n"
            backup = subprocess.Popen(["sleep", "60"], stdin=file, user=NOBODY, group=NOBODY, extra_groups=[])
            try:
                status = os.fstat(file.fileno())
                seen = as_nobody(lambda: usage._processes(status.st_dev, status.st_ino))
                answer = as_nobody(lambda: usage.writers(image))
            finally:
                backup.kill()
                backup.wait()
    assert seen == repr([Holder(backup.pid, "sleep", False)])
    assert answer == repr((Holder(0, "a process that this user can't see", True),))


def test_without_locks_the_descriptors_still_tell(image, monkeypatch):
    monkeypatch.setenv("VMOPS_HIDE_CAPABILITIES", "ofd_locks")
    with opened(image, "write", *WRITER) as process:
        assert process.stdout.readline() == "open\n"
        assert [holder.pid for holder in usage.holders(image)] == [process.pid]


def write(image):
    return subprocess.run(
        ["qemu-io", "-f", "qcow2", "-c", "write 0 512", image], capture_output=True, text=True, check=False
    )


def test_while_it_is_held_no_qemu_can_start_to_write(image):
    with usage.hold(image) as alone:
        assert alone
        assert 'Failed to get "write" lock' in write(image).stderr
    assert write(image).stderr == ""


def test_while_it_is_held_readers_go_on(image):
    with usage.hold(image):
        subprocess.run(["qemu-img", "check", "-q", "-f", "qcow2", image], check=True)


@pytest.mark.parametrize("locks", [WRITER, ("100", "101"), ("100", "203")], ids=["a machine", "shared", "qemu-nbd -r"])
def test_who_was_there_before_is_found_while_holding(image, locks):
    with opened(image, "write", *locks) as process:
        assert process.stdout.readline() == "open\n"
        with usage.hold(image) as alone:
            assert not alone


def test_what_is_not_there_can_be_held(tmp_path):
    with usage.hold(str(tmp_path / "nowhere")) as alone:
        assert alone
