# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is wrong with a package, all at once: what sizes and headers tell, and what only reading all of it does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from .._core.errors import BadInput
from .._core.wait import Deadline
from . import vmdk
from .manifest import hasher
from .model import Digest, Disk, File, Problem
from .source import pause

if TYPE_CHECKING:
    from .package import Package

IGNORE, IF_PRESENT, REQUIRED, SIGNED = VERIFY = ("ignore", "if_present", "required", "signed")
"""Whether a package's manifest counts, and its certificate: never, if there is one, so that each file has to be in the
manifest, or so that besides somebody whom this host trusts must have signed it.
"""

_READ_BYTES = 1024 * 1024
_ANEW = "Get the package anew"


class Verdict(NamedTuple):
    """A file against the manifest. ``expected`` is None for one that the manifest doesn't name, ``actual`` for one that
    isn't there.
    """

    name: str
    expected: Digest | None
    actual: Digest | None

    @property
    def good(self) -> bool:
        """Whether the file is what the manifest says."""
        return self.actual is not None and self.actual == self.expected


def problems(package: Package, verify: str) -> list[Problem]:
    """What keeps the package from being imported, as far as sizes and headers tell. No body is read.

    Raises what reading raises, and BadInput for an archive that is broken.
    """
    members = package.members  # to look for them is what finds faults
    found = [*package.store.faults()]
    faulty = {problem.where for problem in found}
    disks = {disk.file_id: disk for disk in reversed(package.envelope.disks)}
    for file in package.envelope.files:
        if not faulty.intersection(package.parts(file)):
            found += _of_file(package, file, members, disks.get(file.id))
    found += _extra(package)
    if verify != IGNORE:
        found += _of_manifest(package, verify)
        found += _of_certificate(package, verify)
    return found


def _of_file(package: Package, file: File, members: Mapping[str, int], disk: Disk | None) -> Iterator[Problem]:
    parts = package.parts(file)
    missing = [name for name in parts if name not in members]
    for name in missing:
        yield Problem(name, "the descriptor refers to it, and the package has no such file", _ANEW)
    if missing:
        return
    size = sum(members[name] for name in parts)
    if file.size_bytes is not None and size != file.size_bytes:
        problem = "it has %d bytes, and the descriptor says %d" % (size, file.size_bytes)
        yield Problem(file.href, problem, "%s: the file or the descriptor isn't the right one" % _ANEW)
    if disk is not None:
        yield from _of_disk(file, disk, package.head(file, vmdk.HEADER_BYTES))


def _of_disk(file: File, disk: Disk, head: bytes) -> Iterator[Problem]:
    if not head and file.compression != "identity":
        yield Problem(file.href, "it isn't packed by gzip, and the descriptor says so", _ANEW)
        return
    seen = vmdk.inspect(head)
    if seen.unfit:
        problem = "it is %s, and vSphere takes only streamOptimized VMDKs" % seen.unfit
        yield Problem(file.href, problem, vmdk.remedy(seen, file.href))
        return
    capacity = disk.capacity_bytes
    # A larger disk than the file's is made so when it is imported; a smaller one can't hold what the file has.
    if seen.capacity_bytes is not None and capacity is not None and seen.capacity_bytes > capacity:
        problem = "its disk has %d bytes, and that of the descriptor only %d" % (seen.capacity_bytes, capacity)
        yield Problem(file.href, problem, "%s, or correct the capacity of the disk %s" % (_ANEW, disk.id))


def _extra(package: Package) -> Iterator[Problem]:
    """Of an archive only: a folder may well hold other things."""
    if package.kind != "ova":
        return
    own = (package.descriptor_name, package.manifest_name, package.certificate_name)
    known = {*own, *_referred(package)}
    for name in package.members:
        if name not in known:
            yield Problem(name, "the archive has it, and the descriptor doesn't refer to it", _ANEW)


def _of_manifest(package: Package, verify: str) -> Iterator[Problem]:
    name = package.manifest_name
    if name is None:
        if wants_all(verify):
            yield Problem(package.location, "it has no manifest (.mf), and verify wants one", _LESS)
        return
    try:
        manifest = package.manifest or {}
    except BadInput as error:
        yield Problem(error.option, error.problem, error.expected)
        return
    known = {*package.members, *_referred(package)}
    for listed in manifest:
        if listed not in known:
            yield Problem(listed, "%s names it, and the package has no such file" % name, _OF_ANOTHER)
    for listed in _listable(package):
        if listed not in manifest and wants_all(verify):
            yield Problem(listed, "%s doesn't name it, and verify wants all files to be in it" % name, _LESS)
    expected = manifest.get(package.descriptor_name)
    if expected is not None and _digest(expected.algorithm, package.descriptor) != expected:
        yield Problem(package.descriptor_name, "its content isn't what %s says" % name, _OF_ANOTHER)


_LESS = "Get a package that has it, or say verify: if_present"
_OF_ANOTHER = "%s: the manifest is that of another package, or this one was changed" % _ANEW


def _of_certificate(package: Package, verify: str) -> Iterator[Problem]:
    signed = package.signed
    if signed is not None:
        from .signature import problems as of_signature

        yield from of_signature(signed, strictly=verify == SIGNED)
    elif verify == SIGNED:
        yield Problem(package.location, "nobody has signed it (.cert), and verify wants that", _LESS)


def wants_all(verify: str) -> bool:
    """Whether ``verify`` wants each file to be vouched for."""
    return verify in (REQUIRED, SIGNED)


def _referred(package: Package) -> list[str]:
    return [name for file in package.envelope.files for name in package.parts(file)]


def _listable(package: Package) -> list[str]:
    """What a manifest has to name: the descriptor, and each file that it refers to."""
    return [package.descriptor_name, *_referred(package)]


def _digest(algorithm: str, content: bytes) -> Digest:
    digest = hasher(algorithm)
    digest.update(content)
    return Digest(algorithm, digest.hexdigest())


def verdicts(package: Package, verify: str, deadline: Deadline) -> list[Verdict]:
    """Read each file that the manifest names and compare it; where all have to be in it, the others get a verdict too.

    Nothing without a manifest, unless one is required, or with ``ignore``. Raises BadInput for a broken manifest, and
    what reading raises.
    """
    if verify == IGNORE:
        return []
    manifest: Mapping[str, Digest] = package.manifest or {}
    unlisted = [name for name in _listable(package) if name not in manifest] if wants_all(verify) else []
    return [_verdict(package, name, expected, deadline) for name, expected in manifest.items()] + [
        Verdict(name, None, None) for name in unlisted
    ]


def _verdict(package: Package, name: str, expected: Digest, deadline: Deadline) -> Verdict:
    if name == package.descriptor_name:
        return Verdict(name, expected, _digest(expected.algorithm, package.descriptor))
    if name not in package.members:
        return Verdict(name, expected, None)
    digest = hasher(expected.algorithm)
    buffer = memoryview(bytearray(_READ_BYTES))
    reader = package.store.reader(name)
    try:
        done = reader.readinto(buffer)
        while done:
            digest.update(buffer[:done])
            deadline.check("the digest of %s" % name)
            pause()
            done = reader.readinto(buffer)
    finally:
        reader.close()
    return Verdict(name, expected, Digest(expected.algorithm, digest.hexdigest()))


def refused(found: Sequence[Verdict]) -> list[Problem]:
    """The problems that verdicts are."""
    return [_problem(verdict) for verdict in found if not verdict.good]


def _problem(verdict: Verdict) -> Problem:
    if verdict.expected is None:
        return Problem(verdict.name, "the manifest doesn't name it, and verify wants all files to be in it", _LESS)
    if verdict.actual is None:
        return Problem(verdict.name, "the manifest names it, and the package has no such file", _OF_ANOTHER)
    told = "its %s is %s, and the manifest says %s"
    return Problem(
        verdict.name,
        told % (verdict.expected.algorithm.upper(), verdict.actual.value, verdict.expected.value),
        _OF_ANOTHER,
    )
