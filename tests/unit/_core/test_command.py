# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Starting programs: what they get, what is made of their end, and that nothing of them is left afterwards."""

from __future__ import annotations

import os
import resource
import signal

import pytest

from ansible_collections.vmops.lifecycle.plugins.module_utils._core import command
from ansible_collections.vmops.lifecycle.plugins.module_utils._core.command import find_tool, run
from ansible_collections.vmops.lifecycle.plugins.module_utils._core.errors import CommandFailed, TimedOut, ToolMissing
from ansible_collections.vmops.lifecycle.plugins.module_utils._core.wait import Deadline
from tests.unit.children import PATIENCE_S, Watched, running


def sh(script, **options):
    options.setdefault("deadline", Deadline(PATIENCE_S))
    return run(["sh", "-c", script], "a test", **options)


class Pids:
    """Takes the process ids that a program prints, one a line, while it runs."""

    def __init__(self):
        self.watched = []
        self._line = b""

    def __call__(self, piece):
        *lines, self._line = (self._line + piece).split(b"\n")
        self.watched += [Watched(int(line)) for line in lines]

    def are_two_with(self, piece):
        """Take one more piece of output; whether two processes are known with it."""
        self(piece)
        return len(self.watched) == 2


class Clock:
    """Time that passes only when the test says so, and then all of it."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def run_out(self):
        self.now += 2 * PATIENCE_S


@pytest.fixture
def pids():
    found = Pids()
    yield found
    for process in found.watched:
        process.close()


@pytest.fixture
def clock():
    return Clock()


def test_both_outputs_the_exit_code_and_the_command_line_come_back():
    done = sh("echo out; echo err >&2; exit 3", ok=(0, 3))
    assert (done.rc, done.stdout, done.stderr) == (3, "out\n", "err\n")
    assert done.argv == ("sh", "-c", "echo out; echo err >&2; exit 3")
    assert 0 < done.elapsed_s < PATIENCE_S


def test_no_exit_code_is_wrong_where_all_are_answers():
    assert sh("exit 77", ok=()).rc == 77


@pytest.mark.parametrize(
    ("script", "rc", "message"),
    [
        ("echo broken >&2; exit 4", 4, "A test failed: sh exited with 4: broken"),
        ("exit 1", 1, "A test failed: sh exited with 1: it said nothing"),
        ("kill -9 $$", -9, "A test failed: sh was killed by signal 9: it said nothing"),
    ],
)
def test_another_exit_code_is_an_error_that_tells_it(script, rc, message):
    with pytest.raises(CommandFailed) as caught:
        sh(script)
    assert str(caught.value) == message
    assert caught.value.facts["rc"] == rc
    assert caught.value.facts["argv"] == ["sh", "-c", script]


def test_locale_environment_and_input_are_ours_not_the_callers(monkeypatch):
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    monkeypatch.setenv("KEPT", "yes")
    done = sh("echo $LC_ALL $KEPT $ADDED; cat", env={"ADDED": "too"})
    assert done.stdout == "C yes too\n"


def test_descriptors_are_lent_only_on_request():
    reading, writing = os.pipe()
    try:
        assert sh("echo through >/proc/self/fd/%d" % writing, pass_fds=[writing]).rc == 0
        assert os.read(reading, 100) == b"through\n"
        with pytest.raises(CommandFailed):
            sh("echo through >/proc/self/fd/%d" % writing)
    finally:
        os.close(reading)
        os.close(writing)


def test_limits_bind_the_child_alone():
    before = resource.getrlimit(resource.RLIMIT_CPU)
    assert sh("ulimit -t", limits={resource.RLIMIT_CPU: 7}).stdout == "7\n"
    assert resource.getrlimit(resource.RLIMIT_CPU) == before


def test_what_is_no_utf_8_is_replaced():
    assert sh(r"printf 'a\377b'").stdout == "a\ufffdb"


def test_output_comes_piece_by_piece_and_is_not_kept_too():
    pieces = []
    done = sh("echo one; echo two >&2; echo three", on_output=pieces.append)
    assert b"".join(pieces) == b"one\nthree\n"
    assert (done.stdout, done.stderr) == ("", "two\n")


def test_endless_output_is_cut_not_kept(monkeypatch):
    monkeypatch.setattr(command, "OUTPUT_LIMIT_BYTES", 1000)
    done = sh("head -c 3000000 /dev/zero")
    assert 1000 <= len(done.stdout) <= 1000 + 65536


def test_the_deadline_ends_the_program_and_its_children(pids, clock):
    def take(piece):
        if pids.are_two_with(piece):
            clock.run_out()

    with pytest.raises(TimedOut) as caught:
        sh(
            "echo last words >&2; echo $$; sleep 1000 & echo $!; wait",
            deadline=Deadline(PATIENCE_S, clock),
            on_output=take,
        )
    assert [process.ended() for process in pids.watched] == [True, True]
    assert "a test" in str(caught.value)
    assert "Last seen: last words." in str(caught.value)


def test_a_program_that_closed_its_outputs_is_still_bound_by_the_deadline(pids, clock, monkeypatch):
    has_ended = command._has_ended

    def ask(process):
        clock.run_out()
        return has_ended(process)

    monkeypatch.setattr(command, "_has_ended", ask)
    with pytest.raises(TimedOut):
        sh("echo $$; exec sleep 1000 >&- 2>&-", deadline=Deadline(PATIENCE_S, clock), on_output=pids)
    assert pids.watched[0].ended()


def test_a_grandchild_that_keeps_the_output_open_is_bound_by_the_deadline(pids, clock):
    def take(piece):
        if pids.are_two_with(piece):
            assert pids.watched[0].ended()
            clock.run_out()

    with pytest.raises(TimedOut):
        sh("echo $$; sleep 1000 & echo $!", deadline=Deadline(PATIENCE_S, clock), on_output=take)
    assert pids.watched[1].ended()


def test_a_grandchild_does_not_outlive_a_program_that_ended_well(pids):
    assert sh("sleep 1000 >/dev/null 2>&1 & echo $!", on_output=pids).rc == 0
    assert pids.watched[0].ended()


def test_nothing_is_left_unreaped():
    sh("sleep 1000 >/dev/null 2>&1 & true")
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_our_own_fault_while_it_runs_ends_it(pids):
    def stumble(piece):
        pids(piece)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        sh("echo $$; exec sleep 1000", on_output=stumble)
    assert pids.watched[0].ended()


def test_an_expired_deadline_starts_nothing(tmp_path):
    with pytest.raises(TimedOut):
        run(["touch", str(tmp_path / "touched")], "a test", Deadline(0))
    assert not (tmp_path / "touched").exists()


def test_a_deadline_beyond_what_poll_can_count():
    assert sh("echo fine", deadline=Deadline(10**9)).stdout == "fine\n"


def test_a_program_that_is_not_there_is_named():
    with pytest.raises(OSError, match="no-such-program") as caught:
        run(["/no-such-program"], "a test", Deadline(PATIENCE_S))
    assert caught.value.filename == "/no-such-program"


def test_limits_that_cannot_be_set_are_told():
    from ansible_collections.vmops.lifecycle.plugins.module_utils._core.errors import LifecycleError

    with pytest.raises(LifecycleError, match=r"Could not start sh: .* limits"):
        sh("true", limits={9999: 1})  # no such limit


def test_tools_are_found_on_the_path_first_then_in_the_usual_places(tmp_path, monkeypatch):
    tool = tmp_path / "sh"
    tool.write_text("#!/bin/sh\n")
    monkeypatch.setenv("PATH", "%s:/usr/bin" % tmp_path)
    assert find_tool("sh", "dash") != str(tool), "it can't be executed"
    tool.chmod(0o755)
    assert find_tool("sh", "dash") == str(tool)


def test_a_directory_is_no_tool(tmp_path, monkeypatch):
    (tmp_path / "qemu-img").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(command, "SBIN", ())
    with pytest.raises(ToolMissing):
        find_tool("qemu-img", "qemu-utils")


def test_a_missing_tool_names_its_package_and_where_it_was_looked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolMissing) as caught:
        find_tool("no-such-tool", "no-such-package")
    message = str(caught.value)
    assert "no-such-tool was not found" in message
    assert "Install the package that holds it (no-such-package)" in message
    assert str(tmp_path) in message
    assert "/usr/sbin" in message


_RUNS = """
    import os, sys
    from _core.command import run
    from _core.signals import Stopped, stoppable
    from _core.wait import Deadline
    def tell(piece):
        os.write(2, piece)
    try:
        with stoppable():
            run(["sh", "-c", "echo $$; sleep 1000 & echo $!; wait"], "a test", Deadline(60), on_output=tell)
    except Stopped as stopped:
        os.write(2, ("stopped by %s\\n" % stopped.reason).encode())
"""


@pytest.fixture
def run_under_way():
    """A process within `run`, and the two processes that it runs."""
    with running(_RUNS) as process:
        children = [Watched(int(process.stderr.readline())) for _each in range(2)]
        yield process, children
        for child in children:
            child.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_stop_signal_ends_the_program_and_its_children(run_under_way, number):
    process, children = run_under_way
    process.send_signal(number)
    assert process.stderr.readline() == "stopped by %s\n" % signal.Signals(number).name
    assert all(child.ended() for child in children)
    assert process.wait(PATIENCE_S) == 0


def test_a_reader_that_goes_away_ends_the_program_and_its_children(run_under_way):
    process, children = run_under_way
    process.stdout.close()
    assert "nobody reads this task's result" in process.stderr.readline()
    assert all(child.ended() for child in children)


def test_the_program_dies_with_us_when_we_are_killed(run_under_way):
    process, (child, _grandchild) = run_under_way
    process.kill()
    assert child.ended()


def test_without_the_parent_death_signal_programs_run_all_the_same(monkeypatch):
    monkeypatch.setenv("VMOPS_HIDE_CAPABILITIES", "parent_death_signal")
    assert sh("echo fine").stdout == "fine\n"
