# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A fault at the n-th state-changing system call of qemu_img and its children, for every n.

The calls of the module and of its children below the scenario's folder are counted together. At each one, in turn: the
whole tree is killed; the module alone is killed; the call answers ENOSPC or EIO, once or from then on. Always: no
image is torn, no child lives on, a failure is clean and names its cause, a success is true, the next run mends and
sweeps everything, and the one after it changes nothing and touches nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.torture.scenarios import SCENARIOS, Scenario

if TYPE_CHECKING:
    from tests.torture.conftest import Torture


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_struck_at_its_calls(scenario: Scenario, torture: Torture) -> None:
    torture.assert_promises_hold(scenario.name)
