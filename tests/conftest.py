# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes the checkout importable as the collection that it is, wherever it lies."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

ROOT = Path(__file__).resolve().parent.parent
COLLECTIONS = ROOT / ".testbed" / "collections"


def link_collection() -> None:
    """`.testbed/collections/ansible_collections/vmops/lifecycle` leads to the checkout."""
    link = COLLECTIONS / "ansible_collections" / "vmops" / "lifecycle"
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.is_symlink():
        try:
            link.symlink_to(ROOT, target_is_directory=True)
        except FileExistsError:
            pass  # another worker was quicker


def pytest_configure() -> None:
    """Being told to end, give back what the tests have started (guests are daemons, and would live on). Modules under
    test are not to inherit that a signal is ignored, as in the background of a script, since they would as well.
    """
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where a share of the tests is wanted, chooses it."""
    from tests import share  # found only now that the path is set

    share.choose(config, items)


link_collection()
for folder in (str(COLLECTIONS), str(ROOT)):
    if folder not in sys.path:
        sys.path.insert(0, folder)
