# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a running guest was started with: the record beside its pidfile, and the digest that shows drift."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, NamedTuple

from .._core.errors import BadInput
from .._core.units import parse_size

VERSION = 1
# The options that make the machine. The others (how long to wait, for what) may differ from run to run.
DEFINING = (
    "emulator",
    "memory",
    "cpus",
    "machine",
    "cpu",
    "accel",
    "uuid",
    "disks",
    "seed",
    "networks",
    "firmware",
    "firmware_vars",
    "kernel",
    "initrd",
    "append",
    "agent",
    "display",
    "extra_args",
)

Definition = Mapping[str, Any]
# One kind of readiness as declared, such as {"ready": "port", "ready_port": 22}.
Awaited = Mapping[str, Any]
_READY_OPTIONS = {"agent": (), "port": ("ready_host", "ready_port"), "console": ("ready_text",)}
# One card on QEMU's user network, which needs nothing of the host.
_DEFAULT_NETWORKS = ({"mode": "user", "model": "virtio", "forwards": []},)


class Phase(str, Enum):
    """How far a start came. A run that was killed in between leaves STARTING, and the next one goes on from there."""

    STARTING = "starting"
    READY = "ready"


class Record(NamedTuple):
    """Written before QEMU is started, and again when the guest is ready. ``pid`` is 0 until QEMU has told it.

    ``reached`` is every readiness that it was seen to have; None where an older version wrote the record.
    """

    phase: Phase
    pid: int
    definition: Definition
    accel: str
    argv: tuple[str, ...]
    reached: tuple[Awaited, ...] | None = ()

    @property
    def digest(self) -> str:
        return digest(self.definition)


def definition(options: Mapping[str, Any]) -> Definition:
    """The declared machine in one normal form, without what was not given, and sizes in bytes. Raises BadInput."""
    found = {option: _given(options.get(option)) for option in DEFINING}
    memory_bytes = parse_size(str(options["memory"]), "memory")
    if memory_bytes < 1024 * 1024:
        raise BadInput("memory", "%d bytes are too few for any guest" % memory_bytes, "Write a size such as 512M or 2G")
    return _normal({option: value for option, value in dict(found, memory=memory_bytes).items() if value is not None})


def _normal(found: Definition) -> Definition:
    """One form for what means the same, however it is written. Also for records of older versions."""
    networks = found.get("networks", _DEFAULT_NETWORKS)
    normal = dict(found, networks=[_with_normal(network, "mac", _mac) for network in networks])
    return _with_normal(normal, "uuid", str.lower)


def _with_normal(found: Mapping[str, Any], option: str, form: Callable[[str], str]) -> dict[str, Any]:
    return {name: form(value) if name == option else value for name, value in found.items()}


def _mac(written: str) -> str:
    return written.lower().replace("-", ":")


def awaited(options: Mapping[str, Any]) -> Awaited | None:
    """The readiness that the ``ready`` options ask for; None for QEMU's own, which every guest has."""
    kind = options["ready"]
    if kind == "none":
        return None
    return {"ready": kind, **{option: options.get(option) for option in _READY_OPTIONS[kind]}}


def digest(declared: Definition) -> str:
    """SHA-256 of a definition."""
    return hashlib.sha256(json.dumps(declared, sort_keys=True).encode()).hexdigest()


def differing(running: Definition, declared: Definition) -> list[str]:
    """The options in which two definitions differ."""
    return sorted(option for option in {*running, *declared} if running.get(option) != declared.get(option))


def read_record(path: str) -> Record | None:
    """None where there is none that this version can read: then nothing is known of how the guest was started."""
    try:
        with open(path, encoding="utf-8") as file:
            data = json.load(file)
        if data["version"] != VERSION:
            return None
        reached = data.get("reached")
        return Record(
            Phase(data["phase"]),
            int(data["pid"]),
            _normal(data["definition"]),
            str(data["accel"]),
            tuple(data["argv"]),
            None if reached is None else tuple(dict(wish) for wish in reached),
        )
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError, AttributeError):
        return None


def record_of(path: str, pid: int) -> Record | None:
    """The record of the start of this very process; None where the one that is there tells of another."""
    record = read_record(path)
    return record if record is not None and record.pid in (0, pid) else None


def write_record(path: str, record: Record) -> None:
    """The whole record or the old one, never a part."""
    from .._core.files import write_whole

    data = dict(record._asdict(), version=VERSION, phase=record.phase.value, digest=record.digest)
    write_whole(path, json.dumps(data, indent=1, sort_keys=True).encode() + b"\n")


def _given(value: Any) -> Any:
    """Without the sub-options that were not given, so that a later version with more of them means the same machine."""
    if isinstance(value, Mapping):
        return {name: _given(part) for name, part in value.items() if part is not None}
    if isinstance(value, list):
        return [_given(part) for part in value]
    return value
