# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Signed packages: what a certificate is worth for each way to verify."""

from __future__ import annotations

import pytest

from ansible_collections.vmops.lifecycle.plugins.module_utils._ovf import signature
from tests.unit._ovf.test_certificate import Authority
from tests.unit._ovf.test_package import GOOD, manifest, package

TEXT = manifest(GOOD)


@pytest.fixture(name="signer", scope="module")
def _signer(tmp_path_factory) -> Authority:
    return Authority(tmp_path_factory.mktemp("signer"), "Signer")


def certificate(signer: Authority, text: bytes = TEXT, name: str = "web.mf") -> bytes:
    line = "SHA256(%s)= %s\n" % (name, signer.signature(text))
    return line.encode() + signer.certificate.read_bytes()


def problems(folder, verify: str, **files: bytes) -> list[str]:
    named = {"web.%s" % suffix: content for suffix, content in files.items()}
    with package(folder, {**GOOD, **named}, "ova") as found:
        return ["%s: %s" % (problem.where, problem.problem) for problem in found.problems(verify)]


def trust(monkeypatch, signer: Authority) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(signer.certificate))


def test_a_signer_whom_the_host_trusts(tmp_path, signer, monkeypatch):
    trust(monkeypatch, signer)
    for verify in ("ignore", "if_present", "required", "signed"):
        assert problems(tmp_path, verify, mf=TEXT, cert=certificate(signer)) == []


def test_a_signer_whom_it_does_not_trust(tmp_path, signer):
    for verify in ("ignore", "if_present", "required"):
        assert problems(tmp_path, verify, mf=TEXT, cert=certificate(signer)) == []
    (told,) = problems(tmp_path, "signed", mf=TEXT, cert=certificate(signer))
    assert told.startswith("web.cert: CN=Signer,O=Büro, who signed it, isn't trusted by this host: self")


def test_a_certificate_whose_time_is_over(tmp_path, monkeypatch):
    (tmp_path / "keys").mkdir()
    signer = Authority(tmp_path / "keys", "Old", days=-1)
    trust(monkeypatch, signer)
    assert problems(tmp_path, "required", mf=TEXT, cert=certificate(signer)) == []
    (told,) = problems(tmp_path, "signed", mf=TEXT, cert=certificate(signer))
    assert told.startswith("web.cert: the certificate of CN=Old,O=Büro is for ")


@pytest.mark.parametrize(
    ("cert", "told"),
    [
        (lambda signer: certificate(signer, b"another"), "its signature isn't that of this manifest by CN=Signer"),
        (lambda signer: certificate(signer, name="other.mf"), "it signs 'other.mf', and the manifest is 'web.mf'"),
        (lambda signer: b"rubbish", "it holds no certificate"),
    ],
)
def test_a_signature_that_is_wrong(tmp_path, signer, monkeypatch, cert, told):
    trust(monkeypatch, signer)
    assert problems(tmp_path, "ignore", mf=TEXT, cert=cert(signer)) == []
    for verify in ("if_present", "required", "signed"):
        (found,) = problems(tmp_path, verify, mf=TEXT, cert=cert(signer))
        assert found.startswith("web.cert: %s" % told)


def test_a_signature_of_nothing(tmp_path, signer):
    assert problems(tmp_path, "if_present", cert=certificate(signer)) == [
        "web.cert: there is no manifest that it could have signed"
    ]


def test_nobody_has_signed_it(tmp_path):
    assert problems(tmp_path, "required", mf=TEXT) == []
    (told,) = problems(tmp_path, "signed", mf=TEXT)
    assert told.endswith("web.ova: nobody has signed it (.cert), and verify wants that")


def test_a_host_without_openssl(tmp_path, signer, monkeypatch):
    cert = certificate(signer)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("ansible_collections.vmops.lifecycle.plugins.module_utils._core.command.SBIN", ("/nowhere",))
    assert problems(tmp_path, "required", mf=TEXT, cert=cert) == []
    (told,) = problems(tmp_path, "signed", mf=TEXT, cert=cert)
    assert "the signature can't be verified here: openssl was not found on this host" in told


def test_it_is_looked_at_once(tmp_path, signer):
    with package(tmp_path, {**GOOD, "web.mf": TEXT, "web.cert": certificate(signer)}, "ova") as found:
        assert isinstance(found.signed, signature.Signed)
        assert found.signed is found.signed
