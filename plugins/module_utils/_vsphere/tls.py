# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Connections to vCenter and to its hosts: whom they trust, and that each one is checked.

A thumbprint pins the server's certificate and stands in place of the authorities. pyVmomi looks at a pinned one only
where the authorities don't vouch for it, and after the first connection no more, so it is done here.
"""

from __future__ import annotations

import hashlib
import http.client
import re
import ssl
from typing import NamedTuple

from .._core.errors import BadInput

_HASH_BY_DIGITS = {40: "sha1", 64: "sha256", 128: "sha512"}
_BEGINS, _ENDS = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"


class ThumbprintMismatch(ssl.SSLError):
    """The server's certificate is not the pinned one."""


class Trust(NamedTuple):
    """Which servers are believed. ``thumbprint``: hexadecimal digits in lower case, without colons."""

    validate_certs: bool = True
    thumbprint: str | None = None
    ca_path: str | None = None

    def context(self) -> ssl.SSLContext:
        """Raises BadInput where the authorities' file can't be used."""
        if self.thumbprint is not None or not self.validate_certs:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            return context
        try:
            return ssl.create_default_context(cafile=self.ca_path)
        except (OSError, ssl.SSLError) as error:
            raise BadInput(
                "ca_path", "%s can't be used: %s" % (self.ca_path, error), "Name a file of certificates in PEM form"
            ) from None


class Proxy(NamedTuple):
    """An HTTP proxy that is asked to CONNECT."""

    host: str
    port: int


def read_thumbprint(text: str) -> str:
    """A thumbprint in any of its usual spellings. Raises BadInput."""
    digits = text.replace(":", "").replace(" ", "").lower()
    if len(digits) not in _HASH_BY_DIGITS or not re.fullmatch("[0-9a-f]+", digits):
        raise BadInput(
            "thumbprint",
            "%r is no SHA-1, SHA-256 or SHA-512 thumbprint" % text,
            "Give 40, 64 or 128 hexadecimal digits, as 'openssl x509 -fingerprint -sha256' tells them",
        )
    return digits


def thumbprint_of(pem: str) -> str:
    """The SHA-256 thumbprint of a certificate in PEM form, the first one where there are several. Raises ValueError."""
    _before, begins, rest = pem.partition(_BEGINS)
    body, ends, _after = rest.partition(_ENDS)
    der = ssl.PEM_cert_to_DER_cert(begins + body + ends)
    return hashlib.sha256(der).hexdigest()


class Connection(http.client.HTTPSConnection):
    """One connection, whose server is known before anything is sent to it."""

    def __init__(
        self,
        host: str,
        port: int | None = None,
        timeout: float | None = None,
        context: ssl.SSLContext | None = None,
        thumbprint: str | None = None,
    ) -> None:
        super().__init__(host, port, timeout=timeout, context=context)
        self._thumbprint = thumbprint

    def connect(self) -> None:
        super().connect()
        if self._thumbprint is None:
            return
        certificate = self.sock.getpeercert(True)
        found = hashlib.new(_HASH_BY_DIGITS[len(self._thumbprint)], certificate or b"").hexdigest()
        if found != self._thumbprint:
            self.close()
            raise ThumbprintMismatch("its certificate's thumbprint is %s, not %s" % (found, self._thumbprint))


def connect(host: str, port: int, trust: Trust, proxy: Proxy | None, timeout_s: float) -> Connection:
    """A new connection, open. ``timeout_s`` holds for each wait on it. Raises OSError, of which ssl.SSLError is one."""
    to = proxy or Proxy(host, port)
    connection = Connection(to.host, to.port, timeout_s, trust.context(), trust.thumbprint)
    if proxy is not None:
        connection.set_tunnel(host, port)
    connection.connect()
    return connection
