# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Shutting a boot-sector guest down by qemu_guest_shutdown, and what was sent to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .boot_guest import BootGuest, Qmp
from .modules import Result, run_module


def shutdown(guest: BootGuest, check: bool = False, **options: Any) -> Result:
    """Run the module on this guest, within half a minute unless told otherwise."""
    return run_module("qemu_guest_shutdown", {"timeout": 30, **guest.options, **options}, check=check)


def sent(result: Result) -> list[str]:
    """The commands and signals that one guest got, without their arguments."""
    return [attempt["sent"].split()[0] for attempt in result.json["guest"]["attempts"] if attempt["sent"]]


def start_slow_job(qmp_socket: Path, target: Path, bytes_per_s: int = 1024) -> None:
    """Have a guest's disk copied; the job is called copy."""
    with Qmp(qmp_socket) as monitor:
        device = monitor.execute("query-block")[0]["device"]
        monitor.execute(
            "drive-backup",
            device=device,
            target=str(target),
            format="raw",
            sync="full",
            speed=bytes_per_s,
            **{"job-id": "copy"},
        )
