# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Modules as forks of one process that has the imports done: tests run thousands of them, and the imports are most of
what each costs.

A fork is a process of its own, with the environment, directory, mask and pipes that the test gives, and nothing else
open. How an interpreter starts one, and how Ansible does, is seen in the tests that run plays.
Run as a program, this file is that one process.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import pkgutil
import select
import socket
import subprocess
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from tests.testbed import module_main

_REQUEST_BYTES = 1 << 20  # an environment
_PLUGINS = "ansible_collections.vmops.lifecycle.plugins."


class Fork(subprocess.Popen[bytes]):
    """A Popen of a module. It isn't our child, so its end is told by the process that is its parent.

    Of Popen's inside it replaces what starts a process and what waits for one.
    """

    def __init__(self, name: str, env: dict[str, str], cwd: str | Path | None, umask: int | None) -> None:
        cwd = os.getcwd() if cwd is None else str(cwd)
        self._request = {"name": name, "env": env, "cwd": cwd, "umask": _umask() if umask is None else umask}
        pipe = subprocess.PIPE
        super().__init__(["module", name], stdin=pipe, stdout=pipe, stderr=pipe)

    def _execute_child(self, *given: Any) -> None:
        p2cread, _p2cwrite, _c2pread, c2pwrite, _errread, errwrite = given[10:16]
        self._status, status = os.pipe()
        theirs = [p2cread, c2pwrite, errwrite, status]
        with _asking:
            channel = _channel()
            socket.send_fds(channel, [json.dumps(self._request).encode()], theirs)
            self.pid = int(channel.recv(32))
        for descriptor in theirs:
            os.close(descriptor)
        self._child_created = True

    def _internal_poll(self, *_given: Any, **_named: Any) -> int | None:
        return self._ended_within(0)

    def _wait(self, timeout: float | None) -> int:
        code = self._ended_within(timeout)
        if code is None:
            assert timeout is not None
            raise subprocess.TimeoutExpired(self.args, timeout)
        return code

    def _ended_within(self, timeout_s: float | None) -> int | None:
        if self.returncode is None and select.select([self._status], [], [], timeout_s)[0]:
            told = os.read(self._status, 32)
            os.close(self._status)
            assert told, "the process that runs the modules has ended"
            self.returncode = int(told)
        return self.returncode


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


_asking = threading.Lock()
_servers: dict[int, _Server] = {}  # by the process that asks: a fork of a test's needs one of its own


class _Server:
    """The process that forks, for as long as this one lives."""

    def __init__(self) -> None:
        self.channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.channel.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _REQUEST_BYTES)
        with theirs:
            words = [sys.executable, __file__, str(theirs.fileno())]
            self._process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()], start_new_session=True
            )
        atexit.register(self._end)

    def _end(self) -> None:
        self.channel.close()
        self._process.wait()


def _channel() -> socket.socket:
    if os.getpid() not in _servers:
        _servers[os.getpid()] = _Server()
    return _servers[os.getpid()].channel


def _serve(channel: socket.socket) -> dict[str, Any] | None:
    """Fork for each request. Returns in each fork, with its request; in the first process when nobody asks any more."""
    status_of: dict[int, tuple[int, int]] = {}  # by pidfd: the pid, and where its end is told
    while True:
        for descriptor in select.select([channel, *status_of], [], [])[0]:
            if descriptor is not channel:
                pid, status = status_of.pop(descriptor)
                _told, how = os.waitpid(pid, 0)
                os.close(descriptor)
                os.write(status, b"%d" % os.waitstatus_to_exitcode(how))
                os.close(status)
                continue
            request, descriptors, _flags, _from = socket.recv_fds(channel, _REQUEST_BYTES, 4)
            if not request:
                return None
            pid = os.fork()
            if pid == 0:
                _become(descriptors[:3])
                return dict(json.loads(request))
            channel.send(b"%d" % pid)
            for taken in descriptors[:3]:
                os.close(taken)
            status_of[os.pidfd_open(pid)] = (pid, descriptors[3])


def _become(descriptors: list[int]) -> None:
    """Have these as standard input, output and error, and nothing else open, in a session of our own."""
    os.setsid()
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
    os.closerange(3, max(map(int, os.listdir("/proc/self/fd"))) + 1)
    sys.stdin, sys.stdout, sys.stderr = os.fdopen(0), os.fdopen(1, "w"), os.fdopen(2, "w")


def _import_all() -> None:
    for part in ("modules", "module_utils"):
        package = importlib.import_module(_PLUGINS + part)
        for found in pkgutil.walk_packages(package.__path__, _PLUGINS + part + "."):
            importlib.import_module(found.name)
    # which only those modules import that need it, when they do
    importlib.import_module("pyVmomi")


def _main() -> None:
    module_main.find_collection()
    _import_all()
    gc.freeze()  # what is collected no more isn't copied either
    channel = socket.socket(fileno=int(sys.argv[1]))
    request = _serve(channel)
    if request is None:
        return
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    os.umask(request["umask"])
    _run(request["name"])


def _run(name: str) -> None:
    """To the end, but without taking down all that was imported: the kernel would copy it for that first."""
    code: object = 0
    try:
        module_main.run(name)
    except SystemExit as left:
        code = left.code
    except BaseException:
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()  # AnsibleModule removes its temporary directory there
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 1)


if __name__ == "__main__":
    _main()
