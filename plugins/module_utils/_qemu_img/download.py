# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A source from the network: fetched beside the target, proved while it comes, resumed when the line breaks."""

from __future__ import annotations

import errno
import os
import shutil
import time
from typing import Any, NamedTuple

from ansible.module_utils.urls import open_url

from .._core.errors import LifecycleError, StorageFailed, describe
from .._core.wait import Deadline, ready
from .model import Source
from .source import refuse_other_checksum

BLOCK_BYTES = 256 * 1024
STALL_S = 60.0  # a server that is silent for so long is taken for gone
ATTEMPTS = 4
PAUSES_S = (1.0, 2.0, 4.0)
_PASSING = (408, 425, 429, 500, 502, 503, 504)


class Attempt(NamedTuple):
    """One try: where it began, what it brought and how it ended."""

    offset: int
    bytes: int
    elapsed_s: float
    outcome: str


class _Passing(Exception):
    """A fault that another try may not meet."""


def fetch(source: Source, path: str, deadline: Deadline, attempts: list[Attempt]) -> None:
    """Put what the URL yields into the new file ``path``; its checksum is proved at the end. ``attempts`` is filled.

    Raises LifecycleError (naming the server's answer), StorageFailed, BadInput for another checksum, TimedOut.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        for number in range(ATTEMPTS):
            started, offset = time.monotonic(), os.lseek(descriptor, 0, os.SEEK_CUR)
            outcome = _try(source, descriptor, path, deadline)
            size = os.lseek(descriptor, 0, os.SEEK_CUR)
            attempts.append(Attempt(offset, size - offset, round(time.monotonic() - started, 3), outcome or "complete"))
            if not outcome:
                break
            if number == ATTEMPTS - 1:
                raise LifecycleError(
                    "Could not fetch %s in %d attempts; the last one: %s. Check the server and the network, then run "
                    "the task again." % (source.shown, ATTEMPTS, outcome)
                )
            deadline.check("another attempt at %s" % source.shown, outcome)
            ready((), min(PAUSES_S[number], deadline.remaining_s()))
        refuse_other_checksum(source, descriptor, deadline)
    finally:
        os.close(descriptor)


def _try(source: Source, descriptor: int, path: str, deadline: Deadline) -> str:
    """One attempt; what was wrong with it, or nothing."""
    try:
        _receive(source, descriptor, path, deadline)
    except _Passing as error:
        return str(error)
    return ""


def _receive(source: Source, descriptor: int, path: str, deadline: Deadline) -> None:
    offset = os.lseek(descriptor, 0, os.SEEK_CUR)
    response = _open(source, offset, deadline)
    try:
        if offset and response.status != 206:  # this server begins anew
            os.ftruncate(descriptor, 0)
            offset = os.lseek(descriptor, 0, os.SEEK_SET)
        length = response.headers.get("Content-Length")
        expected = offset + int(length) if length and length.isdigit() else None
        if expected is not None:
            _refuse_without_room(path, expected - offset)
        _copy(response, descriptor, source, deadline)
    finally:
        response.close()
    size = os.lseek(descriptor, 0, os.SEEK_CUR)
    if expected is not None and size < expected:
        raise _Passing("the connection ended after %d of %d bytes" % (size, expected))


def _open(source: Source, offset: int, deadline: Deadline) -> Any:
    from http.client import HTTPException
    from urllib.error import HTTPError

    headers = {"Range": "bytes=%d-" % offset} if offset else {}
    try:
        return open_url(
            source.location,
            headers=headers,
            timeout=min(STALL_S, deadline.remaining_s() or 0.1),
            http_agent="vmops.lifecycle",
            decompress=False,  # the checksum, the length and a range are those of what the server has
        )
    except HTTPError as error:
        if error.code in _PASSING:
            raise _Passing("the server answered %d %s" % (error.code, error.reason)) from None
        raise LifecycleError(
            "The server answered %d %s for %s. Check the URL and its access rights."
            % (error.code, error.reason, source.shown)
        ) from None
    except (OSError, HTTPException) as error:  # URLError is an OSError
        distrust = getattr(getattr(error, "reason", None), "verify_message", "")  # an SSLCertVerificationError's
        if distrust:
            raise LifecycleError(
                "The server of %s can't be trusted: %s. Check the URL; if the server is the one that is meant, add who "
                "signs its certificate to those whom this host trusts, or name a file with that certificate by "
                "SSL_CERT_FILE in the task's environment." % (source.shown, distrust.rstrip("."))
            ) from None
        raise _Passing(describe(error)) from None


def _copy(response: Any, descriptor: int, source: Source, deadline: Deadline) -> None:
    from http.client import HTTPException

    while True:
        deadline.check("the download of %s" % source.shown, "%d bytes" % os.lseek(descriptor, 0, os.SEEK_CUR))
        ready((), 0)
        try:
            piece = response.read1(BLOCK_BYTES)  # what has come, so that a trickle doesn't outlast the deadline
        except (OSError, HTTPException) as error:
            raise _Passing(describe(error)) from None
        if not piece:
            return
        while piece:
            piece = piece[os.write(descriptor, piece) :]


def _refuse_without_room(path: str, needed: int) -> None:
    free = shutil.disk_usage(os.path.dirname(path)).free
    if needed > free:
        raise StorageFailed("The download", os.path.dirname(path), errno.ENOSPC, needed, free)
