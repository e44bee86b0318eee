# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The rules of idempotency, a case each: what is declared, what was seen, and the steps from one to the other."""

from __future__ import annotations

import pytest

from ansible_collections.vmops.lifecycle.plugins.module_utils._core.errors import BadInput, Refused
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_img import extras, found, steps
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_img import model as m
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_img.differences import (
    is_at_rest,
    is_recorded,
    is_same_source,
    needs_source,
)
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_img.keep import kept_shape
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_img.plan import plan
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_img.view import view
from tests.unit._qemu_img.builders import (
    ABSENT,
    BASE,
    GIB,
    IDENTITY,
    PATH,
    SEED,
    SHA,
    desired,
    existing,
    info,
    made_from_source,
    record,
    seen_source,
    source,
)

RAW, QCOW2, VMDK, VDI, VHDX, VPC = m.Format
OVER_BASE = extras.Backing("base.qcow2", BASE, None)
ALONE = extras.Backing("", "", None)
BELOW = found.BackingSeen(QCOW2, GIB, True)
ENCRYPTION = extras.Encryption("secret", ())


def planned(wanted, seen):
    return list(plan(wanted, seen).steps)


CASES = {
    # create
    "a new empty image": (desired(size_bytes=GIB), ABSENT, [steps.Create(GIB)]),
    "a new overlay takes its backing file's size": (
        desired(backing=OVER_BASE),
        ABSENT._replace(backing=BELOW, backing_is_current=False),
        [steps.Create(GIB)],
    ),
    "a new overlay larger than its backing file": (
        desired(backing=OVER_BASE, size_bytes=2 * GIB),
        ABSENT._replace(backing=BELOW, backing_is_current=False),
        [steps.Create(2 * GIB)],
    ),
    "a new image that shall stand alone": (desired(size_bytes=GIB, backing=ALONE), ABSENT, [steps.Create(GIB)]),
    "an image that is there and no size declared": (desired(), existing(), []),
    "an image that is there with the declared size": (desired(size_bytes=GIB), existing(), []),
    "an option that shows equal": (desired(options={"cluster_size": "65536"}), existing(), []),
    "an option that can't be read back and wasn't recorded": (
        desired(options={"preallocation": "metadata"}),
        existing(),
        [],
    ),
    "an option that can't be read back and was recorded": (
        desired(options={"preallocation": "metadata"}),
        existing(record=record(None, options__preallocation="metadata")),
        [],
    ),
    "force alone changes nothing": (desired(size_bytes=GIB, force=True), existing(), []),
    # convert
    "a new image from a source takes its size": (
        desired(source=source()),
        ABSENT._replace(source=seen_source()),
        [steps.Seed(GIB)],
    ),
    "a new image from a source, grown": (
        desired(source=source(), size_bytes=3 * GIB),
        ABSENT._replace(source=seen_source()),
        [steps.Seed(3 * GIB)],
    ),
    "a new image from a source, cut off with leave": (
        desired(source=source(), size_bytes=GIB // 2, allow_shrink=True),
        ABSENT._replace(source=seen_source()),
        [steps.Seed(GIB // 2)],
    ),
    "a new image from a URL whose size nobody knows yet": (
        desired(source=source("https://host/a.img", checksum=SHA)),
        ABSENT._replace(source=seen_source(size=None)),
        [steps.Seed(None)],
    ),
    "made from this source": (
        desired(source=source()),
        existing(record=made_from_source(), source=seen_source()),
        [],
    ),
    "made from this source and grown since": (
        desired(source=source()),
        existing(info=info(size=9 * GIB), record=made_from_source(), source=seen_source()),
        [],
    ),
    "made from this source, which is gone": (
        desired(source=source()),
        existing(record=made_from_source(), source_gone=True),
        [],
    ),
    "made from this source, and to be grown": (
        desired(source=source(), size_bytes=2 * GIB),
        existing(record=made_from_source(), source=seen_source()),
        [steps.Resize(2 * GIB, False)],
    ),
    "made from this source, force says nothing about it": (
        desired(source=source(), force=True),
        existing(record=made_from_source(), source=seen_source()),
        [],
    ),
    # adopt
    "no record, equal content": (
        desired(source=source()),
        existing(source=seen_source(), same_content=True),
        [steps.Adopt(compared=True)],
    ),
    "another source, equal content": (
        desired(source=source()),
        existing(record=made_from_source(), source=seen_source(IDENTITY._replace(mtime_ns=5)), same_content=True),
        [steps.Adopt(compared=True)],
    ),
    "equal content is adopted even with force: nothing needs to be overwritten": (
        desired(source=source(), force=True),
        existing(source=seen_source(), same_content=True),
        [steps.Adopt(compared=True)],
    ),
    "a URL that wasn't fetched is compared when it is": (
        desired(source=source("https://host/a.img", checksum=SHA)),
        existing(source=seen_source(size=None)),
        [steps.Adopt(compared=False)],
    ),
    "equal content of another size is adopted and resized": (
        desired(source=source(), size_bytes=2 * GIB),
        existing(source=seen_source(), same_content=True),
        [steps.Resize(2 * GIB, False), steps.Adopt(compared=True)],
    ),
    # seed anew
    "force, another content": (
        desired(source=source(), force=True),
        existing(source=seen_source(), same_content=False),
        [steps.Seed(GIB)],
    ),
    "force, another format": (
        desired(source=source(), force=True),
        existing(info=info(RAW), source=seen_source()),
        [steps.Seed(GIB)],
    ),
    "force, a URL": (
        desired(source=source("https://host/a.img", checksum=SHA), force=True),
        existing(source=seen_source(size=None)),
        [steps.Seed(None)],
    ),
    "seeding anew loses snapshots, so the declared ones are taken anew": (
        desired(source=source(), force=True, snapshots=(extras.Named("a", True),)),
        existing(info=info(snapshots=("a", "b")), source=seen_source(), same_content=False),
        [steps.Seed(GIB), steps.SetSnapshot("a", True)],
    ),
    # resize
    "grown": (desired(size_bytes=2 * GIB), existing(), [steps.Resize(2 * GIB, False)]),
    "shrunk with leave: on a copy": (
        desired(size_bytes=GIB // 2, allow_shrink=True),
        existing(),
        [steps.Copy(), steps.Resize(GIB // 2, True)],
    ),
    "raw grows in place": (
        desired(format=RAW, size_bytes=2 * GIB),
        existing(info=info(RAW)),
        [steps.Resize(2 * GIB, False)],
    ),
    "raw shrinks in place": (
        desired(format=RAW, size_bytes=GIB // 2, allow_shrink=True),
        existing(info=info(RAW)),
        [steps.Resize(GIB // 2, True)],
    ),
    "growing beside bitmaps happens on a copy": (
        desired(size_bytes=2 * GIB),
        existing(info=info(bitmaps=("b",))),
        [steps.Copy(), steps.Resize(2 * GIB, False)],
    ),
    **{
        "%s grows through a conversion" % image_format.value: (
            desired(format=image_format, size_bytes=2 * GIB),
            existing(info=info(image_format)),
            [steps.Rebuild(2 * GIB, False)],
        )
        for image_format in (VMDK, VDI, VHDX, VPC)
    },
    **{
        "%s shrinks through a conversion, with leave" % image_format.value: (
            desired(format=image_format, size_bytes=GIB // 2, allow_shrink=True),
            existing(info=info(image_format)),
            [steps.Rebuild(GIB // 2, True)],
        )
        for image_format in (VMDK, VDI, VHDX, VPC)
    },
    "another format with the declared size needs nothing": (
        desired(format=VMDK, size_bytes=GIB),
        existing(info=info(VMDK)),
        [],
    ),
    # rebase
    "the backing file is the declared one": (
        desired(backing=OVER_BASE),
        existing(info=info(backing_file="base.qcow2", backing_format="qcow2")),
        [],
    ),
    "another backing file: on a copy": (
        desired(backing=OVER_BASE),
        existing(info=info(backing_file="old.qcow2"), backing_is_current=False, backing=BELOW),
        [steps.Copy(), steps.Rebase(OVER_BASE, QCOW2)],
    ),
    "a backing file for an image that stood alone": (
        desired(backing=OVER_BASE),
        existing(backing_is_current=False, backing=BELOW),
        [steps.Copy(), steps.Rebase(OVER_BASE, QCOW2)],
    ),
    "an overlay that shall stand alone": (
        desired(backing=ALONE),
        existing(info=info(backing_file="base.qcow2"), backing_is_current=False),
        [steps.Copy(), steps.Rebase(ALONE, None)],
    ),
    "an image that stands alone already": (desired(backing=ALONE), existing(), []),
    "a backing file that isn't declared is left": (desired(), existing(info=info(backing_file="base.qcow2")), []),
    "rebased first, then grown": (
        desired(backing=OVER_BASE, size_bytes=2 * GIB),
        existing(backing_is_current=False, backing=BELOW),
        [steps.Copy(), steps.Rebase(OVER_BASE, QCOW2), steps.Resize(2 * GIB, False)],
    ),
    # commit
    "an empty overlay has nothing to commit": (
        desired(commit=True),
        existing(info=info(backing_file="base.qcow2")),
        [],
    ),
    "data goes down into a plain backing file in place": (
        desired(commit=True),
        existing(info=info(backing_file="base.qcow2"), commit_to=BELOW),
        [steps.CommitDown(BELOW, in_place=True)],
    ),
    "data goes down into a copy of one that has more than data": (
        desired(commit=True),
        existing(info=info(backing_file="base.qcow2"), commit_to=BELOW._replace(plain=False)),
        [steps.CommitDown(BELOW._replace(plain=False), in_place=False)],
    ),
    "committed first, then grown: the rest concerns the overlay": (
        desired(commit=True, size_bytes=2 * GIB),
        existing(info=info(backing_file="base.qcow2"), commit_to=BELOW),
        [steps.CommitDown(BELOW, in_place=True), steps.Resize(2 * GIB, False)],
    ),
    # snapshots
    "a snapshot that is there": (
        desired(snapshots=(extras.Named("a", True),)),
        existing(info=info(snapshots=("a",))),
        [],
    ),
    "a snapshot that is there twice is there": (
        desired(snapshots=(extras.Named("a", True),)),
        existing(info=info(snapshots=("a", "a"))),
        [],
    ),
    "a snapshot that is missing: on a copy": (
        desired(snapshots=(extras.Named("a", True),)),
        existing(info=info(snapshots=("b",))),
        [steps.Copy(), steps.SetSnapshot("a", True)],
    ),
    "a snapshot too many": (
        desired(snapshots=(extras.Named("a", False),)),
        existing(info=info(snapshots=("a", "b"))),
        [steps.Copy(), steps.SetSnapshot("a", False)],
    ),
    "a snapshot that is there twice goes twice: qemu-img takes one at a time": (
        desired(snapshots=(extras.Named("a", False),)),
        existing(info=info(snapshots=("a", "b", "a"))),
        [steps.Copy(), steps.SetSnapshot("a", False), steps.SetSnapshot("a", False)],
    ),
    "a snapshot that is gone already": (desired(snapshots=(extras.Named("a", False),)), existing(), []),
    "snapshots go before others are taken": (
        desired(snapshots=(extras.Named("new", True), extras.Named("old", False))),
        existing(info=info(snapshots=("old",))),
        [steps.Copy(), steps.SetSnapshot("old", False), steps.SetSnapshot("new", True)],
    ),
    "a snapshot of a new image": (
        desired(size_bytes=GIB, snapshots=(extras.Named("a", True), extras.Named("b", False))),
        ABSENT,
        [steps.Create(GIB), steps.SetSnapshot("a", True)],
    ),
    # bitmaps
    "a bitmap that is there": (desired(bitmaps=(extras.Named("a", True),)), existing(info=info(bitmaps=("a",))), []),
    "a bitmap's granularity only counts when it is made": (
        desired(bitmaps=(extras.Named("a", True, 4096),)),
        existing(info=info(bitmaps=("a",))),
        [],
    ),
    "a bitmap that is missing: on a copy": (
        desired(bitmaps=(extras.Named("a", True, 4096),)),
        existing(),
        [steps.Copy(), steps.SetBitmap(extras.Named("a", True, 4096))],
    ),
    "a bitmap too many": (
        desired(bitmaps=(extras.Named("a", False),)),
        existing(info=info(bitmaps=("a", "b"))),
        [steps.Copy(), steps.SetBitmap(extras.Named("a", False))],
    ),
    "a bitmap that is gone already": (desired(bitmaps=(extras.Named("a", False),)), existing(), []),
    # amend
    "what can be amended is, in place": (
        desired(options={"lazy_refcounts": "on", "compat": "1.1", "refcount_bits": "64"}),
        existing(),
        [steps.Amend((("lazy_refcounts", "on"), ("refcount_bits", "64")))],
    ),
    "amending beside bitmaps happens on a copy": (
        desired(options={"lazy_refcounts": "on"}),
        existing(info=info(bitmaps=("b",))),
        [steps.Copy(), steps.Amend((("lazy_refcounts", "on"),))],
    ),
    # rebuild
    "another format, with leave": (
        desired(format=RAW, force=True),
        existing(),
        [steps.Rebuild(GIB, False)],
    ),
    "another cluster size, with leave": (
        desired(options={"cluster_size": "131072"}, force=True),
        existing(),
        [steps.Rebuild(GIB, False)],
    ),
    "a recorded option that can't be read back, with leave": (
        desired(options={"preallocation": "full"}, force=True),
        existing(record=record(None, options__preallocation="metadata")),
        [steps.Rebuild(GIB, False)],
    ),
    "encryption, with leave": (
        desired(encryption=ENCRYPTION, force=True),
        existing(),
        [steps.Rebuild(GIB, False)],
    ),
    "a conversion and a size at once": (
        desired(format=RAW, size_bytes=2 * GIB, force=True),
        existing(),
        [steps.Rebuild(2 * GIB, False)],
    ),
    "an adopted image may be converted in the same task": (
        desired(source=source(), options={"cluster_size": "131072"}, force=True),
        existing(source=seen_source(), same_content=True),
        [steps.Adopt(compared=True), steps.Rebuild(GIB, False)],
    ),
    "an encrypted image without encrypt is left": (desired(), existing(info=info(encrypted=True)), []),
    # repair
    "a sound image needs no repair": (
        desired(repair=m.RepairMode.ALL),
        existing(check=found.CheckResult(0, 0)),
        [],
    ),
    "leaks are mended, on a copy": (
        desired(repair=m.RepairMode.LEAKS),
        existing(check=found.CheckResult(0, 3)),
        [steps.Copy(), steps.Repair(m.RepairMode.LEAKS)],
    ),
    "corruptions are mended on a copy, if all shall be": (
        desired(repair=m.RepairMode.ALL),
        existing(check=found.CheckResult(2, 3)),
        [steps.Copy(), steps.Repair(m.RepairMode.ALL)],
    ),
    "mended before a conversion, which would take the damage over": (
        desired(repair=m.RepairMode.ALL, format=RAW, force=True),
        existing(check=found.CheckResult(2, 0)),
        [steps.Copy(), steps.Repair(m.RepairMode.ALL), steps.Rebuild(GIB, False)],
    ),
    "a mark is taken away before a conversion": (
        desired(repair=m.RepairMode.ALL, format=RAW, force=True),
        existing(info=info()._replace(dirty=True), check=found.CheckResult(0, 0)),
        [steps.Copy(), steps.Repair(m.RepairMode.ALL), steps.Rebuild(GIB, False)],
    ),
    "leaks stay behind in a conversion": (
        desired(repair=m.RepairMode.ALL, format=RAW, force=True),
        existing(check=found.CheckResult(0, 3)),
        [steps.Rebuild(GIB, False)],
    ),
    "a format that can't be checked": (desired(repair=m.RepairMode.ALL), existing(check=None), []),
    "mended before anything else": (
        desired(repair=m.RepairMode.LEAKS, size_bytes=2 * GIB),
        existing(check=found.CheckResult(0, 3)),
        [steps.Copy(), steps.Repair(m.RepairMode.LEAKS), steps.Resize(2 * GIB, False)],
    ),
    # absent
    "removed": (desired(present=False), existing(), [steps.Remove()]),
    "removed whatever else is declared": (desired(present=False, size_bytes=GIB // 2), existing(), [steps.Remove()]),
    "gone already": (desired(present=False), ABSENT, []),
    # leftovers
    "what a killed run left is swept first": (
        desired(size_bytes=GIB),
        ABSENT._replace(leftovers=("x",)),
        [steps.Sweep(("x",)), steps.Create(GIB)],
    ),
    "what a killed run left beside an image that is as declared": (
        desired(),
        existing(leftovers=("x",)),
        [steps.Sweep(("x",))],
    ),
    "what a killed removal left": (
        desired(present=False),
        ABSENT._replace(leftovers=("x",)),
        [steps.Sweep(("x",))],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_steps(case):
    wanted, seen, expected = CASES[case]
    assert planned(wanted, seen) == expected


@pytest.mark.parametrize("case", CASES)
def test_at_rest_is_what_has_no_steps(case):
    """The short answer, which a task with nothing to do gets by, and the long one."""
    wanted, seen, expected = CASES[case]
    assert is_at_rest(wanted, seen) is (not expected)


REFUSALS = {
    "a new image without a size": (desired(), ABSENT, BadInput, "a new image needs a size"),
    "a new image that shall stand alone, without a size": (
        desired(backing=ALONE),
        ABSENT,
        BadInput,
        "a new image needs a size",
    ),
    "a new image from a source that isn't there": (
        desired(source=source()),
        ABSENT._replace(source_gone=True),
        BadInput,
        "source: %s is not there" % SEED,
    ),
    "a source that would be cut off": (
        desired(source=source(), size_bytes=GIB // 2),
        ABSENT._replace(source=seen_source()),
        Refused,
        "%s has %d bytes and size says %d.*allow_shrink" % (SEED, GIB, GIB // 2),
    ),
    "shrinking without leave": (
        desired(size_bytes=GIB // 2),
        existing(),
        Refused,
        "Refused to shrink .* it has %d bytes and size says %d" % (GIB, GIB // 2),
    ),
    "shrinking through a conversion without leave": (
        desired(format=VMDK, size_bytes=GIB // 2),
        existing(info=info(VMDK)),
        Refused,
        "Refused to shrink",
    ),
    "shrinking an image made from a source without leave": (
        desired(source=source(), size_bytes=GIB // 2),
        existing(record=made_from_source(), source=seen_source()),
        Refused,
        "Refused to shrink",
    ),
    "no record, another content": (
        desired(source=source()),
        existing(source=seen_source(), same_content=False),
        Refused,
        "nothing tells what it was made from",
    ),
    "a record of an empty image, another content": (
        desired(source=source()),
        existing(record=record(None), source=seen_source(), same_content=False),
        Refused,
        "nothing tells what it was made from",
    ),
    "another state of the source, another content": (
        desired(source=source()),
        existing(record=made_from_source(), source=seen_source(IDENTITY._replace(size_bytes=1)), same_content=False),
        Refused,
        "made from %s, or from another state of it" % SEED,
    ),
    "other arguments, another content": (
        desired(source=source(), compress=True),
        existing(record=made_from_source(), source=seen_source(), same_content=False),
        Refused,
        "made with another compress",
    ),
    "another format than the seeded": (
        desired(source=source()),
        existing(info=info(RAW), source=seen_source()),
        Refused,
        "is there with format raw, not qcow2",
    ),
    "the source is gone, and the image isn't its own": (
        desired(source=source()),
        existing(source_gone=True),
        BadInput,
        "isn't recorded as made from it",
    ),
    "the source is gone, and another was the seed, even with force": (
        desired(source=source("/seeds/other.raw"), force=True),
        existing(record=made_from_source(), source_gone=True),
        BadInput,
        "isn't recorded as made from it",
    ),
    "another format without leave": (
        desired(format=RAW),
        existing(),
        Refused,
        "its format is qcow2, not raw, which needs a conversion",
    ),
    "another cluster size without leave": (
        desired(options={"cluster_size": "131072"}),
        existing(),
        Refused,
        "its cluster_size is 65536, not 131072, which needs a conversion.*force: true",
    ),
    "several reasons are all told": (
        desired(options={"cluster_size": "131072", "extended_l2": "on"}, encryption=ENCRYPTION),
        existing(),
        Refused,
        "it isn't encrypted; its cluster_size is 65536, not 131072; its extended_l2 is off, not on",
    ),
    "a recorded option that can't be read back, without leave": (
        desired(options={"preallocation": "full"}),
        existing(record=record(None, options__preallocation="metadata")),
        Refused,
        "another options.preallocation",
    ),
    "a conversion that would lose snapshots and bitmaps": (
        desired(format=RAW, force=True),
        existing(info=info(snapshots=("a",), bitmaps=("b",))),
        Refused,
        "it would lose its snapshots and its bitmaps",
    ),
    "a conversion that would copy the backing file's content": (
        desired(options={"cluster_size": "131072"}, force=True),
        existing(info=info(backing_file="base.qcow2")),
        Refused,
        "it would lose its backing file",
    ),
    "a conversion that would decrypt": (
        desired(format=RAW, force=True),
        existing(info=info(encrypted=True)),
        Refused,
        "it would lose its encryption",
    ),
    "a commit that would lose snapshots": (
        desired(commit=True),
        existing(info=info(backing_file="base.qcow2", snapshots=("a",)), commit_to=BELOW),
        Refused,
        "would lose its snapshots",
    ),
    "a commit that would lose the encryption": (
        desired(commit=True),
        existing(info=info(backing_file="base.qcow2", encrypted=True), commit_to=BELOW),
        Refused,
        "would lose its encryption.*encrypt",
    ),
    "corruptions when only leaks may be mended": (
        desired(repair=m.RepairMode.LEAKS),
        existing(check=found.CheckResult(2, 3)),
        Refused,
        "it has 2 corruptions, and repair: leaks doesn't mend those",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals(case):
    wanted, seen, kind, message = REFUSALS[case]
    assert not is_at_rest(wanted, seen)
    with pytest.raises(kind, match=message):
        plan(wanted, seen)


# who has the image open

GUEST = (found.Holder(4711, "qemu-system-x86_64", True), found.Holder(0, "a process that this user can't see", True))
IN_USE = {
    "removed": (desired(present=False), existing(), "remove"),
    "grown": (desired(size_bytes=2 * GIB), existing(), "change"),
    "snapshot": (desired(snapshots=(extras.Named("a", True),)), existing(), "change"),
    "amended": (desired(options={"lazy_refcounts": "on"}), existing(), "change"),
    "converted": (desired(format=RAW, force=True), existing(), "change"),
    "seeded anew": (
        desired(source=source(), force=True),
        existing(source=seen_source(), same_content=False),
        "change",
    ),
    "committed": (desired(commit=True), existing(info=info(backing_file="b"), commit_to=BELOW), "change"),
    "repaired": (desired(repair=m.RepairMode.LEAKS), existing(check=found.CheckResult(0, 1)), "change"),
    "adopted and grown": (
        desired(source=source(), size_bytes=2 * GIB),
        existing(source=seen_source(), same_content=True),
        "change",
    ),
}


@pytest.mark.parametrize("case", IN_USE)
def test_an_image_in_use_is_left_alone_and_its_holders_named(case):
    wanted, seen, verb = IN_USE[case]
    assert planned(wanted, seen), "without holders it would be done"
    with pytest.raises(Refused) as caught:
        plan(wanted, seen._replace(holders=GUEST))
    assert str(caught.value).startswith(
        "Refused to %s %s: it is in use by qemu-system-x86_64 (pid 4711), a process that this user can't see."
        % (verb, PATH)
    )
    assert caught.value.facts["holders"][0] == {"pid": 4711, "name": "qemu-system-x86_64"}


@pytest.mark.parametrize(
    ("wanted", "seen"),
    [
        pytest.param(desired(), existing(), id="nothing to do"),
        pytest.param(desired(), existing(leftovers=("x",)), id="leftovers swept"),
        pytest.param(desired(source=source()), existing(source=seen_source(), same_content=True), id="adopted"),
    ],
)
def test_what_leaves_the_image_alone_may_be_done_while_it_is_in_use(wanted, seen):
    assert planned(wanted, seen._replace(holders=GUEST)) == planned(wanted, seen)


# which source an image was made from

OTHER_TIME = IDENTITY._replace(mtime_ns=2_000_000_000)
OTHER_SIZE = IDENTITY._replace(size_bytes=6000)
REBOOTED = IDENTITY._replace(device=99)
REPLACED_WITH_ITS_TIME_KEPT = IDENTITY._replace(inode=999)
RENAMED = IDENTITY._replace(location="/seeds/renamed.raw")
COPIED_ELSEWHERE = RENAMED._replace(inode=999)
URL = "https://host/a.img"
URL_IDENTITY = m.SourceIdentity(URL, SHA, 0, 0, 0, 0)
SHA_B = "sha256:" + "b" * 64

SOURCES = {
    "the very same": (source(), IDENTITY, IDENTITY, True),
    "no seed recorded": (source(), IDENTITY, None, False),
    "written to since": (source(), OTHER_TIME, IDENTITY, False),
    "another size": (source(), OTHER_SIZE, IDENTITY, False),
    "another device number after a reboot": (source(), REBOOTED, IDENTITY, True),
    "by name, size and time, though the inode is another (restored from a backup)": (
        source(),
        REPLACED_WITH_ITS_TIME_KEPT,
        IDENTITY,
        True,
    ),
    "renamed: by inode, size and time": (source("/seeds/renamed.raw"), RENAMED, IDENTITY, True),
    "a copy under another name with its time kept is another file": (
        source("/seeds/renamed.raw"),
        COPIED_ELSEWHERE,
        IDENTITY,
        False,
    ),
    "renamed and on another device number: nothing identifies it": (
        source("/seeds/renamed.raw"),
        RENAMED._replace(device=99),
        IDENTITY,
        False,
    ),
    "gone, by name": (source(), None, IDENTITY, True),
    "gone, another name": (source("/seeds/other.raw"), None, IDENTITY, False),
    "the checksum settles it though all else differs": (
        source("/elsewhere", checksum=SHA),
        OTHER_TIME._replace(location="/elsewhere", inode=5),
        IDENTITY._replace(checksum=SHA),
        True,
    ),
    "another checksum though all else is equal": (
        source(checksum=SHA_B),
        IDENTITY,
        IDENTITY._replace(checksum=SHA),
        False,
    ),
    "the checksum settles it when the source is gone": (
        source(checksum=SHA),
        None,
        IDENTITY._replace(checksum=SHA),
        True,
    ),
    "a checksum that is new in the task: as without": (source(checksum=SHA), IDENTITY, IDENTITY, True),
    "a checksum that the task has no more: as without": (
        source(),
        OTHER_TIME,
        IDENTITY._replace(checksum=SHA),
        False,
    ),
    "a checksum by another algorithm: as without": (
        source(checksum="sha512:" + "0" * 128),
        IDENTITY,
        IDENTITY._replace(checksum=SHA),
        True,
    ),
    "a checksum by another algorithm says nothing of a URL": (
        source(URL, checksum="sha512:" + "0" * 128),
        URL_IDENTITY,
        URL_IDENTITY,
        False,
    ),
    "a URL with its checksum": (source(URL, checksum=SHA), URL_IDENTITY, URL_IDENTITY, True),
    "a URL with another checksum": (source(URL, checksum=SHA_B), URL_IDENTITY, URL_IDENTITY, False),
    "a mirror with the same checksum": (
        source("https://mirror/a.img", checksum=SHA),
        URL_IDENTITY._replace(location="https://mirror/a.img"),
        URL_IDENTITY,
        True,
    ),
}


@pytest.mark.parametrize("case", SOURCES)
def test_which_source_is_the_same(case):
    declared, now, recorded, same = SOURCES[case]
    assert is_same_source(declared, now, recorded) is same


ARGUMENTS = {
    "as it was made": (desired(source=source()), made_from_source(), info(), True),
    "another source format": (desired(source=source(image_format=RAW)), made_from_source(), info(), False),
    "compressed then, not now": (
        desired(source=source()),
        record(source_format="", compress="on"),
        info(),
        False,
    ),
    "a hidden option that is another now": (
        desired(source=source(), options={"preallocation": "full"}),
        made_from_source(options__preallocation="off"),
        info(),
        False,
    ),
    "a hidden option that wasn't declared then": (
        desired(source=source(), options={"preallocation": "full"}),
        made_from_source(),
        info(),
        True,
    ),
    "a hidden option that isn't declared now": (
        desired(source=source()),
        made_from_source(options__preallocation="full"),
        info(),
        True,
    ),
    "a visible option is judged by what the image shows": (
        desired(source=source(), options={"lazy_refcounts": "on"}),
        made_from_source(options__lazy_refcounts="off"),
        info(),
        True,
    ),
}


@pytest.mark.parametrize("case", ARGUMENTS)
def test_which_arguments_are_the_same(case):
    wanted, remembered, image, same = ARGUMENTS[case]
    seen = existing(info=image, record=remembered, source=seen_source())
    assert is_recorded(wanted, seen) is same
    assert needs_source(wanted, seen) is not same


def test_what_shall_be_absent_needs_no_source():
    assert not needs_source(desired(present=False, source=source()), ABSENT)


# how an image is written again


COMPRESSED = existing(record=record(compress="on", source_format=""))
PREALLOCATED = existing(record=record(compress="on", source_format="", options__preallocation="full"))
KEPT = {
    "compressed": (desired(), COMPRESSED, None, True),
    "compressed, and to be encrypted": (desired(encryption=ENCRYPTION), COMPRESSED, None, False),
    "compressed, and to be preallocated": (desired(options={"preallocation": "full"}), COMPRESSED, "full", False),
    "compressed once, and preallocated": (desired(), PREALLOCATED, "full", False),
    "preallocated, and to be compressed": (desired(source=source(), compress=True), PREALLOCATED, None, True),
}


@pytest.mark.parametrize("subformat", ["streamOptimized", "monolithicSparse"])
def test_a_vmdk_that_becomes_another_is_compressed_where_that_can_be(subformat):
    seen = existing(
        info=info(m.Format.VMDK, options={"subformat": "streamOptimized"}),
        record=record(image_format=m.Format.VMDK, compress="on", source_format=""),
    )
    shape = kept_shape(desired(format=m.Format.VMDK, options={"subformat": subformat}), seen)
    assert shape.compress == (subformat == "streamOptimized")


@pytest.mark.parametrize("case", KEPT)
def test_what_is_compressed_is_neither_encrypted_nor_preallocated(case):
    wanted, seen, preallocation, compress = KEPT[case]
    shape = kept_shape(wanted, seen)
    assert (shape.options.get("preallocation"), shape.compress) == (preallocation, compress)


# what will be seen afterwards

PREDICTED = {
    "created": (
        desired(size_bytes=GIB),
        ABSENT,
        {"path": PATH, "state": "present", "format": "qcow2", "virtual_size": GIB},
    ),
    "removed": (desired(present=False), existing(), {"path": PATH, "state": "absent"}),
    "seeded": (
        desired(source=source()),
        ABSENT._replace(source=seen_source()),
        {"path": PATH, "state": "present", "format": "qcow2", "virtual_size": GIB, "made_from": SEED},
    ),
    "options that will show in the image, and one that will in its record": (
        desired(size_bytes=GIB, options={"cluster_size": "131072", "preallocation": "full"}),
        ABSENT,
        {
            "path": PATH,
            "state": "present",
            "format": "qcow2",
            "virtual_size": GIB,
            "options": {"cluster_size": "131072", "preallocation": "full"},
        },
    ),
    "changed all over": (
        desired(
            backing=OVER_BASE,
            size_bytes=2 * GIB,
            options={"lazy_refcounts": "on"},
            snapshots=(extras.Named("a", False), extras.Named("b", True)),
            bitmaps=(extras.Named("c", True),),
            repair=m.RepairMode.LEAKS,
        ),
        existing(
            info=info(snapshots=("a", "z")), backing_is_current=False, backing=BELOW, check=found.CheckResult(0, 1)
        ),
        {
            "path": PATH,
            "state": "present",
            "format": "qcow2",
            "virtual_size": 2 * GIB,
            "backing_file": "base.qcow2",
            "options": {"lazy_refcounts": "on"},
            "snapshots": ["b", "z"],
            "bitmaps": ["c"],
            "check": {"corruptions": 0, "leaks": 0},
        },
    ),
    "swept": (
        desired(),
        existing(leftovers=("x",)),
        {"path": PATH, "state": "present", "format": "qcow2", "virtual_size": GIB},
    ),
    "committed": (
        desired(commit=True),
        existing(info=info(backing_file="base.qcow2"), commit_to=BELOW),
        {
            "path": PATH,
            "state": "present",
            "format": "qcow2",
            "virtual_size": GIB,
            "uncommitted_data": False,
        },
    ),
    "encrypted by a conversion": (
        desired(encryption=ENCRYPTION, force=True),
        existing(),
        {"path": PATH, "state": "present", "format": "qcow2", "virtual_size": GIB, "encrypted": True},
    ),
}


@pytest.mark.parametrize("case", PREDICTED)
def test_what_check_mode_predicts(case):
    wanted, seen, expected = PREDICTED[case]
    assert plan(wanted, seen).predicted == expected


@pytest.mark.parametrize("case", CASES)
def test_whatever_has_steps_shows_a_change_and_whatever_has_none_shows_none(case):
    wanted, seen, expected = CASES[case]
    planned = plan(wanted, seen)
    if expected:
        assert planned.predicted != view(wanted, seen)
    else:
        assert planned.steps == ()


def test_a_secret_is_in_no_view():
    wanted = desired(encryption=extras.Encryption("hunter2", ()), size_bytes=GIB)
    assert "hunter2" not in str(plan(wanted, ABSENT).predicted)
    assert "hunter2" not in str(view(wanted, existing()))


SCATTERED = existing(other_files=("/etc/shadow",))


@pytest.mark.parametrize(
    "declared",
    [
        {"size_bytes": 2 * GIB},
        {"options": {"lazy_refcounts": "on"}},
        {"format": RAW, "force": True},
        {"snapshots": (extras.Named("a", True),)},
        {"backing": ALONE, "bitmaps": (extras.Named("a", True),)},
    ],
    ids=str,
)
def test_an_image_whose_data_is_in_other_files_is_not_changed(declared):
    with pytest.raises(Refused, match="it keeps its data in other files: /etc/shadow"):
        plan(desired(**declared), SCATTERED)


def test_an_image_whose_data_is_in_other_files_can_be_kept_replaced_and_removed():
    assert plan(desired(), SCATTERED).steps == ()
    assert plan(desired(present=False), SCATTERED).steps == (steps.Remove(),)
    anew = desired(source=source(), force=True)
    seen = SCATTERED._replace(source=seen_source(), same_content=False)
    assert plan(anew, seen).steps == (steps.Seed(GIB),)


OVERLAY = info(backing_file="base", backing_format="vmdk")


@pytest.mark.parametrize("image_format", [VMDK, VDI, VHDX, VPC], ids=lambda value: value.value)
def test_only_what_was_tried_is_committed_into_in_place(image_format):
    below = found.BackingSeen(image_format, GIB, True)
    assert plan(desired(commit=True), existing(info=OVERLAY, commit_to=below)).steps == (
        steps.CommitDown(below, False),
    )


@pytest.mark.parametrize("image_format", [VMDK, VDI, VHDX, VPC], ids=lambda value: value.value)
def test_a_backing_file_that_cannot_grow_is_told_before_the_commit(image_format):
    below = found.BackingSeen(image_format, GIB - 512, True)
    with pytest.raises(Refused, match=r"can't grow in place\. Grow the backing file first"):
        plan(desired(commit=True), existing(info=OVERLAY, commit_to=below))


def test_a_commit_does_not_follow_a_backing_file_to_its_data_file():
    below = found.BackingSeen(QCOW2, GIB, True, ("/etc/shadow",))
    with pytest.raises(Refused, match="its backing file keeps its data in other files: /etc/shadow"):
        plan(desired(commit=True), existing(info=OVERLAY, commit_to=below))


def test_a_commit_and_another_backing_file_are_two_tasks():
    seen = existing(info=OVERLAY, backing=BELOW, backing_is_current=False)
    for commit_to in (None, BELOW):
        with pytest.raises(Refused, match="it lies over base, and backing_file names another"):
            plan(desired(commit=True, backing=OVER_BASE), seen._replace(commit_to=commit_to))


def test_a_new_image_that_stands_alone_has_nothing_to_commit():
    with pytest.raises(BadInput, match=r"commit: .* is not there, and has nothing to commit"):
        plan(desired(commit=True, size_bytes=GIB), ABSENT)
    over = ABSENT._replace(backing=BELOW, backing_is_current=False)
    assert planned(desired(commit=True, backing=OVER_BASE), over) == [steps.Create(GIB)]


def test_an_overlay_is_repaired_before_its_data_goes_down():
    seen = existing(info=OVERLAY, commit_to=BELOW, check=found.CheckResult(1, 0))
    repaired = [steps.Copy(), steps.Repair(m.RepairMode.ALL), steps.CommitDown(BELOW, True)]
    assert planned(desired(commit=True, repair=m.RepairMode.ALL), seen) == repaired
    grown = planned(desired(commit=True, repair=m.RepairMode.ALL, size_bytes=2 * GIB), seen)
    assert grown == [*repaired, steps.Resize(2 * GIB, False)]


def test_an_image_is_converted_and_laid_over_another_at_once():
    wanted = desired(force=True, options={"cluster_size": "4096"}, backing=OVER_BASE)
    seen = existing(backing=BELOW, backing_is_current=False)
    assert planned(wanted, seen) == [steps.Rebuild(GIB, False), steps.Rebase(OVER_BASE, QCOW2)]
