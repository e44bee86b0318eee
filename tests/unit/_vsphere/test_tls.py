# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who is believed to be a lease's host."""

from __future__ import annotations

import hashlib
import ssl
from typing import NamedTuple

import pytest

from ansible_collections.vmops.lifecycle.plugins.module_utils._core.errors import RemoteFailed
from ansible_collections.vmops.lifecycle.plugins.module_utils._vsphere.nfc import trust_in
from ansible_collections.vmops.lifecycle.plugins.module_utils._vsphere.session import Endpoint, Patience
from ansible_collections.vmops.lifecycle.plugins.module_utils._vsphere.tls import Trust


class Address(NamedTuple):
    """As pyVmomi has it."""

    sslThumbprint: str = ""  # noqa: N815
    sslCertificate: str | None = None  # noqa: N815
    url: str = "https://esxi1/nfc/1/disk-0.vmdk"


ENDPOINT = Endpoint("vcenter", 443, "u", "p", Patience(1.0), Trust(ca_path="/some.pem"))


DER = bytes(range(256)) * 3  # nothing but its digest matters
PEM = ssl.DER_cert_to_PEM_cert(DER)


def test_a_host_s_certificate_is_what_it_is_known_by() -> None:
    expected = hashlib.sha256(DER).hexdigest()
    for told in (PEM, PEM.replace("\n", "\r\n"), "host 1\n%s\n" % PEM, PEM + ssl.DER_cert_to_PEM_cert(b"its signer")):
        assert trust_in(Address("aa:" * 19 + "aa", told), ENDPOINT) == Trust(thumbprint=expected)


def test_else_its_thumbprint_and_else_what_the_task_says() -> None:
    assert trust_in(Address("AA:" * 19 + "AA"), ENDPOINT) == Trust(thumbprint="aa" * 20)
    assert trust_in(Address("AA" * 32), ENDPOINT) == Trust(thumbprint="aa" * 32)
    assert trust_in(Address(), ENDPOINT) == ENDPOINT.trust


@pytest.mark.parametrize(
    "address",
    [
        Address("abc"),
        Address("aa" * 20, "no certificate"),
        Address("aa" * 20, "-----BEGIN CERTIFICATE-----\nMII\n-----END CERTIFICATE-----"),
        Address("aa" * 20, "-----BEGIN CERTIFICATE-----\nMIIé\n-----END CERTIFICATE-----"),
        Address("aa" * 20, "-----BEGIN CERTIFICATE-----\nMII"),
    ],
)
def test_what_is_none_is_refused(address: Address) -> None:
    with pytest.raises(RemoteFailed, match=r"as the certificate of https://esxi1/nfc/"):
        trust_in(address, ENDPOINT)
