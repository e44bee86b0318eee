# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a word behind make, and the platform of the demo, reach what they name."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping

import pytest

from tests.tools import __main__ as tools
from tests.tools.paths import ROOT


def _command(*words: str, environ: Mapping[str, str] | None = None) -> str:
    """What make would run."""
    told = {**os.environ, "MAKEFLAGS": "", **(environ or {})}
    command = ["make", "--no-print-directory", "--dry-run", *words]  # these tests are run by a make as well
    done = subprocess.run(command, cwd=ROOT, env=told, capture_output=True, text=True, check=True)
    return done.stdout.strip().splitlines()[-1].partition("tests.tools ")[2].strip()


def test_the_platform_of_the_command_line_is_passed_on():
    assert _command("demo") == "demo"
    assert _command("demo", "PLATFORM=vsphere") == "demo PLATFORM=vsphere"
    assert _command("demo", environ={"PLATFORM": "linux/amd64"}) == "demo", "which is another program's"


@pytest.mark.parametrize(
    "arguments", [["demo", "PLATFORM=abacus"], ["lint", "PLATFORM=vsphere"], ["domo"], []], ids=" ".join
)
def test_what_there_is_not_is_told_with_what_there_is(arguments, capsys):
    assert tools.main(arguments) == 2
    assert "demo PLATFORM=vsphere" in capsys.readouterr().err


def test_the_help_tells_of_every_target(capsys):
    assert tools.main(["help", "PLATFORM=qemu"]) == 0
    told = capsys.readouterr().out
    assert all(f"make {name} " in told for name in tools._targets())
