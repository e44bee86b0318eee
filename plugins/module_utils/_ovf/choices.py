# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the user chose, held against what the package offers. Pure; all problems are found at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from .._core.errors import BadInput
from .model import Envelope, Problem, Property, is_vsphere
from .property_types import IP, Kind, Unfit, kind_of, listed, text_of

_EXCERPT = 60  # characters of a licence
_POOLED_POLICIES = ("dhcpPolicy", "transientPolicy", "fixedAllocatedPolicy")


class Choices(NamedTuple):
    """``networks``: the target's, by the package's; ``properties``: values as YAML has them, by their keys. The policy
    is one of vSphere's (``fixedPolicy``, ``dhcpPolicy``, …), the protocol IPv4 or IPv6.
    """

    networks: Mapping[str, str] = {}
    properties: Mapping[str, object] = {}
    deployment_option: str | None = None
    ip_allocation_policy: str | None = None
    ip_protocol: str | None = None
    accept_eulas: bool = False
    disk_provisioning: str | None = None


def problems(envelope: Envelope, choices: Choices) -> list[Problem]:
    """Everything that keeps the package from being imported with these choices.

    What isn't chosen is no problem here: see :func:`unmapped_networks` and :func:`unset_properties`.
    """
    return [
        *machine_problems(envelope),
        *_eula_problems(envelope, choices),
        *_option_problems(envelope, choices),
        *_network_problems(envelope, choices),
        *_values(envelope, choices.properties)[1],
    ]


def unmapped_networks(envelope: Envelope, choices: Choices) -> list[str]:
    """The package's networks for which none was chosen."""
    return [network.name for network in envelope.networks if network.name not in choices.networks]


def unset_properties(envelope: Envelope, choices: Choices) -> list[Problem]:
    """Properties without a value that need one before vSphere powers the machine on."""
    return [
        Problem(
            _place(each),
            "%s has no value, and no default that will do: no vCenter powers the machine on without" % _title(each),
            "Give it one",
        )
        for each in envelope.properties
        if _is_unset(each, envelope, choices)
    ]


def normalised_properties(envelope: Envelope, given: Mapping[str, object]) -> dict[str, str]:
    """The values as they are sent to vSphere, by key. Raises BadInput for the first that :func:`problems` tells."""
    values, found = _values(envelope, given)
    for problem in found:
        raise BadInput(*problem)
    return values


def all_properties(envelope: Envelope, given: Mapping[str, str], choices: Choices) -> dict[str, str]:
    """Each of the package's properties: the value that is given, else the default of the deployment option."""
    return {each.key: given.get(each.key, _default(each, envelope, choices)) for each in envelope.properties}


def secret_keys(envelope: Envelope) -> set[str]:
    """The keys of properties whose values are not to be shown or kept."""
    return {each.key for each in envelope.properties if kind_of(each).is_secret}


def machine_problems(envelope: Envelope) -> Iterator[Problem]:
    """What of the machines themselves no choice can mend."""
    if envelope.is_vapp or len(envelope.machines) > 1:
        names = listed(machine.id for machine in envelope.machines)
        yield Problem(
            "descriptor",
            "it describes a system of %d machines (%s), not one machine" % (len(envelope.machines), names),
            "Export its machines one by one, and import each of those packages",
        )
        return
    versions = [version for machine in envelope.machines for version in machine.hardware_versions]
    if versions and not any(map(is_vsphere, versions)):
        yield Problem(
            "descriptor",
            "its hardware is of the family %s, which vSphere doesn't know" % ", ".join(versions),
            "Export it for vSphere (vmx-13, for example); VMware's ovftool and COT convert such packages",
        )


def _eula_problems(envelope: Envelope, choices: Choices) -> Iterator[Problem]:
    if choices.accept_eulas:
        return
    for number, eula in enumerate(envelope.eulas, 1):
        begins = " ".join(eula.text.split())
        begins = begins[:_EXCERPT] + "…" if len(begins) > _EXCERPT else begins
        of = " of %s" % eula.section if eula.section else ""
        yield Problem(
            "accept_eulas",
            "the EulaSection %d%s has a licence to be accepted: %r" % (number, of, begins),
            "Read it (ovf_info shows it whole), then set accept_eulas to true",
        )


def _option_problems(envelope: Envelope, choices: Choices) -> Iterator[Problem]:
    known = [option.id for option in envelope.deployment_options]
    if choices.deployment_option is not None and choices.deployment_option not in known:
        yield _unknown("deployment_option", "deployment option", choices.deployment_option, known)


def _network_problems(envelope: Envelope, choices: Choices) -> Iterator[Problem]:
    known = [network.name for network in envelope.networks]
    for name in choices.networks:
        if name not in known:
            yield _unknown("networks.%s" % name, "network", name, known)


def _values(envelope: Envelope, given: Mapping[str, object]) -> tuple[dict[str, str], list[Problem]]:
    known = {each.key: each for each in envelope.properties}
    values: dict[str, str] = {}
    found: list[Problem] = []
    for key, value in given.items():
        if key not in known:
            found.append(_unknown("properties.%s" % key, "property", key, list(known)))
            continue
        try:
            values[key] = text_of(value, kind_of(known[key]))
        except Unfit as unfit:
            found.append(Problem(_place(known[key]), unfit.problem, unfit.instead))
    return values, found


def _is_unset(each: Property, envelope: Envelope, choices: Choices) -> bool:
    kind = kind_of(each)
    value = choices.properties.get(each.key, _default(each, envelope, choices))
    if value != "" or _comes_from_vsphere(kind, choices):
        return False
    if kind.base == IP:
        return True
    try:
        text_of("", kind)
    except Unfit:
        return True
    return False


def _comes_from_vsphere(kind: Kind, choices: Choices) -> bool:
    return kind.is_computed or (kind.is_pooled and choices.ip_allocation_policy in _POOLED_POLICIES)


def _default(each: Property, envelope: Envelope, choices: Choices) -> str:
    option = choices.deployment_option or envelope.default_option
    return each.values.get(option or "", each.default or "")


def _unknown(where: str, what: str, name: str, known: list[str]) -> Problem:
    from difflib import get_close_matches

    inside = [each for each in known if name in each.split(".")]  # a key without its class or instance
    near = inside or get_close_matches(name, known, cutoff=0.6)
    if near:
        advice = "Did you mean %s?" % listed(near)
    else:
        advice = "It has %s" % listed(known) if known else "It has none: leave it out"
    return Problem(where, "the package has no %s %r" % (what, name), advice)


def _place(each: Property) -> str:
    return "properties.%s" % each.key


def _title(each: Property) -> str:
    return "%r" % each.label if each.label else "it"
