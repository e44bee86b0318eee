# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""That the stages leave out no test, and say which of them are shares."""

from __future__ import annotations

from collections import Counter

from tests import share
from tests.tools import environments, stages
from tests.tools.paths import ROOT


def _files(chosen: list[stages.Stage], name: str) -> Counter[str]:
    """How often each file of the integration tests is in these stages of an environment."""
    words = [word for stage in chosen if stage.name.endswith("-" + name) for word in stage.commands[0].argv]
    return Counter(word for word in words if word.startswith("tests/integration"))


def test_each_file_is_run_once_with_each_core():
    there = Counter(str(path.relative_to(ROOT)) for path in (ROOT / "tests" / "integration").glob("test_*.py"))
    chosen = stages.integration(4)
    assert _files(chosen, "oldest") == there
    assert _files(chosen, environments.newest().name) == there


def test_a_share_is_told_as_one_and_nothing_is_shared_with_the_newest_core():
    for stage in stages.everything():
        of = stage.commands[0].environ.get(share.VARIABLE, "1")
        assert (of != "1") == ("1 of 4" in stage.title)
        assert of == "1" or not stage.name.endswith("-" + environments.newest().name)
    assert not [stage for stage in stages.everything_with_every_core() if "1 of" in stage.title]
