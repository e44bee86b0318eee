# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is said where pyVmomi is missing, too old, or refuses to run; and how long calls wait."""

from __future__ import annotations

import sys

import pytest

from ansible_collections.vmops.lifecycle.plugins.module_utils._core.errors import ToolMissing
from ansible_collections.vmops.lifecycle.plugins.module_utils._core.wait import Deadline
from ansible_collections.vmops.lifecycle.plugins.module_utils._vsphere.session import Patience, require_pyvmomi


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("raise ImportError('none')", r"pip install 'pyvmomi>=9\.0(,<9\.1)?', for "),
        ("raise Exception('Python 3.99 or newer is required')", "of the one that is there: Python 3.99 or newer"),
        (
            "version_info = (8, 0, 3, 0, 1)",
            r"pyVmomi 9\.0 or newer was not found.* the one that is there is 8\.0\.3\.0\.1",
        ),
        ("", r"pyVmomi 9\.0 or newer was not found.* the one that is there is an older one"),
    ],
)
def test_a_pyvmomi_that_is_of_no_use(tmp_path, monkeypatch, text, told):
    (tmp_path / "pyVmomi.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "pyVmomi", None)  # so that it is afterwards as it was, also if it was not there
    monkeypatch.delitem(sys.modules, "pyVmomi")
    with pytest.raises(ToolMissing, match=told):
        require_pyvmomi()


def test_no_call_waits_beyond_the_deadline_save_for_a_moment():
    now = [0.0]
    patience = Patience(10.0)
    assert patience.wait_s == 10.0
    patience.until(Deadline(15.0, lambda: now[0]))
    assert patience.wait_s == 10.0
    now[0] = 12.0
    assert patience.wait_s == 3.0
    now[0] = 20.0
    assert patience.wait_s == 1.0
    patience.until(Deadline(60.0, lambda: now[0]), 4.0)
    assert patience.wait_s == 4.0
    patience.until(Deadline(60.0, lambda: now[0]))
    assert patience.wait_s == 4.0
