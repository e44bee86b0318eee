# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a guest begins, and what is left alone: tables."""

from __future__ import annotations

import pytest

from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_guest.entry import Means, enter
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_guest.model import (
    STATES,
    Act,
    Policy,
    Rung,
    State,
    state_of,
)

ALL = Means(agent=True, monitor=True, signals=True, stopped=False)
DEAF = ALL._replace(deaf=True)
NO_AGENT = ALL._replace(agent=False)
NO_MONITOR = ALL._replace(monitor=False)
KILL = Policy(max_rung=Rung.KILL)
QUIT = Policy()

ENTRIES = [
    ("running, all allowed", State.RUNNING, ALL, KILL, "agent acpi quit terminate kill"),
    ("the default stops at quit", State.RUNNING, ALL, QUIT, "agent acpi quit"),
    ("no agent's channel", State.RUNNING, NO_AGENT, QUIT, "acpi quit"),
    ("max_rung agent", State.RUNNING, ALL, Policy(max_rung=Rung.AGENT), "agent"),
    ("suspended goes the whole way", State.SUSPENDED, NO_AGENT, QUIT, "acpi quit"),
    ("resumed goes the whole way", State.PAUSED, ALL, Policy(paused="resume"), "agent acpi quit"),
    ("forced while paused can only be told to quit", State.PAUSED, ALL, Policy(paused="force"), "quit"),
    ("never ran", State.PRELAUNCH, ALL, KILL, "quit terminate kill"),
    ("off already: quit whatever max_rung", State.SHUTDOWN, ALL, Policy(max_rung=Rung.ACPI), "quit"),
    ("panicked", State.BROKEN, ALL, KILL, "quit terminate kill"),
    ("forced while migrating", State.MIGRATING, ALL, Policy(paused="force"), "quit"),
    ("busy: the agent and signals are left", State.MONITOR_BUSY, NO_MONITOR, KILL, "agent terminate kill"),
    ("hung: signals", State.MONITOR_HUNG, NO_MONITOR, KILL, "terminate kill"),
    (
        "stopped by SIGSTOP: only SIGKILL gets through",
        State.MONITOR_HUNG,
        NO_MONITOR._replace(stopped=True),
        KILL,
        "kill",
    ),
    ("only a process", State.NO_MONITOR, Means(False, False, True, False), KILL, "terminate kill"),
]


@pytest.mark.parametrize(
    ("state", "means", "policy", "rungs"), [row[1:] for row in ENTRIES], ids=[row[0] for row in ENTRIES]
)
def test_where_a_guest_begins(state, means, policy, rungs):
    entry = enter(state, means, policy)
    assert not entry.refusal
    assert " ".join(rung.value for rung in entry.rungs) == rungs


RUNNING, LEFT_ALONE, ENDED = "agent acpi quit", "", "quit"
STATUSES = [
    ("running", RUNNING, RUNNING),
    ("suspended", RUNNING, RUNNING),
    ("paused", LEFT_ALONE, ENDED),
    ("debug", LEFT_ALONE, ENDED),
    ("inmigrate", LEFT_ALONE, ENDED),
    ("finish-migrate", LEFT_ALONE, ENDED),
    ("postmigrate", LEFT_ALONE, ENDED),
    ("save-vm", LEFT_ALONE, ENDED),
    ("restore-vm", LEFT_ALONE, ENDED),
    ("colo", LEFT_ALONE, ENDED),
    ("prelaunch", ENDED, ENDED),
    ("preconfig", ENDED, ENDED),
    ("shutdown", ENDED, ENDED),
    ("internal-error", ENDED, ENDED),
    ("io-error", ENDED, ENDED),
    ("guest-panicked", ENDED, ENDED),
    ("watchdog", ENDED, ENDED),
]


@pytest.mark.parametrize(("status", "by_default", "forced"), STATUSES, ids=[row[0] for row in STATUSES])
def test_what_each_of_qemus_statuses_allows(status, by_default, forced):
    for policy, rungs in ((QUIT, by_default), (Policy(paused="force"), forced)):
        entry = enter(STATES[status], ALL, policy)
        assert " ".join(rung.value for rung in entry.rungs) == rungs
        assert bool(entry.refusal) is (rungs == LEFT_ALONE)


@pytest.mark.parametrize("word", [None, "a-word-of-a-newer-qemu"])
def test_one_of_which_nothing_is_known_is_asked_first(word):
    assert enter(state_of(word), ALL, KILL).rungs[0] is Rung.AGENT


def test_every_status_has_a_row():
    assert {row[0] for row in STATUSES} == set(STATES)


@pytest.mark.parametrize(
    ("state", "means", "highest", "beyond"),
    [
        (State.RUNNING, ALL, Rung.ACPI, "quit terminate kill"),
        (State.MONITOR_BUSY, NO_MONITOR, Rung.QUIT, "terminate kill"),
        (State.RUNNING, ALL._replace(signals=False), Rung.QUIT, ""),
        (State.SHUTDOWN, ALL, Rung.ACPI, "terminate kill"),
    ],
)
def test_what_max_rung_forbids_is_known(state, means, highest, beyond):
    entry = enter(state, means, Policy(max_rung=highest))
    assert " ".join(rung.value for rung in entry.beyond) == beyond


JOB = ("copy", "backup", False)
READY_MIRROR = ("drive0", "mirror", True)
REFUSALS = [
    ("paused", State.PAUSED, ALL, QUIT, (), "paused: resume"),
    ("migrating", State.MIGRATING, ALL, Policy(paused="resume"), (), "wait for that"),
    ("migrated", State.MIGRATED, ALL, Policy(paused="resume"), (), "doesn't go on here"),
    ("broken with max_rung acpi", State.BROKEN, ALL, Policy(max_rung=Rung.ACPI), (), "only quit or terminate or kill"),
    ("never ran, max_rung acpi", State.PRELAUNCH, ALL, Policy(max_rung=Rung.ACPI), (), "max_rung is acpi"),
    ("hung with the default", State.MONITOR_HUNG, NO_MONITOR, QUIT, (), "max_rung is quit"),
    ("no way at all", State.MONITOR_HUNG, Means(False, False, False, False), KILL, (), "no safe way to signal"),
    ("jobs respected", State.RUNNING, ALL, Policy(block_jobs="fail"), (JOB,), "backup copy"),
    (
        "nobody listens, and nothing else is allowed",
        State.RUNNING,
        DEAF,
        Policy(max_rung=Rung.AGENT),
        (),
        "max_rung: acpi",
    ),
    ("a ready mirror never ends", State.RUNNING, ALL, QUIT, (READY_MIRROR,), "whoever started them"),
]


@pytest.mark.parametrize(
    ("state", "means", "policy", "jobs", "words"), [row[1:] for row in REFUSALS], ids=[row[0] for row in REFUSALS]
)
def test_what_is_left_alone(state, means, policy, jobs, words):
    assert words in enter(state, means, policy, jobs).refusal


@pytest.mark.parametrize("policy", ["wait", "cancel"])
def test_a_job_that_will_end_is_no_refusal(policy):
    assert not enter(State.RUNNING, ALL, Policy(block_jobs=policy), (JOB,)).refusal


@pytest.mark.parametrize(
    ("state", "policy", "prepared"),
    [
        (State.SUSPENDED, QUIT, (Act.WAKE,)),
        (State.PAUSED, Policy(paused="resume"), (Act.RESUME,)),
        (State.RUNNING, QUIT, ()),
    ],
)
def test_what_prepares_a_guest(state, policy, prepared):
    assert enter(state, ALL, policy).prepare == prepared
