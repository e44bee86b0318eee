# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The options that say which guests are meant, as ``qemu_guest_shutdown`` and ``qemu_guest_info`` share them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from .._core.errors import BadInput
from .model import Guest

IDENTITY: Mapping[str, Any] = {
    "pidfile": {"type": "path"},
    "qmp_socket": {"type": "path"},
    "agent_socket": {"type": "path"},
    "pid": {"type": "int"},
    "name": {"type": "str"},
    "uuid": {"type": "str"},
}
_CLEANUP_PATHS = {"type": "list", "elements": "path", "default": []}
GUESTS: Mapping[str, Any] = {
    "cleanup_paths": _CLEANUP_PATHS,
    "guests": {
        "type": "list",
        "elements": "dict",
        "options": {**IDENTITY, "group": {"type": "int", "default": 0}, "cleanup_paths": _CLEANUP_PATHS},
    },
}
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z", re.IGNORECASE)
_PATHS = ("pidfile", "qmp_socket", "agent_socket")
_UNIQUE = ("pidfile", "qmp_socket", "agent_socket", "pid", "uuid")


def guests_from(params: Mapping[str, Any]) -> tuple[Guest, ...]:
    """The guests that a task names, by ``guests`` or by options of its own. Raises BadInput."""
    single = [name for name in IDENTITY if params[name] is not None]
    if params["guests"] is None:
        if not single:
            raise BadInput("guests", "no guest is named", "Give one of %s, or a list of guests" % ", ".join(IDENTITY))
        return (_guest(params, ""),)
    if single:
        raise BadInput(
            single[0], "it names one guest, and guests names others", "Give either guests, or the options of one guest"
        )
    if params["cleanup_paths"]:
        raise BadInput("cleanup_paths", "with guests it isn't clear whose they are", "Give them to a guest of the list")
    guests = tuple(_guest(entry, "guests[%d]." % number) for number, entry in enumerate(params["guests"]))
    _check_distinct(guests)
    return guests


def _guest(given: Mapping[str, Any], prefix: str) -> Guest:
    if all(given[name] is None for name in IDENTITY):
        raise BadInput(prefix + "pidfile", "nothing tells which guest is meant", "Give one of %s" % ", ".join(IDENTITY))
    for name in ("name", "uuid", *_PATHS):
        # What is left of a variable that has no value would else name no guest, and count as one that is down.
        if given[name] is not None and not given[name].strip():
            raise BadInput(prefix + name, "it is empty", "Give it a value, or leave the option out")
    for name in _PATHS:
        if given[name] is not None:
            _check_path(prefix + name, given[name])
    if given["pid"] is not None and given["pid"] <= 1:
        raise BadInput(prefix + "pid", "%d is no guest's" % given["pid"], "Give the number of a QEMU process")
    if given["uuid"] is not None and not _UUID.match(given["uuid"]):
        raise BadInput(
            prefix + "uuid", "%r is no UUID" % given["uuid"], "Write one such as 6f1d2c0e-8a43-4a57-9a52-1f0f6f0a4c11"
        )
    paths = tuple(given["cleanup_paths"])
    for path in paths:
        _check_path(prefix + "cleanup_paths", path)
    identity = {name: given[name] for name in IDENTITY}
    return Guest(**identity, group=given.get("group", 0), cleanup_paths=paths)


def _check_path(option: str, path: str) -> None:
    if not path.startswith("/"):
        raise BadInput(option, "%r is a relative path" % path, "Write the whole path, from / on")
    if "\0" in path:
        raise BadInput(option, "%r is no path: it has a zero byte in it" % path, "Correct the path")


def _check_distinct(guests: tuple[Guest, ...]) -> None:
    """Two entries for one guest would climb two ladders at once."""
    if len({guest._replace(group=0, cleanup_paths=()) for guest in guests}) < len(guests):
        raise BadInput("guests", "two entries mean the same guest", "Name each guest once")
    for name in _UNIQUE:
        values = [getattr(guest, name) for guest in guests if getattr(guest, name) is not None]
        twice = next((value for value in values if values.count(value) > 1), None)
        if twice is not None:
            raise BadInput("guests", "%s %s is given for two guests" % (name, twice), "Name each guest once")
