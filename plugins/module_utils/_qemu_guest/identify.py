# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which process is meant, if any: all the evidence must name one and the same, or nothing is sent to anybody."""

from __future__ import annotations

import errno
import os
import stat
from typing import NamedTuple

from .._core.capabilities import Capability, has
from .._core.errors import BadInput, LifecycleError, Refused, storage_failed
from .._core.wait import Deadline, ready
from . import process
from .agent import Agent
from .identity import Identity, mark_of
from .leftovers import call_down
from .model import Guest, State
from .pidfile import Pidfile, names_older_qemu, read_pidfile
from .qmp import Channel, Monitor, unix_listeners

# From the loss of its command line to its end a process needs milliseconds, with much memory or a slow disk seconds.
ENDING_S = 5.0
_NOT_PERMITTED = ("EACCES", "EPERM")
_NOBODY_THERE = ("ENOENT", "ENOTDIR", "ECONNREFUSED", "ENOTSOCK")
_UNSEEN = "somebody listens at %s, in a place that this task can't see"


class Evidence(NamedTuple):
    """Something that names a process."""

    source: str
    pid: int


def identify(guest: Guest, patience_s: float = ENDING_S) -> Identity:
    """Collect the evidence and hold the process that it names. Connects to the sockets, and sends nothing. One that is
    just ending is waited for, ``patience_s`` seconds at most; after that it is marked so.

    A guest that can't be looked at, for whatever reason, is unproven. It raises nothing, for it keeps nobody else up.
    """
    try:
        return _identified(guest, Deadline(patience_s))
    except Refused as refused:
        problem = "%(reason)s. %(instead)s" % refused.facts
    except LifecycleError as error:
        problem = error.message
    except OSError as error:
        problem = storage_failed(error, "Looking for the guest").message
    return _unproven(Identity(guest), problem.rstrip("."))


def _identified(guest: Guest, patience: Deadline) -> Identity:
    for _again in range(3):
        identity = _sought(guest)
        if identity is None:
            return call_down(Identity(guest), None)
        try:
            if _settle(identity, patience):
                return identity
        except BaseException:
            identity.close()
            raise
        identity.close()  # it ended while we looked: look again
    return _unproven(Identity(guest), "its process changes faster than it can be looked at")


def _sought(guest: Guest) -> Identity | None:
    """What is to be looked at; None where only a name or UUID is given, and no process bears it."""
    if guest.paths or guest.pid is not None:
        return Identity(guest)
    from .find import complete

    found = complete(guest)
    return None if found is None else Identity(found, found=True)


def _settle(identity: Identity, patience: Deadline) -> bool:
    """Fill in the identity; False if the process named ended meanwhile."""
    guest = identity.guest
    try:
        pidfile = read_pidfile(guest.pidfile) if guest.pidfile else None
    except PermissionError:
        _forbidden(identity, "read the pidfile %s" % guest.pidfile)
        return True
    if pidfile is not None and guest.pidfile is not None:
        identity.marks[guest.pidfile] = mark_of(os.fstat(pidfile.descriptor))
    try:
        return _connect(identity) or _weigh(identity, pidfile, patience)
    finally:
        if pidfile is not None:
            os.close(pidfile.descriptor)


def _connect(identity: Identity) -> bool:
    """Open the channels. Whether that settles it already, as this user may not.

    Of what a command line names only that is kept at which somebody answers, and whether that is this process, the
    evidence tells. Raises StorageFailed and BadInput where a socket that was named can't be used at all; nobody
    listening is an answer.
    """
    guest = identity.guest
    monitor = identity.monitor = Monitor(guest.qmp_socket) if guest.qmp_socket else None
    agent = identity.agent = Agent(guest.agent_socket) if guest.agent_socket else None
    if identity.found and monitor is not None and monitor.problem in _NOBODY_THERE:
        identity.monitor, identity.guest = None, identity.guest._replace(qmp_socket=None)
    if identity.found and agent is not None and agent.problem not in ("", "EAGAIN"):
        identity.agent, identity.guest = None, identity.guest._replace(agent_socket=None)
    for channel in identity.channels():
        if channel.problem in _NOT_PERMITTED:
            _forbidden(identity, "connect to %s" % channel.path)
            return True
        _check_connection("qmp_socket" if channel is monitor else "agent_socket", channel)
    return False


def _weigh(identity: Identity, pidfile: Pidfile | None, patience: Deadline) -> bool:
    """What the evidence amounts to; False if the process that it names ended meanwhile."""
    guest = identity.guest
    if not has(Capability.PIDFD):
        _without_descriptors(identity, pidfile)
        return True
    evidence = _evidence(identity, pidfile)
    unseen = [channel.path for channel in identity.channels() if channel.usable and not _listener(identity, channel)]
    if unseen:  # whatever the rest says, it would be spoken to
        _unproven(identity, _UNSEEN % unseen[0])
        return True
    if not evidence and identity.found:  # its process was there a moment ago
        return False
    if not evidence:
        _nobody(identity, pidfile)
        return True
    if evidence[0].pid == 0:  # the number in it counts in that namespace, and means nothing here
        _unproven(
            identity,
            "the owner of pidfile %s lives in another pid namespace: run the task in that one, or on the host "
            "itself" % guest.pidfile,
        )
        return True
    if pidfile is not None and pidfile.pid is not None:
        evidence.append(Evidence("the number in pidfile %s" % guest.pidfile, pidfile.pid))
    if len({item.pid for item in evidence}) > 1:
        _mismatch(identity, "; ".join("%s says %d" % item for item in evidence))
        return True
    return _hold(identity, pidfile, evidence[0].pid, patience)


def _evidence(identity: Identity, pidfile: Pidfile | None) -> list[Evidence]:
    """What names a process. By itself neither the number in a pidfile that nobody locks does, nor an option pid of one
    that has ended; but the latter contradicts a process of another number.
    """
    guest = identity.guest
    found = []
    if pidfile is not None and pidfile.owner is not None:
        found.append(Evidence("the lock on pidfile %s" % guest.pidfile, pidfile.owner))
    for channel in identity.channels():
        pid = _listener(identity, channel)
        if pid is not None:
            found.append(Evidence("the listener at %s" % channel.path, pid))
    if guest.pid is not None and (found or process.lives(guest.pid)):
        found.append(Evidence("the option pid", guest.pid))
    return found


def _hold(identity: Identity, pidfile: Pidfile | None, pid: int, patience: Deadline) -> bool:
    """Hold the process and prove, once it is held, that it is the one that the evidence named."""
    started = _started_ticks(pid)
    connection = next((channel.connection for channel in identity.channels() if channel.usable), None)
    held = process.hold(pid) if connection is None else process.hold_peer(connection)
    if held is None:
        return False
    identity.process = held
    identity.ending = _is_ending(pid)
    if identity.ending:
        ready((held.fileno(),), patience.remaining_s())
    if not held.alive() or _started_ticks(pid) != started:
        return False
    if pidfile is not None and pidfile.owner is not None:
        pidfile = pidfile._replace(owner=process.lock_owner(pidfile.descriptor))
    if {item.pid for item in _evidence(identity, pidfile)} != {pid}:
        return False
    _take_for_guest(identity, pid)
    return True


def _is_ending(pid: int) -> bool:
    seen = process.stat(pid) if not process.arguments(pid) else None
    return seen is not None and seen.ending


def _take_for_guest(identity: Identity, pid: int) -> None:
    """A lock, a listening socket or a number says which process is meant, not that it is a QEMU: anybody can lock a
    file and listen.
    """
    from .find import is_qemu

    identity.state = State.NO_MONITOR
    identity.is_qemu = is_qemu(process.arguments(pid))
    if not identity.is_qemu and identity.monitor is not None:
        identity.monitor.await_greeting()


def _started_ticks(pid: int) -> int | None:
    seen = process.stat(pid)
    return seen.started_ticks if seen is not None else None


def _nobody(identity: Identity, pidfile: Pidfile | None) -> None:
    """Nothing names a living process: say so only if nothing could be hiding."""
    guest = identity.guest
    if guest.pid is not None and not has(Capability.PROC):
        _unproven(
            identity, "without /proc it can't be told what process %d is; give its pidfile or qmp_socket" % guest.pid
        )
        return
    for channel in identity.channels():
        if channel.problem == "EAGAIN":
            _unproven(identity, _UNSEEN % channel.path)
            return
        if channel.path in identity.vanished:
            from .vanished import still_listened

            _unproven(identity, still_listened(channel.path))
            return
    if pidfile is not None and names_older_qemu(pidfile):
        _unproven(
            identity,
            "pidfile %s isn't locked, as QEMU would have it, but names the QEMU process %d; "
            "give its qmp_socket or pid, or remove the pidfile if another guest's" % (guest.pidfile, pidfile.pid or 0),
        )
        return
    if guest.name is not None or guest.uuid is not None:
        from .find import namesake

        identity.problem = namesake(guest)
        if identity.problem and guest.uuid is not None:
            _unproven(identity, identity.problem)
            return
    call_down(identity, pidfile)


def _listener(identity: Identity, channel: Channel) -> int | None:
    """Who listens at a channel's other end; None if nobody does or that can't be seen."""
    if channel.usable:
        return process.peer_pid(channel.connection)
    listed = unix_listeners(channel.path)
    if not listed:
        return None
    from .vanished import only_candidate, owners

    if channel.problem == "EAGAIN":  # its queue is full: /proc knows it all the same
        return next(iter(owners(listed)), None)
    if channel.path not in identity.vanished:
        identity.vanished.append(channel.path)
    return only_candidate(identity.guest, listed)


def _without_descriptors(identity: Identity, pidfile: Pidfile | None) -> None:
    """No pidfd here: QEMU's lock on its pidfile proves life and death; whose monitor it is, the guest's name or UUID
    must tell.
    """
    guest = identity.guest
    listened = any(channel.usable for channel in identity.channels())
    if pidfile is not None and pidfile.owner:
        if guest.pid not in (None, pidfile.owner):
            _mismatch(identity, "pidfile %s is locked by %d, not %s" % (guest.pidfile, pidfile.owner, guest.pid))
            return
        identity.process = process.LockingProcess(pidfile.owner, os.dup(pidfile.descriptor))
        _take_for_guest(identity, pidfile.owner)
        if identity.monitor is not None and guest.name is None and guest.uuid is None:
            _unproven(
                identity,
                "this system doesn't tell whose monitor a socket is; give name or uuid as well, to compare over it",
            )
        return
    if listened or guest.pid is not None:
        _unproven(identity, "this system can't hold a process; give a pidfile that QEMU itself wrote and locks")
        return
    _nobody(identity, pidfile)


def _check_connection(option: str, channel: Channel) -> None:
    """Raises BadInput for what is no such socket, StorageFailed where it can't be used for another reason."""
    if channel.usable or channel.problem == "EAGAIN":
        return
    if channel.problem == "EPROTOTYPE" or (channel.problem in _NOBODY_THERE and _is_other(channel.path)):
        raise BadInput(
            option,
            "%s is no socket such as QEMU listens at" % channel.path,
            "Name the socket itself. If something else took its place, remove that, or leave the option out",
        )
    if channel.problem not in _NOBODY_THERE:
        number = getattr(errno, channel.problem, errno.EIO)
        raise storage_failed(OSError(number, os.strerror(number), channel.path), "Connecting")


def _is_other(path: str) -> bool:
    """Whether something is there, or where a link leads, that is no socket."""
    try:
        return not stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:
        return False


def _mismatch(identity: Identity, problem: str) -> Identity:
    identity.close_channels()
    identity.state, identity.problem = State.IDENTITY_MISMATCH, problem
    return identity


def _unproven(identity: Identity, problem: str) -> Identity:
    identity.close_channels()
    identity.state, identity.problem = State.UNPROVEN, problem
    return identity


def _forbidden(identity: Identity, what: str) -> Identity:
    """Another user's guest, most likely. Which process it may be is told if that was given or found."""
    pid = identity.guest.pid
    if pid is not None and has(Capability.PIDFD):
        from .find import is_qemu

        held = process.hold(pid)
        if held is not None and is_qemu(process.arguments(pid)):
            identity.process, identity.is_qemu = held, True
        elif held is not None:
            held.close()
    claimed = "process %d seems to be it, but " % identity.process.pid if identity.process is not None else ""
    return _unproven(
        identity,
        "%sthis user may not %s: run the task with become, as root or as the guest's own user" % (claimed, what),
    )
