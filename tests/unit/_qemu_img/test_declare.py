# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options into what is declared, and everything that can be told wrong from the options alone."""

from __future__ import annotations

import subprocess

import pytest

from ansible_collections.vmops.lifecycle.plugins.module_utils._core.errors import BadInput
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_img import extras
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_img import model as m
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_img.declare import declared, url_secrets
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_img.options import normalise_option
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_img.request import declared_request

DEFAULTS = {
    "path": "/images/a.qcow2",
    "state": "present",
    "format": "qcow2",
    "size": None,
    "source": None,
    "source_format": None,
    "checksum": None,
    "allow_references": False,
    "backing_file": None,
    "backing_format": None,
    "options": {},
    "compress": False,
    "encrypt": None,
    "allow_shrink": False,
    "force": False,
    "verify": "check",
    "repair": "none",
    "snapshots": [],
    "bitmaps": [],
    "commit": False,
    "timeout": 3600,
}
SHA = "sha256:" + "0123456789abcdef" * 4


def declare(**params):
    return declared({**DEFAULTS, **params})


def test_nothing_special():
    desired = declare()
    assert (desired.path, desired.present, desired.format) == ("/images/a.qcow2", True, m.Format.QCOW2)
    assert (desired.source, desired.backing, desired.encryption, desired.options) == (None, None, None, {})


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ("20G", 20 << 30),
        ("512", 512),
        ("1", 512),
        ("513", 1024),
        ("1000000001", 1000000512),
        (1048576, 1048576),
    ],
)
def test_sizes_are_rounded_up_to_sectors_as_qemu_does(size, expected):
    assert declare(size=size).size_bytes == expected


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("cluster_size", "128k", "131072"),
        ("cluster_size", 65536, "65536"),
        ("cluster_size", "64KiB", "65536"),
        ("block_size", "1M", "1048576"),
        *(("lazy_refcounts", value, "on") for value in (True, "on", "yes", "True", 1, "ON")),
        *(("extended_l2", value, "off") for value in (False, "off", "no", "False", 0)),
        ("compat", "v3", "1.1"),
        ("compat", "v2", "0.10"),
        ("compat", 1.1, "1.1"),
        ("compat", 0.1, "0.10"),  # YAML reads an unquoted 0.10 as this number
        ("compat", "0.10", "0.10"),
        ("refcount_bits", 16, "16"),
        ("preallocation", "metadata", "metadata"),
        ("subformat", " streamOptimized ", "streamOptimized"),
    ],
)
def test_an_option_is_spelled_as_info_shows_it(name, given, expected):
    assert normalise_option(name, given) == expected


@pytest.mark.parametrize(
    ("given", "stored", "path"),
    [
        ("base.qcow2", "base.qcow2", "/images/base.qcow2"),
        ("./base.qcow2", "./base.qcow2", "/images/base.qcow2"),
        ("/srv/base.qcow2", "/srv/base.qcow2", "/srv/base.qcow2"),
        ("", "", ""),
        ("nbd:base", "/images/nbd:base", "/images/nbd:base"),
        ("./nbd:base", "./nbd:base", "/images/nbd:base"),
        ("json:{}", "/images/json:{}", "/images/json:{}"),
    ],
)
def test_a_backing_file_is_only_ever_a_file(given, stored, path):
    assert declare(backing_file=given).backing == extras.Backing(stored, path, None)


def test_a_checksum_may_be_written_in_capitals():
    assert declare(source="/s", checksum=SHA.upper()).source.checksum == ("sha256", SHA[7:])


@pytest.mark.parametrize(
    "params",
    [
        {"options": {"refcount_bits": 1, "cluster_size": 512}},
        {"options": {"refcount_bits": 64, "cluster_size": "2M", "compat": "v3"}},
        {"options": {"refcount_bits": 16, "lazy_refcounts": False, "compat": "0.10", "preallocation": "metadata"}},
        {"options": {"extended_l2": True, "cluster_size": "16K"}},
        {"format": "vdi", "options": {"preallocation": "full"}},
        {"format": "vhdx", "options": {"block_size": "256M"}},
    ],
    ids=str,
)
def test_the_utmost_values_of_options(tmp_path, params):
    """They pass here and qemu-img makes them."""
    wanted = declare(**params)
    given = ",".join("%s=%s" % option for option in wanted.options.items())
    words = ["qemu-img", "create", "-q", "-f", wanted.format.value, "-o", given, str(tmp_path / "image"), "1M"]
    subprocess.run(words, check=True)


def test_a_url_may_be_written_in_capitals():
    source = declare(source="HTTPS://u:pass@host/A", checksum=SHA).source
    assert (source.is_url, source.shown) == (True, "https://host/A")
    assert url_secrets("HTTPS://u:pass@host/A") == ["pass", "pass", "//u:"]


def test_a_file_whose_name_looks_like_a_url():
    assert declare(source="./ftp://a").source.location.endswith("/ftp:/a")


def test_a_relative_path_becomes_absolute():
    assert declare(path="a.qcow2").path.startswith("/")
    assert declare(path="/etc/../a.qcow2").path == "/a.qcow2"


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"path": ""}, "path: the path is empty"),
        ({"path": "/a\0b"}, "path: it holds a NUL"),
        ({"backing_file": "a\0b"}, "backing_file: it holds a NUL"),
        ({"options": {"compat": "1\0"}}, "options: it holds a NUL"),
        ({"options": {"\0": "1"}}, "options: it holds a NUL"),
        ({"snapshots": [{"name": "a\0", "state": "present"}]}, "snapshots: it holds a NUL"),
        ({"snapshots": [{"name": "é" * 128, "state": "present"}]}, "is longer than the 255 bytes that QEMU keeps"),
        ({"bitmaps": [{"name": "a" * 1024, "state": "present"}]}, "is longer than the 1023 bytes that QEMU keeps"),
        ({"bitmaps": [{"name": "a", "state": "present", "granularity": "65537"}]}, "'65537' is no power of two"),
        ({"bitmaps": [{"name": "a", "state": "present", "granularity": "256"}]}, "'256' is no power of two"),
        ({"encrypt": {"secret": "x" * 4097, "options": {}}}, "encrypt.secret: it is longer than 4096 bytes"),
        ({"encrypt": {"secret": "\udcff", "options": {}}}, "encrypt.secret: it is no valid UTF-8"),
        ({"timeout": 0}, "timeout: 0 seconds are no time"),
        ({"timeout": -1}, "timeout: -1 seconds are no time"),
        ({"size": "\N{FULLWIDTH DIGIT TWO}G"}, "is no size"),
        ({"source": "ftp://host/a"}, "source: nothing is fetched by ftp"),
        ({"source": "NBD+unix://host/a"}, "Give an http or https URL"),
        ({"source": "HTTP://host/a"}, "checksum: a source from the network needs one"),
        ({"options": {"refcount_bits": 3}}, "options.refcount_bits: 3 is no power of two from 1 to 64"),
        ({"options": {"refcount_bits": 128}}, "options.refcount_bits: 128 is no power of two"),
        ({"options": {"refcount_bits": "\N{FULLWIDTH DIGIT EIGHT}"}}, "is no power of two"),
        ({"options": {"refcount_bits": 8, "compat": "0.10"}}, "options.compat: 0.10 can't have refcount_bits: 8"),
        ({"options": {"lazy_refcounts": True, "compat": "0.10"}}, "can't have lazy_refcounts: on"),
        ({"options": {"compat": "2"}}, "options.compat: qcow2 has no compatibility level '2'"),
        ({"options": {"cluster_size": "3M"}}, "options.cluster_size: 3145728 is no power of two from 512 to 2M"),
        ({"options": {"cluster_size": 1000}}, "is no power of two from 512 to 2M"),
        ({"options": {"cluster_size": "4M"}}, "is no power of two from 512 to 2M"),
        (
            {"options": {"cluster_size": "8K", "extended_l2": True}},
            "options.extended_l2: it needs clusters of 16K or more",
        ),
        ({"options": {"preallocation": "some"}}, "Use off or metadata or falloc or full"),
        ({"format": "raw", "options": {"preallocation": "metadata"}}, "format raw has no 'metadata'"),
        ({"format": "vhdx", "options": {"block_size": "3M"}}, "is no power of two from 1M to 256M"),
        ({"format": "vmdk", "options": {"subformat": "monolithicFlat"}}, "would put the image's data into other files"),
        ({"format": "vmdk", "options": {"subformat": "twoGbMaxExtentSparse"}}, "use monolithicSparse"),
        ({"format": "vmdk", "options": {"subformat": "twoGbMaxExtentFlat"}}, "One path is one image"),
        ({"path": "/images/"}, "path: '/images/' names a directory"),
        ({"size": "0"}, "size: 0 is no size for a disk"),
        ({"size": "9E"}, "size: '9E' is more than any file can hold"),
        ({"size": str(2**63 - 1)}, "more than any file can hold"),
        ({"size": "+5G"}, r"size: '\+5G' is relative"),
        ({"source_format": "raw"}, "source_format: it describes a source, and there is none"),
        ({"checksum": SHA}, "checksum: it describes a source, and there is none"),
        ({"source": "http://host/a"}, "checksum: a source from the network needs one"),
        ({"source": "https://host/a"}, "checksum: a source from the network needs one"),
        ({"source": "https://host/a", "checksum": SHA, "allow_references": True}, "allow_references"),
        ({"source": "/images/a.qcow2"}, "source: it is the image itself"),
        ({"source": "/etc/../images/a.qcow2"}, "source: it is the image itself"),
        ({"source": "/s", "checksum": "md6:00"}, "'md6' is no known algorithm.*sha256"),
        ({"source": "/s", "checksum": "00"}, "is no known algorithm"),
        ({"source": "/s", "checksum": "sha256:00"}, "that is no sha256 checksum.*64 hexadecimal digits"),
        ({"source": "/s", "checksum": "sha256:" + "x" * 64}, "that is no sha256 checksum"),
        ({"source": "/s", "checksum": "shake_128:00"}, "is no known algorithm"),
        ({"source": "/s", "backing_file": "b"}, "made from a source or over a backing file"),
        ({"backing_format": "raw"}, "backing_format: it describes a backing file, and there is none"),
        ({"backing_file": "", "backing_format": "raw"}, "backing_format: .*there is to be none"),
        ({"backing_file": "", "commit": True}, "commit: only an overlay has data to commit"),
        ({"source": "/s", "commit": True}, "commit: only an overlay has data to commit"),
        ({"compress": True}, "compress: only a conversion writes compressed data"),
        ({"compress": True, "source": "/s", "format": "raw"}, "compress: format raw can't be compressed"),
        ({"compress": True, "source": "/s", "format": "vmdk"}, "compress: of vmdk only subformat streamOptimized"),
        (
            {"compress": True, "source": "/s", "format": "vmdk", "options": {"subformat": "monolithicSparse"}},
            "compress: of vmdk only subformat streamOptimized",
        ),
        ({"compress": True, "source": "/s", "encrypt": {"secret": "s"}}, "compress: QEMU doesn't encrypt compressed"),
        (
            {"compress": True, "source": "/s", "options": {"preallocation": "metadata"}},
            "compress: compressed data goes to no place that was preallocated",
        ),
        ({"format": "raw", "backing_file": "b"}, "backing_file: format raw has no such thing"),
        ({"format": "vmdk", "encrypt": {"secret": "x", "options": {}}}, "encrypt: format vmdk has no such thing"),
        ({"format": "raw", "snapshots": [{"name": "a", "state": "present"}]}, "snapshots: format raw"),
        ({"format": "vdi", "bitmaps": [{"name": "a", "state": "present"}]}, "bitmaps: format vdi"),
        ({"format": "raw", "commit": True}, "commit: format raw"),
        ({"encrypt": {"secret": "", "options": {}}}, "encrypt.secret: it is empty"),
        ({"snapshots": [{"name": "", "state": "present"}]}, "snapshots: a name is empty"),
        ({"bitmaps": [{"name": "a", "state": s} for s in ("present", "absent")]}, "'a' is declared more than once"),
        ({"bitmaps": [{"name": "a", "state": "present", "granularity": "x"}]}, "bitmaps.granularity: 'x' is no size"),
        ({"options": {"size": "1G"}}, "options: size has an option of its own. Use size"),
        ({"options": {"backing_file": "b"}}, "Use backing_file"),
        ({"options": {"backing_fmt": "raw"}}, "Use backing_format"),
        ({"options": {"encryption": "on"}}, "Use encrypt"),
        ({"options": {"encrypt.format": "luks"}}, "Use encrypt.options"),
        ({"options": {"data_file": "/etc/passwd"}}, "one path is one image"),
        ({"options": {"data_file_raw": True}}, "one path is one image"),
        ({"options": {"lazy_refcounts": "perhaps"}}, "options.lazy_refcounts: 'perhaps' is neither on nor off"),
        ({"options": {"cluster_size": "64 kilo"}}, "options.cluster_size: '64 kilo' is no size"),
        ({"options": {"cluster_size": None}}, "options.cluster_size: 'None' is no size"),
    ],
    ids=str,
)
def test_refusals(params, message):
    with pytest.raises(BadInput, match=message):
        declare(**params)


@pytest.mark.parametrize(
    "params",
    [
        {"format": "raw", "snapshots": [{"name": "a", "state": "present"}]},
        {"format": "vdi", "encrypt": {"secret": "", "options": {"a": 1}}},
        {"size": "0"},
        {"compress": True},
        {"checksum": "md5:1"},
        {"source": "/images/a.qcow2", "source_format": "raw", "allow_references": True},
        {"source": "ftp://host/\0"},
        {"backing_format": "raw"},
        {"backing_file": "a.qcow2", "commit": True},
        {"options": {"subformat": 1, "": 2}, "bitmaps": [{"name": "", "state": "absent"}]},
    ],
    ids=str,
)
def test_of_an_image_that_goes_nothing_else_counts(params):
    assert declare(state="absent", **params) == declare(state="absent")


def test_encryption_keeps_its_options_in_order():
    desired = declare(encrypt={"secret": "x", "options": {"iter-time": 10, "cipher-alg": "aes-256"}})
    assert desired.encryption == extras.Encryption("x", (("cipher-alg", "aes-256"), ("iter-time", "10")))


def test_snapshots_and_bitmaps():
    desired = declare(
        snapshots=[{"name": "a", "state": "absent"}],
        bitmaps=[{"name": "b", "state": "present", "granularity": "64k"}],
    )
    assert desired.snapshots == (extras.Named("a", False),)
    assert desired.bitmaps == (extras.Named("b", True, 65536),)


def test_what_an_info_task_wants():
    request = declared_request(
        {
            "path": ["/a", "b"],
            "format": None,
            "backing_chain": True,
            "check": False,
            "map": True,
            "measure": "qcow2",
            "measure_options": {"cluster_size": "2M"},
            "timeout": 600,
        }
    )
    assert request.paths == ("/a", "b")
    assert (request.format, request.measure, request.measure_options) == (
        None,
        m.Format.QCOW2,
        {"cluster_size": "2097152"},
    )


@pytest.mark.parametrize(
    ("location", "shown"),
    [
        ("/srv/a@b.img", "/srv/a@b.img"),
        ("https://host/a@b.img", "https://host/a@b.img"),
        ("https://user:pass@host/a.img", "https://host/a.img"),
        ("https://user:p@ss@host:8080/a.img", "https://host:8080/a.img"),
        ("http://user@host", "http://host"),
    ],
)
def test_a_url_s_name_and_password_are_not_shown(location, shown):
    assert m.Source(location, None, None, False).shown == shown


def test_what_is_shown_of_a_url_holds_no_secret():
    url = "https://me:word@host:8443/images/a.qcow2?X-Signature=abc"
    assert declare(source=url, checksum=SHA).source.shown == "https://host:8443/images/a.qcow2"


@pytest.mark.parametrize(
    ("given", "hidden"),
    [
        ("https://me:w%40rd@host/a.img", ["w%40rd", "w@rd", "//me:"]),
        ("https://me@host/a.img", ["//me@"]),
        ("https://host/a.img?v=1&sig=a%2Fb#c", ["?v=1", "&sig=a%2Fb", "#c"]),
        ("https://host/a.img?", []),
        ("https://host/a.img", []),
        ("http://[broken/a.img", []),
        ("/images/me:word@host", []),
        (None, []),
    ],
)
def test_what_a_url_holds_of_secrets_is_known(given, hidden):
    assert url_secrets(given) == hidden


def test_a_source_may_begin_at_the_home_directory(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    assert declare(source="~/a.img").source.location == "/home/somebody/a.img"
