# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which process is meant, if any: all the evidence must name one and the same, or nothing is sent to anybody."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from typing import NamedTuple

from .._core.capabilities import Capability, has
from .._core.errors import BadInput, Refused, storage_failed
from .._core.wait import Deadline, ready
from . import process
from .agent import Agent
from .model import Guest, State
from .process import Process
from .qmp import Channel, Monitor, unix_listeners

# A pidfile is written right after its process started; allows for clocks that tick coarsely.
PIDFILE_SLACK_S = 2.0
# From the loss of its command line to its end a process needs milliseconds, with much memory or a slow disk seconds.
ENDING_S = 5.0
_NOT_PERMITTED = ("EACCES", "EPERM")
IS_LINK = "it is a symbolic link"
_NOBODY_THERE = ("ENOENT", "ENOTDIR", "ECONNREFUSED", "ENOTSOCK")


class Pidfile(NamedTuple):
    """A pidfile as found: its open descriptor, the number in it, and who holds QEMU's lock on it (None: nobody)."""

    descriptor: int
    pid: int | None
    owner: int | None
    written_at: float


class Mark(NamedTuple):
    """Device and inode."""

    device: int
    inode: int


class Evidence(NamedTuple):
    """Something that names a process."""

    source: str
    pid: int


class Identity:
    """What the evidence for one guest amounts to. Holds descriptors until ``close``.

    ``state`` is ABSENT, STALE, IDENTITY_MISMATCH, UNPROVEN, or NO_MONITOR for a process that is held. ``problem``
    explains the third and fourth, and tells of a namesake of a guest that has no process.
    """

    def __init__(self, guest: Guest) -> None:
        self.guest = guest
        # Whether its agent's socket was found on its command line: nobody named it, and it may be done without.
        self.found_agent = False
        self.state = State.ABSENT
        self.problem = ""
        self.process: Process | None = None
        # Whether the command line of the process is a QEMU's. Of another only its monitor's greeting proves it one.
        self.is_qemu = False
        self.monitor: Monitor | None = None
        self.agent: Agent | None = None
        self.leftovers: list[str] = []
        # Of a guest that has no process: the paths that stay although they were named, and why.
        self.kept: dict[str, str] = {}
        # The sockets whose file was removed or replaced, and at which somebody listens all the same.
        self.vanished: list[str] = []
        # What these paths were when we looked: only the same thing is taken away later.
        self.marks = {path: mark(path) for path in (guest.pidfile, guest.qmp_socket, guest.agent_socket) if path}

    def close(self) -> None:
        """Let go of process and channels."""
        self.close_channels()
        if self.process is not None:
            self.process.close()

    def close_channels(self) -> None:
        """Leave the monitor and the agent to others."""
        for channel in (self.monitor, self.agent):
            if channel is not None:
                channel.close()


def identify(guest: Guest, deadline: Deadline | None = None) -> Identity:
    """Collect the evidence and hold the process that it names. Connects to the sockets, and sends nothing. One that is
    just ending is waited for, within the deadline and ENDING_S at most.

    What this user may not look at leaves the guest unproven. Raises StorageFailed where something can't be read for
    another reason, and BadInput.
    """
    found_agent = False
    if guest.pidfile is None and guest.qmp_socket is None and guest.agent_socket is None and guest.pid is None:
        from .find import complete

        try:
            found = complete(guest)
        except Refused as refused:
            return _unproven(Identity(guest), "%(reason)s. %(instead)s" % refused.facts)
        if found is None:
            return Identity(guest)
        found_agent, guest = True, found
    patience = Deadline(ENDING_S) if deadline is None else deadline.within(ENDING_S)
    for _again in range(3):
        identity = Identity(guest)
        identity.found_agent = found_agent
        try:
            if _settle(identity, patience):
                return identity
        except BaseException:
            identity.close()
            raise
        identity.close()  # it ended while we looked: look again
    identity = Identity(guest)
    return _unproven(identity, "its process changes faster than it can be looked at")


def _settle(identity: Identity, patience: Deadline) -> bool:
    """Fill in the identity; False if the process named ended meanwhile."""
    guest = identity.guest
    try:
        pidfile = read_pidfile(guest.pidfile) if guest.pidfile else None
    except PermissionError:
        _forbidden(identity, "read the pidfile %s" % guest.pidfile)
        return True
    try:
        _connect(identity)
        for channel in (identity.monitor, identity.agent):
            if channel is not None and channel.problem in _NOT_PERMITTED:
                _forbidden(identity, "connect to %s" % channel.path)
                return True
            _check_connection(channel)
        evidence = _evidence(identity, pidfile)
        if not has(Capability.PIDFD):
            _without_descriptors(identity, pidfile)
            return True
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
    finally:
        if pidfile is not None:
            os.close(pidfile.descriptor)


def _connect(identity: Identity) -> None:
    """Open the channels to what was named, and to a found agent if that can be had."""
    guest = identity.guest
    identity.monitor = Monitor(guest.qmp_socket) if guest.qmp_socket else None
    identity.agent = Agent(guest.agent_socket) if guest.agent_socket else None
    if identity.found_agent and identity.agent is not None and not _is_answer(identity.agent):
        identity.agent, identity.guest = None, guest._replace(agent_socket=None)


def _evidence(identity: Identity, pidfile: Pidfile | None) -> list[Evidence]:
    """What names a process that lives. The number in a pidfile that nobody locks names nothing by itself."""
    guest = identity.guest
    found = []
    if pidfile is not None and pidfile.owner is not None:
        found.append(Evidence("the lock on pidfile %s" % guest.pidfile, pidfile.owner))
    for channel in (identity.monitor, identity.agent):
        pid = _listener(identity, channel) if channel is not None else None
        if channel is not None and pid is not None:
            found.append(Evidence("the listener at %s" % channel.path, pid))
    if guest.pid is not None and process.lives(guest.pid):
        found.append(Evidence("the option pid", guest.pid))
    return found


def _hold(identity: Identity, pidfile: Pidfile | None, pid: int, patience: Deadline) -> bool:
    """Hold the process and prove, once it is held, that it is the one that the evidence named."""
    started = _started_ticks(pid)
    held = None
    for channel in (identity.monitor, identity.agent):
        if held is None and channel is not None and channel.usable:
            held = process.hold_peer(channel.connection)
    if held is None:
        held = process.hold(pid)
    if held is None:
        return False
    identity.process = held
    _await_end(held, patience)
    if not held.alive() or _started_ticks(pid) != started:
        return False
    if pidfile is not None and pidfile.owner is not None:
        pidfile = pidfile._replace(owner=process.lock_owner(pidfile.descriptor))
    if {item.pid for item in _evidence(identity, pidfile)} != {pid}:
        return False
    _take_for_guest(identity, pid)
    return True


def _await_end(held: process.HeldProcess, patience: Deadline) -> None:
    """Of a process on its way out nothing tells any more that it was a QEMU, while its lock and its sockets may still
    name it.
    """
    if process.arguments(held.pid):
        return
    seen = process.stat(held.pid)
    if seen is not None and seen.ending:
        ready((held.fileno(),), patience.remaining_s())


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
    for channel in (identity.monitor, identity.agent):
        if channel is None:
            continue
        if channel.usable or channel.problem == "EAGAIN":
            _unproven(identity, "somebody listens at %s, in a place that this task can't see" % channel.path)
            return
        if channel.path in identity.vanished:
            _unproven(identity, _still_listened(channel.path))
            return
    if pidfile is not None and pidfile.pid is not None and _unlocked_qemu(pidfile.pid, pidfile):
        _unproven(
            identity,
            "pidfile %s isn't locked, as QEMU would have it, but names the QEMU process %d; "
            "give its qmp_socket or pid, or remove the pidfile if another guest's" % (guest.pidfile, pidfile.pid),
        )
        return
    namesake = _namesake(guest)
    if namesake and guest.uuid is not None:
        _unproven(identity, namesake)
        return
    identity.problem = namesake
    identity.kept = {**_links(guest), **_used_by_others(guest)}
    identity.leftovers = leftovers(identity, pidfile)
    identity.state = State.STALE if identity.leftovers else State.ABSENT


def _namesake(guest: Guest) -> str:
    """A QEMU that bears the name and UUID given, where nothing else that was given leads to a process; empty if none
    is seen.

    A UUID is one guest's alone. A name is not: another directory may hold another guest of the same name.
    """
    if guest.name is None and guest.uuid is None:
        return ""
    from .find import claimants

    what = "UUID" if guest.uuid is not None else "name"
    return "; ".join(
        "nothing lives at the paths given, but process %d is a QEMU of this %s (pidfile %s, monitor %s); if it is the "
        "guest meant, give those, or its pid" % (pid, what, said.pidfile, said.qmp_socket)
        for pid, said in claimants(guest)
    )


def _links(guest: Guest) -> dict[str, str]:
    """QEMU makes files and sockets, never links: these are somebody's who named them so."""
    named = (guest.pidfile, guest.qmp_socket, guest.agent_socket)
    return {path: IS_LINK for path in named if path and os.path.islink(path)}


def _unlocked_qemu(pid: int, pidfile: Pidfile) -> bool:
    """Whether the number in an unlocked pidfile may be right: a QEMU that is older than the file.

    A younger one reuses the number.
    """
    from .find import is_qemu

    started_at = process.started_at(pid)
    if started_at is None or not is_qemu(process.arguments(pid)):
        return False
    return started_at <= pidfile.written_at + PIDFILE_SLACK_S


def leftovers(identity: Identity, pidfile: Pidfile | None) -> list[str]:
    """The files of a guest that has no process any more: an unlocked pidfile, sockets without a listener, declared
    paths that nobody else uses.
    """
    guest = identity.guest
    found = [guest.pidfile] if pidfile is not None and guest.pidfile is not None else []
    found = [path for path in found if path not in identity.kept]
    found += [
        channel.path
        for channel in (identity.monitor, identity.agent)
        if channel is not None and channel.problem == "ECONNREFUSED" and _is_socket(channel.path)
    ]
    found += [path for path in guest.cleanup_paths if os.path.lexists(path) and path not in identity.kept]
    return found


def _used_by_others(guest: Guest) -> dict[str, str]:
    if not guest.cleanup_paths:
        return {}
    from .in_use import in_use

    found = {path: in_use(path) for path in guest.cleanup_paths}
    return {path: how for path, how in found.items() if how}


def read_pidfile(path: str) -> Pidfile | None:
    """Open a pidfile and see who holds it; None if there is none. Raises PermissionError, StorageFailed, BadInput."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PermissionError:
        raise
    except OSError as error:
        raise storage_failed(_named(error, path), "Reading the pidfile") from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise BadInput("pidfile", "%s is no regular file" % path, "Name the file that QEMU's -pidfile names")
        text = os.read(descriptor, 64).strip()
        written_at = status.st_mtime
        return Pidfile(descriptor, int(text) if text.isdigit() else None, process.lock_owner(descriptor), written_at)
    except OSError as error:
        os.close(descriptor)
        raise storage_failed(_named(error, path), "Reading the pidfile") from None
    except BadInput:
        os.close(descriptor)
        raise


def _named(error: OSError, path: str) -> OSError:
    return OSError(error.errno, error.strerror, path)


def _listener(identity: Identity, channel: Channel) -> int | None:
    """Who listens at a channel's other end; None if nobody does or that can't be seen."""
    if channel.usable:
        return process.peer_pid(channel.connection)
    listed = unix_listeners(channel.path)
    if channel.problem == "EAGAIN":  # its queue is full: /proc knows it all the same
        return next(iter(_owners(listed)), None)
    if not listed:
        return None
    if channel.path not in identity.vanished:
        identity.vanished.append(channel.path)
    own = [pid for pid in _owners(listed) if _may_be(identity.guest, pid)]
    return own[0] if len(own) == 1 else None


def _owners(inodes: Sequence[int]) -> list[int]:
    found = [process.socket_owner(inode) for inode in inodes]
    return sorted({pid for pid in found if pid is not None})


def _may_be(guest: Guest, pid: int) -> bool:
    """Whether who listens at a removed file of this path may be the guest. A path alone is weak evidence: it must be a
    QEMU that means the same file by it, and whose command line contradicts nothing of what was given.
    """
    from .find import claims, claims_to_be, is_qemu

    argv = process.arguments(pid)
    if not is_qemu(argv) or not process.shares_root(pid):
        return False
    said = claims(argv)
    if guest.pidfile and said.pidfile and os.path.realpath(guest.pidfile) != os.path.realpath(said.pidfile):
        return False
    return claims_to_be(guest, said)


def _still_listened(path: str) -> str:
    """Somebody does, whom nothing proves to be the guest: who, as far as this user may see it, and what to do."""
    owners = _owners(unix_listeners(path))
    if not owners:
        return (
            "a process that this user can't see still listens at %s, although the file was removed or replaced: run "
            "the task with become, as root or as the guest's own user" % path
        )
    told = ["%d (%s)" % (pid, " ".join(process.arguments(pid)[:1]) or "unreadable") for pid in owners]
    return (
        "process %s still listens at %s, although the file was removed or replaced, and nothing else proves that it is "
        "the guest; if it is, give its pid" % (" and process ".join(told), path)
    )


def _without_descriptors(identity: Identity, pidfile: Pidfile | None) -> None:
    """No pidfd here: QEMU's lock on its pidfile proves life and death; whose monitor it is, the guest's name or UUID
    must tell.
    """
    guest = identity.guest
    listened = any(channel is not None and channel.usable for channel in (identity.monitor, identity.agent))
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


def _check_connection(channel: Channel | None) -> None:
    """Raises StorageFailed where a socket can't be used at all; nobody listening is an answer."""
    if channel is None or _is_answer(channel):
        return
    number = getattr(errno, channel.problem, errno.EIO)
    raise storage_failed(OSError(number, os.strerror(number), channel.path), "Connecting")


def _is_answer(channel: Channel) -> bool:
    """Whether it tells that somebody listens at a socket, or that nobody does."""
    return channel.problem in ("", "EAGAIN", *_NOBODY_THERE)


def mark(path: str) -> Mark | None:
    """Which file a path is; None where there is none."""
    try:
        seen = os.lstat(path)
    except OSError:
        return None
    return Mark(seen.st_dev, seen.st_ino)


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.lstat(path).st_mode)
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
            identity.process = held
        elif held is not None:
            held.close()
    claimed = "process %d seems to be it, but " % identity.process.pid if identity.process is not None else ""
    return _unproven(
        identity,
        "%sthis user may not %s: run the task with become, as root or as the guest's own user" % (claimed, what),
    )
