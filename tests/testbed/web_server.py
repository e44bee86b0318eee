# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A web server on the loopback that behaves as badly as a test wants."""

from __future__ import annotations

import datetime
import ipaddress
import threading
from enum import Enum
from http.server import BaseHTTPRequestHandler
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from .loopback import LoopbackServer

_PIECE = 64 * 1024


class Temper(Enum):
    """How it serves."""

    GOOD = "sends all"
    MISSING = "answers 404"
    CUTS_ONCE = "cuts the first connection midway, and can go on from there"
    CUTS_ONCE_NO_RANGE = "cuts the first connection midway, and always begins at the beginning"
    CUTS_ALWAYS = "cuts every connection before anything came"
    STALLS = "falls silent midway"
    DRIPS = "sends a byte now and then"
    LIES = "says that more comes than comes"
    PACKED = "tells that what it sends is packed by gzip"


def certificate(path: Path, *names: str) -> Path:
    """A new file with a certificate that 127.0.0.1, which has these names as well, signed for itself, and its key.
    Nobody trusts it.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a web server on the loopback")])
    now = datetime.datetime.now(datetime.timezone.utc)
    day = datetime.timedelta(days=1)
    bearers = [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), *map(x509.DNSName, names)]
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    usage = dict.fromkeys(
        ["content_commitment", "data_encipherment", "key_agreement", "crl_sign", "encipher_only", "decipher_only"],
        False,
    )
    builder = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now - day, now + day)
        .add_extension(x509.SubjectAlternativeName(bearers), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
        .add_extension(x509.KeyUsage(digital_signature=True, key_cert_sign=True, key_encipherment=False, **usage), True)
        .add_extension(identifier, False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), False)
    )
    pem = serialization.Encoding.PEM
    path.write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + builder.sign(key, hashes.SHA256()).public_bytes(pem)
    )
    return path


class WebServer(LoopbackServer):
    """One document at one URL. ``requests`` are the Range headers that came, None for a request without one.

    With a certificate (see :func:`certificate`) it is an https one.
    """

    def __init__(self, document: bytes, temper: Temper, certificate: Path | None = None) -> None:
        super().__init__(certificate)
        self._document = document
        self._temper = temper
        self.requests: list[str | None] = []
        self.midway = threading.Event()  # half of it has been sent

    @property
    def url(self) -> str:
        return self.at("image.raw")

    def serve(self, handler: BaseHTTPRequestHandler) -> None:
        """One request."""
        asked = handler.headers.get("Range")
        self.requests.append(asked)
        first = len(self.requests) == 1
        if self._temper is Temper.MISSING:
            handler.send_error(404)
            return
        if self._temper is Temper.CUTS_ALWAYS:
            handler.close_connection = True
            return
        start = 0
        if asked and self._temper is not Temper.CUTS_ONCE_NO_RANGE:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
        handler.send_response(206 if start else 200)
        more = 4096 if self._temper is Temper.LIES else 0
        handler.send_header("Content-Length", str(len(self._document) - start + more))
        if self._temper is Temper.PACKED:
            handler.send_header("Content-Encoding", "gzip")
        handler.end_headers()
        try:
            self._send(handler, start, first)
        except OSError:
            pass  # the client went away
        handler.close_connection = True

    def _send(self, handler: BaseHTTPRequestHandler, start: int, first: bool) -> None:
        middle = len(self._document) // 2
        cuts = first and self._temper in (Temper.CUTS_ONCE, Temper.CUTS_ONCE_NO_RANGE)
        halts = cuts or self._temper in (Temper.STALLS, Temper.DRIPS)
        end = middle if halts else len(self._document)
        for at in range(start, end, _PIECE):
            handler.wfile.write(self._document[at : min(at + _PIECE, end)])
        if not halts:
            return
        handler.wfile.flush()
        self.midway.set()
        if self._temper is Temper.STALLS:
            self.ended.wait()
        at = middle
        while self._temper is Temper.DRIPS and not self.ended.wait(0.2):
            handler.wfile.write(self._document[at : at + 1])
            at += 1
