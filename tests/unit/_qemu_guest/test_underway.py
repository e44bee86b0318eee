# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lock of a start: what a look at it in passing may cost."""

from __future__ import annotations

import fcntl
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ansible_collections.vmops.lifecycle.plugins.module_utils._core.errors import Refused
from ansible_collections.vmops.lifecycle.plugins.module_utils._core.locks import exclusive
from ansible_collections.vmops.lifecycle.plugins.module_utils._core.wait import Deadline
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_guest import underway
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_guest.model import Guest
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_guest.places import Places
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_guest.run_dir import places
from tests.unit.children import flocked


@pytest.fixture(name="here")
def _here(tmp_path: Path) -> Places:
    found = places("web1", str(tmp_path))
    os.mkdir(found.folder, 0o700)
    return found


@contextmanager
def _locked(here: Places, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Somebody locks the log after it was seen free; yields what lets go of it."""
    monkeypatch.setattr(underway, "settle", lambda *_given: None)
    with open(here.qemu_log, "wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        yield lambda: fcntl.flock(other, fcntl.LOCK_UN)


def test_a_look_in_passing_does_not_stop_a_start(here: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(underway, "GIVE_UP_S", 60.0)
    with _locked(here, monkeypatch) as let_go:
        later = threading.Timer(0.2, let_go)
        later.start()
        descriptor = underway.claim("web1", here, Deadline(60))
        later.join()
    os.close(descriptor)


def test_another_start_does(here: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(underway, "GIVE_UP_S", 0.1)
    with _locked(here, monkeypatch), pytest.raises(Refused, match="it is being started already"):
        underway.claim("web1", here, Deadline(60))


def test_who_cleans_up_locks_the_log_of_a_start(here: Places) -> None:
    guest = Guest(pidfile=here.pidfile)
    with underway.none_begins(guest) as lock:
        assert lock == ""
    with open(here.qemu_log, "wb") as other:
        with underway.none_begins(guest) as lock:
            assert lock == here.qemu_log
            with pytest.raises(BlockingIOError):
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with underway.none_begins(guest) as lock:
            assert lock is None


def test_a_look_in_passing_does_not_stop_who_cleans_up(here: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    try_flock = underway.try_flock
    with open(here.qemu_log, "wb") as other:
        fcntl.flock(other, fcntl.LOCK_SH)

        def try_while_looked_at(descriptor: int) -> bool:
            got = try_flock(descriptor)
            fcntl.flock(other, fcntl.LOCK_UN)
            return got

        monkeypatch.setattr(underway, "try_flock", try_while_looked_at)
        with underway.none_begins(Guest(pidfile=here.pidfile)) as lock:
            assert lock == here.qemu_log


@pytest.mark.parametrize("logged", [False, True], ids=["no log", "log"])
def test_a_start_that_has_no_process_yet_stops_who_cleans_up(here: Places, logged: bool) -> None:
    if logged:
        Path(here.qemu_log).touch()
    guest = Guest(pidfile=here.pidfile)
    with flocked(here.lock), underway.none_begins(guest) as lock:
        assert lock is None
    with underway.none_begins(guest) as lock:
        assert lock == (here.qemu_log if logged else "")


def test_a_start_that_ends_the_guest_that_ran_before_cleans_up_after_it(here: Places) -> None:
    Path(here.qemu_log).touch()
    with exclusive(here.lock, Deadline(60), "nobody"), underway.none_begins(Guest(pidfile=here.pidfile)) as lock:
        assert lock == here.qemu_log


def test_a_start_whose_directory_was_cleaned_up_makes_it_again(here: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(underway, "settle", lambda *_given: None)
    os.rmdir(here.folder)
    os.close(underway.claim("web1", here, Deadline(60)))
    assert os.listdir(here.folder) == ["qemu.log"]


@pytest.mark.parametrize("log", ["none", "link", "file"])
def test_the_task_of_a_start_is_named_before_it_has_a_process(here: Places, log: str) -> None:
    if log == "link":
        os.symlink("elsewhere", here.qemu_log)
    if log == "file":
        Path(here.qemu_log).touch()
    with flocked(here.lock) as other:
        assert underway.by_whom(here) == " by process %d (%s)" % (other.pid, sys.executable)
    assert underway.by_whom(here) == "", "nobody is called nobody"


def test_a_log_that_cannot_be_opened_stops_no_clean_up(here: Places) -> None:
    os.symlink("elsewhere", here.qemu_log)
    with underway.none_begins(Guest(pidfile=here.pidfile)) as lock:
        assert lock == ""
