# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The one place that starts other programs.

A program gets a process group of its own, an empty or given standard input, the C locale and a deadline. However the
call ends (success, time-out, a stop signal, a fault of ours), the group is killed and reaped before it returns; if
this process is killed by SIGKILL, Linux kills the program through the parent-death signal.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from .capabilities import Capability, has
from .errors import CommandFailed, LifecycleError, TimedOut, ToolMissing
from .signals import held
from .wait import Deadline, ready

# Far above what the tools of this field print; a program that prints more is cut, not allowed to fill our memory.
OUTPUT_LIMIT_BYTES = 64 * 1024 * 1024
SBIN = ("/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/local/bin", "/opt/homebrew/bin")
PR_SET_PDEATHSIG = 1  # linux/prctl.h


class Finished(NamedTuple):
    """A program that has ended. ``argv`` is fit for display: secrets never are on a command line."""

    argv: tuple[str, ...]
    rc: int
    stdout: str
    stderr: str
    elapsed_s: float


def find_tool(tool: str, package: str) -> str:
    """The absolute path of a program, from PATH and the usual places beside it. Raises ToolMissing."""
    folders = [folder for folder in os.environ.get("PATH", os.defpath).split(os.pathsep) if folder]
    folders += [folder for folder in SBIN if folder not in folders]
    for folder in folders:
        candidate = os.path.join(folder, tool)
        if os.path.isfile(candidate) and os.access(candidate, os.X_OK):
            return os.path.abspath(candidate)
    raise ToolMissing(tool, package, folders)


def run(
    argv: Sequence[str],
    doing: str,
    deadline: Deadline,
    ok: Sequence[int] = (0,),
    pass_fds: Sequence[int] = (),
    stdin: int = subprocess.DEVNULL,
    env: Mapping[str, str] | None = None,
    limits: Mapping[int, int] | None = None,
    on_output: Callable[[bytes], None] | None = None,
) -> Finished:
    """Run a program to its end and return what it said.

    :param doing: what it is for, in words that fit before "failed" ("converting a.img").
    :param ok: exit codes that are answers; any other raises CommandFailed. An empty sequence takes every code.
    :param stdin: a descriptor that is its standard input.
    :param env: additions to the environment.
    :param limits: ``resource.RLIMIT_*`` to value, set in the child; for programs that read files nobody vouches for.
    :param on_output: called with each piece of standard output as it comes, which then isn't kept.
    :raises TimedOut: after killing the program, when the deadline is over.
    """
    started = time.monotonic()
    deadline.check(doing)
    process: subprocess.Popen[bytes] | None = None
    try:
        with held():  # a stop signal must not fall between the start and our knowing of it
            process = _start(argv, stdin, pass_fds, env, limits)
        stdout, stderr = _gather(process, doing, deadline, on_output)
    finally:
        if process is not None:
            _end(process)
    result = Finished(tuple(argv), process.returncode, stdout, stderr, time.monotonic() - started)
    if ok and result.rc not in ok:
        raise CommandFailed(doing, result.argv, result.rc, result.stderr)
    return result


def _start(
    argv: Sequence[str],
    stdin: int,
    pass_fds: Sequence[int],
    env: Mapping[str, str] | None,
    limits: Mapping[int, int] | None,
) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(  # pylint: disable=ansible-bad-function  # run_command has no deadline and leaves children behind
            list(argv),
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=tuple(pass_fds),
            env=dict(os.environ, LC_ALL="C", **(env or {})),
            start_new_session=True,
            preexec_fn=_child_setup(limits or {}),  # noqa: PLW1509  # this process has no threads
        )
    except subprocess.SubprocessError as error:
        raise LifecycleError(
            "Could not start %s: %s. Look at the host's limits on processes and memory." % (argv[0], error)
        ) from error


def _child_setup(limits: Mapping[int, int]) -> Callable[[], None] | None:
    """What the child does between fork and exec: die with us, and bow to its limits."""
    die_with_parent = has(Capability.PARENT_DEATH_SIGNAL)
    if not die_with_parent and not limits:
        return None
    parent = os.getpid()
    if die_with_parent:
        import ctypes

        prctl = ctypes.CDLL(None).prctl
    if limits:
        import resource

    def setup() -> None:
        if die_with_parent:
            prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != parent:  # it died before the line above took effect
                os._exit(1)
        for limit, value in limits.items():
            hard = resource.getrlimit(limit)[1]
            value = value if hard == resource.RLIM_INFINITY else min(value, hard)
            try:
                resource.setrlimit(limit, (value, value))
            except (ValueError, OSError):
                pass  # macOS knows some limits by name only; the deadline still holds

    return setup


def _gather(
    process: subprocess.Popen[bytes], doing: str, deadline: Deadline, on_output: Callable[[bytes], None] | None
) -> tuple[str, str]:
    """Read both outputs to their end, then wait for the exit."""
    streams = {pipe.fileno(): bytearray() for pipe in (process.stdout, process.stderr) if pipe is not None}
    open_streams = set(streams)
    out = next(iter(streams))
    while open_streams:
        if deadline.expired:
            raise TimedOut(doing, deadline.elapsed_s(), _last_line(streams))
        for descriptor in ready(open_streams, deadline.remaining_s()):
            piece = os.read(descriptor, 65536)
            if not piece:
                open_streams.discard(descriptor)
                continue
            if on_output is not None and descriptor == out:
                on_output(piece)
            elif len(streams[descriptor]) < OUTPUT_LIMIT_BYTES:
                streams[descriptor] += piece
    while not _has_ended(process):
        if deadline.expired:
            raise TimedOut(doing, deadline.elapsed_s(), _last_line(streams))
        ready((), 0.001)
    stdout, stderr = (bytes(buffer).decode("utf-8", "replace") for buffer in streams.values())
    return stdout, stderr


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Whether the program is over. It stays unreaped where the system can tell so: see _end."""
    if hasattr(os, "waitid"):
        return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    return process.poll() is not None


def _last_line(streams: Mapping[int, bytearray]) -> str:
    said = b"\n".join(streams.values()).decode("utf-8", "replace").strip()
    return said.splitlines()[-1] if said else ""


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill what may be left of the group, reap the child, close the pipes. The child is its group's leader."""
    with held():
        # Before the child is reaped its id can't belong to a stranger, and what it left in its group goes with it.
        if process.returncode is None:
            _kill_group(process.pid)
            process.wait()
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


def _kill_group(leader: int) -> None:
    try:
        os.killpg(leader, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass  # macOS answers EPERM for a group of which only a zombie is left
