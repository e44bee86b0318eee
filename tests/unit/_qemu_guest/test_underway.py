# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lock of a start: what a look at it in passing may cost."""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ansible_collections.vmops.lifecycle.plugins.module_utils._core.errors import Refused
from ansible_collections.vmops.lifecycle.plugins.module_utils._core.wait import Deadline
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_guest import underway
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_guest.model import Guest
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_guest.places import Places, places


@pytest.fixture(name="here")
def _here(tmp_path: Path) -> Places:
    found = places("web1", str(tmp_path))
    os.mkdir(found.folder)
    return found


@contextmanager
def _locked(here: Places, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Somebody locks the log after it was seen free; yields what lets go of it."""
    monkeypatch.setattr(underway, "settle", lambda *_given: None)
    with open(here.qemu_log, "wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        yield lambda: fcntl.flock(other, fcntl.LOCK_UN)


def test_a_look_in_passing_does_not_stop_a_start(here: Places, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_log_that_cannot_be_opened_stops_no_clean_up(here: Places) -> None:
    os.symlink("elsewhere", here.qemu_log)
    with underway.none_begins(Guest(pidfile=here.pidfile)) as lock:
        assert lock == ""
