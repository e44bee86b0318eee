# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The options of an import as values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from .._core.errors import BadInput
from .._core.wait import LONGEST_SOCKET_S, check_timeout
from .._ovf.choices import Choices
from .._ovf.declare import declared_location
from .declare import check_texts
from .place import Wanted
from .plan import State

# What vSphere's OVF manager knows (OvfManager.CreateImportSpecParams.diskProvisioning).
PROVISIONING = (
    "thin",
    "thick",
    "eagerZeroedThick",
    "monolithicSparse",
    "monolithicFlat",
    "twoGbMaxExtentSparse",
    "twoGbMaxExtentFlat",
    "sparse",
    "flat",
    "seSparse",
)


# What a server is told as it is given.
_TOLD = (
    *("name", "annotation", "networks", "properties", "secret_properties", "deployment_option"),
    *(option for option in Wanted._fields if option != "networks"),
)
# Whether files are sent, or fetched by the server's hosts.
PUSH, PULL, AUTO = UPLOAD = ("push", "pull", "auto")
# What vSphere takes (VirtualMachineConfigSpec.name).
LONGEST_NAME = 80
# In the names of its objects vSphere writes them as %2f, %5c and %25.
_ESCAPED = frozenset("/\\%")
_ESCAPED_TOLD = "/, \\ and %"
# How the names end of a new machine that is to replace another, until it does, and of the other one from then on, until
# it is removed.
NEW, OLD = ".vmops-new", ".vmops-old"


class Wish(NamedTuple):
    """What is asked for."""

    name: str
    state: State
    source: str | None
    place: Wanted
    choices: Choices
    secret_keys: frozenset[str]
    annotation: str | None
    inject_ovf_env: bool
    wait_for_ip: bool
    replace: bool
    force: bool
    verify: str
    upload: str
    parallel: int
    retries: int
    stall_s: float


def wish_from(params: Mapping[str, Any]) -> Wish:
    """Raises BadInput."""
    check_timeout(params["timeout"])
    state = State(params["state"])
    if state is not State.ABSENT and not params["source"]:
        raise BadInput(
            "source", "a machine is wanted, and no package is named", "Name an .ovf or .ova, or set state=absent"
        )
    check_timeout(params["stall_timeout"], "stall_timeout", LONGEST_SOCKET_S)
    if params["parallel_disks"] < 1:
        raise BadInput("parallel_disks", "%d is below 1" % params["parallel_disks"], "Give a number from 1")
    if params["retries"] < 0:
        raise BadInput("retries", "%d is negative" % params["retries"], "Give 0 for a single attempt")
    if params["wait_for_ip"] and state is not State.POWERED_ON:
        raise BadInput("wait_for_ip", "only a running machine gets an address", "Set state=poweredon as well")
    check_texts({option: params[option] for option in _TOLD})
    networks = _networks(params)
    return Wish(
        name=_name(params["name"], params["replace"]),
        state=state,
        source=declared_location(params) if params["source"] else None,
        place=Wanted(**{**{option: params[option] for option in Wanted._fields}, "networks": networks}),
        choices=Choices(
            networks=networks,
            properties=_properties(params),
            deployment_option=params["deployment_option"],
            ip_allocation_policy=params["ip_allocation_policy"],
            ip_protocol=params["ip_protocol"],
            accept_eulas=params["accept_eulas"],
            disk_provisioning=params["disk_provisioning"],
        ),
        secret_keys=frozenset(params["secret_properties"] or ()),
        annotation=params["annotation"],
        inject_ovf_env=params["inject_ovf_env"],
        wait_for_ip=params["wait_for_ip"],
        replace=params["replace"],
        force=params["force"],
        verify=params["verify"],
        upload=params["upload"],
        parallel=params["parallel_disks"],
        retries=params["retries"],
        stall_s=float(params["stall_timeout"]),
    )


def _networks(params: Mapping[str, Any]) -> Mapping[str, str]:
    """A name may look like a number, as YAML has it."""
    given = params["networks"] or {}
    for name, target in given.items():
        if isinstance(target, bool) or not isinstance(target, (str, int)) or target == "":
            raise BadInput("networks.%s" % name, "%r is no name of a network" % (target,), "Quote the name or the path")
    return {str(name): str(target) for name, target in given.items()}


def _properties(params: Mapping[str, Any]) -> Mapping[str, object]:
    shown, secret = params["properties"] or {}, params["secret_properties"] or {}
    twice = sorted(shown.keys() & secret.keys())
    if twice:
        raise BadInput("secret_properties", "%s is in properties as well" % ", ".join(twice), "Give each value once")
    return {**shown, **secret}


def _name(name: str, replace: bool) -> str:
    most = LONGEST_NAME - (max(len(NEW), len(OLD)) if replace else 0)
    if not name.strip() or len(name) > most:
        problem = "%r can't be a machine's name" % name
        why = ", for a new machine is called NAME%s until it takes the old one's place" % NEW if replace else ""
        raise BadInput("name", problem, "Give 1 to %d characters%s" % (most, why))
    if name.endswith((NEW, OLD)):
        problem = "%r ends as the names of machines do of which one is taking the other's place" % name
        raise BadInput("name", problem, "Give another name")
    if set(name) & _ESCAPED:
        problem = "%r has one of the characters that vSphere keeps in another form" % name
        raise BadInput("name", problem, "Give one without %s: the machine has to be found by it again" % _ESCAPED_TOLD)
    return name
