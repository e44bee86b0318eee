# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What vSphere's faults mean to whoever reads them. They are known by their names: pyVmomi makes their classes as they
are needed.
"""

from __future__ import annotations

import http.client
import socket
import ssl
from collections.abc import Iterator
from typing import Any

from .._core.errors import RemoteFailed, describe
from .tls import ThumbprintMismatch

_FULL = "Free resources of the host, the cluster or the pool, or choose another"
NO_LOGIN = "NotAuthenticated"
ADVICE = {
    "InvalidLogin": "Correct username and password",
    "PasswordExpired": "Change the password, which has expired",
    "NoPermission": "Give the user the privilege named, or log in as another",
    NO_LOGIN: "The session has ended: run the task again",
    "RestrictedVersion": "This server's licence doesn't allow changes by its API",
    "FileAlreadyExists": "Choose another name, or remove what has it",
    "DuplicateName": "Choose another name, or remove what has it",
    "InsufficientStorageSpace": "Free space on the datastore, or choose another",
    "NoDiskSpace": "Free space on the datastore, or choose another",
    "HostNotConnected": "Choose another host, or bring this one back to its vCenter",
    "NoCompatibleHost": "See which of the cluster's hosts have the datastore and the networks, or name a host",
    "InsufficientCpuResourcesFault": _FULL,
    "InsufficientMemoryResourcesFault": _FULL,
    "InsufficientFailoverResourcesFault": _FULL,
    "NotEnoughLicenses": "Free a licence of the server's, or add one",
    "TaskInProgress": "Run the task again when what else is at work on it has ended",
    "Timedout": "The server's own time for it was over, as of a lease: see that server and network are not overloaded",
}

_UP = "See that the server and the network are up"
_SLOW = _UP + ". A call has a minute at most, and no longer than timeout lasts"
SLOW_TRANSFER = _UP + ", or raise stall_timeout"
_BROKEN_OFF = ("it broke the connection off", _UP)


def name_of(fault: BaseException) -> str:
    """The fault's own name, such as ``InvalidLogin``."""
    return type(fault).__name__.rpartition(".")[2]


def is_fault(error: BaseException) -> bool:
    """Whether a server told it, as different from what happens on the way there."""
    return type(error).__name__.startswith(("vim.", "vmodl.", "pbm.", "sms."))


def told(fault: Any) -> str:
    """A fault in a line: its message, the messages beneath it, and what only its fields say."""
    said = list(dict.fromkeys(text for text in _texts(fault) if text))
    name = name_of(fault)
    if not said:
        return name
    return "%s (%s)" % ("; ".join(said), name)


def _texts(fault: Any) -> Iterator[str]:
    yield str(getattr(fault, "localizedMessage", None) or getattr(fault, "msg", None) or "").strip().rstrip(".")
    for message in getattr(fault, "faultMessage", None) or ():
        yield str(message.message or "").strip().rstrip(".")
    for field in ("reason", "file", "name", "privilegeId", "invalidProperty"):
        value = getattr(fault, field, None)
        if isinstance(value, str) and value:
            yield "%s: %s" % (field, value)
    about = getattr(fault, "object", None)
    if hasattr(about, "_moId"):
        yield "object: %s" % _object(about)
    for missing in getattr(fault, "missingPrivileges", None) or ():
        yield "%s on %s" % (", ".join(missing.privilegeIds or ()), _object(missing.entity))
    cause = getattr(fault, "faultCause", None)
    if cause is not None:
        yield from _texts(getattr(cause, "fault", None) or cause)


def _object(found: Any) -> str:
    """A managed object by its type and id: its name would have to be asked for."""
    return "%s %s" % (type(found).__name__.rpartition(".")[2], found._moId)


def told_localized(localized: Any) -> str:
    """The same of a LocalizedMethodFault, as properties hold it."""
    if localized is None:
        return "it gave no reason"
    fault = getattr(localized, "fault", None)
    text = str(getattr(localized, "localizedMessage", None) or "").strip().rstrip(".")
    if fault is None:
        return text or told(localized)
    more = told(fault)
    return more if not text or text in more else "%s: %s" % (text, more)


def remote_failed(error: BaseException, doing: str, server: str, slow: str = _SLOW) -> RemoteFailed:
    """The user's form of whatever a call raised. ``slow`` is what to do where no answer came in time."""
    if is_fault(error):
        name = name_of(error)
        return RemoteFailed(doing, server, told(error), ADVICE.get(name, ""), name)
    return RemoteFailed(doing, server, *_on_the_way(error, slow))


def failed_by(localized: Any, doing: str, server: str) -> RemoteFailed:
    """The same of what a lease or a task of the server ended by."""
    fault = getattr(localized, "fault", None) or localized
    name = name_of(fault) if fault is not None else None
    return RemoteFailed(doing, server, told_localized(localized), ADVICE.get(name or "", ""), name)


def is_no_login(error: BaseException) -> bool:
    """Whether the server answered that the login has ended."""
    return is_fault(error) and name_of(error) == NO_LOGIN


def is_timeout(error: BaseException | None) -> bool:
    """Whether no answer came in the time that a call has."""
    return isinstance(error, (TimeoutError, socket.timeout))  # before Python 3.10 they are two


def _on_the_way(error: BaseException, slow: str) -> tuple[str, str]:
    """What went wrong before a server's answer was there, and what to do."""
    if isinstance(error, ssl.SSLError):
        return _by_tls(error)
    if isinstance(error, socket.gaierror):
        return "its name can't be resolved: %s" % describe(error), "Correct the name, or the host's name service"
    if isinstance(error, ConnectionRefusedError):
        return "nobody listens there", "Correct hostname and port, or start the server"
    if isinstance(error, ConnectionResetError):  # some of them are HTTPExceptions as well
        return _BROKEN_OFF
    if is_timeout(error):
        return "it gave no answer in time", slow
    if isinstance(error, http.client.HTTPException):
        return _by_http(error)
    if isinstance(error, OSError):
        return describe(error), _UP
    return "its answer could not be understood: %s" % describe(error), "See that it is a vCenter or ESXi"


def _by_tls(error: ssl.SSLError) -> tuple[str, str]:
    if isinstance(error, ThumbprintMismatch):
        return describe(error), "If that is really the server, correct thumbprint"
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            "its certificate is not trusted: %s" % error.verify_message,
            "Give ca_path or thumbprint, or, in a network you trust, validate_certs=false",
        )
    if isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError)):
        return _BROKEN_OFF
    return "no encrypted connection came about: %s" % (error.reason or describe(error)), "See that it speaks HTTPS"


def _by_http(error: http.client.HTTPException) -> tuple[str, str]:
    if str(error).startswith("50"):  # pyVmomi's, of a status
        return "it answered %s" % error, "See that the server is up; one that was just started needs some minutes"
    return "it gave no answer that makes sense: %s" % describe(error), "See that it is a vCenter or ESXi"
