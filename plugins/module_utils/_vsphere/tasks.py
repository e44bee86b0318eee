# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The server's own tasks: those that are imports, and the wait for one to end."""

from __future__ import annotations

import datetime
from typing import Any, NamedTuple

from .._core.errors import TimedOut
from .._core.wait import Deadline, ready
from .faults import failed_by, told_localized
from .properties import Found, read
from .session import Session, if_told

# What vCenter and its simulator call the task of an import.
_IMPORT = "importvapplro"
_EVERY_S = (0.05, 0.1, 0.2, 0.5)
# The machine of an import is made soon after its task was queued, unless the server is overwhelmed.
_QUEUED_BEFORE = datetime.timedelta(hours=1)
# Of a server that does a task every third of a second, an hour's.
_PAGE, _MOST_PAGES = 500, 20


class ImportTask(NamedTuple):
    """A task of the server that is an import, running or ended. Times are the server's."""

    key: str
    entity: str | None
    entity_name: str
    state: str
    progress: int | None
    user: str
    queued_at: datetime.datetime
    ended_at: datetime.datetime | None
    cancelable: bool
    error: str | None
    entity_kind: str = ""

    @property
    def is_of_machine(self) -> bool:
        """Whether it names its machine. A vCenter's does once the machine is made; until then, and on older servers, it
        names the pool.
        """
        return self.entity_kind == "VirtualMachine"

    @property
    def is_of_pool(self) -> bool:
        return self.entity_kind in ("ResourcePool", "VirtualApp")

    @property
    def running(self) -> bool:
        return self.state in ("queued", "running")

    @property
    def succeeded(self) -> bool:
        return self.state == "success"


def import_tasks(session: Session) -> list[ImportTask]:
    """The imports among the server's recent tasks. Raises RemoteFailed."""
    doing = "reading the server's tasks"
    manager = read(session, doing, [session.content.taskManager], ["recentTask"])
    recent = list(manager[0].values.get("recentTask", ())) if manager else []
    # Of the others the whole can't always be read: pyVmomi refuses a task whose entity is none of the inventory's.
    recent = [item.object for item in read(session, doing, recent, ["info.descriptionId"]) if _is_import(item)]
    return [
        _import_task(item.values["info"]) for item in read(session, doing, recent, ["info"]) if "info" in item.values
    ]


def past_imports(session: Session, moid: str, created_at: datetime.datetime) -> list[ImportTask] | None:
    """The imports that may have made a machine, from the history that a vCenter keeps when it has forgotten its recent
    tasks: those that name it, or else all that had begun by the time of its creation, and not long before. None where
    the server keeps none, as hosts do, or tells this user nothing of it.

    Raises RemoteFailed where the server can't be talked to.
    """
    from pyVmomi import vim

    machine = session.find("VirtualMachine", moid)
    own = vim.TaskFilterSpec.ByEntity(entity=machine, recursion="self")
    span = vim.TaskFilterSpec.ByTime(timeType="queuedTime", beginTime=created_at - _QUEUED_BEFORE, endTime=created_at)
    return if_told(
        lambda: (
            _collected(session, vim.TaskFilterSpec(entity=own)) or _collected(session, vim.TaskFilterSpec(time=span))
        )
    )


def _collected(session: Session, wanted: Any) -> list[ImportTask]:
    doing = "reading the history of the server's tasks"
    collector = session.call(doing, session.content.taskManager.CreateCollectorForTasks, wanted)
    found = []
    try:
        session.call(doing, collector.RewindCollector)
        for _page in range(_MOST_PAGES):
            infos = session.call(doing, collector.ReadNextTasks, _PAGE) or ()
            found += [_import_task(info) for info in infos if _names_import(info.descriptionId)]
            if len(infos) < _PAGE:
                break
    finally:
        session.call(doing, collector.DestroyCollector)
    return found


def _is_import(task: Found) -> bool:
    return _names_import(task.values.get("info.descriptionId"))


def _names_import(description: str | None) -> bool:
    return (description or "").lower().endswith(_IMPORT)


def _import_task(info: Any) -> ImportTask:
    return ImportTask(
        key=info.task._moId,
        entity=info.entity._moId if info.entity is not None else None,
        entity_name=info.entityName or "",
        state=str(info.state),
        progress=info.progress,
        user=getattr(info.reason, "userName", None) or "",
        queued_at=info.queueTime,
        ended_at=info.completeTime,
        cancelable=bool(info.cancelable),
        error=told_localized(info.error) if info.error is not None else None,
        entity_kind=type(info.entity).__name__.rpartition(".")[2] if info.entity is not None else "",
    )


def server_time(session: Session) -> datetime.datetime:
    """Now, by the server's clock. Raises RemoteFailed."""
    now: datetime.datetime = session.ask(
        "asking the server for the time", session.find("ServiceInstance", "ServiceInstance").CurrentTime
    )
    return now


def finish(session: Session, task: Any, doing: str, deadline: Deadline) -> Any:
    """Wait for a task to end; its result. Raises RemoteFailed with the task's fault, TimedOut."""
    waits = iter(_EVERY_S)
    pause_s = next(waits)
    while True:
        found = read(session, doing, [task], ["info.state", "info.error", "info.result"])
        values = found[0].values if found else {}
        state = str(values.get("info.state"))
        if state == "success":
            return values.get("info.result")
        if state == "error":
            raise failed_by(values.get("info.error"), doing, session.endpoint.server)
        if deadline.expired:
            raise TimedOut(doing, deadline.elapsed_s(), "the server's task is %s" % state)
        ready((), min(pause_s, deadline.remaining_s()))
        pause_s = next(waits, pause_s)
