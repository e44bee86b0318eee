# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names of files that packages may use."""

from __future__ import annotations

import posixpath
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.vmops.lifecycle.plugins.module_utils._core.errors import BadInput
from ansible_collections.vmops.lifecycle.plugins.module_utils._ovf.href import check_href


@pytest.mark.parametrize(
    "href",
    [
        "a.vmdk",
        "a b.vmdk",
        "./a.vmdk",
        "disks/a.vmdk",
        "a%20b.vmdk",
        "..a",
        "a..b",
        "Büro.vmdk",
        "a\xa0b.vmdk",
        "100%.vmdk",
        "...",
    ],
)
def test_good_names(href):
    check_href(href, "a.ovf")


@pytest.mark.parametrize(
    ("href", "says"),
    [
        ("", "names no file"),
        (".", "names no file"),
        ("disks/", "names no file"),
        ("..", "leads out"),
        ("../a", "leads out"),
        ("a/../../b", "leads out"),
        ("a/..", "leads out"),
        ("%2e%2e/a", "leads out"),
        ("..%2fa", "leads out"),
        ("/etc/shadow", "is absolute"),
        ("//server/share", "is absolute"),
        ("%2fetc/shadow", "is absolute"),
        ("a\\b", "backslash"),
        ("..\\a", "backslash"),
        ("a%5cb", "backslash"),
        ("C:a", "drive letter"),
        ("c:/a", "drive letter"),
        ("c%3a/a", "drive letter"),
        ("file:///etc/shadow", "scheme"),
        ("ftp://server/a", "scheme"),
        ("a\0b", "control"),
        ("a%00b", "control"),
        ("a\nb", "control"),
        ("a\x7fb", "control"),
        ("http://server/a.vmdk", "Download it, put it beside the descriptor"),
        ("HTTPS://server/a.vmdk", "Download it, put it beside the descriptor"),
    ],
)
def test_bad_names(href, says):
    with pytest.raises(BadInput, match=says) as caught:
        check_href(href, "a.ovf, line 3")
    assert caught.value.facts["option"] == "a.ovf, line 3"


PIECES = st.lists(st.sampled_from([".", "..", "/", "\\", "a", "%2e", "%2F", "%", "C:", " ", "%00"]), max_size=8)


@given(st.text(max_size=20) | PIECES.map("".join))
def test_what_passes_stays_within(href):
    try:
        check_href(href, "a.ovf")
    except BadInput:
        return
    for name in (href, unquote(href)):
        whole = posixpath.normpath(posixpath.join("/package", name))
        assert whole.startswith("/package/")
        assert "\0" not in whole
