# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What identified guests are doing: asked of all monitors at once, so that one that hangs costs the others nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from .._core.capabilities import Capability, has
from .._core.errors import describe
from .._core.wait import Deadline
from . import process
from .agent import listens
from .identity import Identity
from .model import State, state_of, status_in
from .qmp import Monitor, converse, failure

_DETAILS = ("query-name", "query-uuid", "query-chardev", "query-block", "query-version")


class Job(NamedTuple):
    """A block job under way. ``ready`` means that it only waits to be completed by whoever started it."""

    name: str
    kind: str
    ready: bool
    offset_bytes: int
    length_bytes: int


class Probe(NamedTuple):
    """What a guest answered. Fields are None where it wasn't asked or didn't tell. ``events``: how many its monitor had
    reported when it said its status; the later ones may tell that this is past.
    """

    state: State
    problem: str = ""
    status: str | None = None
    name: str | None = None
    uuid: str | None = None
    agent_connected: bool | None = None
    jobs: tuple[Job, ...] = ()
    process_state: str | None = None
    images: tuple[str, ...] = ()
    machine: str | None = None
    version: str | None = None
    blocks: tuple[Mapping[str, object], ...] | None = None
    events: int = 0


def probe(identities: Sequence[Identity], deadline: Deadline, answer_s: float, details: bool = False) -> list[Probe]:
    """Ask every held process's monitor for its state, and wait ``answer_s`` seconds at most for all of them;
    ``details`` adds machine, version and block devices.
    """
    asked: dict[int, Mapping[str, int]] = {}
    for number, identity in enumerate(identities):
        monitor = identity.monitor
        if identity.state is not State.NO_MONITOR or monitor is None or not monitor.usable:
            continue
        if _stopped(identity):
            continue
        if monitor.greeting is None:
            monitor.negotiate()
        asked[number] = _ask(identity, monitor, details)
    converse(_monitors(identities, asked), deadline, answer_s)
    return [_concluded(identity, asked.get(number)) for number, identity in enumerate(identities)]


def _monitors(identities: Sequence[Identity], asked: Iterable[int]) -> list[Monitor]:
    return [monitor for monitor in (identities[number].monitor for number in asked) if monitor is not None]


def _ask(identity: Identity, monitor: Monitor, details: bool) -> Mapping[str, int]:
    """Only what is needed: on a busy host each question costs a turn of QEMU's main loop.

    Returns the numbers of the answers.
    """
    guest = identity.guest
    questions = ["query-status", "query-block-jobs"]
    questions += ["query-name"] if guest.name is not None else []
    questions += ["query-uuid"] if guest.uuid is not None else []
    questions += ["query-chardev"] if guest.agent_socket is not None else []
    questions += [question for question in _DETAILS if details and question not in questions]
    numbers = {question: monitor.send(question) for question in questions}
    if details:
        numbers["machine"] = monitor.send("qom-get", {"path": "/machine", "property": "type"})
    return numbers


def _stopped(identity: Identity) -> bool:
    try:
        return process.is_stopped(_process_state(identity))
    except OSError:
        return False  # why, comes out when its answers are looked at


def _process_state(identity: Identity) -> str | None:
    seen = process.stat(identity.process.pid) if identity.process is not None else None
    return seen.state if seen is not None else None


def _concluded(identity: Identity, asked: Mapping[str, int] | None) -> Probe:
    """One that can't be looked at keeps nobody else up."""
    try:
        return _seen(identity, asked)
    except OSError as error:
        return Probe(State.UNPROVEN, "it can't be looked at: %s" % describe(error))


def _seen(identity: Identity, asked: Mapping[str, int] | None) -> Probe:
    held, monitor = identity.process, identity.monitor
    if held is None or identity.state is not State.NO_MONITOR:
        return Probe(identity.state, identity.problem)
    if not identity.holds_qemu:
        return _stranger(held.pid)
    letter = _process_state(identity)
    seen = Probe(State.NO_MONITOR, process_state=letter, images=tuple(process.written_images(held.pid)))
    if identity.guest.qmp_socket is None or monitor is None:
        return _compared_by_claims(identity, seen)
    if asked is None or not monitor.usable or monitor.outstanding:
        return _compared_by_claims(identity, seen._replace(state=_silent(monitor, letter)))
    try:
        answers = {question: monitor.replies[number].value for question, number in asked.items()}
        seen = seen._replace(events=monitor.replies[asked["query-status"]].events)
        return _compared(identity, _answered(identity, seen, answers))
    except (AttributeError, KeyError, TypeError, ValueError):
        return _other(seen, "what listens at %s gives answers that no QEMU gives" % monitor.path)


def _stranger(pid: int) -> Probe:
    """Of a process that neither its command line nor a monitor's greeting proves to be a QEMU."""
    argv = process.arguments(pid)
    if argv:
        return Probe(State.IDENTITY_MISMATCH, "process %d is no QEMU but %s" % (pid, argv[0]))
    why, advice = _wordless(pid)
    return Probe(
        State.UNPROVEN,
        "nothing proves that process %d is a QEMU: %s, and no monitor of it gave a greeting; %s" % (pid, why, advice),
    )


def _wordless(pid: int) -> tuple[str, str]:
    """Why a process shows no command line, and what to do about it."""
    greet = "give its qmp_socket when no other client holds that"
    if not has(Capability.PROC):
        return "this system has no /proc that shows its command line", greet
    if process.is_hidden(pid):
        return "this user may not read its command line", "run the task as root, or " + greet
    seen = process.stat(pid)
    if seen is not None and seen.ending:
        return "it is ending, and its command line is gone already", "run the task again when it has ended"
    return "its command line is empty", greet


def _silent(monitor: Monitor, letter: str | None) -> State:
    """The state of a monitor that didn't answer.

    One of which nothing listens any more counts as hung: the process lives.
    """
    if process.is_stopped(letter):
        return State.MONITOR_HUNG
    return State.MONITOR_BUSY if failure(monitor) == "busy" else State.MONITOR_HUNG


def _answered(identity: Identity, seen: Probe, answers: Mapping[str, Any]) -> Probe:
    status = status_in(answers["query-status"])
    if status is None:  # QEMU's other programs, such as qemu-storage-daemon, have monitors too
        return _other(seen, "what listens at %s has no virtual machine" % identity.guest.qmp_socket)
    agent_socket = identity.guest.agent_socket
    return seen._replace(
        state=state_of(status),
        status=status,
        name=(answers.get("query-name") or {}).get("name"),
        uuid=(answers.get("query-uuid") or {}).get("UUID"),
        agent_connected=listens(answers.get("query-chardev") or [], agent_socket) if agent_socket else None,
        jobs=tuple(_job(job) for job in answers["query-block-jobs"] or []),
        machine=answers.get("machine"),
        version=_version(answers.get("query-version")),
        blocks=tuple(_block(block) for block in answers["query-block"] or []) if "query-block" in answers else None,
    )


def _job(job: Mapping[str, Any]) -> Job:
    return Job(str(job["device"]), str(job["type"]), bool(job.get("ready")), int(job["offset"]), int(job["len"]))


def _version(answer: Mapping[str, Any] | None) -> str | None:
    number = (answer or {}).get("qemu")
    return "%(major)d.%(minor)d.%(micro)d" % number if number else None


def _block(block: Mapping[str, Any]) -> Mapping[str, object]:
    inserted = block.get("inserted") or {}
    return {
        "device": block.get("device") or block.get("qdev"),
        "file": inserted.get("file"),
        "format": inserted.get("drv"),
        "read_only": inserted.get("ro"),
        "io_status": block.get("io-status"),
    }


def _compared(identity: Identity, seen: Probe) -> Probe:
    """Does the guest bear the name and UUID that were given?"""
    guest = identity.guest
    if guest.name is not None and seen.name != guest.name:
        return _other(seen, "the guest's name is %s, not %s" % (seen.name or "not set", guest.name))
    if guest.uuid is not None and (seen.uuid or "").lower() != guest.uuid.lower():
        return _other(seen, "the guest's UUID is %s, not %s" % (seen.uuid, guest.uuid))
    return seen


def _compared_by_claims(identity: Identity, seen: Probe) -> Probe:
    """The same by its command line, for a guest whose monitor doesn't answer."""
    guest, held = identity.guest, identity.process
    if held is None or (guest.name is None and guest.uuid is None):
        return seen
    from .find import claims

    argv = process.arguments(held.pid)
    if not argv:
        return seen._replace(
            state=State.UNPROVEN,
            problem="neither its monitor nor its command line tells whether process %d is the guest meant" % held.pid,
        )
    said = claims(argv)
    compared = _compared(identity, seen._replace(name=said.name, uuid=said.uuid))
    return compared if compared.state is State.IDENTITY_MISMATCH else seen


def _other(seen: Probe, problem: str) -> Probe:
    return seen._replace(state=State.IDENTITY_MISMATCH, problem=problem)
