# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""On which files tasks about the same guest exclude each other."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_guest.identity import Identity
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_guest.model import Guest
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_guest.shutdown import _lockable


def locked(paths: Sequence[str]) -> list[str]:
    """The labels of those that are locked, in their order."""
    with ExitStack() as stack:
        return [label for _descriptor, label in _lockable([Identity(Guest(path)) for path in paths], stack)]


def pidfile(folder: Path, mode: int = 0o600) -> str:
    folder.mkdir(exist_ok=True)
    path = folder / "qemu.pid"
    path.touch()
    path.chmod(mode)
    return str(path)


def test_one_file_by_two_names_is_locked_once(tmp_path):
    path = pidfile(tmp_path / "real")
    (tmp_path / "link").symlink_to("real")
    assert len(locked([path, str(tmp_path / "link" / "qemu.pid"), path.replace("/real/", "//real/")])) == 1


def test_the_order_is_that_of_the_files_whatever_they_are_called(tmp_path):
    """Else two tasks that name them differently would wait for each other."""
    paths = [pidfile(tmp_path / name) for name in ("a", "b")]
    (tmp_path / "z").symlink_to("a")
    there = [os.path.realpath(path) for path in locked(paths)]
    back = [os.path.realpath(path) for path in locked([paths[1], str(tmp_path / "z" / "qemu.pid")])]
    assert there == back
    assert len(there) == 2


@pytest.mark.parametrize("mode", [0o640, 0o604])
def test_what_others_can_read_and_so_could_lock_is_not_waited_for(tmp_path, mode):
    assert locked([pidfile(tmp_path / "a", mode), pidfile(tmp_path / "b")]) == [str(tmp_path / "b" / "qemu.pid")]


def test_what_is_no_file_is_not_opened(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe", 0o600)
    opened = []
    monkeypatch.setattr(os, "open", lambda path, *_: opened.append(path))
    assert locked([str(tmp_path / "pipe"), "/dev/zero", str(tmp_path / "none")]) == []
    assert opened == []
