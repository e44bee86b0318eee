# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Every error that a module reports, divided by what its user can do about it.

A message says what happened, to what, and what to do next. The same facts, as data, reach the result under ``error``.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping, Sequence


class LifecycleError(Exception):
    """The base of all errors that are meant for the user.

    ``facts`` become the result's ``error`` dictionary; ``secondary`` holds what went wrong while cleaning up after
    this error, which is reported beside it and never in its place.
    """

    kind = "error"

    def __init__(self, message: str, **facts: object) -> None:
        super().__init__(message)
        self.message = message
        self.facts: dict[str, object] = facts
        self.secondary: list[str] = []

    def attach(self, error: BaseException, doing: str) -> None:
        """Remember that ``doing`` (a clean-up step) failed as well."""
        attach(self, error, doing)

    def __str__(self) -> str:
        if not self.secondary:
            return self.message
        return "%s Besides, while cleaning up: %s" % (self.message, "; ".join(self.secondary))

    def details(self) -> dict[str, object]:
        """What goes into the failed task's result, beside ``msg``."""
        details: dict[str, object] = {"error": dict(self.facts, kind=self.kind)}
        if self.secondary:
            details["secondary_errors"] = list(self.secondary)
        return details


class ToolMissing(LifecycleError):
    """A program is not installed. Next step: install the package named."""

    kind = "tool_missing"

    def __init__(self, tool: str, package: str, looked_in: Sequence[str]) -> None:
        super().__init__(
            "%s was not found on this host. Install the package that holds it (%s). Looked in: %s."
            % (tool, package, ", ".join(looked_in)),
            tool=tool,
            package=package,
            looked_in=list(looked_in),
        )


class BadInput(LifecycleError):
    """An option or a file is wrong. Next step: correct it. Raised before anything was touched."""

    kind = "bad_input"

    def __init__(self, option: str, problem: str, expected: str) -> None:
        super().__init__(
            "%s: %s. %s" % (option, problem.rstrip("."), _sentence(expected)), option=option, expected=expected
        )
        self.option = option
        self.problem = problem
        self.expected = expected


class CommandFailed(LifecycleError):
    """A program that we ran failed. Next step: read what it said. ``argv`` has its secrets masked already."""

    kind = "command_failed"

    def __init__(self, doing: str, argv: Sequence[str], rc: int, stderr: str, advice: str = "") -> None:
        said = stderr.strip() or "it said nothing"
        how = "was killed by signal %d" % -rc if rc < 0 else "exited with %d" % rc
        what = "%s failed: %s %s: %s" % (doing[:1].upper() + doing[1:], os.path.basename(argv[0]), how, said)
        super().__init__(
            "%s. %s" % (what.rstrip("."), advice) if advice else what,
            argv=list(argv),
            rc=rc,
            stderr=stderr,
        )


class StorageFailed(LifecycleError):
    """A file system refused. Next step: free space, mend permissions or the disk."""

    kind = "storage_failed"

    def __init__(
        self, doing: str, path: str, number: int, needed_bytes: int | None = None, free_bytes: int | None = None
    ) -> None:
        message = "%s failed at %s: %s." % (doing, path, os.strerror(number))
        if needed_bytes is not None and free_bytes is not None:
            message += " It needs %d bytes, and %d are free there." % (needed_bytes, free_bytes)
        super().__init__(
            "%s %s"
            % (message, _STORAGE_ADVICE.get(number, "Check the path and the file system, then run the task again.")),
            path=path,
            errno=errno.errorcode.get(number, str(number)),
            needed_bytes=needed_bytes,
            free_bytes=free_bytes,
        )


class Refused(LifecycleError):
    """Doing it now would lose something. Next step: do something else first."""

    kind = "refused"

    def __init__(self, operation: str, reason: str, instead: str, **facts: object) -> None:
        super().__init__(
            "Refused to %s: %s. %s" % (operation, reason.rstrip("."), _sentence(instead)),
            operation=operation,
            reason=reason,
            instead=instead,
            **facts,
        )


class RemoteFailed(LifecycleError):
    """A server refused, failed or could not be reached. Next step: read what it said.

    ``fault`` is the name of the server's own fault, where it told one.
    """

    kind = "remote_failed"

    def __init__(self, doing: str, server: str, reason: str, advice: str = "", fault: str | None = None) -> None:
        what = "%s failed at %s: %s" % (doing[:1].upper() + doing[1:], server, _sentence(reason.strip()))
        super().__init__(
            "%s %s" % (what, _sentence(advice)) if advice else what,
            operation=doing,
            server=server,
            reason=reason,
            fault=fault,
        )


class TimedOut(LifecycleError):
    """Time ran out. Next step: allow more, or look at what was last seen."""

    kind = "timed_out"

    def __init__(self, waiting_for: str, waited_s: float, last_seen: str = "") -> None:
        seen = " Last seen: %s." % last_seen.rstrip(".") if last_seen else ""
        super().__init__(
            "Gave up after %.1f s waiting for %s.%s Raise the task's timeout if it only needs longer."
            % (waited_s, waiting_for, seen),
            waiting_for=waiting_for,
            waited_s=round(waited_s, 3),
            last_seen=last_seen,
        )


_STORAGE_ADVICE: Mapping[int, str] = {
    errno.ENOSPC: "Free space there or choose another file system, then run the task again.",
    errno.EDQUOT: "The quota is used up: raise it or free space, then run the task again.",
    errno.EACCES: "Run the task as a user who may do this, or correct the permissions.",
    errno.EPERM: "Run the task as a user who may do this, or correct the permissions.",
    errno.EROFS: "The file system is mounted read-only.",
    errno.EIO: "The device reports an input/output error: look at the host's kernel log.",
    errno.ENOENT: "Create the directory first, or correct the path.",
}


def attach(first: BaseException, second: BaseException, doing: str) -> None:
    """Remember with ``first`` that ``doing`` (a clean-up step) failed as well; what ``first`` becomes takes it over."""
    told = [*secondary_errors(first), "%s: %s" % (doing, describe(second))]
    setattr(first, "secondary", told)  # noqa: B010  # any exception may be the first one


def secondary_errors(first: BaseException) -> list[str]:
    """What was attached to it."""
    return list(getattr(first, "secondary", ()))


def storage_failed(
    error: OSError,
    doing: str,
    path: str | None = None,
    needed_bytes: int | None = None,
    free_bytes: int | None = None,
) -> StorageFailed:
    """The user's form of an OSError. ``path`` overrides the one that the error carries, which may be none."""
    named = path or error.filename
    where = os.fsdecode(named) if named else "an unnamed file"
    failed = StorageFailed(doing, where, error.errno or 0, needed_bytes, free_bytes)
    failed.secondary = secondary_errors(error)
    return failed


def describe(error: BaseException) -> str:
    """One line about any exception, for messages."""
    if isinstance(error, OSError) and error.strerror:
        where = " (%s)" % os.fsdecode(error.filename) if error.filename else ""
        return error.strerror + where
    return str(error) or type(error).__name__


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else text + "."
