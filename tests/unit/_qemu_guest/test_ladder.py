# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The rules of the ladder: no process, no clock."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_guest.entry import Entry
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_guest.ladder import (
    Event,
    Ladder,
    On,
    fair_end,
    step,
)
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_guest.model import Act, Rung


def begin(*rungs: Rung, timeout_s: float = 100.0, profile: str = "default", **fields: object) -> Ladder:
    return Ladder(Entry(rungs=rungs), profile, "wait", began=0.0, ends=timeout_s, **fields)


def play(ladder: Ladder, *events: tuple[float, On, str]) -> tuple[Ladder, list[list[Act]]]:
    """Feed the events; the acts after each."""
    acts = []
    for now, kind, text in events:
        ladder, done = step(ladder, Event(kind, text), now)
        acts.append(list(done))
    return ladder, acts


def run_out(ladder: Ladder) -> tuple[Ladder, list[tuple[float, Act]]]:
    """Begin, and let time alone pass until it is over."""
    sent = []
    ladder, acts = step(ladder, Event(On.BEGIN), 0.0)
    sent += [(0.0, act) for act in acts]
    while ladder.outcome is None:
        now = ladder.wake_at
        assert now < math.inf, "it would wait for ever"
        ladder, acts = step(ladder, Event(On.TIMER), now)
        sent += [(now, act) for act in acts]
    return ladder, sent


BEGIN = (0.0, On.BEGIN, "")


def test_the_press_is_repeated_at_growing_intervals():
    _ladder, sent = run_out(begin(Rung.ACPI, timeout_s=150.0))
    presses = [now for now, act in sent if act is Act.PRESS]
    assert presses == [0.0, 10.0, 25.0, 47.5, 77.5, 107.5, 137.5]


def test_single_presses_once():
    _ladder, sent = run_out(begin(Rung.ACPI, profile="single"))
    assert [act for _now, act in sent].count(Act.PRESS) == 1


def test_windows_presses_in_pairs():
    _ladder, sent = run_out(begin(Rung.ACPI, profile="windows", timeout_s=20.0))
    assert [now for now, act in sent if act is Act.PRESS] == [0.0, 0.5, 10.5, 11.0]


def test_jitter_moves_the_second_press():
    _ladder, sent = run_out(begin(Rung.ACPI, timeout_s=12.0, jitter=1.1))
    assert [now for now, act in sent if act is Act.PRESS] == [0.0, 11.0]


def test_all_rungs_are_climbed_within_the_time_and_each_gets_its_share():
    ladder, sent = run_out(begin(*Rung))
    at = {act: now for now, act in reversed(sent)}
    assert at[Act.ASK_AGENT] == 0.0
    assert at[Act.PRESS] == pytest.approx(2.0), "an agent that doesn't answer costs its own limit only"
    assert at[Act.QUIT] == pytest.approx(80.0), "10 s for quit, 5 s each for the signals are reserved"
    assert at[Act.TERMINATE] == pytest.approx(90.0)
    assert at[Act.KILL] == pytest.approx(95.0)
    assert ladder.outcome is not None
    assert not ladder.outcome.down
    assert "still alive after SIGKILL" in ladder.outcome.problem


@given(
    timeout_s=st.floats(0.1, 1000),
    rungs=st.sets(st.sampled_from(Rung), min_size=1),
    profile=st.sampled_from(["default", "windows", "single"]),
)
def test_whatever_happens_it_ends_in_time_and_in_order(timeout_s, rungs, profile):
    allowed = tuple(rung for rung in Rung if rung in rungs)
    ladder, sent = run_out(begin(*allowed, timeout_s=timeout_s, profile=profile))
    assert all(now <= timeout_s + 1e-6 for now, _act in sent)
    acts = {
        Rung.AGENT: Act.ASK_AGENT,
        Rung.ACPI: Act.PRESS,
        Rung.QUIT: Act.QUIT,
        Rung.TERMINATE: Act.TERMINATE,
        Rung.KILL: Act.KILL,
    }
    climbed = [act for _now, act in sent if act in acts.values()]
    assert [act for number, act in enumerate(climbed) if number == 0 or climbed[number - 1] is not act] == [
        acts[rung] for rung in allowed
    ]
    assert ladder.outcome is not None
    assert not ladder.outcome.down


def test_a_guest_that_obeys():
    ladder, acts = play(
        begin(Rung.ACPI, Rung.QUIT),
        BEGIN,
        (0.1, On.SHUTDOWN, "guest-shutdown"),
        (0.2, On.MONITOR_LOST, ""),
        (0.3, On.ENDED, ""),
    )
    assert acts == [[Act.PRESS], [], [], []]
    assert ladder.outcome is not None
    assert (ladder.outcome.method, ladder.outcome.graceful, ladder.outcome.reason) == (
        Rung.ACPI,
        True,
        "guest-shutdown",
    )


@pytest.mark.parametrize("reason", ["guest-panic", "guest-reset"])
def test_an_end_of_the_guests_own_doing_that_is_no_shutdown_is_not_graceful(reason):
    ladder, _acts = play(begin(Rung.ACPI, Rung.QUIT), BEGIN, (0.1, On.SHUTDOWN, reason), (0.3, On.ENDED, ""))
    assert ladder.outcome is not None
    assert (ladder.outcome.method, ladder.outcome.graceful, ladder.outcome.reason) == (Rung.ACPI, False, reason)


def test_a_reset_that_leaves_qemu_alive_is_answered_by_quit():
    """-no-reboot together with -no-shutdown."""
    _ladder, acts = play(begin(Rung.ACPI), BEGIN, (0.1, On.SHUTDOWN, "guest-reset"), (0.1, On.STOPPED, ""))
    assert acts[2] == [Act.QUIT]


@pytest.mark.parametrize(("lost", "hint"), [(False, "quit"), (True, "terminate")])
def test_the_hint_leaves_out_what_needs_a_lost_monitor(lost, hint):
    entry = Entry(rungs=(Rung.ACPI,), beyond=(Rung.QUIT, Rung.TERMINATE, Rung.KILL))
    ladder = Ladder(entry, "default", "wait", began=0.0, ends=100.0)
    ladder, _acts = play(ladder, BEGIN, *([(0.1, On.MONITOR_LOST, "")] if lost else []), (100.0, On.TIMER, ""))
    assert ladder.outcome is not None
    assert ladder.outcome.problem.endswith("max_rung: %s" % hint)


def test_shutdown_is_not_exit():
    """The guest is off and QEMU hangs: the rungs below still come, and the guest has shut itself down all the same."""
    ladder, _acts = play(begin(Rung.ACPI, Rung.QUIT, Rung.KILL), BEGIN, (0.1, On.SHUTDOWN, "guest-shutdown"))
    assert ladder.outcome is None
    while ladder.rung is not Rung.KILL:
        ladder, _acts = step(ladder, Event(On.TIMER), ladder.wake_at)
    ladder, _acts = step(ladder, Event(On.ENDED), 99.0)
    assert ladder.outcome is not None
    assert (ladder.outcome.method, ladder.outcome.graceful, ladder.outcome.reason) == (
        Rung.KILL,
        True,
        "guest-shutdown",
    )


def test_a_guest_that_is_killed_is_not_graceful():
    ladder, _acts = play(begin(Rung.ACPI, Rung.KILL), BEGIN, (95.0, On.TIMER, ""), (95.1, On.ENDED, ""))
    assert ladder.outcome is not None
    assert (ladder.outcome.method, ladder.outcome.graceful) == (Rung.KILL, False)


OFF = ((0.1, On.SHUTDOWN, "guest-shutdown"), (0.2, On.MONITOR_LOST, ""))


@pytest.mark.parametrize(
    ("rungs", "until_s"),
    [
        ([Rung.ACPI, Rung.QUIT], 100.0),
        ([Rung.ACPI, Rung.QUIT, Rung.TERMINATE, Rung.KILL], 90.0),
        ([Rung.QUIT, Rung.TERMINATE], 10.2),
    ],
    ids=["nothing below can do more", "the signals keep their share", "quit has its own limit"],
)
def test_a_guest_that_shut_itself_down_has_all_the_time_of_its_rung(rungs, until_s):
    ladder, _acts = play(begin(*rungs), BEGIN, *OFF)
    assert ladder.rung is rungs[0]
    assert ladder.wake_at == pytest.approx(until_s)


def test_a_guest_that_the_agent_shut_down_has_all_the_time_too():
    ladder, acts = play(begin(Rung.AGENT, Rung.ACPI, Rung.QUIT), BEGIN, (0.1, On.AGENT_TOOK_IT, ""), *OFF[:1])
    assert ladder.wake_at == pytest.approx(90.0), "quit keeps its share"
    ladder, acts = play(ladder, (90.0, On.TIMER, ""))
    assert acts == [[Act.QUIT]], "what is off hears no button"
    ladder, _acts = play(begin(Rung.AGENT, Rung.ACPI, Rung.QUIT), BEGIN, (0.1, On.AGENT_TOOK_IT, ""), *OFF)
    assert ladder.wake_at == pytest.approx(100.0)


@pytest.mark.parametrize("rung", [Rung.QUIT, Rung.TERMINATE, Rung.KILL])
def test_the_last_rung_has_all_the_time_that_is_left(rung):
    ladder, _acts = play(begin(rung), BEGIN)
    assert ladder.wake_at == pytest.approx(100.0)


@pytest.mark.parametrize(
    ("events", "words"),
    [
        ([], "it is still alive after acpi, quit;"),
        ([(0.2, On.MONITOR_LOST, "")], "it is still alive after acpi;"),
        (OFF, "it shut down by itself, and its QEMU is still alive after acpi;"),
    ],
)
def test_only_what_was_tried_is_told_to_have_failed(events, words):
    ladder, _acts = play(begin(Rung.ACPI, Rung.QUIT), BEGIN, *events)
    while ladder.outcome is None:
        ladder, _acts = step(ladder, Event(On.TIMER), ladder.wake_at)
    assert ladder.outcome.problem.startswith(words)


def test_no_more_presses_once_the_guest_is_off():
    ladder, _acts = play(begin(Rung.ACPI), BEGIN, (0.1, On.SHUTDOWN, "guest-shutdown"))
    assert ladder.press_at == math.inf


def test_no_shutdown_is_answered_by_quit_even_below_that_rung():
    ladder, acts = play(
        begin(Rung.ACPI),
        BEGIN,
        (0.1, On.SHUTDOWN, "guest-shutdown"),
        (0.1, On.STOPPED, ""),
        (0.2, On.STOPPED, ""),
        (0.3, On.ENDED, ""),
    )
    assert acts[2:] == [[Act.QUIT], [], []]
    assert ladder.outcome is not None
    assert (ladder.outcome.method, ladder.outcome.graceful) == (Rung.ACPI, True)


def test_a_stop_without_shutdown_means_nothing():
    _ladder, acts = play(begin(Rung.ACPI), BEGIN, (0.1, On.STOPPED, ""))
    assert acts[1] == []


def test_a_late_guest_that_goes_while_quit_is_on_its_way_went_by_itself():
    ladder, _acts = play(
        begin(Rung.ACPI, Rung.QUIT), BEGIN, (95.0, On.TIMER, ""), (95.0, On.SHUTDOWN, "guest-shutdown")
    )
    assert ladder.rung is Rung.QUIT
    ladder, _acts = step(ladder, Event(On.ENDED), 95.1)
    assert ladder.outcome is not None
    assert (ladder.outcome.method, ladder.outcome.graceful) == (Rung.ACPI, True)


def test_an_agent_that_takes_it_gets_half_of_the_time_before_acpi():
    ladder, _acts = play(begin(Rung.AGENT, Rung.ACPI, Rung.QUIT), BEGIN, (1.0, On.AGENT_TOOK_IT, ""))
    assert ladder.rung_ends == pytest.approx(1.0 + (99.0 - 10.0) / 2)
    ladder, acts = play(ladder, (ladder.rung_ends, On.TIMER, ""))
    assert acts == [[Act.PRESS]]


@pytest.mark.parametrize("took_it_first", [False, True])
def test_an_agent_that_fails_is_followed_at_once(took_it_first):
    before = [(0.1, On.AGENT_TOOK_IT, "")] if took_it_first else []
    ladder, acts = play(begin(Rung.AGENT, Rung.ACPI), BEGIN, *before, (0.2, On.AGENT_FAILED, ""))
    assert acts[-1] == [Act.PRESS]
    assert not ladder.agent_took_it


def test_a_guest_that_ends_by_the_agent_without_a_monitor_did_so_by_itself():
    ladder, _acts = play(begin(Rung.AGENT, Rung.KILL), BEGIN, (0.1, On.AGENT_TOOK_IT, ""), (3.0, On.ENDED, ""))
    assert ladder.outcome is not None
    assert (ladder.outcome.method, ladder.outcome.graceful) == (Rung.AGENT, True)


def test_a_reboot_is_pressed_again_soon_and_counted():
    ladder, acts = play(begin(Rung.ACPI, profile="single"), BEGIN, (1.0, On.GUEST_RESET, ""), (3.0, On.TIMER, ""))
    assert acts[-1] == [Act.PRESS]
    assert ladder.rebooted == 1


def test_windows_presses_a_pair_after_a_reset_too():
    ladder, acts = play(
        begin(Rung.ACPI, profile="windows"),
        BEGIN,
        (0.1, On.GUEST_RESET, ""),
        (2.1, On.TIMER, ""),
        (2.6, On.TIMER, ""),
    )
    assert acts == [[Act.PRESS], [], [Act.PRESS], [Act.PRESS]]
    assert ladder.press_at == pytest.approx(12.6)


def test_a_reboot_by_the_agent_goes_on_with_the_button():
    ladder, acts = play(
        begin(Rung.AGENT, Rung.ACPI),
        BEGIN,
        (0.1, On.AGENT_TOOK_IT, ""),
        (9.0, On.GUEST_RESET, ""),
        (11.0, On.TIMER, ""),
    )
    assert ladder.rung is Rung.ACPI
    assert acts[-1] == [Act.PRESS]


def test_a_lost_monitor_skips_what_needs_it():
    _ladder, acts = play(
        begin(Rung.ACPI, Rung.QUIT, Rung.TERMINATE), BEGIN, (1.0, On.MONITOR_LOST, ""), (6.0, On.TIMER, "")
    )
    assert acts[-1] == [Act.TERMINATE]


@pytest.mark.parametrize(("act", "following"), [(Act.PRESS, Act.QUIT), (Act.CANCEL_JOBS, None)])
def test_a_refusal_moves_on_where_it_matters(act, following):
    _ladder, acts = play(begin(Rung.ACPI, Rung.QUIT), BEGIN, (0.1, On.REFUSED, act.value))
    assert acts[-1] == ([following] if following else [])


def test_an_end_before_anything_was_sent_is_nobodys_doing():
    ladder, _acts = play(begin(Rung.ACPI, jobs=frozenset({"copy"})), BEGIN, (0.1, On.ENDED, ""))
    assert ladder.outcome is not None
    assert (ladder.outcome.method, ladder.outcome.graceful) == (None, None)


def test_an_end_without_a_reported_shutdown_is_not_graceful():
    ladder, _acts = play(begin(Rung.ACPI, Rung.QUIT), BEGIN, (0.1, On.ENDED, ""))
    assert ladder.outcome is not None
    assert ladder.outcome.graceful is False


def with_job(policy: str) -> Ladder:
    return Ladder(Entry(rungs=(Rung.ACPI,)), "default", policy, began=0.0, ends=100.0, jobs=frozenset({"copy"}))


def test_jobs_are_waited_for():
    _ladder, acts = play(with_job("wait"), BEGIN, (20.0, On.JOB_ENDED, "copy"))
    assert acts == [[], [Act.PRESS]]


def test_jobs_that_do_not_end_fail_the_wait():
    ladder, acts = play(with_job("wait"), BEGIN, (50.0, On.TIMER, ""))
    assert acts[-1] == []
    assert ladder.outcome is not None
    assert "copy" in ladder.outcome.problem


def test_a_job_that_becomes_ready_ends_the_wait():
    ladder, _acts = play(with_job("wait"), BEGIN, (5.0, On.JOB_READY, "copy"))
    assert ladder.outcome is not None
    assert "whoever started them" in ladder.outcome.problem


def test_jobs_are_cancelled_and_one_that_hangs_does_not_keep_us():
    _ladder, acts = play(with_job("cancel"), BEGIN, (5.0, On.JOB_READY, "copy"), (50.0, On.TIMER, ""))
    assert acts == [[Act.CANCEL_JOBS], [], [Act.PRESS]]


def test_what_wakes_or_resumes_comes_before_the_first_rung():
    entry = Entry(prepare=(Act.WAKE,), rungs=(Rung.ACPI, Rung.QUIT))
    ladder = Ladder(entry, "default", "wait", began=0.0, ends=100.0)
    _ladder, acts = play(ladder, BEGIN)
    assert acts == [[Act.WAKE, Act.PRESS]]


@pytest.mark.parametrize(
    ("waiting", "parallel", "groups_after", "share_s"),
    [(1, 1, 0, 100.0), (20, 20, 0, 100.0), (4, 1, 0, 25.0), (5, 2, 0, 100 / 3), (3, 3, 1, 50.0), (4, 2, 2, 25.0)],
)
def test_shares_of_the_time_are_fair(waiting, parallel, groups_after, share_s):
    assert fair_end(0.0, 100.0, waiting, parallel, groups_after) == pytest.approx(share_s)
