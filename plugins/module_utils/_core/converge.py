# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Observe, plan, apply, observe again: the order of every module, and the only code that knows about check mode.

A domain gives a :class:`Subject`; ``converge`` drives it, and ``run`` stands between it and Ansible: parameters in,
result or error out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from .errors import LifecycleError, attach, secondary_errors, storage_failed
from .signals import Stopped, held, stoppable
from .wait import Deadline

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule

    from .attributes import FileAttributes

Step = TypeVar("Step")
Seen = TypeVar("Seen")

Watched = TypeVar("Watched", bound="Observed[Any]")

View = Mapping[str, object]


class Plan(Generic[Step]):
    """What to do, in order, and the view that will be there afterwards. No steps: all is as declared.

    ``declared`` is the view that was asked for where no step may lead there (drift that is only reported): it is for
    the diff alone.
    """

    def __init__(self, steps: Sequence[Step], predicted: View, declared: View | None = None) -> None:
        self.steps = tuple(steps)
        self.predicted = predicted
        self.declared = declared


class Observed(Protocol[Seen]):
    """Something to look at."""

    def observe(self) -> Seen:
        """What is there now."""

    def result(self, seen: Seen) -> View:
        """The result's own keys: the thing as it is now, under its name."""

    def extras(self) -> View:
        """What the work itself yields (commands, attempts, bytes, …); also reported when it fails."""

    def warnings(self) -> Sequence[str]:
        """What the user should know although all went well."""


class Subject(Observed[Seen], Protocol[Seen, Step]):
    """One thing under management. Only ``observe`` and ``apply`` touch the world. If it has a ``close``, that is called
    at the end, however that came.
    """

    def plan(self, seen: Seen) -> Plan[Step]:
        """What is to be done about it; pure. Raises what can be refused beforehand."""

    def exclusive(self) -> AbstractContextManager[object]:
        """Mutual exclusion with other tasks on the same thing, from the decisive observation to the end."""

    def apply(self, plan: Plan[Step]) -> None:
        """Carry the plan out."""

    def view(self, seen: Seen) -> View:
        """The part of what was seen that is managed: compared for ``changed`` and shown by ``--diff``."""


class Outcome(Generic[Seen]):
    """Before and after, as views, and the last observation."""

    def __init__(self, before: View, after: View, seen: Seen, declared: View | None = None) -> None:
        self.before = before
        self.after = after
        self.seen = seen
        self.declared = declared

    @property
    def changed(self) -> bool:
        return self.before != self.after


def converge(subject: Subject[Seen, Step], check_mode: bool) -> Outcome[Seen]:
    """Make the thing as declared; in check mode only say what would be."""
    seen = subject.observe()
    before = subject.view(seen)
    plan = subject.plan(seen)
    if not plan.steps:
        return Outcome(before, before, seen, plan.declared)
    if check_mode:
        return Outcome(before, plan.predicted, seen)
    with subject.exclusive():
        # Another task may have been at work until we were alone: only what is seen now counts.
        seen = subject.observe()
        before = subject.view(seen)
        plan = subject.plan(seen)
        if plan.steps:
            subject.apply(plan)
            seen = subject.observe()
            _refuse_unfinished(subject.plan(seen))
    return Outcome(before, subject.view(seen), seen, plan.declared)


def _refuse_unfinished(left: Plan[Any]) -> None:
    """A tool's good exit code proves nothing: what it was run for must be there now."""
    if left.steps:
        raise LifecycleError(
            "All was done without an error, and yet it isn't as declared; still to be done: %s. Run the task again, "
            "and look at the host's disk." % ", ".join(_told(step) for step in left.steps)
        )


def _told(step: object) -> str:
    """A step in words: its value where it is one of an enumeration, else its type's name."""
    value = getattr(step, "value", None)
    if isinstance(value, str):
        return value
    return re.sub(r"(?<!^)(?=[A-Z])", " ", type(step).__name__).lower()


def run(
    module: AnsibleModule, build: Callable[[Deadline], Subject[Any, Any]], attributes: FileAttributes | None = None
) -> None:
    """Converge what ``build`` makes and leave with Ansible's result.

    ``module`` has a ``timeout`` option, in seconds.
    """
    deadline = Deadline(module.params["timeout"])

    def work(subject: Subject[Any, Any]) -> dict[str, object]:
        if attributes is not None:
            attributes.check()
        outcome = converge(subject, module.check_mode)
        diff: dict[str, Any] = {"before": dict(outcome.before), "after": dict(outcome.declared or outcome.after)}
        changed = outcome.changed
        if attributes is not None:
            changed = attributes.settle(diff) or changed
        return dict(subject.result(outcome.seen), changed=changed, diff=diff)

    _leave(module, deadline, build, work)


def report(module: AnsibleModule, build: Callable[[Deadline], Observed[Any]]) -> None:
    """Only look, for an ``_info`` module."""

    def work(subject: Observed[Any]) -> dict[str, object]:
        return dict(subject.result(subject.observe()), changed=False)

    _leave(module, Deadline(module.params["timeout"]), build, work)


def _leave(
    module: AnsibleModule,
    deadline: Deadline,
    build: Callable[[Deadline], Watched],
    work: Callable[[Watched], dict[str, object]],
) -> None:
    subject: Watched | None = None
    try:
        with stoppable():
            subject = build(deadline)
            with _closed(subject):
                result = work(subject)
    except LifecycleError as error:
        _fail(module, deadline, subject, error)
        return
    except Stopped as stopped:
        told = LifecycleError("Stopped by %s. Run the task again to go on." % stopped.reason)
        told.secondary = secondary_errors(stopped)
        _fail(module, deadline, subject, told)
        return
    except OSError as fault:
        _fail(module, deadline, subject, storage_failed(fault, "Reading or writing"))
        return
    for warning in subject.warnings():
        module.warn(warning)
    module.exit_json(**subject.extras(), **result, elapsed_s=round(deadline.elapsed_s(), 3))


@contextmanager
def _closed(subject: object) -> Iterator[None]:
    """What a subject holds on to, such as a login, ends with the work. Its end doesn't hide why that failed."""
    close: Callable[[], None] | None = getattr(subject, "close", None)
    try:
        yield
    except BaseException as first:
        try:
            with held():
                if close is not None:
                    close()
        except (LifecycleError, OSError) as second:
            attach(first, second, "closing")
        except Stopped as stopped:
            attach(first, stopped, "told to end")
            stopped.heed()
        raise
    with held():
        if close is not None:
            close()


def _fail(module: AnsibleModule, deadline: Deadline, subject: Observed[Any] | None, error: LifecycleError) -> None:
    extras: dict[str, object] = {}
    if subject is not None:
        extras.update(subject.extras())
        for warning in subject.warnings():
            module.warn(warning)
    module.fail_json(msg=str(error), **extras, **error.details(), elapsed_s=round(deadline.elapsed_s(), 3))
