# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""ovf_import and its guard, struck at the n-th call that either makes on a socket, for every n.

At each one, in turn: the module is killed, or told to end; its guard is killed, or told to end; both are killed at
once. Always: where one of the two lives on, no lease, no login and no half of a machine is left on the server; a
machine whose lease was completed is there, and stays; the next run leads to what was declared, whatever it finds, and
the one after it changes nothing.

Where both are killed, the lease lives until the server's own time-out, the machine is removed by the next run, and the
login stays until the server ends it: nobody is left who could log out. The next run adds none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.torture.import_strike import TASKS, ImportTask

if TYPE_CHECKING:
    from tests.torture.conftest import Torture


@pytest.mark.parametrize("import_task", TASKS, ids=lambda task: task.name)
def test_struck_at_its_calls(import_task: ImportTask, socket_torture: Torture) -> None:
    socket_torture.assert_promises_hold(import_task.name)
