# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The stamp that imported machines bear."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.vmops.lifecycle.plugins.module_utils._ovf.stamp import (
    DIGEST_KEY,
    INPUTS_KEY,
    OWNER_KEY,
    STATE_KEY,
    Owner,
    Stamp,
    differing,
    digest_of,
    digests_of,
)

DIGEST = digest_of(b"<Envelope/>", {"name": "mail"})
OWNER = Owner("controller", "ansible", 4711, "2026-11-22T02:00:00Z")
UNDER_WAY = Stamp(DIGEST, "1f9c-a", OWNER)
INPUTS = {"networks": {"VM Network": "dmz"}, "annotation": None, "inject_ovf_env": False, "properties": {"a.b": "1"}}


def test_the_digest_stays_what_it_is():
    """Else every machine that was imported before would be taken for another one."""
    assert DIGEST == "46f86541609b474b70a0692b1d756016a42457a4f34979b1be86188c66ef0961"


def test_the_digest_follows_descriptor_and_inputs():
    inputs = {"networks": {"a": "b", "c": "d"}, "option": None, "list": [1, 2]}
    same = {"list": (1, 2), "option": None, "networks": {"c": "d", "a": "b"}}
    assert digest_of(b"x", inputs) == digest_of(b"x", same)
    others = [
        digest_of(b"y", inputs),
        digest_of(b"x", {}),
        digest_of(b"x", {**inputs, "option": ""}),
        digest_of(b"x", {**inputs, "list": [2, 1]}),
        digest_of(b"x", {**inputs, "list": ["1", 2]}),
        digest_of(b"x{", inputs),
    ]
    assert len({digest_of(b"x", inputs), *others}) == 7


def test_what_is_written():
    assert UNDER_WAY.to_extra_config() == {
        "vmops.ovf.digest": DIGEST,
        "vmops.ovf.state": "importing:1f9c-a",
        "vmops.ovf.owner": '{"host":"controller","user":"ansible","pid":4711,"started":"2026-11-22T02:00:00Z"}',
    }
    assert UNDER_WAY.finished("5029-a").to_extra_config() == {
        "vmops.ovf.digest": DIGEST,
        "vmops.ovf.state": "complete",
        "vmops.ovf.owner": "",
        "vmops.ovf.machine": "5029-a",
    }


def test_which_input_differs_is_told():
    assert digests_of(b"x", INPUTS).keys() == {"package", "networks.VM Network", "properties.a.b"}
    changed = [
        (b"y", {}, ["package"]),
        (b"x", {"annotation": "", "inject_ovf_env": True}, ["annotation", "inject_ovf_env"]),
        (
            b"x",
            {"networks": {}, "properties": {"a.b": 1, "c": ""}},
            ["networks.VM Network", "properties.a.b", "properties.c"],
        ),
        (b"x", {}, []),
    ]
    for descriptor, more, names in changed:
        assert differing(digests_of(descriptor, {**INPUTS, **more}), digests_of(b"x", INPUTS)) == names


def test_inputs_are_kept_by_the_stamp():
    stamp = UNDER_WAY._replace(inputs=digests_of(b"x", INPUTS))
    for each in (stamp, stamp.finished("5029-a")):
        assert Stamp.from_extra_config(each.to_extra_config()) == each
    for bad in ("", "{", "[]", '{"a": 1}', "[" * 5000, 7):
        found = Stamp.from_extra_config({**stamp.to_extra_config(), INPUTS_KEY: bad})
        assert found == UNDER_WAY
    assert INPUTS_KEY not in UNDER_WAY._replace(inputs={"x" * 20000: "a"}).to_extra_config()


@pytest.mark.parametrize(
    "stamp", [UNDER_WAY, UNDER_WAY.finished(None), UNDER_WAY.finished("5029-a"), Stamp(DIGEST, "x")]
)
def test_it_comes_back(stamp):
    found = {"guestinfo.x": "y", **stamp.to_extra_config()}
    assert Stamp.from_extra_config(found) == stamp
    assert stamp.is_complete == (stamp.run_id is None)


@pytest.mark.parametrize(
    "change",
    [
        {DIGEST_KEY: None},
        {DIGEST_KEY: ""},
        {DIGEST_KEY: DIGEST.upper()},
        {DIGEST_KEY: DIGEST[1:]},
        {DIGEST_KEY: DIGEST + "\n"},
        {STATE_KEY: None},
        {STATE_KEY: True},
        {STATE_KEY: ""},
        {STATE_KEY: "Complete"},
        {STATE_KEY: "importing:"},
        {STATE_KEY: "importing:a b"},
        {STATE_KEY: "importing:" + "x" * 65},
        {STATE_KEY: "exporting:x"},
    ],
)
def test_what_is_no_stamp(change):
    assert Stamp.from_extra_config({}) is None
    assert Stamp.from_extra_config({**UNDER_WAY.to_extra_config(), **change}) is None


@pytest.mark.parametrize(
    "owner",
    [
        "",
        None,
        7,
        "somebody",
        "null",
        "[]",
        "[" * 4000,
        json.dumps({**OWNER._asdict(), "pid": "4711"}),
        json.dumps({**OWNER._asdict(), "pid": True}),
        json.dumps({**OWNER._asdict(), "host": None}),
        json.dumps({**OWNER._asdict(), "user": ["x"]}),
        json.dumps({**OWNER._asdict(), "started": 5}),
        json.dumps({**OWNER._asdict(), "host": "x" * 5000}),
        json.dumps({"host": "controller"}),
    ],
)
def test_an_owner_that_nobody_can_read(owner):
    found = Stamp.from_extra_config({**UNDER_WAY.to_extra_config(), OWNER_KEY: owner})
    assert found == UNDER_WAY._replace(owner=None)


ANY = (
    st.none() | st.booleans() | st.integers() | st.text() | st.sampled_from(list(UNDER_WAY.to_extra_config().values()))
)


@given(st.fixed_dictionaries({}, optional={DIGEST_KEY: ANY, STATE_KEY: ANY, OWNER_KEY: ANY}))
def test_strangers_values_are_borne(found):
    stamp = Stamp.from_extra_config(found)
    assert stamp is None or stamp.to_extra_config()[STATE_KEY] == found[STATE_KEY]


@given(st.builds(Owner, st.text(max_size=50), st.text(max_size=50), st.integers(1, 2**22), st.text(max_size=30)))
def test_any_owner_comes_back(owner):
    stamp = Stamp(DIGEST, "x", owner)
    assert Stamp.from_extra_config(stamp.to_extra_config()) == stamp
