# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Guests that end with the test that started them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.testbed.boot_guest import BootGuest
from tests.testbed.start_bench import Bench


@pytest.fixture(name="in_memory")
def _in_memory() -> Iterator[Path]:
    """A directory without a disk, for what would keep one busy for long: a disk that is told of every freed extent
    needs minutes to remove a file of many.
    """
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


@pytest.fixture(name="boot")
def _boot(tmp_path: Path) -> Iterator[Callable[..., BootGuest]]:
    """Starts boot-sector guests, each in a directory of its name; `make` is another kind of them."""
    guests: list[BootGuest] = []

    def start(name: str = "web1", make: Callable[..., BootGuest] = BootGuest, **options: Any) -> BootGuest:
        guests.append(make(tmp_path / name, **options))
        return guests[-1]

    yield start
    for guest in guests:
        guest.end()


@pytest.fixture(name="bench")
def _bench(tmp_path: Path) -> Iterator[Bench]:
    """A place in which qemu_guest_start starts guests."""
    bench = Bench(tmp_path)
    yield bench
    bench.end()
