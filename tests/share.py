# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A share of the tests, for where all of them have been run with another core already.

A module's own code is the same with every core. What a core has a part in bears the mark every_core.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

VARIABLE = "VMOPS_SHARE"
"""Of all tests without the mark, every so-many-th is run; all of them where it isn't set."""


def choose(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out of the collected tests those that are not in the share; pytest counts them as deselected."""
    one_of = int(os.environ.get(VARIABLE, "1"))
    others = [item for item in items if item.get_closest_marker("every_core") is None]
    left_out = [item for number, item in enumerate(others) if number % one_of]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        gone = set(left_out)
        items[:] = [item for item in items if item not in gone]
