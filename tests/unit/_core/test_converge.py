# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Observe, plan, apply, observe again; check mode; and how a module leaves with a result or an error."""

from __future__ import annotations

import errno
import json
import os
import signal
from contextlib import contextmanager
from enum import Enum
from typing import NamedTuple

import pytest
from ansible.module_utils.basic import AnsibleModule

from ansible_collections.vmops.lifecycle.plugins.module_utils._core.attributes import FileAttributes
from ansible_collections.vmops.lifecycle.plugins.module_utils._core.converge import Plan, converge, report, run
from ansible_collections.vmops.lifecycle.plugins.module_utils._core.errors import LifecycleError, Refused
from tests.testbed.module_main import set_arguments


class Shelf:
    """A subject of the tests' own: a file with a number in it, which is to become another."""

    def __init__(self, path, wanted, before_turn=None, during=None):
        self.path = path
        self.wanted = wanted
        self.events = []
        self._before_turn = before_turn
        self._during = during

    def observe(self):
        self.events.append("observe")
        return int(self.path.read_text())

    def plan(self, seen):
        if seen > self.wanted:
            raise Refused("count down", "it goes up only", "Declare %d" % seen)
        return Plan(range(seen, self.wanted), {"number": self.wanted})

    @contextmanager
    def exclusive(self):
        self.events.append("alone")
        if self._before_turn:
            self._before_turn()
        yield
        self.events.append("given back")

    def apply(self, plan):
        self.events.append("apply %s" % list(plan.steps))
        if self._during:
            self._during()
        self.path.write_text(str(self.wanted))

    def view(self, seen):
        return {"number": seen}

    def result(self, seen):
        return {"shelf": {"number": seen, "path": str(self.path)}}

    def extras(self):
        return {"events": self.events}

    def warnings(self):
        return ["it creaks"]


class PutAway(NamedTuple):
    """A step of the one kind."""


class Word(str, Enum):
    """Steps of the other kind."""

    LOOK = "have a look"


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "number"
    file.write_text("1")
    return file


def test_nothing_to_do_is_one_look_without_a_lock(path):
    shelf = Shelf(path, 1)
    outcome = converge(shelf, check_mode=False)
    assert shelf.events == ["observe"]
    assert (outcome.changed, outcome.before, outcome.after) == (False, {"number": 1}, {"number": 1})


def test_a_change_is_looked_at_again_while_alone_and_afterwards(path):
    shelf = Shelf(path, 3)
    outcome = converge(shelf, check_mode=False)
    assert shelf.events == ["observe", "alone", "observe", "apply [1, 2]", "observe", "given back"]
    assert (outcome.changed, outcome.before, outcome.after, outcome.seen) == (True, {"number": 1}, {"number": 3}, 3)


def test_check_mode_predicts_and_touches_nothing(path):
    shelf = Shelf(path, 3)
    outcome = converge(shelf, check_mode=True)
    assert shelf.events == ["observe"]
    assert (outcome.changed, outcome.after, outcome.seen) == (True, {"number": 3}, 1)
    assert path.read_text() == "1"


def test_what_another_task_did_meanwhile_counts(path):
    shelf = Shelf(path, 3, before_turn=lambda: path.write_text("2"))
    outcome = converge(shelf, check_mode=False)
    assert "apply [2]" in shelf.events
    assert outcome.before == {"number": 2}


def test_what_another_task_did_completely_is_not_done_again_and_no_change_of_ours(path):
    shelf = Shelf(path, 3, before_turn=lambda: path.write_text("3"))
    outcome = converge(shelf, check_mode=False)
    assert shelf.events == ["observe", "alone", "observe", "given back"]
    assert outcome.changed is False


def test_what_another_task_made_impossible_is_refused_then(path):
    shelf = Shelf(path, 3, before_turn=lambda: path.write_text("4"))
    with pytest.raises(Refused):
        converge(shelf, check_mode=False)
    assert path.read_text() == "4"


def test_work_that_claims_to_be_done_and_is_not_fails(path):
    class Lazy(Shelf):
        def apply(self, plan):
            path.write_text("2")

        def plan(self, seen):
            return Plan((PutAway(), Word.LOOK) if seen < 3 else (), {"number": 3})

    with pytest.raises(LifecycleError, match="yet it isn't as declared; still to be done: put away, have a look"):
        converge(Lazy(path, 3), check_mode=False)


def test_a_refusal_comes_in_check_mode_too(path):
    with pytest.raises(Refused):
        converge(Shelf(path, 0), check_mode=True)


def module(check=False, **arguments):
    given = dict(arguments, _ansible_check_mode=check, _ansible_remote_tmp="~/.ansible/tmp")
    set_arguments(json.dumps({"ANSIBLE_MODULE_ARGS": given}).encode())
    return AnsibleModule(
        argument_spec={"timeout": {"type": "int", "default": 60}, "path": {"type": "path"}, "state": {"type": "str"}},
        add_file_common_args=True,
        supports_check_mode=True,
    )


@pytest.fixture
def leave(capfd):
    """Run a module to its end; its exit code and its result."""

    def left(function, *arguments):
        with pytest.raises(SystemExit) as ended:
            function(*arguments)
        lines = [line for line in capfd.readouterr().out.splitlines() if line.startswith("{")]
        return ended.value.code, json.loads(lines[-1])

    return left


def warnings(result):
    """Core 2.19 and later hand them over as objects; older ones keep them for the whole process."""
    return {warning if isinstance(warning, str) else warning["event"]["msg"] for warning in result["warnings"]}


def test_a_result_holds_the_thing_the_diff_the_extras_the_time_and_the_warnings(path, leave):
    shelf = Shelf(path, 2)
    code, result = leave(run, module(), lambda deadline: shelf)
    assert code == 0
    assert result["changed"] is True
    assert result["shelf"] == {"number": 2, "path": str(path)}
    assert result["diff"] == {"before": {"number": 1}, "after": {"number": 2}}
    assert result["events"] == shelf.events
    assert 0 <= result["elapsed_s"] < 60
    assert warnings(result) == {"it creaks"}


def test_the_timeout_option_is_the_deadline(path, leave):
    deadlines = []

    def build(deadline):
        deadlines.append(deadline.ends - deadline.started)
        return Shelf(path, 1)

    leave(run, module(timeout=17), build)
    assert deadlines == [pytest.approx(17)]  # the clock is a float, and may be far from 0


def test_an_error_is_a_message_facts_and_what_had_been_done(path, leave):
    def break_off():
        error = Refused("count", "it was dropped", "Pick it up")
        error.attach(OSError(errno.EIO, "Input/output error"), "picking it up")
        raise error

    code, result = leave(run, module(), lambda deadline: Shelf(path, 2, during=break_off))
    assert code == 1
    assert result["failed"] is True
    assert result["msg"] == (
        "Refused to count: it was dropped. Pick it up. Besides, while cleaning up: picking it up: Input/output error"
    )
    assert result["error"]["kind"] == "refused"
    assert result["secondary_errors"] == ["picking it up: Input/output error"]
    assert result["events"][-1] == "apply [1]"
    assert warnings(result) == {"it creaks"}
    assert "elapsed_s" in result


def test_an_error_before_there_is_a_subject(leave):
    def build(deadline):
        raise LifecycleError("Not like that.")

    code, result = leave(run, module(), build)
    assert (code, result["msg"]) == (1, "Not like that.")


def test_a_file_system_s_no_is_told_in_words(path, leave):
    path.unlink()
    code, result = leave(run, module(), lambda deadline: Shelf(path, 2))
    assert code == 1
    assert result["msg"].startswith("Reading or writing failed at %s: No such file or directory." % path)
    assert result["error"]["errno"] == "ENOENT"


def test_a_stop_signal_is_told_in_words_and_the_next_run_goes_on(path, leave):
    shelf = Shelf(path, 2, during=lambda: signal.raise_signal(signal.SIGTERM))
    code, result = leave(run, module(), lambda deadline: shelf)
    assert (code, result["msg"]) == (1, "Stopped by SIGTERM. Run the task again to go on.")
    assert path.read_text() == "1"
    code, result = leave(run, module(), lambda deadline: Shelf(path, 2))
    assert (code, result["changed"]) == (0, True)


def test_drift_that_is_only_reported_shows_in_the_diff_and_is_no_change(path, leave):
    class Reporter(Shelf):
        def plan(self, seen):
            return Plan((), {}, declared={"number": self.wanted})

    code, result = leave(run, module(), lambda deadline: Reporter(path, 5))
    assert (code, result["changed"]) == (0, False)
    assert result["diff"] == {"before": {"number": 1}, "after": {"number": 5}}


def test_an_info_module_only_looks(path, leave):
    shelf = Shelf(path, 5)
    code, result = leave(report, module(), lambda deadline: shelf)
    assert (code, result["changed"], result["shelf"]["number"]) == (0, False, 1)
    assert shelf.events == ["observe"]
    assert "diff" not in result


def test_attributes_alone_are_a_change_and_join_the_diff(path, leave):
    path.chmod(0o644)
    task = module(path=str(path), state="present", mode="0600")
    code, result = leave(run, task, lambda deadline: Shelf(path, 1), FileAttributes(task))
    assert (code, result["changed"]) == (0, True)
    assert result["diff"]["before"]["mode"] == "0644"
    assert result["diff"]["after"] == {"number": 1, "mode": "0600"}
    assert path.stat().st_mode & 0o777 == 0o600
    task = module(path=str(path), state="present", mode="0600")
    assert leave(run, task, lambda deadline: Shelf(path, 1), FileAttributes(task))[1]["changed"] is False


def test_attributes_in_check_mode_are_only_told(path, leave):
    path.chmod(0o644)
    task = module(check=True, path=str(path), state="present", mode="0600")
    assert leave(run, task, lambda deadline: Shelf(path, 1), FileAttributes(task))[1]["changed"] is True
    assert path.stat().st_mode & 0o777 == 0o644


def test_attributes_reach_the_file_behind_a_link(path, leave, tmp_path):
    path.chmod(0o644)
    link = tmp_path / "link"
    link.symlink_to(path)
    for changed in (True, False):
        task = module(path=str(link), state="present", mode="0600")
        assert leave(run, task, lambda deadline: Shelf(path, 1), FileAttributes(task))[1]["changed"] is changed
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.path.islink(str(link))


def test_what_shall_be_absent_has_no_attributes(path, leave, tmp_path):
    task = module(path=str(tmp_path / "gone"), state="absent", mode="0600")
    assert leave(run, task, lambda deadline: Shelf(path, 1), FileAttributes(task))[1]["changed"] is False


@pytest.mark.parametrize(
    ("declared", "becomes"), [("0640", 0o640), (0o640, 0o640), (None, 0o644), ("g+w", 0o664), ("o=", 0o640)], ids=str
)
def test_a_new_file_is_dressed_before_it_is_seen(path, declared, becomes):
    path.chmod(0o600)
    task = module(path="/not/looked/at", state="present", mode=declared)
    FileAttributes(task).dress(str(path), 0o644)
    assert path.stat().st_mode & 0o777 == becomes


def test_a_new_file_is_never_open_to_those_to_whom_its_mode_closes_it(path, monkeypatch):
    path.chmod(0o600)
    modes = []
    real = os.chmod
    monkeypatch.setattr(os, "chmod", lambda path, mode, **other: modes.append(mode) or real(path, mode, **other))
    monkeypatch.setattr(os, "lchmod", os.chmod, raising=False)
    task = module(path="/not/looked/at", state="present", mode="0400")
    FileAttributes(task).dress(str(path), 0o644)
    assert modes == [0o400]
