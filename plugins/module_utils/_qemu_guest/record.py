# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a running guest was started with: the record beside its pidfile, and the digest that shows drift."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
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


class Phase(str, Enum):
    """How far a start came. A run that was killed in between leaves STARTING, and the next one goes on from there."""

    STARTING = "starting"
    READY = "ready"


class Record(NamedTuple):
    """Written before QEMU is started, and again when the guest is ready. ``pid`` is 0 until QEMU has told it."""

    phase: Phase
    pid: int
    definition: Definition
    accel: str
    argv: tuple[str, ...]

    @property
    def digest(self) -> str:
        return digest(self.definition)


def definition(options: Mapping[str, Any]) -> Definition:
    """The declared machine in one normal form: without what was not given, sizes in bytes, a UUID in small letters.

    Raises BadInput.
    """
    found = {option: _given(options.get(option)) for option in DEFINING}
    memory_bytes = parse_size(str(options["memory"]), "memory")
    if memory_bytes < 1024 * 1024:
        raise BadInput("memory", "%d bytes are too few for any guest" % memory_bytes, "Write a size such as 512M or 2G")
    uuid = found["uuid"].lower() if found["uuid"] is not None else None
    normal = dict(found, memory=memory_bytes, uuid=uuid)
    return {option: value for option, value in normal.items() if value is not None}


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
        return Record(
            Phase(data["phase"]), int(data["pid"]), dict(data["definition"]), str(data["accel"]), tuple(data["argv"])
        )
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
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
