# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Starting a guest: QEMU daemonises, so what starts it here ends at once, and the guest lives on by itself."""

from __future__ import annotations

import os
import re
import signal
import socket
import stat
from collections.abc import Iterator
from typing import NamedTuple

from .._core.capabilities import Capability, has
from .._core.command import find_tool, run
from .._core.errors import BadInput, CommandFailed, LifecycleError, Refused, TimedOut, ToolMissing
from .._core.files import remove
from .._core.wait import Deadline
from .accel import choose
from .argv import argv
from .places import Places
from .process import HeldProcess, LockingProcess, Process, hold, lock_owner
from .ready import plain, qemu_said
from .record import Definition, Phase, Record, write_record
from .run_dir import check_base, prepare_folder
from .spec import Spec
from .underway import GIVE_UP_S, await_end, by_whom, claim

PACKAGE = "qemu-system-x86 or the qemu-system package of the guest's architecture"
END_S = 5.0  # for a killed QEMU to be gone, with all of its memory
# A listening socket, by default one for whose first client QEMU's start waits.
_WAITS = re.compile(r"^(?!.*(,wait=off|,nowait)(,|\Z)).*,server(=on)?(,|\Z)")
NO_MEMORY = r"cannot set up guest memory|Cannot allocate memory"
_ADVICE = (
    (
        r"Could not set up host forwarding rule '(\w+:[\d.]*:\d+)",
        "Another program has that port of the host ({0}): choose another host_port, or end it.",
    ),
    (
        r'Failed to get (?:shared )?"?\w+"? lock|Failed to lock byte',
        "Another process has that image open: shut that machine down first, or give this one an image of its own.",
    ),
    (r"Image is not in (\S+) format", "The image isn't {0}: correct the disk's format (qemu_img_info tells it)."),
    (
        r"Could not access KVM kernel module",
        "KVM can't be used here: set accel to auto or tcg, or let this user use /dev/kvm.",
    ),
    (
        NO_MEMORY,
        "The host can't give that much memory: lower memory, or end something else.",
    ),
    (
        r"invalid kernel header",
        "The kernel is none that this machine boots: name a kernel's own image, such as vmlinuz.",
    ),
    (r"[Uu]nsupported machine type", "QEMU lists what it has by -machine help."),
    (r"unable to find CPU model", "QEMU lists what it has by -cpu help."),
    (
        r"could not configure /dev/net/tun|bridge helper failed|failed to launch bridge helper",
        "The host's network device can't be used by this user: create it and let the user use it, or take mode user.",
    ),
    (r"[Cc]annot lock pid file|Cannot lock PID file", "Another start of this guest is under way: run the task again."),
    (r"Could not open '([^']*)': Permission denied", "Let this user read and write {0}."),
)


class StartFailed(LifecycleError):
    """QEMU refused to start. Next step: read its words."""

    kind = "start_failed"

    def __init__(self, name: str, said: str, command: tuple[str, ...], rc: int) -> None:
        super().__init__(
            "QEMU did not start the guest %s: %s" % (name, refusal(said, rc)),
            said=said,
            argv=list(command),
            rc=rc,
        )


def refusal(said: str, rc: int) -> str:
    """What QEMU said when it left with ``rc``, and what to do about it."""
    return "%s. %s" % (said.rstrip(".") or "it said nothing and left with %d" % rc, advice(said))


class Started(NamedTuple):
    """A start that came to pass."""

    record: Record
    advice: str


def start(spec: Spec, declared: Definition, places: Places, deadline: Deadline) -> Started:
    """Start QEMU and return once it has daemonised, which is after it opened every file and socket.

    What is left of an earlier run in the guest's directory is replaced.

    Raises BadInput, Refused, ToolMissing, StartFailed, TimedOut.
    """
    check_host(spec)
    emulator = find_emulator(spec.emulator)
    prepare_folder(places.folder)
    await_end(spec.name, places, deadline.within(GIVE_UP_S))
    check_nobody(spec.name, places)
    accelerator = choose(spec.accel, emulator, places.base, deadline)
    command = argv(with_devices(spec), emulator, places, accelerator.name)
    record = Record(Phase.STARTING, 0, declared, accelerator.name, command)
    claimed = claim(spec.name, places, deadline)
    try:
        _run(spec.name, record, places, claimed, deadline)
    except LifecycleError as error:
        _take_back(spec.name, places, error)
        raise
    return Started(record, accelerator.advice)


def _run(name: str, record: Record, places: Places, claimed: int, deadline: Deadline) -> None:
    """From QEMU's first process to the end of that process: then its daemon is through, or there is none.

    ``claimed`` is closed.
    """
    try:
        _remove_leftovers(places)
        write_record(places.record, record)
        run(record.argv, "starting the guest %s" % name, deadline, pass_fds=(claimed,))
    except CommandFailed as failed:
        said = (qemu_said(places) + "\n" + plain(str(failed.facts["stderr"]))).strip()
        raise StartFailed(name, said, record.argv, int(str(failed.facts["rc"]))) from None
    except TimedOut as error:
        waiting = [word for word in record.argv if _WAITS.search(word)]
        if waiting:
            error.message += " QEMU waits for somebody to connect to %s: give that wait=off." % " and ".join(waiting)
        raise
    finally:
        os.close(claimed)


def living_process(places: Places) -> Process | None:
    """Hold the process that has the guest's pidfile locked, as QEMU does while it lives; None if none has."""
    try:
        descriptor = os.open(places.pidfile, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    held: HeldProcess | None = None
    try:
        pid = lock_owner(descriptor)
        if not pid:
            return None
        if not has(Capability.PIDFD):
            return LockingProcess(pid, os.dup(descriptor))
        held = hold(pid)
        if held is None or lock_owner(descriptor) == pid:
            return held
        held.close()  # it ended while we looked, and its number may be a stranger's by now
        return None
    finally:
        os.close(descriptor)


def advice(said: str) -> str:
    """What to do about QEMU's words."""
    for pattern, hint in _ADVICE:
        found = re.search(pattern, said)
        if found:
            return hint.format(*found.groups())
    return "Correct the option that it names."


def find_emulator(declared: str) -> str:
    """Its path. Raises ToolMissing."""
    if not os.path.isabs(declared):
        return find_tool(declared, PACKAGE)
    if not os.access(declared, os.X_OK):
        raise ToolMissing(os.path.basename(declared), PACKAGE, [os.path.dirname(declared)])
    return declared


def check_start(spec: Spec, places: Places) -> None:
    """What can be known of a start without its files, which may be still to be made: where the guest would run, QEMU,
    and the host's network devices.

    Raises Refused, ToolMissing, BadInput.
    """
    check_base(places.base)
    find_emulator(spec.emulator)
    _check_interfaces(spec)


def check_host(spec: Spec) -> None:
    """Raises BadInput for a file or a network device that is not there, before anything is touched."""
    for option, path in _files(spec):
        try:
            mode = os.stat(path).st_mode
        except FileNotFoundError:
            raise BadInput(
                option,
                "%s is not there" % path,
                "Make it first (a disk with vmops.lifecycle.qemu_img), or correct the path",
            ) from None
        if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
            raise BadInput(option, "%s is neither a file nor a block device" % path, "Name the file itself")
    _check_interfaces(spec)


def _check_interfaces(spec: Spec) -> None:
    for index, network in enumerate(spec.networks):
        if network.mode in ("tap", "bridge"):
            _check_interface("networks[%d].interface" % index, network.interface)


def _check_interface(option: str, name: str) -> None:
    """QEMU run by root would make a missing tap itself, which leads nowhere."""
    try:
        socket.if_nametoindex(name)
    except OSError:
        raise BadInput(
            option, "the host has no network device %s" % name, "Make it and bring it up first, or correct the name"
        ) from None


def check_nobody(name: str, places: Places) -> None:
    """A guest whose pidfile was removed or replaced lives on all the same: its sockets must not be taken from it.

    Raises Refused.
    """
    from .identify import identify
    from .model import Guest

    identity = identify(Guest(places.pidfile, places.qmp_socket, places.agent_socket))
    identity.close()
    if identity.state.is_down:
        return
    seen = identity.problem
    if identity.process is not None:
        seen = "process %d still serves its sockets, and its pidfile is gone" % identity.process.pid
    raise Refused(
        "start the guest %s" % name,
        "it may be running already: " + seen,
        "Shut it down first: qemu_guest_shutdown with qmp_socket %s, or with its pid" % places.qmp_socket,
    )


def _files(spec: Spec) -> Iterator[tuple[str, str]]:
    for index, disk in enumerate(spec.disks):
        yield "disks[%d].path" % index, disk.path
    for option in ("seed", "firmware", "firmware_vars", "kernel", "initrd"):
        path = getattr(spec, option)
        if path:
            yield option, path


def with_devices(spec: Spec) -> Spec:
    """With what the host knows of the disks. They must be there."""
    return spec._replace(disks=tuple(disk._replace(is_device=_is_device(disk.path)) for disk in spec.disks))


def _is_device(path: str) -> bool:
    return stat.S_ISBLK(os.stat(path).st_mode)


def _remove_leftovers(places: Places) -> None:
    """What a killed QEMU left. Nobody holds the pidfile or listens, and only QEMU of this guest makes the others."""
    for path in (places.pidfile, places.qmp_socket, places.agent_socket, places.console_log):
        remove(path)


def _take_back(name: str, places: Places, error: LifecycleError) -> None:
    """After a start that did not come to pass nothing but the logs stays. Of a process that lives nothing is taken."""
    try:
        _end(places)
    except OSError as second:
        error.attach(second, "ending QEMU")
    try:
        if not await_end(name, places, Deadline(END_S)):
            error.message += (
                " The log of this start is still held%s, so nothing of it was removed. Run the task again when that "
                "has ended, or shut it down with qemu_guest_shutdown." % by_whom(places)
            )
            return
        for path in (places.record, places.pidfile, places.qmp_socket, places.agent_socket):
            remove(path)
    except OSError as second:
        error.attach(second, "removing what was left of the start")


def _end(places: Places) -> None:
    """Kill a QEMU of ours that hangs before its guest ever ran."""
    process = living_process(places)
    if process is None:
        return
    try:
        process.signal(signal.SIGKILL)
    except ProcessLookupError:
        pass  # it ended by itself
    finally:
        process.close()
