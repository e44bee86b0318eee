# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where a guest's way down begins: what prepares it, the rungs that may be used, or why it is left alone. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from .model import ORDER, Act, Policy, Rung, State

# QMP statuses of jobs that never end by themselves once they are ready.
ENDLESS_JOBS = ("mirror", "commit")

_NO_AGENT = "no agent listens in it; start one there, or allow max_rung: acpi"
# Why a guest that can't react is left alone.
_STANDSTILL = {
    State.PAUSED: "it is paused; allow paused: resume, or paused: force to end it as it is",
    State.MIGRATING: "it is being migrated or saved; wait for that, or allow paused: force to end it as it is",
    State.MIGRATED: "it was migrated or saved, and doesn't go on here; make sure that it does elsewhere, then allow "
    "paused: force to end what is left of it",
}


class Means(NamedTuple):
    """What there is to reach a guest by. ``deaf``: nobody in it has opened the agent's channel."""

    agent: bool
    monitor: bool
    signals: bool
    stopped: bool  # its process is held by SIGSTOP: only SIGKILL gets through
    deaf: bool = False


class Entry(NamedTuple):
    """Where a guest begins: what prepares it, the rungs that may be used in order, or why none is. ``beyond``: those
    that would reach it, too, and that max_rung forbids.
    """

    prepare: tuple[Act, ...] = ()
    rungs: tuple[Rung, ...] = ()
    beyond: tuple[Rung, ...] = ()
    off: bool = False
    refusal: str = ""


def enter(state: State, means: Means, policy: Policy, jobs: Sequence[tuple[str, str, bool]] = ()) -> Entry:
    """Where a guest in this state begins. ``jobs``: name, kind and readiness of each block job under way."""
    prepare, first, refusal = _approach(state, policy.paused)
    if refusal:
        return Entry(refusal=refusal)
    off = state in (State.SHUTDOWN, State.PRELAUNCH)
    usable = [rung for rung in ORDER[ORDER.index(first) :] if _reachable(rung, state, means)]
    allowed = tuple(
        rung
        for rung in usable
        # Ending the process of a machine that is off takes nothing from anybody, whatever the highest rung.
        if ORDER.index(rung) <= ORDER.index(policy.max_rung) or (state is State.SHUTDOWN and rung is Rung.QUIT)
    )
    if not allowed:
        return Entry(refusal=_nothing_allowed(state, usable, policy.max_rung))
    if allowed == (Rung.AGENT,) and means.deaf:
        return Entry(refusal=_NO_AGENT)
    beyond = tuple(rung for rung in usable if rung not in allowed)
    return Entry(prepare, allowed, beyond, off, _jobs_refusal(jobs, policy.block_jobs))


def _approach(state: State, paused: str) -> tuple[tuple[Act, ...], Rung, str]:
    """What prepares a guest in this state, the first rung that makes sense, or why it is left alone."""
    if state is State.SUSPENDED:
        return (Act.WAKE,), Rung.AGENT, ""
    if state is State.PAUSED and paused == "resume":
        return (Act.RESUME,), Rung.AGENT, ""
    if state in _STANDSTILL and paused != "force":
        return (), Rung.QUIT, _STANDSTILL[state]
    if state in (State.PRELAUNCH, State.SHUTDOWN, State.BROKEN, *_STANDSTILL):
        return (), Rung.QUIT, ""
    return (), Rung.AGENT, ""


def _reachable(rung: Rung, state: State, means: Means) -> bool:
    if rung is Rung.KILL:
        return means.signals
    if means.stopped:
        return False
    if rung is Rung.TERMINATE:
        return means.signals
    if rung is Rung.AGENT:
        return means.agent and state is not State.MONITOR_HUNG
    return means.monitor


def _nothing_allowed(state: State, usable: Sequence[Rung], highest: Rung) -> str:
    if not usable:
        return "there is no way to reach it (%s), and this system gives no safe way to signal it" % state.value
    return "it is %s, so only %s would end it, and max_rung is %s" % (
        state.value,
        " or ".join(rung.value for rung in usable),
        highest.value,
    )


def _jobs_refusal(jobs: Sequence[tuple[str, str, bool]], policy: str) -> str:
    if not jobs or policy == "cancel":
        return ""
    if policy == "fail":
        return "block jobs are under way (%s); wait for them, or allow block_jobs: wait or cancel" % _names(jobs)
    endless = [job for job in jobs if job[2] and job[1] in ENDLESS_JOBS]
    if endless:
        return (
            "block jobs are ready and wait for whoever started them (%s); complete them, or allow block_jobs: cancel"
            % (_names(endless))
        )
    return ""


def _names(jobs: Sequence[tuple[str, str, bool]]) -> str:
    return ", ".join("%s %s" % (kind, name) for name, kind, _ready in jobs)
