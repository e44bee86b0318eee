# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Packages without their disks' data: what is opened, what is wrong with it, and what the manifest is held to."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ansible_collections.vmops.lifecycle.plugins.module_utils._core.errors import BadInput, TimedOut
from ansible_collections.vmops.lifecycle.plugins.module_utils._core.wait import Deadline
from ansible_collections.vmops.lifecycle.plugins.module_utils._ovf.package import Package, open_package
from ansible_collections.vmops.lifecycle.plugins.module_utils._ovf.preflight import refused
from ansible_collections.vmops.lifecycle.plugins.module_utils._ovf.source import Access, SourceFailed
from tests.unit._ovf.test_content import read, sparse

DISK = sparse(capacity=16384) + bytes(1000)
CAPACITY = 8 << 20
DESCRIPTOR = """<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1"
 xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1">
<References>%s</References>
<DiskSection><Info/>%s</DiskSection>
<VirtualSystem ovf:id="web"><Info/></VirtualSystem>
</Envelope>"""


def file_element(href="disk.vmdk", size: int | None = len(DISK), **more) -> str:
    given = {"id": href, "href": href, **({} if size is None else {"size": size}), **more}
    return "<File %s/>" % " ".join('ovf:%s="%s"' % pair for pair in given.items())


def disk_element(href="disk.vmdk", capacity=CAPACITY) -> str:
    return '<Disk ovf:diskId="d-%s" ovf:fileRef="%s" ovf:capacity="%s"/>' % (href, href, capacity)


def descriptor(*elements: str) -> bytes:
    files = [element for element in elements if element.startswith("<File")]
    disks = [element for element in elements if element.startswith("<Disk")]
    return (DESCRIPTOR % ("".join(files), "".join(disks))).encode()


PLAIN = descriptor(file_element(), disk_element())


def manifest(files: dict[str, bytes], algorithm="sha256") -> bytes:
    lines = [
        "%s(%s)= %s\n" % (algorithm.upper(), name, hashlib.new(algorithm, content).hexdigest())
        for name, content in files.items()
    ]
    return "".join(lines).encode()


def package(folder: Path, files: dict[str, bytes], kind: str) -> Package:
    """One of these files, in this order."""
    if kind == "ovf":
        for name, content in files.items():
            (folder / name).write_bytes(content)
        location = folder / next(name for name in files if name.endswith(".ovf"))
    else:
        location = folder / "web.ova"
        with tarfile.open(location, "w") as archive:
            for name, content in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return open_package(str(location), Access(), Deadline(60))


KINDS = pytest.mark.parametrize("kind", ["ovf", "ova"])


def told(found: Package, verify="if_present") -> list[tuple[str, str]]:
    with found:
        return [(problem.where, problem.problem) for problem in found.problems(verify)]


# a good one


@KINDS
def test_a_good_package(tmp_path, kind):
    files = {"web.ovf": PLAIN, "disk.vmdk": DISK}
    with package(tmp_path, {**files, "web.mf": manifest(files), "web.cert": b"cert"}, kind) as found:
        assert (found.kind, found.descriptor_name, found.descriptor) == (kind, "web.ovf", PLAIN)
        assert (found.manifest_name, found.certificate) == ("web.mf", b"cert")
        assert found.members == {"web.ovf": len(PLAIN), "disk.vmdk": len(DISK), "web.mf": 166, "web.cert": 4}
        assert found.problems("ignore") == []
        assert [verdict.name for verdict in found.verify("required", Deadline(60)) if verdict.good] == list(files)
        (file,) = found.envelope.files
        assert found.size_of(file) == len(DISK)
        assert read(found.content(file)) == DISK


@KINDS
@pytest.mark.parametrize("chunked", [{}, {"chunkSize": 600}])
def test_names_as_a_url_has_them(tmp_path, kind, chunked):
    pieces = (
        {".000000000": DISK[:600], ".000000001": DISK[600:1200], ".000000002": DISK[1200:]} if chunked else {"": DISK}
    )
    named = {"my disk 100%.vmdk" + suffix: content for suffix, content in pieces.items()}
    files = {"web.ovf": descriptor(file_element("my%20disk%20100%25.vmdk", **chunked)), **named}
    with package(tmp_path, {**files, "web.mf": manifest(files)}, kind) as found:
        assert found.problems("required") == []
        assert found.parts(found.envelope.files[0]) == tuple(named)
        assert read(found.content(found.envelope.files[0])) == DISK


@KINDS
def test_threads_read_at_once(tmp_path, kind):
    contents = {"disk%d" % number: os.urandom(300_000) for number in range(4)}
    named = [file_element(name, len(content)) for name, content in contents.items()]
    with package(tmp_path, {"web.ovf": descriptor(*named), **contents}, kind) as found, ThreadPoolExecutor(8) as pool:
        files = found.envelope.files * 5
        # nobody has asked for anything before: whoever comes first looks for the files
        bodies = pool.map(lambda file: read(found.content(file), 7000), files)
        assert [hashlib.sha256(body).hexdigest() for body in bodies] == [
            hashlib.sha256(contents[file.href]).hexdigest() for file in files
        ]


@KINDS
def test_packed_and_in_chunks(tmp_path, kind):
    packed = gzip.compress(DISK)
    pieces = {"disk.vmdk.gz.%09d" % at: packed[at * 20 : at * 20 + 20] for at in range(-(-len(packed) // 20))}
    named = file_element("disk.vmdk.gz", len(packed), compression="gzip", chunkSize=20)
    files = {"web.ovf": descriptor(named, disk_element("disk.vmdk.gz")), **pieces}
    with package(tmp_path, {**files, "web.mf": manifest(files)}, kind) as found:
        assert found.problems("required") == []  # though what tells of the disk isn't whole in the first piece
        assert all(verdict.good for verdict in found.verify("required", Deadline(60)))
        (file,) = found.envelope.files
        assert found.parts(file) == tuple(pieces)
        assert found.size_of(file) == len(DISK)
        assert read(found.content(file)) == DISK


@KINDS
def test_chunks_of_a_size_that_is_not_told(tmp_path, kind):
    named = file_element(size=None, chunkSize=600)
    files = {"web.ovf": descriptor(named), "disk.vmdk.000000000": DISK[:600], "disk.vmdk.000000001": DISK[600:]}
    with package(tmp_path, files, kind) as found:
        assert found.problems() == []
        assert read(found.content(found.envelope.files[0])) == DISK


def test_a_folder_is_looked_at_no_further_than_asked(tmp_path):
    """An import of what is there already reads the descriptor alone."""
    (tmp_path / "web.ovf").write_bytes(PLAIN)
    os.mkfifo(tmp_path / "disk.vmdk")
    with open_package(str(tmp_path / "web.ovf"), Access(), Deadline(60)) as found:
        assert found.envelope.files[0].href == "disk.vmdk"
        assert [problem.problem for problem in found.problems()] == ["it is a named pipe, no file"]


# what is wrong

SIZES = [
    ({"web.ovf": PLAIN}, [("disk.vmdk", "the descriptor refers to it, and the package has no such file")]),
    (
        {"web.ovf": PLAIN, "disk.vmdk": DISK[:-1]},
        [("disk.vmdk", "it has 1511 bytes, and the descriptor says 1512")],
    ),
    (
        {"web.ovf": descriptor(file_element(chunkSize=600)), "disk.vmdk.000000000": DISK[:600]},
        [("disk.vmdk.000000001", "the descriptor refers to it, and the package has no such file")],
    ),
    (
        {"web.ovf": descriptor(file_element(size=9 * 10**18, chunkSize=1)), "disk.vmdk.000000000": DISK},
        [("disk.vmdk.000000001", "the descriptor refers to it, and the package has no such file")],
    ),
    (
        {"web.ovf": descriptor(file_element(), disk_element(capacity=CAPACITY - 1)), "disk.vmdk": DISK},
        [("disk.vmdk", "its disk has 8388608 bytes, and that of the descriptor only 8388607")],
    ),
    ({"web.ovf": descriptor(file_element(), disk_element(capacity=CAPACITY + 1)), "disk.vmdk": DISK}, []),
    ({"web.ovf": descriptor(file_element(), disk_element(capacity="${size}")), "disk.vmdk": DISK}, []),
    (
        {"web.ovf": descriptor(file_element(size=None), disk_element()), "disk.vmdk": b"QFI\xfb" + bytes(600)},
        [("disk.vmdk", "it is a qcow2 image, and vSphere takes only streamOptimized VMDKs")],
    ),
    (
        {"web.ovf": descriptor(file_element(size=None, compression="gzip"), disk_element()), "disk.vmdk": DISK},
        [("disk.vmdk", "it isn't packed by gzip, and the descriptor says so")],
    ),
    ({"web.ovf": descriptor(file_element(size=None)), "disk.vmdk": b"an ISO, perhaps"}, []),
    (
        {
            "web.ovf": descriptor(file_element("a", 1), file_element("b", 1), file_element("c", 1)),
            "b": b"1",
            "c": b"22",
        },
        [
            ("a", "the descriptor refers to it, and the package has no such file"),
            ("c", "it has 2 bytes, and the descriptor says 1"),
        ],
    ),
]


@KINDS
@pytest.mark.parametrize(("files", "expected"), SIZES)
def test_what_sizes_and_headers_tell(tmp_path, files, expected, kind):
    assert told(package(tmp_path, files, kind)) == expected


def test_more_than_the_descriptor_refers_to(tmp_path):
    files = {"web.ovf": PLAIN, "disk.vmdk": DISK, "README": b"?", "other.ovf": b"", "web.cert": b""}
    problem = "the archive has it, and the descriptor doesn't refer to it"
    assert told(package(tmp_path, files, "ova"), "ignore") == [("README", problem), ("other.ovf", problem)]
    assert told(package(tmp_path, files, "ovf"), "ignore") == []


def test_links_within_the_folder_and_out_of_it(tmp_path):
    folder = tmp_path / "package"
    folder.mkdir()
    names = ["inside", "outside", "parent", "folder", "nowhere"]
    (folder / "web.ovf").write_bytes(descriptor(*(file_element(name, 1) for name in names)))
    (folder / "real").write_bytes(b"1")
    (tmp_path / "secret").write_bytes(b"1")
    (folder / "inside").symlink_to("real")
    (folder / "outside").symlink_to("../secret")
    (folder / "parent").symlink_to(tmp_path)
    (folder / "folder").mkdir()
    (folder / "nowhere").symlink_to("there/is/nothing")
    with open_package(str(folder / "web.ovf"), Access(), Deadline(60)) as found:
        assert [(problem.where, problem.problem) for problem in found.problems()] == [
            ("outside", "it is a link that leads out of the package's folder"),
            ("parent", "it is a link that leads out of the package's folder"),
            ("folder", "it is a directory, no file"),
            ("nowhere", "the descriptor refers to it, and the package has no such file"),
        ]
        with pytest.raises(BadInput, match="has no outside"):
            found.content(found.envelope.files[1])


GOOD = {"web.ovf": PLAIN, "disk.vmdk": DISK}
MISSING = ("other", "web.mf names it, and the package has no such file")
CHANGED = ("web.ovf", "its content isn't what web.mf says")
RUBBISH = ("web.mf, line 1", "'rubbish' is no line of a manifest")
UNNAMED = ("disk.vmdk", "web.mf doesn't name it, and verify wants all files to be in it")
MANIFESTS = [
    (None, [], [("LOCATION", "it has no manifest (.mf), and verify wants one")]),
    (manifest(GOOD), [], []),
    (manifest(GOOD, "sha1"), [], []),
    (manifest(GOOD, "sha512"), [], []),
    (manifest({"web.ovf": PLAIN}), [], [UNNAMED]),
    (manifest({**GOOD, "other": b""}), [MISSING], [MISSING]),
    (manifest({**GOOD, "web.ovf": b"another"}), [CHANGED], [CHANGED]),
    (b"rubbish\n", [RUBBISH], [RUBBISH]),
]


@KINDS
@pytest.mark.parametrize(("text", "if_present", "required"), MANIFESTS)
def test_manifests(tmp_path, text, if_present, required, kind):
    with package(tmp_path, GOOD if text is None else {**GOOD, "web.mf": text}, kind) as found:
        for verify, expected in ("ignore", []), ("if_present", if_present), ("required", required):
            problems = [(each.where, each.problem) for each in found.problems(verify)]
            assert problems == [(where.replace("LOCATION", found.location), what) for where, what in expected]


@KINDS
def test_a_manifest_of_another_package_is_found_by_reading(tmp_path, kind):
    with package(tmp_path, {**GOOD, "web.mf": manifest({**GOOD, "disk.vmdk": b"another", "c": b""})}, kind) as found:
        verdicts = found.verify("if_present", Deadline(60))
        assert [(verdict.name, verdict.good) for verdict in verdicts] == [
            ("web.ovf", True),
            ("disk.vmdk", False),
            ("c", False),
        ]
        differs, missing = refused(verdicts)
        assert hashlib.sha256(DISK).hexdigest() in differs.problem
        assert missing.problem == "the manifest names it, and the package has no such file"
        assert found.verify("ignore", Deadline(60)) == []
        with pytest.raises(TimedOut):
            found.verify("if_present", Deadline(0))


def test_with_required_what_is_not_named_gets_a_verdict_too(tmp_path):
    with package(tmp_path, {**GOOD, "web.mf": manifest({"web.ovf": PLAIN})}, "ova") as found:
        assert [problem.where for problem in refused(found.verify("required", Deadline(60)))] == ["disk.vmdk"]
        assert refused(found.verify("if_present", Deadline(60))) == []


def test_a_bomb_is_given_up(tmp_path):
    bomb = gzip.compress(bytes(100 << 20))
    files = {
        "web.ovf": descriptor(file_element(size=len(bomb), compression="gzip"), disk_element(capacity=512)),
        "disk.vmdk": bomb,
    }
    with package(tmp_path, files, "ova") as found, pytest.raises(SourceFailed, match="more than it may be"):
        found.size_of(found.envelope.files[0])


# what is no package


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is empty"),
        (bytes(5000), "is neither an OVF descriptor nor an OVA archive"),
        (b"hello", "is neither an OVF descriptor nor an OVA archive"),
        (gzip.compress(b"x"), "is packed by gzip: unpack it first"),
        (DISK, "is a VMDK, so only a disk of a package"),
        (b"x".ljust(257) + b"ustar\0".ljust(300), "is a tar archive whose first header is damaged"),
        (b"<html>", "web.ova.*: .*(no element|not well-formed|unclosed|isn't well-formed|no XML)"),
    ],
)
def test_what_is_no_package(tmp_path, content, problem):
    path = tmp_path / "web.ova"
    path.write_bytes(content)
    with pytest.raises(BadInput, match=problem):
        open_package(str(path), Access(), Deadline(60))


def test_an_archive_without_a_descriptor(tmp_path):
    with pytest.raises(BadInput, match="is a tar archive without a descriptor"):
        package(tmp_path, {"disk.vmdk": DISK}, "ova")


def test_a_large_descriptor_is_not_read(tmp_path):
    path = tmp_path / "web.ovf"
    path.write_bytes(b"<")
    os.truncate(path, 2 << 30)
    with pytest.raises(BadInput, match=r"the descriptor .*web.ovf has 2147483648 bytes, and at most 16777216 are read"):
        open_package(str(path), Access(), Deadline(60))
    info = tarfile.TarInfo("web.ovf")
    info.size = 2 << 30
    path.write_bytes(info.tobuf())
    os.truncate(path, (2 << 30) + 1024)
    with pytest.raises(BadInput, match=r"the descriptor web.ovf of .*web.ovf has 2147483648 bytes"):
        open_package(str(path), Access(), Deadline(60))


@KINDS
def test_a_large_manifest_is_not_read(tmp_path, kind):
    found = package(tmp_path, {**GOOD, "web.mf": b"x" * ((1 << 20) + 1)}, kind)
    assert told(found) == [("source", "web.mf has 1048577 bytes, and at most 1048576 are read")]


def test_a_descriptor_may_come_later_in_an_archive_and_have_any_name_and_encoding(tmp_path):
    files = {"disk.vmdk": DISK, "x.mf": manifest({"disk.vmdk": DISK}), "a b.OVF": PLAIN.decode().encode("utf-16")}
    with package(tmp_path, files, "ova") as found:
        assert (found.descriptor_name, found.manifest_name) == ("a b.OVF", "x.mf")
        assert found.problems() == []
