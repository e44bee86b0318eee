# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What this system offers, and what is said where it doesn't."""

from __future__ import annotations

import sys

import pytest

from ansible_collections.vmops.lifecycle.plugins.module_utils._core.capabilities import (
    Capability,
    has,
    missing_protections,
)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the others lack some of them")
@pytest.mark.parametrize("capability", Capability)
def test_linux_has_them_all(capability):
    assert has(capability)


@pytest.mark.parametrize("capability", Capability)
def test_each_can_be_hidden_by_its_name_alone_or_among_others(capability, monkeypatch):
    monkeypatch.setenv("VMOPS_HIDE_CAPABILITIES", capability.value)
    assert [other for other in Capability if not has(other)] == [capability]
    monkeypatch.setenv("VMOPS_HIDE_CAPABILITIES", "x,%s,y" % capability.value)
    assert not has(capability)


def test_each_missing_one_that_is_needed_is_warned_of_once(monkeypatch):
    assert missing_protections(Capability) == []
    monkeypatch.setenv("VMOPS_HIDE_CAPABILITIES", "proc,pidfd")
    (warning,) = missing_protections([Capability.OFD_LOCKS, Capability.PROC])
    assert "/proc is missing" in warning
    assert sys.platform in warning
