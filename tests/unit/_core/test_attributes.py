# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is told of owner, group and mode before any work is done."""

from __future__ import annotations

import os
import tempfile
from types import SimpleNamespace

import pytest

from ansible_collections.vmops.lifecycle.plugins.module_utils._core.attributes import FileAttributes
from ansible_collections.vmops.lifecycle.plugins.module_utils._core.errors import BadInput
from tests.unit.children import NOBODY, as_nobody


def check(path="/nowhere/disk", check_mode=False, **params):
    given = {"state": "present", "path": path, "owner": None, "group": None, "mode": None, **params}
    FileAttributes(SimpleNamespace(params=given, check_mode=check_mode)).check()


GOOD = ["0640", "640", 0o640, "01777", "u=rw,g=r,o=", "u+x", "a-w", "ug=rwX", "=r", "u=g", "go-rwx,u+s", "+t"]
BAD = ["rw", "u=rw;g=r", "0899", "u:rw", "", "u=rw,", "10000", 0o10000, "wheel", True]


@pytest.mark.parametrize("mode", GOOD)
def test_modes_that_there_are(mode):
    check(mode=mode)


@pytest.mark.parametrize("mode", BAD)
def test_modes_that_there_are_not(mode):
    with pytest.raises(BadInput, match=r"^mode: "):
        check(mode=mode)


@pytest.mark.parametrize(("option", "what"), [("owner", "user"), ("group", "group")])
def test_a_name_that_nobody_has(option, what):
    with pytest.raises(BadInput, match="^%s: this host has no %s 'no-such-name'" % (option, what)):
        check(**{option: "no-such-name"})


@pytest.mark.parametrize("option", ["owner", "group"])
def test_in_check_mode_a_name_that_nobody_has_may_come_before_the_file_does(option, tmp_path):
    check(check_mode=True, **{option: "no-such-name"})
    with pytest.raises(BadInput, match="^%s: " % option):
        check(str(tmp_path), check_mode=True, **{option: "no-such-name"})


@pytest.mark.parametrize("option", ["owner", "group"])
def test_a_digit_of_another_kind_is_no_number(option):
    with pytest.raises(BadInput, match="^%s: this host has no " % option):
        check(**{option: "\u00b2"})


def test_what_is_to_go_gets_nothing():
    check(state="absent", owner="no-such-name", group="no-such-name", mode="rw")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_root_may_give_a_file_to_anybody_and_others_to_themselves_alone():
    check(owner="nobody", group="daemon")
    check(owner="0", group="0")
    assert as_nobody(lambda: check(owner=str(NOBODY), group=str(NOBODY))) == "None"
    assert "owner: user 65534 can't give a file to user 0" in as_nobody(lambda: check(owner="root"))
    assert "group: user 65534 isn't in group 0" in as_nobody(lambda: check(group="0"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_what_another_s_file_has_already_is_no_fault():
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        path = os.path.join(folder, "disk")
        open(path, "wb").close()
        assert as_nobody(lambda: check(path, owner="root", group="0")) == "None"
