# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What guests are doing, read only: the subject behind ``qemu_guest_info``."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from .._core.capabilities import Capability, missing_protections
from .._core.converge import Plan, View
from .._core.wait import Deadline, check_timeout
from .identity import Identity
from .model import Guest
from .observe import Sight, look
from .options import guests_from
from .record import Record, record_of


class Look:
    """Guests to report on. There is never anything to do about them."""

    def __init__(self, guests: Sequence[Guest], single: bool, deadline: Deadline) -> None:
        self._guests = guests
        self._single = single
        self._deadline = deadline

    def observe(self) -> list[Sight]:
        sights = look(self._guests, self._deadline, details=True)
        for sight in sights:
            sight.identity.close_channels()
        return sights

    def plan(self, seen: Sequence[Sight]) -> Plan[object]:
        return Plan((), {})

    def exclusive(self) -> AbstractContextManager[object]:
        return nullcontext()

    def apply(self, plan: Plan[object]) -> None:
        """Nothing is ever planned."""

    def view(self, seen: Sequence[Sight]) -> View:
        return {}

    def result(self, seen: Sequence[Sight]) -> View:
        records = [_record(sight) for sight in seen]
        return {"guests": records, "guest": records[0]} if self._single else {"guests": records}

    def extras(self) -> View:
        return {}

    def warnings(self) -> list[str]:
        return missing_protections([Capability.PIDFD, Capability.PROC])


def look_from(params: Mapping[str, Any], deadline: Deadline) -> Look:
    """What a task wants to know. Raises BadInput."""
    check_timeout(params["timeout"])
    return Look(guests_from(params), params["guests"] is None, deadline)


def _record(sight: Sight) -> Mapping[str, object]:
    identity, seen = sight.identity, sight.seen
    start = _start_of(identity)
    return {
        "guest": identity.guest.label,
        "state": seen.state.value,
        "problem": seen.problem,
        "status": seen.status,
        "pid": identity.process.pid if identity.process is not None else None,
        "process_state": seen.process_state,
        "name": seen.name,
        "uuid": seen.uuid,
        "machine": seen.machine,
        "version": seen.version,
        "agent_connected": seen.agent_connected,
        "block_devices": list(seen.blocks) if seen.blocks is not None else None,
        "block_jobs": [job._asdict() for job in seen.jobs],
        "images": list(seen.images),
        "leftovers": list(identity.leftovers),
        "definition": start.definition if start is not None else None,
        "definition_digest": start.digest if start is not None else None,
    }


def _start_of(identity: Identity) -> Record | None:
    """What ``qemu_guest_start`` recorded beside the pidfile, as that module reads it; None also where it can't be read,
    such as another user's: what else is known of the guest is told all the same.
    """
    if identity.process is None or identity.guest.pidfile is None:
        return None
    path = os.path.join(os.path.dirname(identity.guest.pidfile), "guest.json")
    try:
        # Whoever put something else there, such as a FIFO, would keep us waiting.
        return record_of(path, identity.process.pid) if os.path.isfile(path) else None
    except OSError:
        return None
