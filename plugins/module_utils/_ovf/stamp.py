# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The stamp in a machine's extraConfig: from what it was imported, and whether that import is complete. Pure.

Everybody may read it who may read the machine's configuration.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

DIGEST_KEY = "vmops.ovf.digest"
STATE_KEY = "vmops.ovf.state"
OWNER_KEY = "vmops.ovf.owner"
MACHINE_KEY = "vmops.ovf.machine"
INPUTS_KEY = "vmops.ovf.inputs"
PACKAGE = "package"
COMPLETE = "complete"
_IMPORTING = "importing:"
_DIGEST = re.compile(r"[0-9a-f]{64}")
_RUN_ID = re.compile(r"[A-Za-z0-9-]{1,64}")
_LONGEST_OWNER = 4096
_LONGEST_INPUTS = 16384  # of hundreds of properties; more are not worth a place in a machine's configuration
_SHORT = 16  # digits: enough to tell values apart
_FORMAT = b"vmops.ovf 1\n"  # another way to make digests gets another number


def digest_of(descriptor: bytes, inputs: Mapping[str, object]) -> str:
    """What identifies a package together with the inputs that shape its machine: SHA-256, in hexadecimal.

    ``inputs`` are of JSON's types; their order doesn't matter. Leave out secrets: whoever reads the digest can try
    guesses on it, as fast as the machine can hash.
    """
    digest = hashlib.sha256(_FORMAT)
    digest.update(hashlib.sha256(descriptor).digest())
    digest.update(_canonical(inputs))
    return digest.hexdigest()


def digests_of(descriptor: bytes, inputs: Mapping[str, object]) -> dict[str, str]:
    """The beginning of a digest of each, to tell which one differs where :func:`digest_of` does: ``package`` is the
    descriptor, ``properties.KEY`` an entry of a mapping. What isn't set (None, False) has none.
    """
    found = {PACKAGE: hashlib.sha256(descriptor).hexdigest()[:_SHORT]}
    for name, value in _flat(inputs):
        if value is not None and value is not False:
            found[name] = hashlib.sha256(_canonical(value)).hexdigest()[:_SHORT]
    return found


def differing(some: Mapping[str, str], others: Mapping[str, str]) -> list[str]:
    """The names whose digests are not the same in both."""
    return sorted(name for name in some.keys() | others.keys() if some.get(name) != others.get(name))


def _flat(inputs: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    for name, value in inputs.items():
        if isinstance(value, Mapping):
            yield from (("%s.%s" % (name, key), each) for key, each in value.items())
        else:
            yield name, value


def _canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


class Owner(NamedTuple):
    """The process that imports: where it runs, as whom, and since when (UTC, ISO 8601)."""

    host: str
    user: str
    pid: int
    started: str


class Stamp(NamedTuple):
    """``run_id`` is that of the import under way, which ``owner`` does; None: the machine is complete. ``machine`` is
    the instance UUID of that one then: its clones bear the same stamp, and another UUID. ``inputs`` are the digests of
    each input; none where an older release wrote it.
    """

    digest: str
    run_id: str | None = None
    owner: Owner | None = None
    machine: str | None = None
    inputs: Mapping[str, str] = {}

    @property
    def is_complete(self) -> bool:
        return self.run_id is None

    def finished(self, machine: str | None) -> Stamp:
        """The stamp of the machine of this instance UUID when its import is complete."""
        return Stamp(self.digest, machine=machine, inputs=self.inputs)

    def to_extra_config(self) -> dict[str, str]:
        """The values. An empty one removes what was there."""
        inputs = json.dumps(self.inputs, separators=(",", ":"))
        return {
            DIGEST_KEY: self.digest,
            STATE_KEY: COMPLETE if self.run_id is None else _IMPORTING + self.run_id,
            OWNER_KEY: json.dumps(self.owner._asdict(), separators=(",", ":")) if self.owner else "",
            **({MACHINE_KEY: self.machine} if self.machine is not None else {}),
            **({INPUTS_KEY: inputs} if self.inputs and len(inputs) <= _LONGEST_INPUTS else {}),
        }

    @classmethod
    def from_extra_config(cls, found: Mapping[str, object]) -> Stamp | None:
        """The stamp among a machine's values; None where there is none, or what somebody else has written."""
        digest, state = found.get(DIGEST_KEY), found.get(STATE_KEY)
        if not isinstance(digest, str) or not isinstance(state, str) or not _DIGEST.fullmatch(digest):
            return None
        if state == COMPLETE:
            machine = found.get(MACHINE_KEY)
            machine = machine if isinstance(machine, str) and machine else None
            return cls(digest, machine=machine, inputs=_inputs(found.get(INPUTS_KEY)))
        run_id = state[len(_IMPORTING) :]
        if not state.startswith(_IMPORTING) or not _RUN_ID.fullmatch(run_id):
            return None
        return cls(digest, run_id, _owner(found.get(OWNER_KEY)), inputs=_inputs(found.get(INPUTS_KEY)))


def _read(text: object, longest: int) -> dict[str, Any]:
    """An object of JSON; empty for anything else, for anybody may have written it."""
    if not isinstance(text, str) or len(text) > longest:
        return {}
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _inputs(text: object) -> Mapping[str, str]:
    found = _read(text, _LONGEST_INPUTS)
    return found if all(isinstance(value, str) for value in found.values()) else {}


def _owner(text: object) -> Owner | None:
    facts = _read(text, _LONGEST_OWNER)
    host, user, pid, started = (facts.get(name) for name in Owner._fields)
    if not isinstance(pid, int) or isinstance(pid, bool):
        return None
    if not (isinstance(host, str) and isinstance(user, str) and isinstance(started, str)):
        return None
    return Owner(host, user, pid, started)
