# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether what a server has received is what was to be sent: by the package's manifest, and by the server's own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .._core.errors import LifecycleError, RemoteFailed
from .._ovf.manifest import hasher
from .._ovf.model import Digest
from .session import Session
from .upload import Sent

# What servers tell of files that they have received; SHA-1 without being asked.
_SHA1, SHA256 = "sha1", "sha256"
# How long they are; what has another length is none.
_DIGITS = {_SHA1: 40, SHA256: 64}


class CheckFailed(LifecycleError):
    """A file is not what it should be."""

    kind = "check_failed"


def differs(name: str, what: str, found: str, expected: str) -> CheckFailed:
    """``what``: which digest that is."""
    return CheckFailed(
        "The %s digest of %s is %s, not %s. Nothing was imported; get the package anew."
        % (what, name, found, expected),
        file=name,
        found=found,
        expected=expected,
    )


class Comparison:
    """Of what one lease has received. ``listed``: the digests that the package's manifest has, by the files' names;
    those of the server are told by the keys of the lease's addresses.
    """

    def __init__(self, session: Session, lease_id: str, listed: Mapping[str, Digest]) -> None:
        self._session = session
        self._lease_id = lease_id
        self._listed = listed

    def algorithm_of_sent(self, urls: Iterable[Any]) -> str:
        """Have the server tell the digests that are taken anyway, if it can: then none is taken for it alone."""
        return SHA256 if self._ask_for({url.key: SHA256 for url in urls}) else _SHA1

    def ask_for_listed(self, names: Mapping[str, str]) -> None:
        """Have it tell the digests that the manifest has, as far as it can. ``names``: of the files, by the keys."""
        wanted = {}
        for key, name in names.items():
            expected = self._listed.get(name)
            wanted[key] = _SHA1 if expected is not None and expected.algorithm == _SHA1 else SHA256
        self._ask_for(wanted)

    def _ask_for(self, algorithms: Mapping[str, str]) -> bool:
        """Where the server can't, as older ones, it tells SHA-1; whatever else is wrong will be found."""
        from pyVmomi import vim

        wanted = [vim.KeyValue(key=key, value=algorithm) for key, algorithm in algorithms.items()]
        try:
            self._session.call("choosing checksums", self._lease.HttpNfcLeaseSetManifestChecksumType, wanted)
        except RemoteFailed:
            return False
        return True

    def account(self) -> Mapping[str, Mapping[str, str]] | None:
        """The server's digests of each file that it has received, by the algorithm; None where it has no account, as
        older servers. Raises RemoteFailed.
        """
        try:
            manifest = self._session.ask("reading the lease's manifest", self._lease.HttpNfcLeaseGetManifest)
        except RemoteFailed as failed:
            if failed.facts.get("fault") in ("MethodNotFound", "NotSupported", "InvalidRequest"):
                return None
            raise
        return {entry.key: _checksums(entry) for entry in manifest or ()}

    def of_sent(self, sent: Sequence[Sent]) -> list[str]:
        """What could not be compared. Raises CheckFailed, RemoteFailed."""
        account = self.account() or {}  # older servers have none
        warnings = []
        untold = [one.job.name for one in sent if not account.get(one.job.key)]
        if untold:
            warnings.append(
                "The server doesn't tell what it received of %s: that was not compared with what was sent."
                % ", ".join(untold)
            )
        for one in sent:
            theirs = account.get(one.job.key) or {}
            both = [algorithm for algorithm in theirs if algorithm in one.digests]
            for algorithm in both:
                if theirs[algorithm] != one.digests[algorithm]:
                    what = "%s, as the server received it," % algorithm
                    raise differs(one.job.name, what, theirs[algorithm], one.digests[algorithm])
            if theirs and not both:
                warnings.append(
                    "%s was not compared with what the server received, which tells only its %s."
                    % (one.job.name, " and ".join(theirs))
                )
        return warnings

    def of_fetched(self, names: Mapping[str, str], account: Mapping[str, Mapping[str, str]], strict: bool) -> list[str]:
        """What could not be compared of files that hosts have fetched; ``strict``: nothing may be such. Raises
        CheckFailed.
        """
        unverified = []
        for key, name in names.items():
            theirs, expected = account.get(key) or {}, self._listed.get(name)
            if expected is None or expected.algorithm not in theirs:
                unverified.append(name)
            elif theirs[expected.algorithm] != expected.value:
                what = "%s, as the hosts fetched it," % expected.algorithm
                raise differs(name, what, theirs[expected.algorithm], expected.value)
        if unverified and strict:
            raise CheckFailed(
                "Nobody vouches for %s, as the hosts fetched it: the server doesn't tell the digest that the manifest "
                "has. Nothing was imported; say upload: push." % ", ".join(unverified)
            )
        if not unverified:
            return []
        return [
            "The hosts fetched %s, and nothing tells whether it arrived as it should be: no digest is both in a "
            "manifest of the package and known to the server." % ", ".join(unverified)
        ]

    @property
    def _lease(self) -> Any:
        return self._session.find("HttpNfcLease", self._lease_id)


class RawDigests:
    """The digests of files that are sent in another form than they are in the package."""

    def __init__(self, manifest: Mapping[str, Digest], names: Sequence[str]) -> None:
        self._expected = {name: manifest[name] for name in names if name in manifest}
        self._hashes: dict[str, Any] = {}

    def reset(self) -> None:
        """Another attempt begins."""
        self._hashes = {name: hasher(expected.algorithm) for name, expected in self._expected.items()}

    def add(self, name: str, data: memoryview) -> None:
        if name in self._hashes:
            self._hashes[name].update(data)

    def check(self) -> None:
        for name, found in self._hashes.items():
            expected = self._expected[name]
            if found.hexdigest() != expected.value:
                raise differs(name, expected.algorithm, found.hexdigest(), expected.value)


def _checksums(entry: Any) -> Mapping[str, str]:
    """What the server tells of a file, by the algorithm; without what can't be a digest by it."""
    found = {_SHA1: entry.sha1}
    if entry.checksum:
        found[(entry.checksumType or _SHA1).lower()] = entry.checksum
    return {
        algorithm: digest.lower() for algorithm, digest in found.items() if len(digest or "") == _DIGITS.get(algorithm)
    }
