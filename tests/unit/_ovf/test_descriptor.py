# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is read from descriptors."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.vmops.lifecycle.plugins.module_utils._core.errors import BadInput
from ansible_collections.vmops.lifecycle.plugins.module_utils._ovf.descriptor import parse
from ansible_collections.vmops.lifecycle.plugins.module_utils._ovf.model import (
    DeploymentOption,
    Disk,
    Eula,
    File,
    Machine,
    Network,
    Product,
    Property,
)
from ansible_collections.vmops.lifecycle.plugins.module_utils._ovf.units import unit_bytes
from tests.unit._ovf.descriptors import APPLIANCE, OVF_1, OVF_2, STREAM_OPTIMIZED, SYSTEM, VIRTUALBOX, small

GIB = 1 << 30


def refusal(text):
    with pytest.raises(BadInput) as caught:
        parse(text, "a.ovf")
    assert caught.value.message.startswith("a.ovf")
    return caught.value.message


def test_an_appliance_of_vsphere():
    found = parse(APPLIANCE, "a.ovf")
    assert found.files == (
        File("file1", "mailgate-disk1.vmdk", 734003200),
        File("file2", "mailgate-disk2.vmdk.gz", 4096, "gzip"),
        File("file3", "mailgate tools.iso", 362496),
        File("file4", "mailgate-file4.nvram", 8684),
        File("file5", "big.vmdk", 5000000000, "identity", 2147483648),
    )
    assert found.disks == (
        Disk("vmdisk1", "file1", 40 * GIB, None, STREAM_OPTIMIZED, None, 1468006400),
        Disk("vmdisk2", None, None, "spool.size_gb", STREAM_OPTIMIZED),
        Disk("vmdisk3", "file5", 16 * GIB, None, "", "vmdisk1"),
    )
    assert found.networks == (Network("Outside", "Towards the world"), Network("Inside"))
    assert found.deployment_options == (
        DeploymentOption("small", "Small", "To 100 users"),
        DeploymentOption("large", "Large", "Beyond", True),
    )
    assert found.eulas == (Eula("mailgate", "All rights reserved."), Eula("mailgate", "Be kind."))
    assert found.products == (Product("", "", "Mailgate", "Example", "4", "4.2.1-77"), Product("vami", "mailgate"))
    assert found.transports == ("com.vmware.guestInfo", "iso")
    assert not found.is_vapp
    assert found.machines == (
        Machine(
            id="mailgate",
            name="Mail gateway",
            operating_system="Debian GNU/Linux 11",
            hardware_versions=("vmx-13", "vmx-14"),
            cpus=8,
            memory_mib=16384,
            networks=("Outside", "Inside"),
        ),
    )


def test_its_properties():
    assert parse(APPLIANCE, "a.ovf").properties == (
        Property(
            "hostname",
            qualifiers="MinLen(1),MaxLen(63)",
            user_configurable=True,
            label="Host name",
            description="Its full name",
        ),
        Property("spool.size_gb", "uint16", "", "10", {"large": "20"}, True, category="Storage"),
        Property("root_password", "string", "MinLen(8)", "", {}, True, True, category="Security"),
        Property("build", default="77", category="Security"),
        Property("vami.ip0.mailgate", "ip", 'Ip("Outside")', user_configurable=True),
    )


def test_a_machine_of_virtualbox():
    found = parse(VIRTUALBOX, "a.ovf")
    assert found.files == (File("file1", "desk-disk001.vmdk"),)
    assert found.disks == (Disk("vmdisk1", "file1", 20 * GIB, None, STREAM_OPTIMIZED),)
    assert found.machines == (Machine("desk", "desk", "Ubuntu_64", ("virtualbox-2.2",), 2, 4096, ("NAT",)),)


def test_a_system_of_machines():
    found = parse(SYSTEM, "a.ovf")
    assert found.is_vapp
    assert [machine.id for machine in found.machines] == ["db", "web"]
    assert found.eulas == (Eula("shop", "For all of it."),)
    assert [each.key for each in found.properties] == ["name", "name"]  # one of each machine
    assert found.networks == (Network("Back end"),)


def test_any_prefix_and_any_order():
    text = f"""<o:Envelope xmlns:o="{OVF_2}" xmlns:x="urn:x">
      <o:VirtualSystem o:id="m"><o:Info/></o:VirtualSystem>
      <o:DiskSection><o:Disk o:diskId="d" o:fileRef="f" o:capacity="1"/></o:DiskSection>
      <o:References><o:File o:id="f" o:href="d.vmdk" x:id="other"/></o:References>
    </o:Envelope>"""
    found = parse(text.encode(), "a.ovf")
    assert found.files == (File("f", "d.vmdk"),)
    assert found.disks == (Disk("d", "f", 1),)


@pytest.mark.parametrize(
    "encode",
    [
        lambda text: b"\xef\xbb\xbf" + text.encode(),
        lambda text: text.replace("UTF-8", "UTF-16").encode("utf-16"),
        lambda text: text.replace("UTF-8", "ISO-8859-1").encode("latin-1"),
        lambda text: text.replace("UTF-8", "windows-1252").encode("cp1252"),
    ],
    ids=["UTF-8 with its mark", "UTF-16", "Latin-1", "Windows"],
)
def test_encodings(encode):
    text = small(sections='<NetworkSection><Network ovf:name="Büro"/></NetworkSection>').decode()
    assert parse(encode(text), "a.ovf").networks == (Network("Büro"),)


def hardware(items, kind="vmx-19"):
    section = f"<VirtualHardwareSection><System><vssd:VirtualSystemType>{kind}</vssd:VirtualSystemType></System>"
    return section + items + "</VirtualHardwareSection>"


def item(resource, **fields):
    attributes = f' ovf:configuration="{fields.pop("option")}"' if "option" in fields else ""
    inner = "".join(f"<rasd:{name}>{value}</rasd:{name}>" for name, value in fields.items())
    return f"<Item{attributes}><rasd:ResourceType>{resource}</rasd:ResourceType>{inner}</Item>"


OPTIONS = """<DeploymentOptionSection>
  <Configuration ovf:id="a"/><Configuration ovf:id="b"{}/></DeploymentOptionSection>"""
BOTH = item(3, InstanceID=1, VirtualQuantity=1, option="a") + item(3, InstanceID=1, VirtualQuantity=4, option="b")
OLD = item(3, InstanceId=1, VirtualQuantity=7)


@pytest.mark.parametrize(
    ("options", "items", "cpus", "memory_mib"),
    [
        ("", item(3, VirtualQuantity=3), 3, None),
        ("", item(4, VirtualQuantity=512), None, 512),
        ("", item(4, VirtualQuantity=2, AllocationUnits="GigaBytes"), None, 2048),
        ("", item(4, VirtualQuantity=1048577, AllocationUnits="byte"), None, 2),
        ("", item(4, VirtualQuantity=3, AllocationUnits="byte*2^30"), None, 3072),
        ("", item(3, VirtualQuantity=1) + item(3, VirtualQuantity=1), 2, None),
        ("", item(3, VirtualQuantity=1).replace("<Item", '<Item ovf:bound="normal"'), 1, None),
        ("", item(3, VirtualQuantity=1).replace("<Item", '<Item ovf:bound="min"'), None, None),
        ("", BOTH, None, None),
        (OPTIONS.format(""), BOTH, 1, None),
        (OPTIONS.format(' ovf:default="true"'), BOTH, 4, None),
        (OPTIONS.format(""), item(3, VirtualQuantity=7, InstanceID=1) + BOTH, 1, None),
        (OPTIONS.format(""), BOTH + item(3, VirtualQuantity=7, InstanceID=1), 1, None),
        (OPTIONS.format(""), OLD + BOTH.replace("InstanceID", "InstanceId"), 1, None),
        (OPTIONS.format(""), item(3, VirtualQuantity=6, option="b") + item(3, VirtualQuantity=5), 5, None),
    ],
    ids=[
        "processors",
        "memory without a unit is in MiB",
        "in GiB",
        "in bytes, rounded up",
        "in a programmatic unit",
        "several items",
        "the normal amount",
        "a limit",
        "all bound to options that aren't there",
        "the first option is the default",
        "the declared default",
        "a bound item replaces the unbound one before it",
        "and the one behind it",
        "an old spelling",
        "of no place in common, each for itself",
    ],
)
def test_hardware(options, items, cpus, memory_mib):
    text = small(sections=options, machine=hardware(items))
    [machine] = parse(text, "a.ovf").machines
    assert (machine.cpus, machine.memory_mib) == (cpus, memory_mib)


def test_of_several_platforms_it_is_vspheres():
    machine = hardware(item(3, VirtualQuantity=1), "virtualbox-2.2") + hardware(
        item(3, VirtualQuantity=2), "vmx-07 vmx-08"
    )
    [found] = parse(small(machine=machine), "a.ovf").machines
    assert found.cpus == 2
    assert found.hardware_versions == ("virtualbox-2.2", "vmx-07", "vmx-08", "vmx-13")


def test_networks_are_those_of_adapters():
    items = item(10, Connection="A") + item(10, InstanceID=9) + item(21, Connection="B") + item(10, Connection="A")
    assert parse(small(machine=hardware(items)), "a.ovf").machines[0].networks == ("A", "A")


def test_an_ethernet_port_of_ovf_2():
    text = small(
        namespace=OVF_2, machine=hardware("<EthernetPortItem><rasd:Connection>N</rasd:Connection></EthernetPortItem>")
    )
    assert parse(text, "a.ovf").machines[0].networks == ("N",)


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ("", ""),
        ("<OperatingSystemSection/>", ""),
        ('<OperatingSystemSection ovf:id="80"/>', "80"),
        ('<OperatingSystemSection ovf:id="80" vmw:osType="rhel9_64Guest"/>', "rhel9_64Guest"),
    ],
)
def test_operating_systems(section, expected):
    assert parse(small(machine=section), "a.ovf").machines[0].operating_system == expected


@pytest.mark.parametrize(
    ("units", "expected"),
    [
        ("byte", 1),
        ("Bytes", 1),
        ("KiloBytes", 1 << 10),
        ("MegaBytes", 1 << 20),
        ("GB", 1 << 30),
        ("TeraByte", 1 << 40),
        ("byte * 2^30", 1 << 30),
        ("byte*2^20", 1 << 20),
        ("byte * 10^9", 10**9),
        ("byte * 1024", 1024),
        ("byte * 2^10 * 3", 3072),
        ("bit", None),
        ("", None),
        ("hertz * 10^6", None),
        ("byte * 2^-3", None),
        ("byte / 2", None),
        ("byte * 2^999", None),
        ("byte * 2 " + "* 2" * 10000, None),
    ],
)
def test_units(units, expected):
    assert unit_bytes(units) == expected


@pytest.mark.parametrize(
    ("inner", "expected"),
    [
        ("", None),
        ('<Value ovf:value="x"/>', "x"),
        ('<Value ovf:value="x" ovf:configuration="a"/>', None),
        ('<Value ovf:configuration="a"/><Value/>', None),
    ],
    ids=["none", "the neutral one", "only an option's", "without values"],
)
def test_a_property_s_default(inner, expected):
    text = small(machine=f'<ProductSection><Property ovf:key="k">{inner}</Property></ProductSection>')
    [found] = parse(text, "a.ovf").properties
    values = {"a": "x"} if "configuration" in inner and "value=" in inner else {}
    assert found == Property("k", "string", default=expected, values=values)


@pytest.mark.parametrize(
    ("own", "languages", "expected"),
    [
        ("neutral", {}, "neutral"),
        ("neutral", {"de": "deutsch"}, "neutral"),
        ("", {"de": "deutsch"}, "deutsch"),
        ("neutral", {"de": "deutsch", "en-GB": "English"}, "English"),
        ("", {}, ""),
    ],
)
def test_languages(own, languages, expected):
    strings = "".join(
        f'<Strings xml:lang="{language}"><Msg ovf:msgid="m">{text}</Msg></Strings>'
        for language, text in languages.items()
    )
    text = small(sections=strings, machine=f'<EulaSection><License ovf:msgid="m"> {own} </License></EulaSection>')
    assert parse(text, "a.ovf").eulas == (Eula("small", expected),)


def test_another_namespace_s_machine_is_none():
    found = parse(small(sections='<x:VirtualSystem xmlns:x="urn:x" x:id="other"/>'), "a.ovf")
    assert [machine.id for machine in found.machines] == ["small"]


def test_an_empty_file():
    assert parse(small('<File ovf:id="x" ovf:href="a" ovf:size="0"/>'), "a.ovf").files == (File("x", "a", 0),)


UNITS = {"byte": 1, "KiloBytes": 1 << 10, "byte * 2^20": 1 << 20, "GigaBytes": GIB}


@given(st.integers(0, 2**31), st.sampled_from(sorted(UNITS)))
def test_capacities(number, units):
    disk = f'<Disk ovf:diskId="d" ovf:capacity="{number}" ovf:capacityAllocationUnits="{units}"/>'
    [found] = parse(small(sections=f"<DiskSection>{disk}</DiskSection>"), "a.ovf").disks
    assert found.capacity_bytes == number * UNITS[units]


def disks(inner):
    return small('<File ovf:id="f" ovf:href="d.vmdk"/>', f"<DiskSection>{inner}</DiskSection>")


PROPERTY = '<ProductSection{}><Property ovf:key="{}" ovf:type="string"/></ProductSection>'


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"", "not XML: no element found (line 1, column 1)"),
        (b"\x00\x01\x02", "not XML"),
        (b"KDMV\x01\x00", "not XML"),
        (b"<Envelope", "not XML: unclosed token"),
        (b"<a>\n <b></a>", "not XML: mismatched tag (line 2, column 7)"),
        (small() + b"<more/>", "junk after document element"),
        (small().replace(b"UTF-8", b"x-unheard-of"), "encoding can't be read"),
        (small().replace(b"UTF-8", b"utf-7"), "encoding can't be read"),
        (small().replace(b"<Info>A", b"<Info>&company;"), "undefined entity"),
        (b"<html xmlns='http://www.w3.org/1999/xhtml'/>", "its root is 'html'"),
        (b"<Envelope/>", "the OVF namespace '' is unknown"),
        (small(namespace="http://schemas.dmtf.org/ovf/envelope/3"), "envelope/3' is unknown"),
        (small(namespace="http://www.vmware.com/schema/ovf/1/envelope"), "ovftool"),
        (f"<Envelope xmlns='{OVF_1}'><References/></Envelope>".encode(), "describes no machine"),
        (small('<File ovf:href="x"/>'), "a File has no attribute id"),
        (small('<File ovf:id="x"/>'), "a File has no attribute href"),
        (small('<File ovf:id=" " ovf:href="x"/>'), "a file has an empty name"),
        (
            small('<File ovf:id="x" ovf:href="a"/>\n<File ovf:id="x" ovf:href="b"/>'),
            "line 4: the file 'x' is there twice",
        ),
        (small('<File ovf:id="x" ovf:href="a" ovf:size="-1"/>'), "size is '-1'"),
        (small('<File ovf:id="x" ovf:href="a" ovf:size="1e9"/>'), "size is '1e9'"),
        (small('<File ovf:id="x" ovf:href="a" ovf:size="%s"/>' % ("9" * 5000)), "size is '9999"),
        (small('<File ovf:id="x" ovf:href="a" ovf:chunkSize="0"/>'), "chunkSize is '0'"),
        (small('<File ovf:id="x" ovf:href="a" ovf:compression="bzip2"/>'), "the compression 'bzip2' of the file 'x'"),
        (small('<File ovf:id="x" ovf:href="../../etc/shadow"/>'), "a.ovf, line 3: the file name '../../etc/shadow'"),
        (disks('<Disk ovf:capacity="1"/>'), "a Disk has no attribute diskId"),
        (disks('<Disk ovf:diskId="d"/>'), "a Disk has no attribute capacity"),
        (
            disks('<Disk ovf:diskId="d" ovf:capacity="1"/><Disk ovf:diskId="d" ovf:capacity="1"/>'),
            "disk 'd' is there twice",
        ),
        (disks('<Disk ovf:diskId="d" ovf:capacity="1" ovf:fileRef="g"/>'), "'d' is in the file 'g'"),
        (disks('<Disk ovf:diskId="d" ovf:capacity="1" ovf:parentRef="e"/>'), "'d' builds on a disk 'e'"),
        (disks('<Disk ovf:diskId="d" ovf:capacity="1" ovf:parentRef="d"/>'), "'d' builds on a disk 'd'"),
        (disks('<Disk ovf:diskId="d" ovf:capacity="1.5"/>'), "capacity is '1.5'"),
        (disks('<Disk ovf:diskId="d" ovf:capacity="$x"/>'), "capacity is '$x'"),
        (
            disks('<Disk ovf:diskId="d" ovf:capacity="1" ovf:capacityAllocationUnits="bit"/>'),
            "the unit 'bit' of the disk 'd'",
        ),
        (
            disks('<Disk ovf:diskId="d" ovf:capacity="9" ovf:capacityAllocationUnits="byte * 2^62"/>'),
            "more than any disk can",
        ),
        (
            small(sections='<NetworkSection><Network ovf:name="n"/><Network ovf:name="n"/></NetworkSection>'),
            "network 'n' is",
        ),
        (small(sections=OPTIONS.format("").replace('"b"', '"a"')), "the deployment option 'a' is there twice"),
        (small(machine=PROPERTY.format("", "k") * 2), "the property 'k' is there twice"),
        (
            small(machine=PROPERTY.format("", "a.b") + PROPERTY.format(' ovf:class="a"', "b")),
            "property 'a.b' is there twice",
        ),
        (SYSTEM.replace(b'"web"', b'"db"'), "the machine 'db' is there twice"),
        (small(machine=hardware(item(3, VirtualQuantity="two"))), "VirtualQuantity is 'two'"),
        (small(machine=hardware(item(3))), "VirtualQuantity is ''"),
        (small(machine=hardware(item(4, VirtualQuantity=1, AllocationUnits="bit"))), "the unit 'bit' of the memory"),
        (small(sections='<x:Encrypted xmlns:x="urn:x" ovf:required="true"/>'), "Encrypted (of urn:x) is required"),
        (small(sections='<x:DiskSection xmlns:x="urn:x" ovf:required="true"/>'), "DiskSection (of urn:x) is required"),
        (small(machine='<FutureSection ovf:required="1"/>'), "the section FutureSection"),
    ],
)
def test_bad_descriptors(text, says):
    assert says in refusal(text)


@pytest.mark.parametrize(
    "section",
    [
        '<x:Extra xmlns:x="urn:x" ovf:required="false"/>',
        '<x:Extra xmlns:x="urn:x"/>',
        "<FutureSection/>",
        '<vmw:vServiceDependencySection ovf:required="true"/>',
        '<x:ScaleOutSection xmlns:x="http://schemas.dmtf.org/ovf/envelope/2" ovf:required="true"/>',
    ],
)
def test_sections_that_needn_t_be_understood(section):
    assert parse(small(sections=section, machine=section), "a.ovf").machines[0].id == "small"


@given(st.binary(max_size=300) | st.text(max_size=300).map(lambda text: small(machine=text)))
def test_garbage_never_ends_in_another_error(text):
    try:
        parse(text, "a.ovf")
    except BadInput:
        pass


VALUES = re.findall(r'"[^"]*"|>[^<>]+<', APPLIANCE.decode())
ODD = st.sampled_from(
    ["", "0", "-1", "9" * 30, "${x}", "file1", "vmdisk1", "large", "byte * 2^99", "../x", "\u0663", "true"]
)


@given(st.lists(st.tuples(st.integers(0, len(VALUES) - 1), ODD | st.text("ab&<>/\"' .", max_size=5)), max_size=4))
def test_nor_do_values_in_wrong_places(changes):
    text = APPLIANCE.decode()
    for number, value in changes:
        old = VALUES[number]
        text = text.replace(old, old[0] + value + old[-1])
    try:
        parse(text.encode(), "a.ovf")
    except BadInput:
        pass


def test_very_many_disks_take_no_time():
    disks = "".join(
        '<Disk ovf:diskId="d%d" ovf:capacity="1" ovf:parentRef="d%d"/>' % (number, number - 1)
        for number in range(1, 33_000)
    )
    began_s = time.process_time()
    first = '<DiskSection><Disk ovf:diskId="d0" ovf:capacity="1"/>'
    assert len(parse(small("", "%s%s</DiskSection>" % (first, disks)), "a.ovf").disks) == 33_000
    assert time.process_time() - began_s < 20


@given(st.integers(0, len(APPLIANCE)), st.integers(0, 400))
def test_nor_does_a_lost_piece(start, length):
    try:
        parse(APPLIANCE[:start] + APPLIANCE[start + length :], "a.ovf")
    except BadInput:
        pass
