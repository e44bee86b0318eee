# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Debian's packages: said before they are installed, by sudo where need be, and never where all is there.

apt-get and sudo are scripts here that write down how they were called: the real ones would change the machine.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tools import debian
from tests.tools.debian import Package
from tests.tools.failure import Failure

MISSING = "vmops-no-such-command"


@pytest.fixture(name="programs")
def _programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH of its own, in which programs are put by `_program`."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("env", "sh", "cat"):
        found = next(Path(part) / name for part in os.get_exec_path() if (Path(part) / name).exists())
        (folder / name).symlink_to(found)
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(debian, "_LOG", tmp_path / "logs" / "apt-get.log")
    monkeypatch.setattr(debian, "find_spec", lambda _name: object())  # this Python makes environments
    rows = [Package("machines", "one", MISSING, "does one thing"), Package("tests", "two", MISSING, "tests it")]
    monkeypatch.setattr(debian, "table", lambda: rows)
    return folder


def _program(folder: Path, name: str, script: str) -> None:
    program = folder / name
    program.write_text('#!/bin/sh\necho "%s $*" >> %s/calls\n%s\n' % (name, folder, script))
    program.chmod(0o755)


def _calls(folder: Path) -> list[str]:
    calls = folder / "calls"
    return calls.read_text().splitlines() if calls.exists() else []


@pytest.fixture(name="as_user")
def _as_user(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    return lambda uid: monkeypatch.setattr(os, "geteuid", lambda: uid)


def test_what_is_missing_for_the_use_is_said_and_installed(programs, as_user, capsys):
    as_user(0)
    _program(programs, "apt-get", "exit 0")
    debian.ensure(["machines"])
    assert "installing by apt-get: one (does one thing)\n" in capsys.readouterr().out
    assert _calls(programs)[-1] == "apt-get -q -y install --no-install-recommends one"


def test_a_package_may_have_several_uses(programs, as_user, monkeypatch):
    as_user(0)
    _program(programs, "apt-get", "exit 0")
    monkeypatch.setattr(debian, "table", lambda: [Package("machines,packages", "one", MISSING, "does two things")])
    debian.ensure(["tests"])
    assert _calls(programs) == []
    debian.ensure(["packages"])
    assert _calls(programs)[-1].endswith("one")


def test_nothing_is_said_or_done_where_all_is_there(programs, as_user, capsys):
    as_user(0)
    _program(programs, "apt-get", "exit 0")
    _program(programs, MISSING, "")
    debian.ensure(["machines", "tests"])
    assert capsys.readouterr().out == ""
    assert _calls(programs) == []


def test_an_ordinary_user_installs_by_sudo(programs, as_user):
    as_user(1000)
    _program(programs, "apt-get", "exit 0")
    _program(programs, "sudo", 'exec "$@"')
    debian.ensure(["machines", "tests"])
    calls = [call for call in _calls(programs) if " install " in call]
    assert calls[0].startswith("sudo env DEBIAN_FRONTEND=noninteractive apt-get ")
    assert calls[-1] == "apt-get -q -y install --no-install-recommends one two"


def test_without_sudo_the_user_is_told_what_to_run(programs, as_user):
    as_user(1000)
    _program(programs, "apt-get", "exit 0")
    with pytest.raises(Failure, match=r"not root, and there is no sudo; as root run: apt-get "):
        debian.ensure(["machines"])


def test_without_apt_get_the_user_is_told_what_is_missing(programs, as_user):
    as_user(0)
    with pytest.raises(Failure, match=r"without apt-get .*: one \(does one thing\)"):
        debian.ensure(["machines"])


def test_old_lists_are_read_anew_once(programs, as_user, capsys):
    as_user(0)
    known = programs / "updated"
    _program(programs, "apt-get", 'case "$*" in *update*) echo > %s;; *) test -e %s;; esac' % (known, known))
    debian.ensure(["machines"])
    assert "apt-get update: " in capsys.readouterr().out
    assert [call.split()[3] for call in _calls(programs)][-2:] == ["update", "install"]


def test_a_failed_installation_shows_the_words_of_apt_get(programs, as_user):
    as_user(0)
    _program(programs, "apt-get", 'case "$*" in *install*) echo "E: no room left"; exit 100;; esac')
    with pytest.raises(Failure, match=r"could not install one:\n(?s:.*)E: no room left"):
        debian.ensure(["machines"])


def test_every_package_of_the_committed_list_has_a_use_and_a_reason():
    rows = debian.table()
    assert {use for row in rows for use in row.uses.split(",")} == {"machines", "packages", "tests"}
    assert all(row.command and row.why for row in rows)
