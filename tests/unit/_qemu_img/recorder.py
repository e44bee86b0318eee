# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Records what the qemu-img of this machine prints: `python -m tests.unit._qemu_img.recorder`.

One file for each version, `fixtures/qemu-img-VERSION.json`: case → what was run, its exit code and what it printed.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path

FIXTURES = Path(__file__).parent / "fixtures"

# Each line is run in one folder, in this order; a line with a name is recorded.
STORY = (
    ("", "qemu-img create -q -f raw plain.raw 1000000001"),
    ("info of a raw image with an odd size", "qemu-img info --output=json -f raw plain.raw"),
    ("", "qemu-img create -q -f qcow2 base.qcow2 1M"),
    ("", "qemu-io -f qcow2 -c 'write 0 64k' -c 'write -z 128k 64k' base.qcow2"),
    ("info of a qcow2 image", "qemu-img info --output=json -f qcow2 base.qcow2"),
    ("", "qemu-img create -q -f qcow2 -o compat=0.10 old.qcow2 1M"),
    ("info of an old qcow2 image", "qemu-img info --output=json -f qcow2 old.qcow2"),
    ("", "qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 over.qcow2 2M"),
    ("info of an overlay", "qemu-img info --output=json -f qcow2 over.qcow2"),
    ("map of an empty overlay", "qemu-img map --output=json -f qcow2 over.qcow2"),
    ("", "qemu-io -f qcow2 -c 'write -z 0 64k' over.qcow2"),
    ("map of an overlay that hides data by zeros", "qemu-img map --output=json -f qcow2 over.qcow2"),
    ("", "qemu-io -f qcow2 -c 'write 512k 64k' over.qcow2"),
    ("map of an overlay with data", "qemu-img map --output=json -f qcow2 over.qcow2"),
    ("map of an image that stands alone", "qemu-img map --output=json -f qcow2 base.qcow2"),
    ("", "qemu-img snapshot -q -c one base.qcow2"),
    ("", "qemu-img snapshot -q -c one base.qcow2"),
    ("", "qemu-img bitmap --add -g 64k -f qcow2 base.qcow2 b0"),
    ("", "qemu-img amend -q -o lazy_refcounts=on -f qcow2 base.qcow2"),
    ("info with snapshots of one name and a bitmap", "qemu-img info --output=json -f qcow2 base.qcow2"),
    (
        "",
        (
            "qemu-img create -q -f qcow2 --object secret,id=s,data=x -o encrypt.format=luks,encrypt.key-secret=s,"
            "encrypt.iter-time=10 luks.qcow2 1M"
        ),
    ),
    ("info of an encrypted image", "qemu-img info --output=json -f qcow2 luks.qcow2"),
    ("", "qemu-img create -q -f qcow2 -o extended_l2=on,cluster_size=128k,compression_type=zstd new.qcow2 1M"),
    ("info with newer features", "qemu-img info --output=json -f qcow2 new.qcow2"),
    *(
        line
        for kind in ("vmdk", "vdi", "vhdx", "vpc")
        for line in (
            ("", "qemu-img create -q -f %s image.%s 8M" % (kind, kind)),
            ("info of a %s image" % kind, "qemu-img info --output=json -f %s image.%s" % (kind, kind)),
        )
    ),
    ("check of a sound image", "qemu-img check --output=json -f qcow2 over.qcow2"),
    ("check of a format that has none", "qemu-img check --output=json -f raw plain.raw"),
    # the refcount block is the third cluster; a cluster that nothing refers to is a leak, one in use without a count
    # is corruption
    ("", "qemu-img create -q -f qcow2 leak.qcow2 1M"),
    ("", "qemu-io -f qcow2 -c 'write 0 64k' leak.qcow2"),
    ("", "truncate -s +64k leak.qcow2"),
    ("", r"printf '\0\1' | dd of=leak.qcow2 bs=1 seek=$((0x20000 + 2 * 6)) conv=notrunc status=none"),
    ("check of an image with a leak", "qemu-img check --output=json -f qcow2 leak.qcow2"),
    ("", r"printf '\0\0' | dd of=leak.qcow2 bs=1 seek=$((0x20000 + 2 * 5)) conv=notrunc status=none"),
    ("check of a corrupt image", "qemu-img check --output=json -f qcow2 leak.qcow2"),
    ("measure for qcow2", "qemu-img measure --output=json -O qcow2 -f qcow2 over.qcow2"),
    ("measure for raw", "qemu-img measure --output=json -O raw -f qcow2 over.qcow2"),
)


def main() -> None:
    version = subprocess.run(["qemu-img", "--version"], capture_output=True, text=True, check=True).stdout.split()[2]
    cases = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, line in STORY:
            done = subprocess.run(["sh", "-c", line], cwd=folder, capture_output=True, text=True, check=False)
            if name:
                cases[name] = {"command": line, "rc": done.returncode, "stdout": done.stdout}
            elif done.returncode:
                raise SystemExit("%s: %s" % (line, done.stderr))
    FIXTURES.mkdir(exist_ok=True)
    target = FIXTURES / ("qemu-img-%s.json" % version)
    target.write_text(json.dumps(cases, indent=1) + "\n")


if __name__ == "__main__":
    main()
