# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is to be imported, held against what was asked for and where it goes, before anything is touched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from .._core.errors import BadInput, RemoteFailed
from .._ovf.choices import all_properties, normalised_properties, problems, secret_keys, unset_properties
from .._ovf.model import Problem
from .._ovf.package import Package
from .._ovf.source import Access
from .._ovf.stamp import digest_of, digests_of
from .entrance import Entered
from .fitness import UNHEARD, compute_problems, is_vcenter, space_problems, template_problems
from .place import Place, find, find_folder
from .plan import State
from .spec import Asked, Spec, add_extra_config, create, environment
from .wish import AUTO, PULL, PUSH, Wish

if TYPE_CHECKING:
    from .pull import Fetching, Request


# Of problems in one message.
_MOST_TOLD = 100


class Prepared(NamedTuple):
    """An import about to begin. ``name`` is that of the machine and of its files."""

    name: str
    package: Package
    place: Place
    spec: Spec
    fetching: Fetching | None


class Preparation:
    """Of one package. ``digests`` are the machine's by which it is known again, none where the choices don't fit it."""

    def __init__(self, wish: Wish, access: Access, package: Package) -> None:
        self._wish = wish
        self._access = access
        self._package = package
        self._given: Mapping[str, str] = {}
        self.digests: Mapping[str, Any] = {}
        self._warnings: list[str] = []
        envelope = package.envelope
        self._unset = unset_properties(envelope, wish.choices)
        self._unset_is_told = False
        self._problems = problems(envelope, wish.choices)  # as far as no server is asked
        if self._problems:
            return
        self._given = normalised_properties(envelope, wish.choices.properties)
        shown = self._given.keys() - secret_keys(envelope) - wish.secret_keys
        inputs = _inputs(wish, {key: self._given[key] for key in shown})
        self.digests = {
            "digest": digest_of(package.descriptor, inputs),
            "inputs": digests_of(package.descriptor, inputs),
        }

    @property
    def warnings(self) -> list[str]:
        unset = () if self._unset_is_told else self._unset
        return [*("%s: %s." % (item.where, item.problem) for item in unset), *self._warnings]

    def refuse_unfit(self, at: Entered) -> None:
        """Where something is wrong whatever is there already, all that is wrong is looked for. Raises BadInput,
        RemoteFailed.
        """
        try:
            find_folder(at.inventory, self._wish.place)
        except BadInput:
            self._check(at)
        if self._problems or template_problems(at.session, self._wish.state):
            self._check(at)

    def _check(self, at: Entered) -> Place:
        """Where it goes. All that is wrong with the package, the choices and the place is told at once, by BadInput."""
        wish, package = self._wish, self._package
        envelope = package.envelope
        located = find(at.inventory, wish.place, tuple(network.name for network in envelope.networks))
        found = [
            *self._problems,
            *self._unset_problems(at),
            *template_problems(at.session, wish.state),
            *located.problems,
            *compute_problems(at.session, at.inventory, located, envelope),
            *package.problems(wish.verify),
            *self._unfetchable(),
        ]
        if located.place is None or found:
            raise _unfit(package.location, found)
        return located.place

    def _unset_problems(self, at: Entered) -> Sequence[Problem]:
        """Those of a machine that is to be imported and powered on: one that is there may have been given its values by
        hand. An ESXi host hands it none.
        """
        if self._wish.state is not State.POWERED_ON or not is_vcenter(at.session):
            return ()
        self._unset_is_told = True
        return self._unset

    def prepare(self, at: Entered, name: str, room_is_made: bool = False) -> Prepared:
        """All that speaks against the import, found before its lease begins. ``room_is_made``: how much there will be
        nobody knows yet, as something is removed first. Raises BadInput, RemoteFailed.
        """
        wish, package, given = self._wish, self._package, self._given
        place = self._check(at)
        hidden = frozenset(known.key for known in package.envelope.properties if known.hidden and known.key in given)
        asked = Asked(name, wish.choices, given, hidden, wish.annotation)
        spec = create(at.session, package.descriptor_text, place, asked)
        found = list(spec.problems)
        if not room_is_made:
            found += space_problems(at.session, package, place, spec, wish.choices.disk_provisioning)
        if found:
            raise _unfit(package.location, found)
        if wish.inject_ovf_env:
            values = all_properties(package.envelope, given, wish.choices)
            add_extra_config(spec.body, environment(values, wish.name))
        elif package.envelope.properties and not is_vcenter(at.session):
            self._warnings.append(UNHEARD)
        return Prepared(name, package, place, spec, self._fetching())

    def _unfetchable(self) -> list[Problem]:
        if self._wish.upload != PULL:
            return []
        from .pull import obstacles

        return obstacles(self._package, self._request)

    def _fetching(self) -> Fetching | None:
        """How the server's hosts fetch the files; None where they are sent."""
        upload = self._wish.upload
        if upload == PUSH:
            return None
        from .pull import fetching, is_certain

        if upload == AUTO and not is_certain(self._package, self._request):
            return None
        try:
            return fetching(self._request, only=upload == PULL)
        except RemoteFailed:
            if upload == PULL:
                raise
            return None

    @property
    def _request(self) -> Request:
        from .pull import Request

        return Request(self._wish.source or "", self._access, self._wish.verify)


def _inputs(wish: Wish, properties: Mapping[str, str]) -> Mapping[str, object]:
    """The choices that shape the machine. Where it stands is none: a machine may be moved. Passwords are left out:
    whoever may read the digest could try guesses on it.
    """
    return {
        "annotation": wish.annotation,
        "deployment_option": wish.choices.deployment_option,
        "disk_provisioning": wish.choices.disk_provisioning,
        "inject_ovf_env": wish.inject_ovf_env,
        "ip_allocation_policy": wish.choices.ip_allocation_policy,
        "ip_protocol": wish.choices.ip_protocol,
        "networks": dict(wish.choices.networks),
        "properties": dict(properties),
    }


def _unfit(location: str, found: Sequence[Problem]) -> BadInput:
    """All problems at once; as data too, each with its file, key or option. A package may have very many."""
    told = "; ".join(
        "%s: %s. %s" % (item.where, item.problem.rstrip("."), item.instead.rstrip(".")) for item in found[:_MOST_TOLD]
    )
    if len(found) > _MOST_TOLD:
        told += "; and %d more" % (len(found) - _MOST_TOLD)
    error = BadInput("source", "%s can't be imported so: %s" % (location, told), "Nothing was touched")
    error.facts["problems"] = [item._asdict() for item in found[:_MOST_TOLD]]
    return error
