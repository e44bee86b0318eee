# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""OVF packages of all kinds, good and broken: real streamOptimized disks by qemu-img, archives by Python's tarfile or
GNU tar, never by this collection.

    path = make_package(folder, Spec(disks=(DiskSpec(), DiskSpec(packed=True)), manifest="sha512"))
"""

from __future__ import annotations

import gzip
import hashlib
import os
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import quoteattr

from tests.testbed.images import MIB, make, qemu_img

STREAM = "http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"
_ALGORITHM = {"sha1": "SHA1", "sha256": "SHA256", "sha512": "SHA512"}
_TAR_FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


class DiskSpec(NamedTuple):
    """A disk of the package.

    ``written`` are qemu-io's commands that fill it. ``image_format`` and ``subformat`` are other than what vSphere
    takes for broken packages. ``packed``: by gzip. ``chunk_bytes``: in pieces of that size.
    """

    size: int = 8 * MIB
    written: tuple[str, ...] = ("write -P 1 0 64k", "write -P 2 4M 1M")
    image_format: str = "vmdk"
    subformat: str = "streamOptimized"
    packed: bool = False
    chunk_bytes: int | None = None


class Spec(NamedTuple):
    """A package. ``manifest`` is its algorithm, None for none; with ``manifest_last`` it stands behind the files.
    ``signed``: by somebody whose certificate, ``signer.pem`` in the folder, he signed himself.

    ``sparse``: the archive leaves out holes (the ISO has one), which only GNU tar does, by its own format or pax.
    ``padding_bytes`` follow the archive's end. ``encoding`` is that of the descriptor. For broken ones: files named in
    ``left_out`` are neither in an archive nor in the folder, ``added`` are more of them, and ``edit`` changes the text
    of the descriptor or the manifest, by its suffix, ``.ovf`` before the manifest is made.
    """

    name: str = "web"
    archive: bool = True
    disks: tuple[DiskSpec, ...] = (DiskSpec(),)
    iso: bool = False
    nvram: bool = False
    manifest: str | None = "sha256"
    manifest_last: bool = False
    signed: bool = False
    networks: tuple[str, ...] = ("VM Network",)
    eula: str = ""
    tar_format: str = "ustar"
    sparse: bool = False
    padding_bytes: int = 0
    encoding: str = "UTF-8"
    left_out: tuple[str, ...] = ()
    added: Mapping[str, bytes] = {}
    edit: Mapping[str, Callable[[str], str]] = {}


class _Part(NamedTuple):
    """A file that the descriptor refers to: its attributes there, and the names of its pieces."""

    id: str
    href: str
    size: int
    names: tuple[str, ...]
    extra: str = ""


def make_package(folder: Path, spec: Spec = Spec()) -> Path:  # noqa: B008  # a value that nothing can change
    """Write a package into the folder, which need not be there; the path of its .ova or .ovf.

    The files of an archive stay beside it in the folder ``files``, for comparisons.
    """
    files = folder / "files" if spec.archive else folder
    files.mkdir(parents=True, exist_ok=True)
    parts = [_disk(files, number, disk) for number, disk in enumerate(spec.disks, 1)]
    if spec.iso:
        parts.append(_plain(files, "iso", "config.iso", _iso()))
    if spec.nvram:
        parts.append(_plain(files, "nvram", "%s.nvram" % spec.name, b"MRVN" + bytes(8680)))
    for name, content in spec.added.items():
        (files / name).write_bytes(content)
    descriptor = files / (spec.name + ".ovf")
    text = _edited(spec, ".ovf", _descriptor(spec, parts))
    descriptor.write_bytes(text.replace('"UTF-8"', '"%s"' % spec.encoding, 1).encode(spec.encoding))
    names = [descriptor.name, *[name for part in parts for name in part.names], *spec.added]
    manifest = files / (spec.name + ".mf")
    if spec.manifest:
        manifest.write_text(_edited(spec, ".mf", _manifest(files, names, spec.manifest)))
        names.insert(len(names) if spec.manifest_last else 1, manifest.name)
    if spec.signed:
        signature = files / (spec.name + ".cert")
        signature.write_bytes(_signature(folder, manifest))
        names.insert(names.index(manifest.name) + 1, signature.name)
    for name in spec.left_out:
        (files / name).unlink()
    names = [name for name in names if name not in spec.left_out]
    return _archived(folder / (spec.name + ".ova"), files, names, spec) if spec.archive else descriptor


def make_archive(path: Path, *members: tuple[str | tarfile.TarInfo, bytes], tar_format: str = "ustar") -> Path:
    """An archive of any members: names, or whole headers (whose size isn't corrected), each with its content."""
    with path.open("wb") as archive:
        for member, content in members:
            header = member if isinstance(member, tarfile.TarInfo) else _sized(member, content)
            archive.write(header.tobuf(_TAR_FORMATS[tar_format]))
            archive.write(content + bytes(-len(content) % 512))
        archive.write(bytes(1024))
    return path


def _sized(name: str, content: bytes) -> tarfile.TarInfo:
    header = tarfile.TarInfo(name)
    header.size = len(content)
    return header


def _disk(files: Path, number: int, disk: DiskSpec) -> _Part:
    name = "disk%d.%s" % (number, disk.image_format)
    raw = make(files / "raw", "raw", disk.size, *disk.written)
    options = ["-o", "subformat=" + disk.subformat] if disk.image_format == "vmdk" else []
    qemu_img("convert", "-f", "raw", "-O", disk.image_format, *options, raw, files / name)
    raw.unlink()
    extra = ""
    if disk.packed:
        plain = files / name
        name += ".gz"
        (files / name).write_bytes(gzip.compress(plain.read_bytes(), 1))
        plain.unlink()
        extra += ' ovf:compression="gzip"'
    content = (files / name).read_bytes()
    names = (name,)
    if disk.chunk_bytes:
        extra += ' ovf:chunkSize="%d"' % disk.chunk_bytes
        names = tuple("%s.%09d" % (name, at) for at in range(-(-len(content) // disk.chunk_bytes)))
        for at, piece in enumerate(names):
            (files / piece).write_bytes(content[at * disk.chunk_bytes :][: disk.chunk_bytes])
        (files / name).unlink()
    return _Part("file%d" % number, name, len(content), names, extra)


def _plain(files: Path, identifier: str, name: str, content: bytes) -> _Part:
    with (files / name).open("wb") as file:
        for at in range(0, len(content), 4096):
            piece = content[at : at + 4096]
            if any(piece):
                file.seek(at)
                file.write(piece)
        file.truncate(len(content))
    return _Part(identifier, name, len(content), (name,))


def _iso() -> bytes:
    """Something like an image of a CD, with much nothing in it."""
    image = bytearray(2 * MIB)
    image[32768:32775] = b"\x01CD001\x01"
    image[MIB : MIB + 5000] = b"data" * 1250
    return bytes(image)


def _edited(spec: Spec, suffix: str, text: str) -> str:
    edit = spec.edit.get(suffix)
    return edit(text) if edit else text


def _manifest(files: Path, names: list[str], algorithm: str) -> str:
    return "".join(
        "%s(%s)= %s\n" % (_ALGORITHM[algorithm], name, hashlib.new(algorithm, (files / name).read_bytes()).hexdigest())
        for name in names
    )


def _signature(folder: Path, manifest: Path) -> bytes:
    signer = folder / "signer.pem"
    with tempfile.NamedTemporaryFile() as key:
        words = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/O=Example/CN=Packages"]
        _openssl(*words, "-keyout", key.name, "-out", str(signer))
        value = _openssl("dgst", "-sha256", "-sign", key.name, str(manifest))
    return b"SHA256(%s)= %s\n" % (manifest.name.encode(), value.hex().encode()) + signer.read_bytes()


def _openssl(*words: str) -> bytes:
    return subprocess.run(["openssl", *words], check=True, capture_output=True).stdout


def _archived(path: Path, files: Path, names: list[str], spec: Spec) -> Path:
    if spec.sparse:
        tar_format = {"gnu": "gnu", "pax": "posix", "ustar": "gnu"}[spec.tar_format]
        words = ["tar", "--sparse", "--format", tar_format, "-cf", str(path), "-C", str(files), *names]
        subprocess.run(words, check=True, capture_output=True)
    else:
        with tarfile.open(path, "w", format=_TAR_FORMATS[spec.tar_format]) as archive:
            for name in names:
                archive.add(files / name, name)
    if spec.padding_bytes:
        os.truncate(path, path.stat().st_size + spec.padding_bytes)
    return path


def _descriptor(spec: Spec, parts: list[_Part]) -> str:
    references = "".join(
        "    <File ovf:id=%s ovf:href=%s ovf:size=%s%s/>\n"
        % (quoteattr(part.id), quoteattr(part.href), quoteattr(str(part.size)), part.extra)
        for part in parts
    )
    disks = "".join(
        '    <Disk ovf:diskId="disk%d" ovf:fileRef="file%d" ovf:capacity="%d" ovf:format="%s"/>\n'
        % (number, number, disk.size, STREAM)
        for number, disk in enumerate(spec.disks, 1)
    )
    networks = "".join(
        "    <Network ovf:name=%s><Description>A network</Description></Network>\n" % quoteattr(name)
        for name in spec.networks
    )
    eula = "    <EulaSection><Info>A licence</Info><License>%s</License></EulaSection>\n" % spec.eula
    return _DESCRIPTOR % {
        "name": spec.name,
        "references": references,
        "disks": disks,
        "networks": networks,
        "eula": eula if spec.eula else "",
        "hardware": "".join(_hardware(spec)),
        "nvram": _NVRAM if spec.nvram else "",
    }


def _hardware(spec: Spec) -> list[str]:
    items = [
        _item(1, 3, "2 virtual CPUs", AllocationUnits="hertz * 10^6", VirtualQuantity=2),
        _item(2, 4, "512 MB of memory", AllocationUnits="byte * 2^20", VirtualQuantity=512),
        _item(3, 6, "SCSI controller 0", Address=0, ResourceSubType="lsilogic"),
        _item(4, 5, "IDE controller 0", Address=0),
    ]
    for number in range(len(spec.disks)):
        place = {"AddressOnParent": number, "HostResource": "ovf:/disk/disk%d" % (number + 1), "Parent": 3}
        items.append(_item(10 + number, 17, "Hard disk %d" % (number + 1), **place))
    for number, name in enumerate(spec.networks):
        place = {"AddressOnParent": 7 + number, "AutomaticAllocation": "true", "Connection": name}
        items.append(_item(30 + number, 10, "Adapter %d" % (number + 1), **place, ResourceSubType="VmxNet3"))
    if spec.iso:
        place = {"AddressOnParent": 0, "AutomaticAllocation": "true", "HostResource": "ovf:/file/iso", "Parent": 4}
        items.append(_item(50, 15, "CD/DVD drive 1", **place))
    return items


def _item(instance: int, kind: int, name: str, **more: object) -> str:
    """An item of the hardware: its elements are in the order of their names, as the schema wants them."""
    elements = {**more, "ElementName": name, "InstanceID": instance, "ResourceType": kind}
    inner = "".join("<rasd:%s>%s</rasd:%s>" % (key, elements[key], key) for key in sorted(elements))
    return "      <Item>%s</Item>\n" % inner


_NVRAM = '      <vmw:ExtraConfig ovf:required="false" vmw:key="nvram" vmw:value="ovf:/file/nvram"/>\n'

_DESCRIPTOR = """<?xml version="1.0" encoding="UTF-8"?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1"
    xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData"
    xmlns:vssd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData"
    xmlns:vmw="http://www.vmware.com/schema/ovf">
  <References>
%(references)s  </References>
  <DiskSection>
    <Info>The disks</Info>
%(disks)s  </DiskSection>
  <NetworkSection>
    <Info>The networks</Info>
%(networks)s  </NetworkSection>
  <DeploymentOptionSection>
    <Info>The sizes</Info>
    <Configuration ovf:id="small" ovf:default="true"><Label>Small</Label><Description>Two processors</Description>
    </Configuration>
    <Configuration ovf:id="large"><Label>Large</Label><Description>The same</Description></Configuration>
  </DeploymentOptionSection>
  <VirtualSystem ovf:id="%(name)s">
    <Info>A machine</Info>
    <Name>%(name)s</Name>
    <OperatingSystemSection ovf:id="101" vmw:osType="otherLinux64Guest">
      <Info>The system</Info><Description>Other Linux (64-bit)</Description>
    </OperatingSystemSection>
%(eula)s    <ProductSection ovf:class="net" ovf:instance="1">
      <Info>What it is</Info>
      <Product>Web server</Product><Vendor>Example</Vendor><Version>1.2</Version><FullVersion>1.2.3</FullVersion>
      <Category>Network</Category>
      <Property ovf:key="hostname" ovf:type="string" ovf:userConfigurable="true" ovf:value="web1"
          ovf:qualifiers="MinLen(1) MaxLen(63)"><Label>Host name</Label><Description>Its name</Description></Property>
      <Property ovf:key="password" ovf:type="string" ovf:userConfigurable="true" ovf:password="true"
          ovf:value="swordfish"><Label>Password</Label></Property>
      <Property ovf:key="build" ovf:type="uint32" ovf:userConfigurable="false" ovf:value="7"/>
    </ProductSection>
    <VirtualHardwareSection ovf:transport="com.vmware.guestInfo">
      <Info>The hardware</Info>
      <System>
        <vssd:ElementName>Virtual Hardware Family</vssd:ElementName>
        <vssd:InstanceID>0</vssd:InstanceID>
        <vssd:VirtualSystemIdentifier>%(name)s</vssd:VirtualSystemIdentifier>
        <vssd:VirtualSystemType>vmx-13</vssd:VirtualSystemType>
      </System>
%(hardware)s%(nvram)s    </VirtualHardwareSection>
  </VirtualSystem>
</Envelope>
"""
