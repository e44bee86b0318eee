# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The runner of the stages: what it calls passed, what it prints, and that it leaves nothing running."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.tools import runner
from tests.tools.paths import ROOT
from tests.tools.runner import Command, Stage


@pytest.fixture(autouse=True)
def _own_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "LOGS", tmp_path / "logs")


@pytest.fixture(autouse=True)
def _own_signals():
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def _shell(script: str) -> Command:
    return Command(["sh", "-c", script])


def _junit(stage: Stage, tests: int, failures: int = 0, errors: int = 0, skipped: int = 0) -> Command:
    counts = f"tests='{tests}' failures='{failures}' errors='{errors}' skipped='{skipped}'"
    return _shell(f'echo "<testsuites><testsuite {counts}/></testsuites>" > {stage.report}; exit {int(failures > 0)}')


def test_all_passed_is_zero_and_the_tests_are_added_up(capsys):
    one, two = Stage("one", "one", []), Stage("two", "two", [])
    code = runner.run([one._replace(commands=[_junit(one, 5, skipped=1)]), two._replace(commands=[_junit(two, 3)])])
    assert code == 0
    assert capsys.readouterr().out.splitlines()[-1] == "7 passed, 0 failed, 1 skipped"


def test_failed_tests_are_counted_and_the_log_is_shown(capsys):
    stage = Stage("one", "one", [])
    code = runner.run([stage._replace(commands=[_shell("echo the reason"), _junit(stage, 5, failures=2)])])
    out = capsys.readouterr().out
    assert code == 1
    assert "      the reason\n" in out
    assert out.splitlines()[-1] == "3 passed, 2 failed"


def test_which_tests_failed_and_why_comes_before_the_log(capsys):
    stage = Stage("one", "one", [])
    report = """<testsuites><testsuite tests="3" failures="1" errors="1"><testcase classname="tests.a" name="test_1"/>
        <testcase classname="tests.a" name="test_2"><failure message="1 == 2&#10; + where">long</failure></testcase>
        <testcase classname="tests.b" name="test_3"><error message="no disk">long</error></testcase>
        </testsuite></testsuites>"""
    runner.run([stage._replace(commands=[_shell(f"echo noise; echo '{report}' > {stage.report}; exit 1")])])
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert lines[1:6] == ["tests.a::test_2", "1 == 2", "+ where", "tests.b::test_3", "no disk"]
    assert lines.index("noise") > 5
    assert "tests.a::test_1" not in lines


@pytest.mark.parametrize(
    ("why", "command"),
    [
        ("it exits with another code", _shell("exit 3")),
        ("it dies of a signal", _shell("kill -9 $$")),
        ("there is no such program", Command(["/nowhere/to/be/found"])),
        ("its folder is missing", Command(["true"], {}, ROOT / "nowhere")),
    ],
)
def test_a_stage_without_tests_that_fails_counts_as_one(why, command, capsys):
    assert runner.run([Stage("one", "one", [command])]) == 1, why
    assert capsys.readouterr().out.splitlines()[-1] == "0 passed, 1 failed"


def test_the_counts_of_an_earlier_run_are_not_taken_for_this_one(capsys):
    stage = Stage("one", "one", [])
    runner.run([stage._replace(commands=[_junit(stage, 5)])])
    assert runner.run([stage._replace(commands=[_shell("exit 1")])]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "0 passed, 1 failed"


def test_every_command_and_every_stage_runs_whatever_failed_before(tmp_path):
    marks = [tmp_path / "same stage", tmp_path / "next stage"]
    first = Stage("one", "one", [_shell("exit 1"), _shell(f"touch '{marks[0]}'")])
    assert runner.run([first, Stage("two", "two", [_shell(f"touch '{marks[1]}'")])]) == 1
    assert all(mark.exists() for mark in marks)


def test_a_stage_is_one_line_with_its_time(capsys):
    assert runner.run([Stage("one", "the first", [_shell("echo noise")]), Stage("two", "two", [_shell("exit 0")])]) == 0
    stages = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("ok", "FAIL"))]
    assert len(stages) == 2
    assert all(re.fullmatch(r"ok    (the first|two      ) +[0-9]+\.[0-9] s", line) for line in stages)


def test_a_stage_may_leave_a_note_for_its_line(capsys):
    assert runner.run([Stage("one", "one", [_shell('echo "12 of 34 points" > "$VMOPS_NOTE_FILE"')])]) == 0
    assert "12 of 34 points" in capsys.readouterr().out.splitlines()[0]


def test_two_stages_run_side_by_side(tmp_path):
    # each waits for the other's mark: one after another they would never end
    def meets(mine: str, other: str) -> Command:
        return _shell(
            f"cd '{tmp_path}'; mkfifo {mine} 2>/dev/null; mkfifo {other} 2>/dev/null; echo > {mine} & cat {other}"
        )

    stages = [Stage(n, n, [meets(n, o)], timeout_s=120) for n, o in (("a", "b"), ("b", "a"))]
    assert runner.run(stages) == 0


def test_a_stage_that_hangs_is_ended_with_its_children(tmp_path, capsys):
    pid_file = tmp_path / "pid"
    stage = Stage("one", "one", [_shell(f"sleep 600 & echo $! > '{pid_file}'; wait")], timeout_s=5)
    assert runner.run([stage]) == 1
    assert "took longer than 5 s" in capsys.readouterr().out
    _assert_gone(int(pid_file.read_text()))


@pytest.mark.parametrize("ignored", [False, True], ids=["in front", "in the background of a shell"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_an_interrupt_ends_what_runs_and_starts_nothing_more(number, ignored, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    mark = tmp_path / "second"
    script = f"""
import pathlib
from tests.tools import runner
from tests.tools.runner import Command, Stage
runner.LOGS = pathlib.Path({str(tmp_path)!r})
runner._GRACE_S = 600  # far beyond the test's patience: the stage itself has to heed the interrupt
first, second = Command(["sh", "-c", "sleep 600 & echo $! > {pipe}; wait"]), Command(["touch", {str(mark)!r}])
raise SystemExit(runner.run([Stage("a", "a", [first, second]), Stage("b", "b", [second])], at_once=1))
"""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN if ignored else signal.SIG_DFL)
    try:
        process = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE)
    finally:
        signal.signal(signal.SIGINT, before)
    with process:
        child = int(pipe.read_text())
        process.send_signal(number)
        try:
            assert process.wait(60) == 130
        finally:
            process.kill()
    assert not mark.exists()
    _assert_gone(child)


def test_an_interrupt_that_comes_to_another_thread_is_heeded(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    script = f"""
import pathlib, signal, threading
from tests.tools import runner
from tests.tools.runner import Command, Stage
runner.LOGS = pathlib.Path({str(tmp_path)!r})
def interrupt():
    pathlib.Path({str(pipe)!r}).read_text()
    threading.Event().wait(1)  # until the other thread has come to rest
    signal.pthread_kill(threading.get_ident(), signal.SIGINT)
threading.Thread(target=interrupt).start()
raise SystemExit(runner.run([Stage("a", "a", [Command(["sh", "-c", "echo > {pipe}; exec sleep 100"])])]))
"""
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, timeout=90, check=False).returncode == 130


def _assert_gone(pid: int) -> None:
    """A killed process may still have to be reaped by init."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return
        except FileNotFoundError:
            return
    pytest.fail(f"process {pid} lives on")
