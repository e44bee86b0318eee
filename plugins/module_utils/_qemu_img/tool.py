# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""qemu-img itself: how images are named to it, how secrets reach it, and what was run."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from .._core.capabilities import Capability, has
from .._core.command import Finished, find_tool, run
from .._core.errors import BadInput, CommandFailed
from .._core.wait import Deadline
from .extras import Encryption
from .header import inspect, inspect_path, refuse_strange_parts
from .model import Format, ImageInfo
from .parse import parse_info

SECRET_ID = "passphrase"
_SECRET_WORDS = ("--object", "secret,id=%s,file=/dev/fd/0" % SECRET_ID)
WRONG_PASSPHRASE = "Invalid password"  # QEMU's crypto/block-luks.c
# QEMU before 9.1 finds out how fast it derives a key by the processor time of its first thread, and a kernel that only
# counts ticks may tell that as none: on a fast processor many new LUKS images fail so. Each attempt measures anew,
# before anything but an empty file has been made.
_NOT_MEASURED = "Unable to get accurate CPU usage"  # QEMU's crypto/pbkdf.c
_MEASUREMENTS = 50
# A header can ask for any amount of memory or time; metadata of honest images needs far less (OpenStack uses the same
# bounds).
INFO_MEMORY_BYTES = 1 << 30
INFO_CPU_S = 30


class Node(NamedTuple):
    """One image as qemu-img opens it.

    ``descriptor`` ≥ 0: the file that is open there, whatever its name means by now. ``alone``: no backing file is
    opened, whatever the header says; ``backing``: this one is, whatever the header says. ``size_bytes``: only that
    much of its beginning. ``encrypted``: it opens with the task's secret.
    """

    path: str
    format: Format
    descriptor: int = -1
    alone: bool = False
    size_bytes: int | None = None
    encrypted: bool = False
    backing: tuple[str, Format] | None = None

    def arguments(self, flag: str = "-f") -> list[str]:
        """The words that name it on a command line: never text that QEMU might take for a protocol."""
        if self == Node(self.path, self.format):
            return [flag, self.format.value, self.path]
        return [self.name]

    @property
    def name(self) -> str:
        """One word that names it with its format, for sub-commands that have no flag for the format."""
        return "json:" + json.dumps(self._tree(), sort_keys=True)

    def _tree(self) -> dict[str, object]:
        filename = self.path if self.is_by_name else _descriptor_path(self.descriptor)
        tree: dict[str, object] = {"driver": self.format.value, "file": {"driver": "file", "filename": filename}}
        if self.alone:
            tree["backing"] = None
        if self.backing is not None:
            tree["backing"] = Node(*self.backing)._tree()
        if self.encrypted:
            tree["encrypt.key-secret"] = SECRET_ID
        if self.size_bytes is not None:
            return {"driver": "raw", "size": self.size_bytes, "file": tree}
        return tree

    @property
    def is_by_name(self) -> bool:
        """Whether qemu-img opens whatever its name means in that moment."""
        return self.descriptor < 0 or not has(Capability.DESCRIPTOR_PATHS)

    @property
    def descriptors(self) -> tuple[int, ...]:
        return (self.descriptor,) if self.descriptor >= 0 else ()


def _descriptor_path(descriptor: int) -> str:
    return "%s/%d" % ("/proc/self/fd" if has(Capability.PROC) else "/dev/fd", descriptor)


def pair(first: Node, second: Node) -> list[str]:
    """Two images for `compare`: both formats first, then both names."""
    one, two = first.arguments("-f"), second.arguments("-F")
    return [*one[:-1], *two[:-1], one[-1], two[-1]]


def option_list(options: Mapping[str, str]) -> list[str]:
    """`-o` with creation options; a comma within a value is doubled."""
    if not options:
        return []
    return ["-o", ",".join("%s=%s" % (name, value.replace(",", ",,")) for name, value in options.items())]


class QemuImg:
    """Runs qemu-img for one task and keeps what was run, fit for display."""

    def __init__(self, deadline: Deadline, encryption: Encryption | None = None) -> None:
        self.deadline = deadline
        self.encryption = encryption
        self.commands: list[list[str]] = []
        self._path = ""

    @property
    def path(self) -> str:
        """Where qemu-img is. Raises ToolMissing."""
        if not self._path:
            self._path = find_tool(
                "qemu-img", "qemu-utils on Debian and Ubuntu, qemu-img on Fedora, RHEL and SUSE, qemu elsewhere"
            )
        return self._path

    def run(
        self,
        arguments: Sequence[str],
        doing: str,
        nodes: Sequence[Node] = (),
        ok: Sequence[int] = (0,),
        limits: Mapping[int, int] | None = None,
        on_output: Callable[[bytes], None] | None = None,
    ) -> Finished:
        """Run one sub-command; ``nodes`` lend it their descriptors. An empty ``ok`` takes every exit code.

        Raises BadInput for a wrong passphrase, CommandFailed, TimedOut, ToolMissing.
        """
        is_secret = self.encryption is not None and any(node.encrypted for node in nodes)
        argv = [self.path, arguments[0], *(_SECRET_WORDS if is_secret else ()), *arguments[1:]]
        lent = [descriptor for node in nodes for descriptor in node.descriptors]
        for _attempt in range(_MEASUREMENTS):
            self.commands.append(argv)
            with self._secret(is_secret) as stdin:
                done = run(
                    argv, doing, self.deadline, ok=(), pass_fds=lent, stdin=stdin, limits=limits, on_output=on_output
                )
            if not (done.rc and _NOT_MEASURED in done.stderr):
                break
        if done.rc and is_secret and WRONG_PASSPHRASE in done.stderr:
            names = ", ".join(node.path for node in nodes if node.encrypted)
            raise BadInput(
                "encrypt.secret", "it doesn't open %s: wrong passphrase" % names, "Give the one it was made with"
            )
        if ok and done.rc not in ok:
            raise CommandFailed(doing, done.argv, done.rc, done.stderr)
        return done

    @contextmanager
    def _secret(self, wanted: bool) -> Iterator[int]:
        """The program's standard input. The secret goes through it: it is never in an argument, an environment or a
        file.
        """
        if not wanted or self.encryption is None:
            yield subprocess.DEVNULL
            return
        reading, writing = os.pipe()
        try:
            os.write(writing, self.encryption.secret.encode())  # far less than a pipe's capacity
            os.close(writing)
            writing = -1
            yield reading
        finally:
            os.close(reading)
            if writing >= 0:
                os.close(writing)

    def info(self, node: Node, trusted: bool = False, advice: str = "", instead: str = "") -> ImageInfo:
        """Metadata of one image; never of its backing chain. Takes no lock, so it works beside a running machine.

        Raises Refused, which says what to do ``instead``, for one that has its data in strange places, unless its
        maker is ``trusted``, and CommandFailed, with the ``advice``, for one that can't be read.
        """
        import resource

        if not trusted and node.format in (Format.VMDK, Format.QCOW2):
            header = inspect_path(node.path) if node.descriptor < 0 else inspect(node.descriptor)
            refuse_strange_parts(node.path, header, instead)
        limits = {resource.RLIMIT_AS: INFO_MEMORY_BYTES, resource.RLIMIT_CPU: INFO_CPU_S}
        words = ["info", "-U", "--output=json", *node._replace(encrypted=False).arguments()]
        doing = "reading %s" % node.path
        done = self.run(words, doing, [node], ok=(), limits=limits)
        if done.rc:
            raise CommandFailed(doing, done.argv, done.rc, done.stderr, advice)
        return parse_info(done.stdout)

    def version(self) -> str:
        """Such as "7.2.22"."""
        words = run([self.path, "--version"], "asking qemu-img for its version", self.deadline).stdout.split()
        return words[2] if len(words) > 2 else ""
