# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A package's certificate file: who signed the manifest, and whether that holds. openssl does the cryptography."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from .._core.command import Finished, find_tool, run
from .._core.errors import BadInput, CommandFailed
from .._core.signals import held
from .._core.wait import Deadline
from .href import plain
from .manifest import LINE

_BLOCK = re.compile(rb"-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----")
_PUBLIC_KEY = re.compile(r"-----BEGIN PUBLIC KEY-----.+-----END PUBLIC KEY-----\n", re.DOTALL)
_FAILED = re.compile(r"verification fail|error verifying", re.IGNORECASE)  # of a signature, not of openssl itself
_MAX_CERTIFICATES = 16  # a chain has three or four
_AGAIN = "Fetch the package again, or have it signed anew"


class Signature(NamedTuple):
    """What a certificate file holds: the signature of the manifest of that name, and certificates, the signer's
    first.
    """

    manifest: str
    algorithm: str
    value: bytes
    certificates: tuple[bytes, ...]


class Verdict(NamedTuple):
    """``signed_by`` is the signer's subject. ``verifies``: the signature is of this manifest and by this signer.
    ``is_in_dates``: his certificate is neither too young nor expired. ``is_trusted``: it leads to an authority that
    this system trusts, all of them in their dates; where not, ``doubt`` says why.
    """

    signed_by: str
    issued_by: str
    not_before: str
    not_after: str
    verifies: bool
    is_in_dates: bool
    is_trusted: bool
    doubt: str = ""


def parse(text: bytes, where: str) -> Signature:
    """What the certificate file says. ``where`` names it in errors. Raises BadInput."""
    certificates = tuple(match.group() + b"\n" for match in _BLOCK.finditer(text))
    if not certificates:
        raise BadInput(where, "it holds no certificate (PEM)", _AGAIN)
    if len(certificates) > _MAX_CERTIFICATES:
        raise BadInput(where, "it holds more than %d certificates" % _MAX_CERTIFICATES, _AGAIN)
    for line in text.splitlines():
        match = LINE.fullmatch(line.decode("utf-8", "replace").strip())
        if match:
            sha, size, name, value = match.groups()
            if len(value) % 2:
                raise BadInput(where, "its signature has an odd number of digits", _AGAIN)
            return Signature(plain(name.strip()), (sha + size).lower(), bytes.fromhex(value), certificates)
    raise BadInput(where, "it holds no signature: no line such as SHA256(package.mf)= and digits", _AGAIN)


def check(signature: Signature, where: str, manifest: bytes, manifest_name: str, deadline: Deadline) -> Verdict:
    """Whether the signature holds for the manifest.

    Raises BadInput for a signature of another file and a certificate that can't be read; ToolMissing, CommandFailed,
    TimedOut.
    """
    if signature.manifest != manifest_name:
        problem = "it signs %r, and the manifest is %r" % (signature.manifest, manifest_name)
        raise BadInput(where, problem, _AGAIN)
    tool = find_tool("openssl", "openssl")
    with _folder() as folder:
        files = _Files(folder, signature, manifest)
        facts = _facts(tool, files, where, deadline)
        _write(files.key, _public_key(facts.stdout, where).encode())
        doubt = _doubt(tool, files, deadline)
        return _verdict(facts.stdout, _verifies(tool, files, signature.algorithm, deadline), doubt)


class _Files:
    """What openssl reads, in a folder of our own."""

    def __init__(self, folder: str, signature: Signature, manifest: bytes) -> None:
        self.signer, self.chain, self.signature, self.manifest, self.key = (
            os.path.join(folder, name) for name in ("signer.pem", "chain.pem", "signature", "manifest", "key.pem")
        )
        _write(self.signer, signature.certificates[0])
        _write(self.chain, b"".join(signature.certificates))
        _write(self.signature, signature.value)
        _write(self.manifest, manifest)


@contextmanager
def _folder() -> Iterator[str]:
    folder = ""
    try:
        with held():  # a stop signal must not fall between its making and our knowing of it
            folder = tempfile.mkdtemp(prefix="vmops-ovf-")
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # nothing secret is in it


def _write(path: str, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)


def _facts(tool: str, files: _Files, where: str, deadline: Deadline) -> Finished:
    """The signer's names, dates and public key."""
    wanted = ("-subject", "-issuer", "-startdate", "-enddate", "-pubkey")
    argv = [tool, "x509", "-in", files.signer, "-noout", "-nameopt", "RFC2253,-esc_msb", *wanted]
    done = run(argv, "reading a certificate", deadline, ok=())
    if done.rc:
        raise BadInput(where, "its certificate can't be read: %s" % _last_line(done), _AGAIN)
    return done


def _public_key(said: str, where: str) -> str:
    match = _PUBLIC_KEY.search(said)
    if match is None:
        raise BadInput(where, "its certificate has no public key that openssl knows", _AGAIN)
    return match.group()


def _verifies(tool: str, files: _Files, algorithm: str, deadline: Deadline) -> bool:
    argv = [tool, "dgst", "-" + algorithm, "-verify", files.key, "-signature", files.signature, files.manifest]
    doing = "verifying a signature"
    done = run(argv, doing, deadline, ok=())
    if done.rc == 0:
        return True
    if _FAILED.search(done.stdout + done.stderr):
        return False
    advice = "Does this host's policy on cryptography ban %s?" % algorithm.upper()
    raise CommandFailed(doing, done.argv, done.rc, done.stderr, advice)


def _doubt(tool: str, files: _Files, deadline: Deadline) -> str:
    """Why the signer isn't trusted; "" where he is."""
    argv = [tool, "verify", "-untrusted", files.chain, files.signer]
    done = run(argv, "looking for who vouches for a certificate", deadline, ok=())
    if done.rc == 0:
        return ""
    told = re.search(r"^error \d+ at \d+ depth lookup: *(.+)$", done.stdout + done.stderr, re.MULTILINE)
    return told.group(1).strip() if told else _last_line(done)


def _verdict(said: str, verifies: bool, doubt: str) -> Verdict:
    wanted = r"(?:subject|issuer|notBefore|notAfter)="
    facts = dict(line.split("=", 1) for line in said.splitlines() if re.match(wanted, line))
    begin, end = facts.get("notBefore", ""), facts.get("notAfter", "")
    return Verdict(
        signed_by=facts.get("subject", "").strip(),
        issued_by=facts.get("issuer", "").strip(),
        not_before=begin,
        not_after=end,
        verifies=verifies,
        is_in_dates=_is_now(begin, end),
        is_trusted=not doubt,
        doubt=doubt,
    )


def _is_now(begin: str, end: str) -> bool:
    import ssl
    import time

    try:
        return ssl.cert_time_to_seconds(begin) <= time.time() <= ssl.cert_time_to_seconds(end)
    except ValueError:
        return False  # openssl shows times that are none as they are


def _last_line(done: Finished) -> str:
    lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
    return lines[-1].strip() if lines else "openssl said nothing"
