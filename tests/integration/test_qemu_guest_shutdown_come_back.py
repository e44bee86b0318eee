# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Guests that are up again, or have come, when qemu_guest_shutdown has done its work: nobody is told that they are
down.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from ansible_collections.vmops.lifecycle.plugins.module_utils._core.converge import converge
from ansible_collections.vmops.lifecycle.plugins.module_utils._core.wait import Deadline
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_guest import cleanup
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_guest.cleanup import Cleaned
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_guest.identity import Identity
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_guest.model import Guest, Policy, Rung
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_guest.shutdown import NotDown, Shutdown, Wish
from tests.testbed.boot_guest import BootGuest, Kind, ended


def shutdown_of(guest: BootGuest, agent_socket: Path | None = None) -> Shutdown:
    """What the module does, to be driven in this process."""
    named = Guest(str(guest.pidfile), str(guest.qmp_socket), str(agent_socket) if agent_socket else None)
    wish = Wish((named,), Policy(Rung.KILL), require_graceful=False, cleanup=True, parallel=0, single=True)
    return Shutdown(wish, Deadline(60))


def converge_all(subject: Shutdown) -> None:
    try:
        subject.result(converge(subject, check_mode=False).seen)
    finally:
        for sight in subject._sights:  # a module leaves them to its process's end
            sight.identity.close()


def after_the_cleanup(monkeypatch: pytest.MonkeyPatch, then: Callable[[], object]) -> None:
    """Have something done in the moment after the dead guest's files were taken away."""
    clean = cleanup.clean

    def clean_and(identity: Identity) -> list[Cleaned]:
        cleaned = clean(identity)
        then()
        return cleaned

    monkeypatch.setattr(cleanup, "clean", clean_and)


@pytest.mark.parametrize("extra", [(), ("-S",), ("-incoming", "defer")], ids=["running", "prelaunch", "migrating"])
@pytest.mark.parametrize("was_down", [False, True], ids=["of-a-living-one", "of-a-stale-one"])
def test_a_guest_that_is_started_meanwhile_is_not_called_down(tmp_path, monkeypatch, extra, was_down):
    guest = BootGuest(tmp_path / "guest")
    come: list[BootGuest] = []
    after_the_cleanup(monkeypatch, lambda: come.append(BootGuest(guest.folder, Kind.IGNORES, extra=extra, wait=False)))
    with ExitStack() as stack:
        stack.callback(lambda: [found.end() for found in (guest, *come)])
        if was_down:
            guest.end()
        subject = shutdown_of(guest)
        with pytest.raises(NotDown) as raised:
            converge_all(subject)
        assert come[0].alive()
    told = "started while the task was at work" if was_down else "it went down, and is up again"
    assert told in str(raised.value)
    assert "process %d:" % come[0].pid in str(raised.value)
    assert subject.extras()["changed"] is True


def test_a_file_that_comes_meanwhile_is_told(tmp_path, monkeypatch):
    guest = BootGuest(tmp_path / "guest")
    after_the_cleanup(monkeypatch, guest.pidfile.touch)
    with ended(guest), pytest.raises(NotDown, match="came while the task was at work: run the task again"):
        converge_all(shutdown_of(guest))


@pytest.mark.parametrize("waiting", [0, 2], ids=["it answers", "its queue is full"])
def test_what_is_no_qemu_is_not_the_guest_come_back(tmp_path, monkeypatch, waiting):
    guest = BootGuest(tmp_path / "guest")
    agent_socket = tmp_path / "guest" / "agent.sock"
    with ended(guest), ExitStack() as stack:

        def listen() -> None:
            listener = stack.enter_context(socket.socket(socket.AF_UNIX))
            listener.bind(str(agent_socket))
            listener.listen(waiting - 1 if waiting else 8)
            for _client in range(waiting):
                stack.enter_context(socket.socket(socket.AF_UNIX)).connect(str(agent_socket))

        after_the_cleanup(monkeypatch, listen)
        subject = shutdown_of(guest, agent_socket)
        converge_all(subject)
        assert not guest.alive()
    assert any(
        "is down, but what is at its paths now is not known to be a guest" in said for said in subject.warnings()
    )
