# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From options to a definition, to values, to QEMU's words."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.vmops.lifecycle.plugins.module_utils._core.errors import BadInput
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_guest import spec as spec_module
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_guest.argv import argv, escaped
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_guest.record import definition, differing, digest
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_guest.run_dir import places
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_guest.spec import (
    ReadyKind,
    parse_readiness,
    parse_spec,
)

DISK = {
    "path": "/d/a.qcow2",
    "format": "qcow2",
    "interface": "virtio",
    "readonly": False,
    "cache": "writeback",
    "discard": "unmap",
    "serial": None,
}
FORWARD = {"protocol": "tcp", "host_address": "127.0.0.1", "host_port": 2222, "guest_port": 22}
EVERYWHERE = {"host_address": "0.0.0.0"}
NETWORK = {"mode": "user", "model": "virtio", "mac": None, "interface": None, "forwards": []}
OPTIONS = {
    "name": "g",
    "emulator": "qemu-system-x86_64",
    "memory": "1G",
    "cpus": 2,
    "machine": "q35",
    "cpu": None,
    "accel": "auto",
    "uuid": None,
    "disks": [],
    "seed": None,
    "networks": None,
    "firmware": None,
    "firmware_vars": None,
    "kernel": None,
    "initrd": None,
    "append": None,
    "agent": True,
    "display": "none",
    "extra_args": [],
    "ready": "none",
}


def spec(**changes):
    return parse_spec("g", definition({**OPTIONS, **changes}))


def words(accel="tcg", **changes):
    return list(argv(spec(**changes), "/q", places("g", "/r"), accel))


def after(option, given_words):
    return [value for name, value in zip(given_words, given_words[1:]) if name == option]


def devices(*disks, **changes):
    built = words(disks=[{**DISK, **disk} for disk in disks], **changes)
    return after("-device", built), [json.loads(text) for text in after("-blockdev", built)]


def test_the_fixed_part():
    built = words()
    assert built[0] == "/q"
    assert after("-name", built) == ["guest=g"]
    assert after("-m", built) == ["%dB" % 1024**3]
    assert after("-smp", built) == ["2"]
    assert after("-machine", built) == ["q35"]
    assert after("-pidfile", built) == ["/r/g/qemu.pid"]
    assert after("-D", built) == ["/r/g/qemu.log"]
    assert {"-daemonize", "-nodefaults", "-no-user-config"} <= set(built)
    assert after("-mon", built) == ["chardev=qmp,mode=control"]


@pytest.mark.parametrize(("accel", "cpu", "expected"), [("kvm", None, "host"), ("tcg", None, "max"), ("kvm", "x", "x")])
def test_the_processor_fits_the_accelerator(accel, cpu, expected):
    assert after("-cpu", words(accel, cpu=cpu)) == [expected]
    assert after("-accel", words(accel, cpu=cpu)) == [accel]


@pytest.mark.parametrize(
    ("disk", "device"),
    [
        ({}, "virtio-blk,drive=disk0,bootindex=1,write-cache=on"),
        ({"interface": "ide"}, "ide-hd,drive=disk0,bootindex=1,write-cache=on,bus=ide.0"),
        ({"interface": "scsi"}, "scsi-hd,drive=disk0,bootindex=1,bus=scsi.0,write-cache=on"),
        ({"interface": "nvme"}, "nvme,drive=disk0,bootindex=1,serial=disk0,write-cache=on"),
        ({"interface": "cdrom"}, "ide-cd,drive=disk0,bootindex=1,bus=ide.0"),
        ({"serial": "S1"}, "virtio-blk,drive=disk0,bootindex=1,serial=S1,write-cache=on"),
        ({"readonly": True}, "virtio-blk,drive=disk0,bootindex=1"),
        ({"cache": "writethrough"}, "virtio-blk,drive=disk0,bootindex=1,write-cache=off"),
    ],
)
def test_disk_devices(disk, device):
    assert device in devices(disk)[0]


@pytest.mark.parametrize(("machine", "suffix"), [("microvm", "-device"), ("microvm,pcie=on", ""), ("virt", "")])
def test_virtio_on_a_machine_without_pci(machine, suffix):
    built = after("-device", words(machine=machine, seed="/s", disks=[{**DISK, "interface": "scsi"}], agent=True))
    assert {word.partition(",")[0] for word in built if word.startswith("virtio")} == {
        "virtio-" + kind + suffix for kind in ("scsi", "blk", "net", "serial")
    }


@pytest.mark.parametrize(
    ("cache", "direct", "no_flush"),
    [
        ("writeback", False, False),
        ("none", True, False),
        ("writethrough", False, False),
        ("directsync", True, False),
        ("unsafe", False, True),
    ],
)
def test_cache_modes_reach_both_layers(cache, direct, no_flush):
    node = devices({"cache": cache})[1][0]
    assert node["cache"] == node["file"]["cache"] == {"direct": direct, "no-flush": no_flush}


def test_disks_keep_their_order():
    built, nodes = devices({"path": "/b"}, {"path": "/a", "format": "raw"})
    assert [node["file"]["filename"] for node in nodes] == ["/b", "/a"]
    assert [node["driver"] for node in nodes] == ["qcow2", "raw"]
    assert built[0].startswith("virtio-blk,drive=disk0,bootindex=1")
    assert built[1].startswith("virtio-blk,drive=disk1,bootindex=2")


def test_a_block_device_gets_its_own_driver():
    made = spec(disks=[DISK])
    made = made._replace(disks=(made.disks[0]._replace(is_device=True),))
    node = json.loads(after("-blockdev", list(argv(made, "/q", places("g", "/r"), "tcg")))[0])
    assert node["file"]["driver"] == "host_device"


@given(st.text(st.characters(exclude_characters="\0\n", exclude_categories=("Cs",)), max_size=40))
def test_any_name_is_only_a_name(name):
    node = devices({"path": "/" + name})[1][0]
    assert node["file"] == {**node["file"], "driver": "file", "filename": "/" + name}


@given(st.text())
def test_escaping_can_be_undone(text):
    assert escaped(text).replace(",,", ",") == text.replace(",,", ",") or ",,," in escaped(text)
    assert escaped(text).count(",") == 2 * text.count(",")


def test_the_seed_is_a_read_only_disk_behind_the_others():
    built, nodes = devices({}, seed="/s.iso")
    assert nodes[-1]["node-name"] == "seed"
    assert nodes[-1]["read-only"]
    assert nodes[-1]["file"]["read-only"]
    assert "virtio-blk,drive=seed" in built


def test_user_network_is_the_default():
    assert after("-netdev", words()) == ["user,id=net0"]
    assert after("-netdev", words(networks=[])) == []


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (
            {"forwards": [FORWARD, {**FORWARD, "protocol": "udp", "host_address": "0.0.0.0"}]},
            "user,id=net0,hostfwd=tcp:127.0.0.1:2222-:22,hostfwd=udp:0.0.0.0:2222-:22",
        ),
        ({"mode": "tap", "interface": "tap0"}, "tap,id=net0,ifname=tap0,script=no,downscript=no"),
        ({"mode": "bridge", "interface": "br0"}, "bridge,id=net0,br=br0"),
    ],
)
def test_networks(network, expected):
    assert after("-netdev", words(networks=[{**NETWORK, **network}])) == [expected]


def test_cards_have_addresses_of_their_own():
    cards = [word for word in after("-device", words(networks=[NETWORK, NETWORK])) if "netdev" in word]
    assert len({card.split("mac=")[1] for card in cards}) == 2
    assert all(card.split("mac=")[1].startswith("52:54:00:") for card in cards)


def test_firmware():
    assert after("-bios", words(firmware="/f,w")) == ["/f,w"]
    drives = after("-drive", words(firmware="/f,w", firmware_vars="/v"))
    assert drives[0] == "if=pflash,unit=0,format=raw,readonly=on,file.driver=file,file.filename=/f,,w"
    assert drives[1] == "if=pflash,unit=1,format=raw,file.driver=file,file.filename=/v"


def test_without_a_channel_for_the_agent():
    assert not [word for word in words(agent=False) if "agent" in word]


def test_extra_words_come_last():
    assert words(extra_args=["-device", "virtio-rng"])[-2:] == ["-device", "virtio-rng"]
    assert words(extra_args=["-fw_cfg", "m"])[-2:] == ["-fw_cfg", "m"], "a value is no option"


@pytest.mark.parametrize(
    ("changes", "option"),
    [
        ({"memory": "much"}, "memory"),
        ({"memory": "1K"}, "memory"),
        ({"cpus": 0}, "cpus"),
        ({"uuid": "1-2"}, "uuid"),
        ({"seed": "seed.iso"}, "seed"),
        ({"kernel": "./k"}, "kernel"),
        ({"initrd": "/i"}, "kernel"),
        ({"append": "quiet"}, "kernel"),
        ({"kernel": "/k", "append": "a\nb"}, "append"),
        ({"firmware_vars": "/v"}, "firmware_vars"),
        ({"disks": [{**DISK, "path": "a.qcow2"}]}, "disks[0].path"),
        ({"disks": [DISK, {**DISK, "serial": "x" * 21}]}, "disks[1].serial"),
        ({"disks": [{**DISK, "serial": "a,b"}]}, "disks[0].serial"),
        ({"networks": [{**NETWORK, "mac": "53:54:00:00:00:01"}]}, "networks[0].mac"),
        ({"networks": [{**NETWORK, "mac": "52:54"}]}, "networks[0].mac"),
        ({"networks": [{**NETWORK, "mode": "tap"}]}, "networks[0].interface"),
        ({"networks": [{**NETWORK, "mode": "bridge", "interface": "a,b"}]}, "networks[0].interface"),
        ({"networks": [{**NETWORK, "mode": "tap", "interface": "t", "forwards": [FORWARD]}]}, "networks[0].forwards"),
        ({"networks": [{**NETWORK, "forwards": [{**FORWARD, "host_port": 0}]}]}, "networks[0].forwards[0].host_port"),
        (
            {"networks": [{**NETWORK, "forwards": [{**FORWARD, "host_address": "::1"}]}]},
            "networks[0].forwards[0].host_address",
        ),
        *(
            (
                {"networks": [{**NETWORK, "forwards": [{**FORWARD, "host_address": text}]}]},
                "networks[0].forwards[0].host_address",
            )
            for text in ("", "999.1", "127.1", "1.2.3.256", "localhost", "1.2.3.4\0")
        ),
        ({"networks": [{**NETWORK, "interface": "br0"}]}, "networks[0].interface"),
        ({"networks": [{**NETWORK, "forwards": [FORWARD, FORWARD]}]}, "networks"),
        (
            {"networks": [{**NETWORK, "forwards": [forward]} for forward in (FORWARD, {**FORWARD, **EVERYWHERE})]},
            "networks",
        ),
        ({"disks": [DISK, {**DISK, "path": "/d/../d/a.qcow2"}]}, "disks[1].path"),
        ({"disks": [{**DISK, "path": "/s"}], "seed": "/s"}, "seed"),
        ({"disks": [DISK], "firmware": "/f", "firmware_vars": "/d/a.qcow2"}, "firmware_vars"),
        *(({"display": text}, "display") for text in ("vnc", "vnc=", "vnc=bad:bad:bad", "vnc=h:", "vnc=unix:", "a\nb")),
        ({"extra_args": ["-daemonize"]}, "extra_args"),
        ({"extra_args": ["--pidfile", "/x"]}, "extra_args"),
    ],
)
def test_what_is_refused(changes, option):
    with pytest.raises(BadInput) as caught:
        spec(**changes)
    assert caught.value.facts["option"] == option


@pytest.mark.parametrize(("word", "declares"), [("-m", "memory"), ("--enable-kvm", "accel"), ("-append", "append")])
def test_what_an_option_declares_is_no_further_word(word, declares):
    with pytest.raises(BadInput, match=f"{word} says what {declares} declares"):
        spec(extra_args=[word, "1"])


@pytest.mark.parametrize(
    "address", ["none", ":0", "127.0.0.1:1,to=9", "[::1]:2", "host:3,password=on", "unix:/a b,x=y"]
)
def test_addresses_of_a_display(address):
    assert after("-display", words(display="vnc=" + address)) == ["vnc=" + address]


@pytest.mark.parametrize("option", ["-machine", "-M", "--machine"])
@pytest.mark.parametrize(
    ("value", "declares"),
    [("q35", "machine"), ("q35,usb=on", "machine"), ("usb=on,type=pc", "machine"), ("accel=tcg", "accel")],
)
def test_a_further_machine_may_not_undo_the_declared_one(option, value, declares):
    with pytest.raises(BadInput, match=f"{option} {value} says what {declares} declares"):
        spec(extra_args=[option, value])


def test_properties_of_the_machine_are_merged():
    assert words(extra_args=["-machine", "usb=on,hpet"])[-2:] == ["-machine", "usb=on,hpet"]


def test_a_disk_that_is_only_read_may_be_there_twice():
    both = [{**DISK, "path": "/s", "readonly": True}, {**DISK, "path": "/s", "interface": "cdrom"}]
    assert len(spec(disks=both, seed="/s").disks) == 2


@pytest.mark.parametrize(
    ("one", "other"),
    [({}, {"protocol": "udp"}), ({}, {"host_port": 2223}), ({}, {"host_address": "127.0.0.2"})],
)
def test_forwards_that_do_not_clash(one, other):
    forwards = [{**FORWARD, **one}, {**FORWARD, **other}]
    assert len(spec(networks=[{**NETWORK, "forwards": forwards}]).networks[0].forwards) == 2


@pytest.mark.parametrize("name", ["", "-a", "a/b", "..", "a b", "a" * 64, "a\n", "ü"])
def test_names_that_are_refused(name):
    with pytest.raises(BadInput):
        places(name, "/r")


@pytest.mark.parametrize("base", ["r", "/r%d", "/r\n", "/" + "x" * 100])
def test_run_directories_that_are_refused(base):
    with pytest.raises(BadInput) as caught:
        places("g", base)
    assert caught.value.facts["option"] == "run_dir"


def test_the_longest_path_that_fits():
    length = 107 - len("/g/agent.sock")
    assert len(places("g", "/" + "x" * (length - 1)).agent_socket) == 107
    with pytest.raises(BadInput):
        places("g", "/" + "x" * length)


@pytest.fixture(name="machine_id")
def _machine_id(tmp_path, monkeypatch):
    path = tmp_path / "machine-id"
    monkeypatch.setattr(spec_module, "MACHINE_ID", str(path))
    return path


def test_guests_of_one_name_on_two_hosts_are_told_apart(machine_id):
    """They may be on one network, by taps or bridges."""
    found = set()
    for host in ("6b0ff7bd7cd84e8bb5ad1a6b0ea2c5d4\n", "0a1b2c3d4e5f60718293a4b5c6d7e8f9\n", "uninitialized\n"):
        machine_id.write_text(host)
        made = spec()
        assert made == spec()
        assert host.strip() not in repr(made)
        found.add((made.uuid, made.networks[0].mac))
    assert len(found) == 3


def test_a_host_without_a_machine_id_is_told_by_its_name(machine_id, monkeypatch):
    found = set()
    for host in ("alpha", "beta"):
        monkeypatch.setattr("socket.gethostname", lambda host=host: host)
        found.add(spec().uuid)
    assert len(found) == 2


def test_readiness():
    forwarding = [{**NETWORK, "forwards": [{**FORWARD, "protocol": "udp"}, FORWARD]}]
    made = spec(networks=forwarding)
    assert parse_readiness({"ready": "port"}, made).port == 2222
    assert parse_readiness({"ready": "port", "ready_port": 80}, made).port == 80
    assert parse_readiness({"ready": "console", "ready_text": "x"}, made).text == "x"
    assert parse_readiness({"ready": "none"}, made).kind is ReadyKind.NONE
    assert made.forwarded(2222)
    assert not made.forwarded(80)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ("192.0.2.1", 2222)),
        ({"ready_port": 2222}, ("192.0.2.1", 2222)),
        ({"ready_port": 8080}, ("127.0.0.1", 8080)),  # of a host that listens at all of its addresses
        ({"ready_port": 80}, ("127.0.0.1", 80)),
        ({"ready_host": "192.0.2.7"}, ("192.0.2.7", 2222)),
    ],
    ids=str,
)
def test_a_port_is_waited_for_where_the_host_listens(options, expected):
    one, other = {"host_address": "192.0.2.1"}, {"host_address": "0.0.0.0", "host_port": 8080}
    made = spec(networks=[{**NETWORK, "forwards": [{**FORWARD, **one}, {**FORWARD, **other}]}])
    found = parse_readiness({"ready": "port", **options}, made)
    assert (found.host, found.port) == expected


@pytest.mark.parametrize(
    ("options", "changes", "option"),
    [
        ({"ready": "agent"}, {"agent": False}, "ready"),
        ({"ready": "console"}, {}, "ready_text"),
        ({"ready": "port"}, {}, "ready_port"),
        ({"ready": "port", "ready_port": 70000}, {}, "ready_port"),
        # the host's own server would be taken for the guest's
        (
            {"ready": "port", "ready_port": 22},
            {"networks": [{**NETWORK, "mode": "tap", "interface": "t"}]},
            "ready_host",
        ),
    ],
)
def test_readiness_that_is_refused(options, changes, option):
    with pytest.raises(BadInput) as caught:
        parse_readiness(options, spec(**changes))
    assert caught.value.facts["option"] == option


def test_the_digest_follows_the_machine_and_nothing_else():
    first = definition(OPTIONS)
    assert digest(first) == digest(definition({**OPTIONS, "memory": "1024M", "timeout": 3, "ready": "port"}))
    assert digest(first) == digest(definition({**OPTIONS, "a_later_option": None}))
    for change in ({"cpus": 3}, {"disks": [DISK]}, {"networks": []}, {"agent": False}, {"append": ""}):
        assert digest(first) != digest(definition({**OPTIONS, **change})), change


def test_sub_options_not_given_are_no_part_of_the_digest():
    later = {**DISK, "a_later_option": None}
    assert digest(definition({**OPTIONS, "disks": [DISK]})) == digest(definition({**OPTIONS, "disks": [later]}))


def test_what_differs_is_named():
    other = definition({**OPTIONS, "cpus": 3, "cpu": "host"})
    assert differing(definition(OPTIONS), other) == ["cpu", "cpus"]


def test_uuid_is_a_valid_one_made_from_the_name():
    import uuid

    assert uuid.UUID(spec().uuid).version == 8
    assert spec().uuid == spec(memory="2G").uuid
    assert parse_spec("h", definition(OPTIONS)).uuid != spec().uuid
    assert spec(uuid="6F0C9F3E-2B1A-4C5D-8E7F-0123456789AB").uuid == "6f0c9f3e-2b1a-4c5d-8e7f-0123456789ab"
