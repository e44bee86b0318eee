# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The record of a start: its file."""

from __future__ import annotations

import os

import pytest

from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_guest.record import (
    Phase,
    Record,
    read_record,
    write_record,
)


def test_a_record_comes_back(tmp_path):
    path = str(tmp_path / "guest.json")
    record = Record(Phase.READY, 7, {"memory": 1, "append": "ü \udcff", "networks": []}, "tcg", ("/q", "-x"))
    write_record(path, record)
    assert read_record(path) == record
    assert os.stat(path).st_mode & 0o777 == 0o600


@pytest.mark.parametrize("content", ["", "{", "[]", '{"version": 2}', '{"version": 1}', "null", "\0"])
def test_what_is_no_record_is_none(tmp_path, content):
    path = tmp_path / "guest.json"
    path.write_text(content)
    assert read_record(str(path)) is None
    assert read_record(str(tmp_path / "none.json")) is None
