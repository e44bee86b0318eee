# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""ovf_info as its tests run it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.testbed.modules import run_module


def look(source: Path | str, **arguments: Any) -> dict[str, Any]:
    """What the module tells; looking changes nothing, and check mode tells the same."""
    result = run_module("ovf_info", {"source": str(source), **arguments})
    assert not result.failed, result.json
    assert result.changed is False
    checked = run_module("ovf_info", {"source": str(source), **arguments}, check=True)
    assert checked.json["ovf"] == result.json["ovf"]
    return result.json["ovf"]


def refused(source: Path | str, **arguments: Any) -> str:
    """The message of a task that fails."""
    result = run_module("ovf_info", {"source": str(source), **arguments})
    assert result.failed, result.json
    assert result.json["error"]["kind"] in ("bad_input", "source_failed", "storage_failed"), result.json
    return result.msg


def problems(found: dict[str, Any]) -> dict[str, str]:
    """What is wrong, by the file."""
    assert all(problem["instead"] for problem in found["problems"])
    return {problem["where"]: problem["problem"] for problem in found["problems"]}
