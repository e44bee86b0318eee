# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is chosen against what a package offers."""

from __future__ import annotations

import pytest

from ansible_collections.vmops.lifecycle.plugins.module_utils._core.errors import BadInput
from ansible_collections.vmops.lifecycle.plugins.module_utils._ovf.choices import (
    Choices,
    normalised_properties,
    problems,
    secret_keys,
    unmapped_networks,
    unset_properties,
)
from ansible_collections.vmops.lifecycle.plugins.module_utils._ovf.descriptor import parse
from ansible_collections.vmops.lifecycle.plugins.module_utils._ovf.model import (
    DeploymentOption,
    Envelope,
    Eula,
    Machine,
    Property,
)
from tests.unit._ovf.descriptors import APPLIANCE, SYSTEM, VIRTUALBOX

PLAIN = Envelope((Machine("m", hardware_versions=("vmx-13",)),))
MAILGATE = parse(APPLIANCE, "a.ovf")
GOOD = Choices(
    networks={"Outside": "VM Network", "Inside": "VLAN 12"},
    properties={
        "hostname": "mail",
        "spool.size_gb": 30,
        "root_password": "long enough",
        "vami.ip0.mailgate": "192.0.2.5",
    },
    deployment_option="large",
    accept_eulas=True,
)


def test_good_choices():
    assert problems(MAILGATE, GOOD) == []
    assert unmapped_networks(MAILGATE, GOOD) == []
    assert unset_properties(MAILGATE, GOOD) == []
    assert normalised_properties(MAILGATE, GOOD.properties) == {
        "hostname": "mail",
        "spool.size_gb": "30",
        "root_password": "long enough",
        "vami.ip0.mailgate": "192.0.2.5",
    }


def test_hidden_properties_can_be_given():
    assert normalised_properties(MAILGATE, {"build": "78"}) == {"build": "78"}


def test_all_problems_at_once_each_with_its_place():
    chosen = Choices(
        networks={"Outsid": "VM Network", "Inside": "VLAN 12"},
        properties={"host": "mail", "spool.size_gb": 70000, "root_password": "hunter2", "vami.ip0.mailgate": "x"},
        deployment_option="huge",
    )
    found = problems(MAILGATE, chosen)
    assert [problem.where for problem in found] == [
        "accept_eulas",
        "accept_eulas",
        "deployment_option",
        "networks.Outsid",
        "properties.host",
        "properties.spool.size_gb",
        "properties.root_password",
        "properties.vami.ip0.mailgate",
    ]
    told = "\n".join(" ".join(problem) for problem in found)
    assert "EulaSection 1 of mailgate has a licence to be accepted: 'All rights reserved.'" in told
    assert "EulaSection 2 of mailgate" in told
    assert "no deployment option 'huge' It has small, large" in told
    assert "no network 'Outsid' Did you mean Outside?" in told
    assert "no property 'host' Did you mean hostname?" in told
    assert "70000 is out of range Write a number of 0 to 65535" in told
    assert "hunter2" not in told
    assert unmapped_networks(MAILGATE, chosen) == ["Outside"]


@pytest.mark.parametrize(
    ("key", "advice"),
    [
        ("ip0", "Did you mean vami.ip0.mailgate?"),
        ("spool.size", "Did you mean spool.size_gb?"),
        ("qqqq", "It has hostname, spool.size_gb, root_password, build, vami.ip0.mailgate"),
    ],
)
def test_unknown_properties(key, advice):
    [problem] = problems(MAILGATE, GOOD._replace(properties={key: "x"}))
    assert (problem.where, problem.instead) == ("properties.%s" % key, advice)
    with pytest.raises(BadInput) as caught:
        normalised_properties(MAILGATE, {key: "x"})
    assert caught.value.facts["option"] == "properties.%s" % key


def test_what_a_package_hasn_t_got():
    chosen = Choices({"n": "VM Network"}, {"k": "v"}, "small")
    assert [(problem.where, problem.instead) for problem in problems(PLAIN, chosen)] == [
        ("deployment_option", "It has none: leave it out"),
        ("networks.n", "It has none: leave it out"),
        ("properties.k", "It has none: leave it out"),
    ]


def test_of_many_names_not_all_are_told():
    for count, end in ((1000, "key0019, and 980 more"), (21, "key0019, and 1 more"), (20, "key0019")):
        many = PLAIN._replace(properties=tuple(Property("key%04d" % number) for number in range(count)))
        [problem] = problems(many, Choices(properties={"x": 1}))
        assert problem.instead.endswith(end)


def test_a_long_licence_is_told_by_its_beginning():
    long = PLAIN._replace(eulas=(Eula("", "Only for\n" + "good " * 1000),))
    [problem] = problems(long, Choices())
    assert problem.problem.startswith("the EulaSection 1 has a licence to be accepted: 'Only for good good")
    assert len(problem.problem) < 200


@pytest.mark.parametrize(
    ("envelope", "says"),
    [
        (parse(SYSTEM, "a.ovf"), "a system of 2 machines (db, web)"),
        (Envelope(()), None),
        (Envelope((), is_vapp=True), "a system of 0 machines"),
        (Envelope((Machine("a"), Machine("b"))), "a system of 2 machines (a, b)"),
        (parse(VIRTUALBOX, "a.ovf"), "virtualbox-2.2, which vSphere doesn't know"),
        (Envelope((Machine("a", hardware_versions=("xen-3", "hvm-64")),)), "xen-3, hvm-64"),
        (Envelope((Machine("a", hardware_versions=("virtualbox-2.2", "vmx-07")),)), None),
        (Envelope((Machine("a"),)), None),
    ],
)
def test_machines(envelope, says):
    told = [problem.problem for problem in problems(envelope, Choices(accept_eulas=True))]
    assert len(told) == (says is not None)
    assert says is None or says in told[0]


OPTIONS = (DeploymentOption("small"), DeploymentOption("large", default=True))


@pytest.mark.parametrize(
    ("given", "chosen", "is_unset"),
    [
        (Property("k"), {}, False),
        (Property("k", qualifiers="MinLen(1)"), {}, True),
        (Property("k", qualifiers="MinLen(1)", default=""), {}, True),
        (Property("k", qualifiers="MinLen(1)", default="x"), {}, False),
        (Property("k", qualifiers="MinLen(1)"), {"properties": {"k": "x"}}, False),
        (Property("k", qualifiers="MinLen(1)", default="x"), {"properties": {"k": ""}}, True),
        (Property("k", qualifiers='ValueMap{"a","b"}'), {}, True),
        (Property("k", qualifiers='ValueMap{"","b"}'), {}, False),
        (Property("k", "boolean"), {}, True),
        (Property("k", "uint8", default="5"), {}, False),
        (Property("k", "uint8"), {}, True),
        (Property("k", "uint8"), {"properties": {"k": 0}}, False),
        (Property("k", "uint8", values={"large": "5"}), {}, False),
        (Property("k", "uint8", values={"small": "5"}), {}, True),
        (Property("k", "uint8", values={"small": "5"}), {"deployment_option": "small"}, False),
        (Property("k", "ip"), {}, True),
        (Property("k", "string", 'Ip("N")'), {}, True),
        (Property("k", "string", 'Ip("N")'), {"ip_allocation_policy": "fixedPolicy"}, True),
        (Property("k", "string", 'Ip("N")'), {"ip_allocation_policy": "transientPolicy"}, False),
        (Property("k", "string", 'MinLen(1), Gateway("N")'), {}, False),
        (Property("k", "ip:N"), {"ip_allocation_policy": "dhcpPolicy"}, False),
        (Property("k", "ip"), {"ip_allocation_policy": "dhcpPolicy"}, True),
    ],
)
def test_values_that_a_machine_needs(given, chosen, is_unset):
    envelope = PLAIN._replace(properties=(given,), deployment_options=OPTIONS)
    found = unset_properties(envelope, Choices(**chosen))
    assert [problem.where for problem in found] == (["properties.k"] if is_unset else [])


def test_an_unset_property_is_told_by_its_label():
    [problem] = unset_properties(PLAIN._replace(properties=(Property("k", "ip", label="Gateway"),)), Choices())
    assert problem.problem.startswith("'Gateway' has no value")


def test_secrets_are_known():
    named = (Property("a"), Property("b", password=True), Property("c", "password(8..)"))
    assert secret_keys(PLAIN._replace(properties=named)) == {"b", "c"}
