# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The options that say where a package is."""

from __future__ import annotations

import os

import pytest

from ansible_collections.vmops.lifecycle.plugins.module_utils._core.errors import BadInput
from ansible_collections.vmops.lifecycle.plugins.module_utils._ovf.declare import (
    SOURCE_SPEC,
    declared_access,
    declared_location,
    secrets,
)
from ansible_collections.vmops.lifecycle.plugins.module_utils._ovf.source import Access

DEFAULTS = {name: spec.get("default") for name, spec in SOURCE_SPEC.items()}


def test_where_a_package_is():
    assert declared_location({"source": " /srv/web.ova "}) == "/srv/web.ova"
    assert declared_location({"source": "~/web.ova"}) == os.path.expanduser("~/web.ova")
    assert declared_location({"source": "https://host/~/web.ova"}) == "https://host/~/web.ova"
    for wrong in ("", " ", "a\0b", "http://host/\r\nX: y", "ftp://host/web.ova"):
        with pytest.raises(BadInput, match=r"^source: "):
            declared_location({"source": wrong})


def test_what_is_not_said_is_as_by_default():
    assert declared_access(DEFAULTS) == Access()
    assert declared_access({**DEFAULTS, "retries": 1, "stall_timeout": 5}) == Access(retries=1, stall_timeout_s=5)


def test_headers_are_texts():
    assert declared_access({**DEFAULTS, "url_headers": {"X-Number": 7}}).headers == {"X-Number": "7"}


@pytest.mark.parametrize(
    ("source", "hidden"),
    [
        ("/srv/a?b=cdefghi.ova", set()),
        ("https://host/web.ova", set()),
        ("https://host/web.ova?v=1", set()),
        ("https://host/web.ova?signature=abc", {"signature=abc"}),
        ("https://anna:p%40ss@host/web.ova", {"p%40ss", "p@ss"}),
        ("https://anna:@host/web.ova", set()),
        ("https://a:b@[/web.ova", set()),
    ],
)
def test_what_of_a_url_is_masked(source, hidden):
    assert secrets({"source": source}) == hidden
