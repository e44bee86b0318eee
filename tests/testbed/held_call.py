# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Stops a program at the moment at which it gives a file its name, for as long as a test needs.

`Gate.wrap` writes a small program that puts itself under a seccomp filter, gives the filter's listener to the test, and
becomes the real one. The kernel then holds each openat(O_CREAT), link and rename of that program, and of all that it
starts, until the gate lets it go on: at once, or, for the file that is waited for, when the test says so.

Works on x86_64 Linux 5.8 and later; needs no privileges. Run as a program, this file is the small program's inside.
"""

from __future__ import annotations

import array
import ctypes
import fcntl
import os
import platform
import select
import socket
import struct
import sys
import threading
from contextlib import suppress
from pathlib import Path

_LINK, _RENAME, _OPENAT, _SECCOMP = 86, 82, 257, 317  # arch/x86/entry/syscalls/syscall_64.tbl
_SET_MODE_FILTER, _NEW_LISTENER = 1, 1 << 3
_LD_ABS, _JEQ, _JSET, _RET = 0x20, 0x15, 0x45, 0x06  # linux/bpf_common.h
_ALLOW, _NOTIFY = 0x7FFF0000, 0x7FC00000  # SECCOMP_RET_* (linux/seccomp.h)
_IOCTL_RECV, _IOCTL_SEND, _CONTINUE = 0xC0502100, 0xC0182101, 1  # SECCOMP_IOCTL_NOTIF_*, SECCOMP_USER_NOTIF_FLAG_*
_PR_SET_NO_NEW_PRIVS = 38
WORKS_HERE = sys.platform == "linux" and platform.machine() == "x86_64"


class Gate:
    """Lets everything pass but what gives a file the name `name`, by the first program that comes here.

    Later ones are left alone, so that a second start meets no gate.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._name = os.fsencode(name)
        self._path = folder / "gate.sock"
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(self._path))
        self._server.listen(1)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        self.reached = threading.Event()
        self.released = threading.Event()
        self.pid = 0  # of the process that is held

    def wrap(self, program: str) -> Path:
        """A program that does what `program` does, through this gate."""
        wrapper = self._path.with_name("gated-" + os.path.basename(program))
        # As a shell script it keeps its path as first word for "$0"; the real one must be called by its own.
        wrapper.write_text(f'#!/bin/sh\nexec {sys.executable} {__file__} {self._path} {program} "$@"\n')
        wrapper.chmod(0o700)
        return wrapper

    def close(self) -> None:
        """Let go of what is held. Who came through the gate must have ended before."""
        self.released.set()
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)
        self._server.close()

    def _serve(self) -> None:
        try:
            connection, _address = self._server.accept()
        except OSError:
            return
        self._path.unlink()
        with connection:
            _data, (listener,), _flags, _from = socket.recv_fds(connection, 1, 1)
            connection.send(b"k")
        while self._serve_one(listener):
            pass
        os.close(listener)

    def _serve_one(self, listener: int) -> bool:
        """Answer one call; False when nobody is under the filter any more."""
        poller = select.poll()
        poller.register(listener, select.POLLIN)
        if not dict(poller.poll())[listener] & select.POLLIN:
            return False
        raw = bytearray(80)
        with suppress(OSError):  # its maker was killed meanwhile
            fcntl.ioctl(listener, _IOCTL_RECV, raw)
            identity, pid = struct.unpack_from("QI", raw)
            if not self.reached.is_set() and self._is_awaited(pid, struct.unpack_from("Q", raw, 40)[0]):
                self.pid = pid
                self.reached.set()
                self.released.wait()
            fcntl.ioctl(listener, _IOCTL_SEND, bytearray(struct.pack("QqiI", identity, 0, 0, _CONTINUE)))
        return True

    def _is_awaited(self, pid: int, address: int) -> bool:
        with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
            # It may go on in the next page. If there is none, less is read.
            path = os.pread(memory.fileno(), 4096, address).split(b"\0", 1)[0]
        return os.path.basename(path) == self._name


def _filter() -> bytes:
    """Notify for link, rename and openat with O_CREAT, whose second argument is the name; allow all else."""
    code = (
        (_LD_ABS, 0, 0, 0),
        (_JEQ, 4, 0, _LINK),
        (_JEQ, 3, 0, _RENAME),
        (_JEQ, 0, 3, _OPENAT),
        (_LD_ABS, 0, 0, 16 + 8 * 2),
        (_JSET, 0, 1, os.O_CREAT),
        (_RET, 0, 0, _NOTIFY),
        (_RET, 0, 0, _ALLOW),
    )
    return b"".join(struct.pack("HBBI", *instruction) for instruction in code)


class _SockFprog(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p)]


def _go_through(gate: str, program: str, words: list[str]) -> None:
    with socket.socket(socket.AF_UNIX) as connection, suppress(OSError):  # one has gone through already
        connection.connect(gate)
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        code = _filter()
        memory = ctypes.create_string_buffer(code, len(code))
        fprog = _SockFprog(len(code) // 8, ctypes.addressof(memory))
        listener = libc.syscall(_SECCOMP, _SET_MODE_FILTER, _NEW_LISTENER, ctypes.byref(fprog))
        if listener < 0:
            sys.exit("seccomp: " + os.strerror(ctypes.get_errno()))
        connection.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [listener]))])
        connection.recv(1)
        os.close(listener)
    os.execv(program, [program, *words])


if __name__ == "__main__":
    _go_through(sys.argv[1], sys.argv[2], sys.argv[3:])
