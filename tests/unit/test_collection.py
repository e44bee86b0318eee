# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the collection says of itself, in several files: it must be the same everywhere."""

from __future__ import annotations

import re

from tests.conftest import ROOT


def said(pattern: str, *file: str) -> str:
    """What a file says, by the pattern's group. Managed hosts' Pythons, too, run this: they have no YAML."""
    found = re.search(pattern, ROOT.joinpath(*file).read_text(), re.MULTILINE)
    assert found, "%s says nothing of it" % "/".join(file)
    return found.group(1)


def test_the_newest_release_notes_are_of_this_version():
    version = said(r"^version: (\S+)$", "galaxy.yml")
    assert said(r"^v(\d\S*)$", "CHANGELOG.rst") == version
    assert said(r"^  (\d\S*):$", "changelogs", "changelog.yaml") == version


def test_the_oldest_core_that_is_promised_is_the_oldest_that_is_tested():
    series = said(r"^ansible-core==(\d+\.\d+)\.", "tests", "requirements", "oldest.txt")
    assert said(r"^requires_ansible: '>=(\S+)'$", "meta", "runtime.yml") == series + ".0"
    assert said(r"ansible-core (\S+) or newer", "README.md") == series
