# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Deadlines and waiting: shares of time, descriptors, and a reader who has gone."""

from __future__ import annotations

import os
import socket

import pytest

from ansible_collections.vmops.lifecycle.plugins.module_utils._core.errors import TimedOut
from ansible_collections.vmops.lifecycle.plugins.module_utils._core.wait import Deadline, poll_until, ready
from tests.unit.children import PATIENCE_S, running


class Clock:
    """Time that passes only when the test says so."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_a_deadline_counts_down_and_never_below_nothing(clock):
    deadline = Deadline(10, clock)
    clock.now += 4
    assert (deadline.elapsed_s(), deadline.remaining_s(), deadline.expired) == (4, 6, False)
    clock.now += 60
    assert (deadline.elapsed_s(), deadline.remaining_s(), deadline.expired) == (64, 0, True)


def test_the_very_end_is_expired(clock):
    deadline = Deadline(10, clock)
    clock.now += 10
    assert deadline.expired


def test_check_tells_what_was_waited_for_and_what_was_last_seen(clock):
    deadline = Deadline(10, clock)
    deadline.check("the guest")
    clock.now += 12.34
    with pytest.raises(TimedOut) as caught:
        deadline.check("the guest", "it is booting.")
    assert str(caught.value) == (
        "Gave up after 12.3 s waiting for the guest. Last seen: it is booting. "
        "Raise the task's timeout if it only needs longer."
    )
    assert caught.value.facts == {"waiting_for": "the guest", "waited_s": 12.34, "last_seen": "it is booting."}


def test_a_share_ends_at_its_own_time_but_never_after_the_whole(clock):
    deadline = Deadline(10, clock)
    short, long = deadline.within(3), deadline.within(30)
    clock.now += 4
    assert (short.expired, long.expired) == (True, False)
    clock.now += 6
    assert long.expired


def test_only_readable_descriptors_are_ready():
    first, second = os.pipe(), os.pipe()
    try:
        os.write(first[1], b"x")
        assert ready([first[0], second[0]], PATIENCE_S) == {first[0]}
    finally:
        for end in (*first, *second):
            os.close(end)


def test_nothing_is_ready_when_the_time_is_over():
    reading, writing = os.pipe()
    try:
        assert ready([reading], 0.01) == set()
    finally:
        os.close(reading)
        os.close(writing)


def test_a_closed_end_is_ready_so_that_its_reader_learns_of_it():
    reading, writing = os.pipe()
    os.close(writing)
    try:
        assert ready([reading], PATIENCE_S) == {reading}
    finally:
        os.close(reading)


def test_a_time_longer_than_poll_can_count():
    reading, writing = os.pipe()
    os.write(writing, b"x")
    try:
        assert ready([reading], 10.0**12) == {reading}
    finally:
        os.close(reading)
        os.close(writing)


_WAITS = """
    import os
    from _core.signals import Stopped
    from _core.wait import ready
    os.write(2, b"waiting\\n")
    try:
        found = ready((), float(os.sys.argv[1]))
        os.write(2, b"nothing came\\n")
    except Stopped as stopped:
        os.write(2, stopped.reason.encode() + b"\\n")
"""


def test_a_pipe_s_reader_that_goes_away_stops_us():
    with running(_WAITS, "60") as process:
        assert process.stderr.readline() == "waiting\n"
        process.stdout.close()
        assert "nobody reads this task's result any more" in process.stderr.readline()


def test_a_socket_s_reader_that_goes_away_stops_us():
    ours, theirs = socket.socketpair()
    with ours, theirs, running(_WAITS, "60", stdout=theirs.fileno()) as process:
        theirs.close()
        assert process.stderr.readline() == "waiting\n"
        ours.close()
        assert "nobody reads this task's result any more" in process.stderr.readline()


def test_a_file_or_a_closed_output_is_no_lost_reader(tmp_path):
    with (tmp_path / "out").open("w") as out, running(_WAITS, "0.01", stdout=out) as process:
        assert process.stderr.readline() == "waiting\n"
        assert process.stderr.readline() == "nothing came\n"
    with running("import os\nos.close(1)\n" + "\n".join(line[4:] for line in _WAITS.splitlines()), "0.01") as process:
        assert process.stderr.readline() == "waiting\n"
        assert process.stderr.readline() == "nothing came\n"


def test_a_condition_that_holds_is_asked_once_even_when_no_time_is_left():
    asked = []

    def check():
        asked.append(1)
        return True

    poll_until(check, Deadline(0), "it")
    assert asked == [1]


def test_a_condition_is_asked_until_it_holds():
    answers = iter([False, False, True])
    poll_until(lambda: next(answers), Deadline(PATIENCE_S), "it", every_s=0.001)
    assert next(answers, "all asked") == "all asked"


def test_a_condition_that_never_holds_ends_with_the_deadline():
    with pytest.raises(TimedOut, match="waiting for the cows"):
        poll_until(lambda: False, Deadline(0.05), "the cows", every_s=0.01)
