# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is to be done about a machine, from what was asked and what is there."""

from __future__ import annotations

import pytest

from ansible_collections.vmops.lifecycle.plugins.module_utils._core.errors import Refused
from ansible_collections.vmops.lifecycle.plugins.module_utils._ovf.stamp import Owner, Stamp
from ansible_collections.vmops.lifecycle.plugins.module_utils._vsphere.machine import Machine
from ansible_collections.vmops.lifecycle.plugins.module_utils._vsphere.plan import (
    Desired,
    Seen,
    State,
    Step,
    There,
    debris,
    steps,
)
from ansible_collections.vmops.lifecycle.plugins.module_utils._vsphere.verdict import Is

OWNER = Owner("ci1", "deployer", 4711, "2026-11-22T02:00:00Z")
NONE = There(None, Is.ABSENT)
ON = "poweredOn"
SWAP = [Step.SET_ASIDE, Step.RENAME_NEW, Step.REMOVE_OLD]


def there(
    verdict: Is, digest: str = "d", power: str = "poweredOff", template: bool = False, address: str = ""
) -> There:
    stamp = None if verdict is Is.FOREIGN else Stamp(digest, "r", OWNER)
    if verdict is Is.COMPLETE and stamp is not None:
        stamp = stamp.finished(None)
    addresses = (address,) if address else ()
    return There(Machine("vm-1", "web1", power, template, stamp, addresses=addresses), verdict)


def asked(state: str = "present", **given: bool) -> Desired:
    return Desired("web1", State(state), None if state == "absent" else "d", **given)


@pytest.mark.parametrize(
    ("desired", "here", "new", "expected"),
    [
        pytest.param(asked(), NONE, NONE, [Step.IMPORT], id="nothing is there"),
        pytest.param(asked(), there(Is.COMPLETE), NONE, [], id="it is there"),
        pytest.param(asked(), there(Is.COMPLETE, power=ON), NONE, [], id="it runs, which present leaves alone"),
        pytest.param(asked(), there(Is.IMPORTED), NONE, [Step.ADOPT], id="a killed run had completed it"),
        pytest.param(asked(), there(Is.REMAINS), NONE, [Step.REMOVE_REMAINS, Step.IMPORT], id="debris"),
        pytest.param(asked("poweredon"), NONE, NONE, [Step.IMPORT, Step.POWER_ON], id="new, and running"),
        pytest.param(asked("poweredon"), there(Is.COMPLETE), NONE, [Step.POWER_ON], id="only the power"),
        pytest.param(asked("poweredon"), there(Is.COMPLETE, power=ON), NONE, [], id="it runs already"),
        pytest.param(asked("poweredon"), there(Is.IMPORTED), NONE, [Step.ADOPT, Step.POWER_ON], id="adopted, on"),
        pytest.param(
            asked("poweredon", wait_for_ip=True),
            NONE,
            NONE,
            [Step.IMPORT, Step.POWER_ON, Step.AWAIT_ADDRESS],
            id="new, running, and with an address",
        ),
        pytest.param(
            asked("poweredon", wait_for_ip=True),
            there(Is.COMPLETE, address="192.0.2.17"),
            NONE,
            [Step.POWER_ON, Step.AWAIT_ADDRESS],
            id="it is off, and its address an old one",
        ),
        pytest.param(
            asked("poweredon", wait_for_ip=True),
            there(Is.COMPLETE, power=ON),
            NONE,
            [Step.AWAIT_ADDRESS],
            id="it runs, and nobody knows its address yet",
        ),
        pytest.param(
            asked("poweredon", wait_for_ip=True),
            there(Is.COMPLETE, power=ON, address="192.0.2.17"),
            NONE,
            [],
            id="it runs and has its address",
        ),
        pytest.param(asked("template"), NONE, NONE, [Step.IMPORT, Step.MAKE_TEMPLATE], id="a new template"),
        pytest.param(asked("template"), there(Is.COMPLETE, template=True), NONE, [], id="it is a template"),
        pytest.param(
            asked(replace=True),
            there(Is.COMPLETE, "old"),
            NONE,
            [Step.IMPORT_NEW, *SWAP],
            id="replaced",
        ),
        pytest.param(
            asked(replace=True, force=True),
            there(Is.COMPLETE, "old", ON),
            NONE,
            [Step.IMPORT_NEW, Step.SET_ASIDE, Step.RENAME_NEW, Step.POWER_OFF_OLD, Step.REMOVE_OLD],
            id="a running one replaced by force",
        ),
        pytest.param(
            asked(replace=True),
            there(Is.COMPLETE, "old"),
            there(Is.COMPLETE),
            SWAP,
            id="killed before the swap",
        ),
        pytest.param(asked(), NONE, there(Is.COMPLETE), [Step.RENAME_NEW], id="killed within the swap"),
        pytest.param(
            asked(),
            NONE,
            there(Is.COMPLETE, "other"),
            [Step.RENAME_NEW],
            id="and another is asked for, which is refused then",
        ),
        pytest.param(
            asked(), there(Is.COMPLETE), there(Is.COMPLETE), [Step.REMOVE_REMAINS], id="a second one that nobody needs"
        ),
        pytest.param(
            asked("poweredon", replace=True, force=True),
            there(Is.COMPLETE, "old", ON),
            NONE,
            [
                Step.IMPORT_NEW,
                Step.SET_ASIDE,
                Step.RENAME_NEW,
                Step.POWER_OFF_OLD,
                Step.POWER_ON,
                Step.REMOVE_OLD,
            ],
            id="the old one goes last of all",
        ),
        pytest.param(
            asked(replace=True),
            there(Is.COMPLETE, "old"),
            there(Is.IMPORTED),
            [Step.ADOPT_NEW, *SWAP],
            id="killed before the new one was marked",
        ),
        pytest.param(
            asked(replace=True),
            there(Is.COMPLETE, "old"),
            there(Is.REMAINS),
            [Step.REMOVE_REMAINS, Step.IMPORT_NEW, *SWAP],
            id="debris of a new one",
        ),
        pytest.param(
            asked(),
            there(Is.COMPLETE),
            there(Is.REMAINS),
            [Step.REMOVE_REMAINS],
            id="it is there, and debris of a replacement beside it",
        ),
        pytest.param(
            asked(replace=True),
            NONE,
            there(Is.COMPLETE, "other"),
            [Step.RENAME_NEW, Step.IMPORT_NEW, *SWAP],
            id="a replacement that nobody wants any more, and the only whole machine",
        ),
        pytest.param(
            asked(replace=True),
            there(Is.REMAINS),
            there(Is.IMPORTED, "other"),
            [Step.REMOVE_REMAINS, Step.ADOPT_NEW, Step.RENAME_NEW, Step.IMPORT_NEW, *SWAP],
            id="the same beside debris of the machine itself",
        ),
        pytest.param(
            asked(replace=True),
            there(Is.COMPLETE, "old"),
            there(Is.COMPLETE, "other"),
            [Step.REMOVE_REMAINS, Step.IMPORT_NEW, *SWAP],
            id="a replacement that nobody wants any more, beside the old one",
        ),
        pytest.param(
            asked(),
            there(Is.REMAINS),
            there(Is.COMPLETE),
            [Step.REMOVE_REMAINS, Step.RENAME_NEW],
            id="debris, and a good new one",
        ),
        pytest.param(asked("absent"), NONE, NONE, [], id="absent already"),
        pytest.param(asked("absent"), there(Is.COMPLETE), NONE, [Step.REMOVE], id="removed"),
        pytest.param(
            asked("absent"), there(Is.COMPLETE, power=ON), NONE, [Step.POWER_OFF, Step.REMOVE], id="off first"
        ),
        pytest.param(asked("absent"), there(Is.IMPORTED), NONE, [Step.REMOVE], id="never marked, and removed"),
        pytest.param(asked("absent"), there(Is.REMAINS), NONE, [Step.REMOVE_REMAINS], id="only debris to remove"),
        pytest.param(
            asked("absent", force=True), there(Is.UNCLEAR), NONE, [Step.REMOVE_REMAINS], id="no good, by force"
        ),
        pytest.param(
            asked(force=True),
            there(Is.UNCLEAR),
            NONE,
            [Step.REMOVE_REMAINS, Step.IMPORT],
            id="no good, so imported anew",
        ),
        pytest.param(
            asked(replace=True, force=True),
            there(Is.COPY),
            NONE,
            [Step.IMPORT_NEW, *SWAP],
            id="a clone replaced by force",
        ),
        pytest.param(asked("absent"), NONE, there(Is.REMAINS), [Step.REMOVE_REMAINS], id="debris of a replacement"),
        pytest.param(asked("absent", force=True), there(Is.FOREIGN), NONE, [Step.REMOVE], id="another's, by force"),
    ],
)
def test_steps(desired, here, new, expected):
    assert steps(desired, Seen(here, new)) == expected


@pytest.mark.parametrize(
    ("desired", "seen", "expected"),
    [
        pytest.param(
            asked(replace=True),
            Seen(NONE, there(Is.COMPLETE), there(Is.COMPLETE, "old")),
            [Step.RENAME_NEW, Step.REMOVE_OLD],
            id="killed when neither had the name",
        ),
        pytest.param(
            asked(replace=True, force=True),
            Seen(NONE, there(Is.COMPLETE), there(Is.COMPLETE, "old", ON)),
            [Step.RENAME_NEW, Step.POWER_OFF_OLD, Step.REMOVE_OLD],
            id="and the old one ran",
        ),
        pytest.param(
            asked(), Seen(there(Is.COMPLETE), NONE, there(Is.COMPLETE, "old")), [Step.REMOVE_OLD], id="before the last"
        ),
        pytest.param(
            asked(force=True),
            Seen(there(Is.COMPLETE), NONE, there(Is.FOREIGN)),
            [Step.REMOVE_OLD],
            id="another's that was replaced by force",
        ),
        pytest.param(
            asked("poweredon"),
            Seen(there(Is.COMPLETE), NONE, there(Is.COMPLETE, "old")),
            [Step.POWER_ON, Step.REMOVE_OLD],
            id="the old one goes when the new one runs",
        ),
        pytest.param(
            asked(replace=True),
            Seen(there(Is.COMPLETE, "other"), NONE, there(Is.COMPLETE, "old")),
            [Step.REMOVE_OLD, Step.IMPORT_NEW, *SWAP],
            id="the name of the old one is needed again",
        ),
        pytest.param(
            asked(replace=True),
            Seen(NONE, there(Is.COMPLETE, "other"), there(Is.COMPLETE, "old")),
            [Step.RENAME_NEW, Step.REMOVE_OLD, Step.IMPORT_NEW, *SWAP],
            id="a third is wanted meanwhile",
        ),
        pytest.param(
            asked(replace=True),
            Seen(there(Is.COMPLETE, "other"), NONE, there(Is.COMPLETE)),
            [Step.TAKE_OLD, *SWAP],
            id="the old one is wanted again",
        ),
        pytest.param(
            asked(replace=True),
            Seen(there(Is.IMPORTED, "other"), there(Is.REMAINS), there(Is.COMPLETE)),
            [Step.REMOVE_REMAINS, Step.ADOPT, Step.TAKE_OLD, *SWAP],
            id="beside debris of yet another",
        ),
        pytest.param(
            asked(replace=True),
            Seen(NONE, there(Is.COMPLETE, "other"), there(Is.COMPLETE)),
            [Step.PUT_BACK, Step.REMOVE_REMAINS],
            id="the old one is wanted again, and the other has not got its name yet",
        ),
        pytest.param(
            asked(),
            Seen(NONE, there(Is.COMPLETE), there(Is.COMPLETE, "old", ON)),
            [Step.RENAME_NEW, Step.POWER_OFF_OLD, Step.REMOVE_OLD],
            id="a name needs no force; what runs is refused to be removed when it comes to that",
        ),
        pytest.param(
            asked(), Seen(NONE, NONE, there(Is.COMPLETE)), [Step.PUT_BACK], id="the new one is lost, the old one fits"
        ),
        pytest.param(
            asked(replace=True),
            Seen(NONE, there(Is.REMAINS), there(Is.COMPLETE, "old")),
            [Step.REMOVE_REMAINS, Step.PUT_BACK, Step.IMPORT_NEW, *SWAP],
            id="what is left of the new one, and the old one",
        ),
        pytest.param(
            asked(), Seen(there(Is.COMPLETE), NONE, there(Is.REMAINS)), [Step.REMOVE_REMAINS], id="debris in its name"
        ),
        pytest.param(
            asked("absent"),
            Seen(there(Is.COMPLETE), there(Is.COMPLETE), there(Is.COMPLETE, "old", ON)),
            [Step.REMOVE_REMAINS, Step.POWER_OFF_OLD, Step.REMOVE_OLD, Step.REMOVE],
            id="all of them",
        ),
        pytest.param(
            asked("absent"), Seen(NONE, NONE, there(Is.COMPLETE)), [Step.REMOVE_OLD], id="only the old one is there"
        ),
    ],
)
def test_steps_where_one_takes_the_place_of_another(desired, seen, expected):
    assert steps(desired, seen) == expected


@pytest.mark.parametrize(
    ("old", "told"),
    [
        pytest.param(there(Is.FOREIGN), "Rename or remove", id="another's"),
        pytest.param(there(Is.COPY), "Rename or remove", id="a clone"),
        pytest.param(there(Is.COMPLETE, "old", ON), "powered on", id="it runs"),
        pytest.param(there(Is.UNDER_WAY), "being imported", id="it is being imported"),
    ],
)
def test_an_old_one_that_is_not_removed_unasked(old, told):
    with pytest.raises(Refused, match=told):
        steps(asked(), Seen(there(Is.COMPLETE), NONE, old))


@pytest.mark.parametrize(
    ("desired", "here", "new", "told"),
    [
        pytest.param(asked(), there(Is.COMPLETE, "old"), NONE, "set replace=true", id="another package"),
        pytest.param(asked(), there(Is.FOREIGN), NONE, "bears no mark", id="another's machine"),
        pytest.param(asked(replace=True), there(Is.FOREIGN), NONE, "bears no mark", id="another's, to be replaced"),
        pytest.param(asked(replace=True), there(Is.COMPLETE, "old", ON), NONE, "powered on", id="a running one"),
        pytest.param(asked(replace=True), there(Is.COMPLETE, "old", "suspended"), NONE, "suspended", id="suspended"),
        pytest.param(asked(), there(Is.UNDER_WAY), NONE, "deployer", id="under way names who"),
        pytest.param(asked("absent"), there(Is.UNDER_WAY), NONE, "is being imported", id="removal under way"),
        pytest.param(asked(replace=True), there(Is.COMPLETE, "old"), there(Is.UNDER_WAY), "imported", id="its new"),
        pytest.param(asked(), there(Is.UNCLEAR), NONE, "don't tell", id="perhaps whole"),
        pytest.param(asked("absent"), there(Is.UNCLEAR), NONE, "force=true", id="removal of what is perhaps whole"),
        pytest.param(asked(), there(Is.COPY), NONE, "a copy", id="a clone"),
        pytest.param(asked("absent"), there(Is.COPY), NONE, "a copy", id="removal of a clone"),
        pytest.param(asked("absent"), there(Is.FOREIGN), NONE, "force=true", id="removal of another's"),
        pytest.param(asked(), there(Is.COMPLETE), there(Is.FOREIGN), "Rename or remove", id="our new name"),
        pytest.param(asked("poweredon"), there(Is.COMPLETE, template=True), NONE, "template", id="a template"),
        pytest.param(asked("template"), there(Is.COMPLETE, power=ON), NONE, "powered on", id="it runs"),
        pytest.param(asked("template"), there(Is.COMPLETE, power="suspended"), NONE, "suspended", id="it is suspended"),
    ],
)
def test_refusals(desired, here, new, told):
    with pytest.raises(Refused, match=told):
        steps(desired, Seen(here, new))


@pytest.mark.parametrize(
    ("desired", "here", "new", "expected"),
    [
        pytest.param(asked(), there(Is.REMAINS), there(Is.COMPLETE), ["here"], id="never the whole one"),
        pytest.param(asked(), NONE, there(Is.COMPLETE, "other"), [], id="nor if another is wanted"),
        pytest.param(asked(), there(Is.COMPLETE), there(Is.COMPLETE, "other"), ["new"], id="but beside a whole one"),
        pytest.param(asked(), there(Is.COMPLETE), there(Is.REMAINS), ["new"], id="and what is not whole"),
        pytest.param(asked(), there(Is.COMPLETE), there(Is.COMPLETE), ["new"], id="nor one like the one that is there"),
        pytest.param(asked("absent"), there(Is.COMPLETE), there(Is.COMPLETE), ["new"], id="and if all is to go"),
    ],
)
def test_debris(desired, here, new, expected):
    found = debris(desired, Seen(here, new))
    named = {id(here.machine): "here", id(new.machine): "new"}
    assert [named[id(machine)] for machine in found] == expected


@pytest.mark.parametrize(
    ("bears", "told", "differs"),
    [
        ({"package": "1", "annotation": "2"}, r"imported with other choices \(properties.a.b\)\.", ["properties.a.b"]),
        ({"package": "0", "properties.a.b": "3", "annotation": "2"}, r"imported from another package\.", ["package"]),
        (
            {"package": "0", "networks.x": "3"},
            r"from another package and with other choices \(annotation, networks.x, properties.a.b\)\.",
            ["annotation", "networks.x", "package", "properties.a.b"],
        ),
        ({}, r"imported from another package or with other choices\.", []),
    ],
    ids=["a choice", "the package", "both", "marked by an older release"],
)
def test_what_differs_is_told(bears, told, differs):
    machine = there(Is.COMPLETE, "old").machine
    here = There(machine._replace(stamp=machine.stamp._replace(inputs=bears)), Is.COMPLETE)
    desired = asked()._replace(inputs={"package": "1", "annotation": "2", "properties.a.b": "3"})
    with pytest.raises(Refused, match=told) as raised:
        steps(desired, Seen(here, NONE))
    assert raised.value.facts["differs"] == differs
