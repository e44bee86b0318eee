# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Signed manifests: signatures and certificates that the real openssl made."""

from __future__ import annotations

import subprocess
import tempfile

import pytest

from ansible_collections.vmops.lifecycle.plugins.module_utils._core.errors import BadInput, TimedOut, ToolMissing
from ansible_collections.vmops.lifecycle.plugins.module_utils._core.wait import Deadline
from ansible_collections.vmops.lifecycle.plugins.module_utils._ovf.certificate import check, parse

MANIFEST = b"SHA256(a.ovf)= " + b"0" * 64 + b"\n"


def openssl(*arguments):
    done = subprocess.run(["openssl", *map(str, arguments)], check=False, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


class Authority:
    """Signs certificates, of signers and of authorities below it."""

    def __init__(self, folder, name, above=None, days=30, key_type=("-newkey", "rsa:2048")):
        self.folder, self.name = folder, name
        self.key, self.certificate = folder / f"{name}.key", folder / f"{name}.pem"
        request = folder / f"{name}.csr"
        openssl(
            "req",
            "-new",
            "-nodes",
            *key_type,
            "-keyout",
            self.key,
            "-out",
            request,
            "-utf8",
            "-subj",
            f"/O=Büro/CN={name}",
        )
        extensions = folder / "extensions"
        extensions.write_text("basicConstraints=critical,CA:TRUE\n")
        by = ["-CA", above.certificate, "-CAkey", above.key, "-CAcreateserial"] if above else ["-signkey", self.key]
        made = ["-sha256", "-days", days, "-extfile", extensions, "-out", self.certificate]
        openssl("x509", "-req", "-in", request, *by, *made)

    def signature(self, content, digest="sha256"):
        file = self.folder / "content"
        file.write_bytes(content)
        return openssl("dgst", f"-{digest}", "-sign", self.key, file).hex()

    def signed(self, *others, digest="SHA256", style="{}(a.mf)= {}\n"):
        """The text of a certificate file for MANIFEST."""
        chain = b"".join(each.certificate.read_bytes() for each in (self, *others))
        return style.format(digest, self.signature(MANIFEST, digest.lower())).encode() + chain


@pytest.fixture(scope="module")
def authorities(tmp_path_factory):
    """A root, which tests may have trusted, an authority below it, a signer below that, and one who stands alone."""
    folder = tmp_path_factory.mktemp("authorities")
    root = Authority(folder, "Root")
    middle = Authority(folder, "Middle", root)
    signer = Authority(folder, "Signer, Inc", middle)
    return (
        root,
        middle,
        signer,
        Authority(folder, "Stranger", key_type=("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256")),
    )


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    """Whatever is made for openssl is gone afterwards."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    yield
    assert list(tmp_path.iterdir()) == []


def judged(text, manifest=MANIFEST):
    return check(parse(text, "a.cert"), "a.cert", manifest, "a.mf", Deadline(60))


def trusting(monkeypatch, authority):
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.certificate))


def test_a_signer_of_a_trusted_chain(authorities, monkeypatch):
    root, middle, signer, _stranger = authorities
    trusting(monkeypatch, root)
    found = judged(signer.signed(middle))
    assert (found.verifies, found.is_in_dates, found.is_trusted, found.doubt) == (True, True, True, "")
    assert found.signed_by == r"CN=Signer\, Inc,O=Büro"
    assert found.issued_by == "CN=Middle,O=Büro"
    assert found.not_after.endswith(" GMT")


def test_a_chain_with_a_gap(authorities, monkeypatch):
    root, _middle, signer, _stranger = authorities
    trusting(monkeypatch, root)
    found = judged(signer.signed())
    assert (found.verifies, found.is_trusted) == (True, False)
    assert "unable to get local issuer" in found.doubt


def test_a_signer_whom_nobody_knows(authorities):
    found = judged(authorities[3].signed())
    assert (found.verifies, found.is_in_dates, found.is_trusted) == (True, True, False)
    assert "self" in found.doubt
    assert found.signed_by == found.issued_by == "CN=Stranger,O=Büro"


@pytest.mark.parametrize("digest", ["SHA1", "SHA256", "SHA512", "sha256"])
@pytest.mark.parametrize("style", ["{}(a.mf)= {}\n", "{} (./a.mf) = {}\r\n"])
def test_digests_and_styles(authorities, digest, style):
    assert judged(authorities[2].signed(digest=digest, style=style)).verifies


def test_the_signature_may_stand_behind_the_certificates(authorities):
    line, rest = authorities[2].signed().split(b"\n", 1)
    assert judged(rest + b"\n" + line).verifies


def test_another_manifest(authorities, monkeypatch):
    root, middle, signer, _stranger = authorities
    trusting(monkeypatch, root)
    found = judged(signer.signed(middle), MANIFEST + b"\n")
    assert (found.verifies, found.is_trusted) == (False, True)


@pytest.mark.parametrize("value", ["00", "00" * 256, "ff" * 5000])
def test_a_signature_that_is_none(authorities, value):
    for signer in authorities[2:]:
        text = b"SHA256(a.mf)= " + value.encode() + b"\n" + signer.certificate.read_bytes()
        assert not judged(text).verifies


def test_somebody_else_s_certificate(authorities):
    _root, _middle, signer, stranger = authorities
    text = b"SHA256(a.mf)= " + signer.signature(MANIFEST).encode() + b"\n" + stranger.certificate.read_bytes()
    assert not judged(text).verifies


def test_an_expired_certificate(tmp_path_factory, monkeypatch):
    old = Authority(tmp_path_factory.mktemp("old"), "Old", days=-1)
    trusting(monkeypatch, old)
    found = judged(old.signed())
    assert (found.verifies, found.is_in_dates, found.is_trusted) == (True, False, False)
    assert "expired" in found.doubt


def test_a_signature_of_another_file(authorities):
    text = authorities[2].signed(style="{}(b.mf)= {}\n")
    with pytest.raises(BadInput, match=r"a\.cert: it signs 'b\.mf', and the manifest is 'a\.mf'"):
        judged(text)


PEM = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"", "holds no certificate"),
        (b"SHA1(a.mf)= 00\n", "holds no certificate"),
        (b"SHA1(a.mf)= 00\n" + PEM.replace(b"CERTIFICATE", b"PRIVATE KEY"), "holds no certificate"),
        (b"SHA1(a.mf)= 00\n-----BEGIN CERTIFICATE-----\nAAAA", "holds no certificate"),
        (PEM, "holds no signature"),
        (b"MD5(a.mf)= 00\n" + PEM, "holds no signature"),
        (b"SHA1(a.mf)= 000\n" + PEM, "odd number"),
        (b"SHA1(a.mf)= 00\n" + PEM * 17, "more than 16 certificates"),
        (b"-----BEGIN CERTIFICATE-----" * 38_000, "holds no certificate"),
    ],
)
def test_files_that_are_none(text, says):
    with pytest.raises(BadInput, match=says):
        parse(text, "a.cert")


def test_a_certificate_that_is_none():
    with pytest.raises(BadInput, match=r"a\.cert: its certificate can't be read"):
        judged(b"SHA1(a.mf)= 00\n" + PEM)


def test_without_openssl(authorities, monkeypatch, tmp_path_factory):
    text = authorities[2].signed()
    monkeypatch.setenv("PATH", str(tmp_path_factory.mktemp("empty")))
    monkeypatch.setattr("ansible_collections.vmops.lifecycle.plugins.module_utils._core.command.SBIN", ("/nowhere",))
    with pytest.raises(ToolMissing, match="openssl"):
        judged(text)


def test_time_that_is_over(authorities):
    with pytest.raises(TimedOut):
        check(parse(authorities[2].signed(), "a.cert"), "a.cert", MANIFEST, "a.mf", Deadline(0))


def test_secrets_stay_where_they_are(authorities):
    """Only certificates are handed to openssl, whatever else is in the file."""
    signer = authorities[2]
    found = parse(signer.signed() + signer.key.read_bytes(), "a.cert")
    assert b"".join(found.certificates).strip() == signer.certificate.read_bytes().strip()
