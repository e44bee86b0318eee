# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What can be known of a new declaration before the guest that runs with the old one is given up for it."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Sequence

from .._core.command import run
from .._core.errors import BadInput, CommandFailed, LifecycleError, TimedOut
from .._core.wait import Deadline
from .accel import choose
from .argv import kernel_trial_argv, trial_argv
from .launch import NO_MEMORY, check_host, find_emulator, refusal, with_devices
from .places import Places
from .ready import plain
from .record import Definition
from .spec import Forward, Spec

TRIAL_S = 10.0  # it takes 0.1 to 0.2 s


class NotTaken(LifecycleError):
    """QEMU doesn't take a new declaration, and the guest runs on with the old one. Next step: read its words."""

    kind = "declaration_not_taken"

    def __init__(self, name: str, said: str, command: Sequence[str], rc: int) -> None:
        super().__init__(
            "QEMU doesn't take the new declaration of the guest %s: %s The guest was left running as it was."
            % (name, refusal(said, rc)),
            said=said,
            argv=list(command),
            rc=rc,
        )


def check_taken(spec: Spec, running: Definition | None, places: Places, deadline: Deadline) -> None:
    """Try the declaration as far as that takes nothing from the running guest.

    ``running`` is what that one was started with, None where it isn't known. A QEMU that takes too long for an answer
    has not refused.

    Raises NotTaken, BadInput, ToolMissing.
    """
    check_host(spec)
    if running is not None:
        _check_ports(spec, running)
    spec = with_devices(spec)
    emulator = find_emulator(spec.emulator)
    accel = choose(spec.accel, emulator, places.base, deadline).name
    _try(spec.name, trial_argv(spec, emulator, accel), deadline)
    if spec.kernel:
        _try_kernel(spec, emulator, accel, deadline)


def _try(name: str, command: Sequence[str], deadline: Deadline, descriptors: Sequence[int] = ()) -> None:
    doing = "trying the new declaration of %s" % name
    try:
        run(command, doing, deadline.within(TRIAL_S), pass_fds=descriptors)
    except CommandFailed as failed:
        said = plain(str(failed.facts["stderr"])).strip()
        if re.search(NO_MEMORY, said):
            return  # the running guest has memory that the new one will have
        raise NotTaken(name, said, command, int(str(failed.facts["rc"]))) from None
    except TimedOut:
        deadline.check(doing)


def _try_kernel(spec: Spec, emulator: str, accel: str, deadline: Deadline) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(b"quit\n")
        _try(spec.name, kernel_trial_argv(spec, emulator, accel, theirs.fileno()), deadline, (theirs.fileno(),))


def _check_ports(spec: Spec, running: Definition) -> None:
    """Raises BadInput for a port of the host that can't be had. Those of the running guest become free."""
    networks = running["networks"]
    held = {(port["protocol"], port["host_port"]) for network in networks for port in network.get("forwards", ())}
    for index, network in enumerate(spec.networks):
        for place, forward in enumerate(network.forwards):
            if (forward.protocol, forward.host_port) not in held:
                _check_port("networks[%d].forwards[%d].host_port" % (index, place), forward)


def _check_port(option: str, forward: Forward) -> None:
    kind = socket.SOCK_STREAM if forward.protocol == "tcp" else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET, kind) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as QEMU does
        try:
            trial.bind((forward.host_address, forward.host_port))
        except OSError as error:
            raise BadInput(
                option,
                "%s port %d of %s can't be had: %s"
                % (forward.protocol, forward.host_port, forward.host_address, os.strerror(error.errno or 0)),
                "Choose another, or end what uses it. The guest was left running as it was",
            ) from None
