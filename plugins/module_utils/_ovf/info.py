# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A package as it is, for `ovf_info`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from .._core.errors import BadInput
from .._core.wait import Deadline, check_timeout
from .choices import machine_problems, secret_keys
from .declare import declared_access, declared_location
from .model import Disk, File, Machine, Problem, Property
from .package import Package, open_package
from .preflight import IGNORE, Verdict, refused

_MASK = "********"


class PackageInfo:
    """What an info task looks at. A package with problems is still told; one that can't be read is an error."""

    def __init__(self, params: Mapping[str, Any], deadline: Deadline) -> None:
        check_timeout(params["timeout"])
        self._location = declared_location(params)
        self._access = declared_access(params)
        self._verify: str = params["verify"]
        self._reads_all: bool = params["checksum"]
        self._deadline = deadline

    def observe(self) -> dict[str, object]:
        """See Observed."""
        with open_package(self._location, self._access, self._deadline) as package:
            problems = [*machine_problems(package.envelope), *package.problems(self._verify)]
            verdicts: list[Verdict] | None = None
            if self._reads_all and not _unreadable(package):
                verdicts = package.verify(self._verify, self._deadline)
                known = {problem.where for problem in problems}
                problems += [problem for problem in refused(verdicts) if problem.where not in known]
            return {
                **_content(package),
                "manifest": _manifest(package, self._verify, verdicts),
                "certificate": _certificate(package, self._verify),
                "problems": [_problem(problem) for problem in problems],
            }

    def result(self, seen: dict[str, object]) -> Mapping[str, object]:
        """See Observed."""
        return {"ovf": seen}

    def extras(self) -> Mapping[str, object]:
        """See Observed."""
        return {}

    def warnings(self) -> Sequence[str]:
        """See Observed."""
        return ()


def _content(package: Package) -> dict[str, object]:
    envelope = package.envelope
    secret = secret_keys(envelope)
    files = {file.id: file for file in envelope.files}
    return {
        "location": package.location,
        "kind": package.kind,
        "descriptor": {
            "name": package.descriptor_name,
            "size": len(package.descriptor),
            "sha256": hashlib.sha256(package.descriptor).hexdigest(),
        },
        "is_vapp": envelope.is_vapp,
        "products": [product._asdict() for product in envelope.products],
        "eulas": [eula._asdict() for eula in envelope.eulas],
        "networks": [network._asdict() for network in envelope.networks],
        "disks": [_disk(disk, files) for disk in envelope.disks],
        "properties": [_property(found, found.key in secret) for found in envelope.properties],
        "deployment_options": [option._asdict() for option in envelope.deployment_options],
        "machines": [_machine(machine) for machine in envelope.machines],
        "transports": list(envelope.transports),
        "files": [_file(package, file) for file in envelope.files],
        "members": [{"name": name, "size": size} for name, size in package.members.items()],
    }


def _disk(disk: Disk, files: Mapping[str, File]) -> dict[str, object]:
    return {
        "id": disk.id,
        "file": None if disk.file_id is None else files[disk.file_id].href,
        "capacity": disk.capacity_bytes,
        "capacity_property": disk.capacity_property,
        "populated_size": disk.populated_bytes,
        "format": disk.format,
        "parent": disk.parent_id,
    }


def _property(found: Property, is_secret: bool) -> dict[str, object]:
    """Its defaults too, unless they are secret."""
    shown = found._asdict()
    defaults = dict(shown.pop("values"))
    if is_secret:
        shown["default"] = _MASK if found.default else found.default
        defaults = dict.fromkeys(defaults, _MASK)
    return {**shown, "option_defaults": defaults}


def _machine(machine: Machine) -> dict[str, object]:
    return {
        **machine._asdict(),
        "hardware_versions": list(machine.hardware_versions),
        "networks": list(machine.networks),
    }


def _file(package: Package, file: File) -> dict[str, object]:
    return {
        "id": file.id,
        "href": file.href,
        "size": file.size_bytes,
        "compression": file.compression,
        "chunk_size": file.chunk_size_bytes,
        "members": list(package.parts(file)),
    }


def _problem(problem: Problem) -> dict[str, object]:
    return problem._asdict()


def _unreadable(package: Package) -> bool:
    try:
        return package.manifest is None
    except BadInput:
        return True  # `problems` tells why


def _manifest(package: Package, verify: str, verdicts: Sequence[Verdict] | None) -> dict[str, object] | None:
    name = package.manifest_name
    if name is None:
        return None
    if verify == IGNORE:
        return {"name": name, "verdict": "ignored", "digests": {}}
    if _unreadable(package):
        return {"name": name, "verdict": "unreadable", "digests": {}}
    digests = {member: "%s:%s" % digest for member, digest in (package.manifest or {}).items()}
    return {"name": name, "verdict": _verdict(verdicts), "digests": digests}


def _verdict(verdicts: Sequence[Verdict] | None) -> str:
    if verdicts is None:
        return "unchecked"
    return "matches" if all(verdict.good for verdict in verdicts) else "differs"


def _certificate(package: Package, verify: str) -> dict[str, object] | None:
    name = package.certificate_name
    if name is None:
        return None
    if verify == IGNORE:
        return {"name": name, "verdict": "ignored"}
    signed = package.signed
    if signed is None or signed.broken is not None:
        return {"name": name, "verdict": "unreadable"}
    if signed.verdict is None:
        return {"name": name, "verdict": "unchecked"}
    found = signed.verdict
    return {
        "name": name,
        "verdict": "matches" if found.verifies else "differs",
        "signed_by": found.signed_by,
        "issued_by": found.issued_by,
        "not_before": found.not_before,
        "not_after": found.not_after,
        "in_dates": found.is_in_dates,
        "trusted": found.is_trusted,
        "doubt": found.doubt,
    }
