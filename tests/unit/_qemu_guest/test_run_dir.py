# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where guests run, and what is refused there."""

from __future__ import annotations

import os

import pytest

from ansible_collections.vmops.lifecycle.plugins.module_utils._core.errors import Refused
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_guest import run_dir
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_guest.run_dir import (
    default_base,
    places,
    prepare_base,
    prepare_folder,
)
from tests.unit._qemu_guest.test_process import LOCKS
from tests.unit.children import running


def test_a_guests_directory_is_made_private(tmp_path):
    prepare_folder(str(tmp_path / "g"))
    assert (tmp_path / "g").stat().st_mode & 0o777 == 0o700
    prepare_folder(str(tmp_path / "g"))


@pytest.mark.parametrize("kind", ["open", "link", "file"])
def test_a_guests_directory_that_is_not_private_is_refused(tmp_path, kind):
    folder = tmp_path / "g"
    if kind == "open":
        folder.mkdir()
        folder.chmod(0o750)
    elif kind == "link":
        (tmp_path / "real").mkdir(mode=0o700)
        folder.symlink_to(tmp_path / "real")
    else:
        folder.write_text("")
    with pytest.raises(Refused):
        prepare_folder(str(folder))


def test_a_base_that_anybody_may_change_is_refused(tmp_path):
    base = tmp_path / "base"
    base.mkdir()
    base.chmod(0o777)
    with pytest.raises(Refused):
        prepare_base(str(base))
    base.chmod(0o1777)  # as /tmp: only an owner may replace what is theirs
    prepare_base(str(base))
    with pytest.raises(Refused):
        prepare_base(__file__)


def test_the_default_base(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "geteuid", lambda: 4321)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert default_base() == str(tmp_path / "vmops")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "none"))
    assert default_base() == "/tmp/vmops-4321"
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert default_base() == "/run/vmops"


def test_a_guest_that_another_session_started_is_found_where_it_runs(monkeypatch, tmp_path):
    """Else a diskless one would be started a second time."""
    here, there = tmp_path / "here", tmp_path / "there"
    monkeypatch.setattr(run_dir, "default_bases", lambda: (str(here), str(there)))
    pidfile = there / "g" / "qemu.pid"
    pidfile.parent.mkdir(parents=True)
    pidfile.touch()
    assert places("g", None).base == str(here)
    with running(LOCKS, str(pidfile)) as guest:
        guest.stdout.readline()
        assert places("g", None).base == str(there)
        assert places("h", None).base == str(here)
        assert places("g", str(here)).base == str(here)
    assert places("g", None).base == str(here)
