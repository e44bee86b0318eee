# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible's documentation markup as Markdown."""

from __future__ import annotations

import pytest

from tests.tools import markup


@pytest.mark.parametrize(
    ("marked", "expected"),
    [
        ("plain", "plain"),
        ("a\n   b", "a b"),
        ("O(size) and V(present)", "`size` and `present`"),
        ("O(vmops.lifecycle.qemu_img#module:size)", "`size`"),
        ("RV(image.format=qcow2)", "`image.format=qcow2`"),
        ("O(checksum=a#b)", "`checksum=a#b`"),
        (r"V(a\)b)", "`a)b`"),
        ("C(a`b)", "``a`b``"),
        ("B(bold), I(slanted)", "**bold**, *slanted*"),
        ("M(vmops.lifecycle.qemu_img)", "[vmops.lifecycle.qemu_img](qemu_img.md)"),
        ("M(ansible.builtin.stat)", "`ansible.builtin.stat`"),
        ("P(ansible.builtin.url#lookup)", "`ansible.builtin.url`"),
        ("L(QEMU, https://www.qemu.org/)", "[QEMU](https://www.qemu.org/)"),
        ("U(https://www.qemu.org/)", "<https://www.qemu.org/>"),
        ("R(a title,anchor)", "a title"),
        ("NATO(x) and FOO(bar)", "NATO(x) and FOO(bar)"),
    ],
)
def test_text(marked, expected):
    assert markup.text(marked) == expected


def test_a_bar_does_not_end_a_cell():
    assert markup.cell("a|b") == r"a\|b"


@pytest.mark.parametrize(("told", "expected"), [(None, []), ("one", ["one"]), (["one", "two"], ["one", "two"])])
def test_sentences(told, expected):
    assert markup.sentences(told) == expected
