#!/usr/bin/python

# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: qemu_img_info
short_description: Look at disk image files
version_added: 0.1.0
author:
  - vmops.lifecycle contributors (@vmops)
description:
  - Tells format, sizes, options, snapshots, bitmaps, encryption and backing chain of one or many image files, whether
    an image is in use and by which process, and on request what a check, a measurement and a map say.
  - Nothing is changed, and an image that is in use is looked at without disturbing its user.
  - A backing file is only looked at with O(backing_chain=true), and then its metadata alone, and with O(map) or
    O(measure), which read the backing files. What QEMU would take for a protocol is never followed.
  - Files that hold an image's own data (a data file, the extents of a V(vmdk)) are opened with it. A V(vmdk) whose
    extents lie elsewhere than beside it, or an image whose data would be no regular file, isn't opened.
options:
  path:
    description:
      - The image file, or a list of them. One that isn't there or can't be read gets an entry that says so.
      - What hinders the whole task (a missing C(qemu-img), O(timeout)) fails it.
    type: list
    elements: path
    required: true
  format:
    description:
      - The images' format. By default the one that this collection's record of the image says, else its header, and
        V(raw) for a file that shows none.
    type: str
    choices: [raw, qcow2, vmdk, vdi, vhdx, vpc]
  backing_chain:
    description:
      - Whether to follow backing files. A name that QEMU would take for a protocol is reported, not followed.
    type: bool
    default: true
  check:
    description:
      - Whether to look for faults in the image's structure. Takes time on large images.
    type: bool
    default: false
  map:
    description:
      - Whether to add up which parts hold data, zeros or nothing, in the image and its backing files.
    type: bool
    default: false
  measure:
    description:
      - A format to measure for, that is, to tell how many bytes a conversion to it needs. By default nothing is
        measured.
    type: str
    choices: [raw, qcow2]
  measure_options:
    description:
      - Creation options that the measurement assumes, such as C(cluster_size).
    type: dict
    default: {}
  timeout:
    description:
      - Seconds that the whole task may take.
    type: int
    default: 600
attributes:
  check_mode:
    support: full
    description: Reads only, in check mode or not.
  diff_mode:
    support: none
    description: Nothing is ever changed.
  platform:
    support: full
    description: Where a lookup needs Linux, such as which process holds an image, a warning tells that it isn't there.
    platforms: posix
notes:
  - The managed host needs C(qemu-img), version 7.2 or newer.
seealso:
  - module: vmops.lifecycle.qemu_img
"""

EXAMPLES = r"""
- name: What is this image?
  vmops.lifecycle.qemu_img_info:
    path: /var/lib/vms/web/root.qcow2
  register: root

- name: Room that a copy as raw would need, for several images
  vmops.lifecycle.qemu_img_info:
    path:
      - /var/lib/vms/web/root.qcow2
      - /var/lib/vms/db/root.qcow2
    measure: raw

- name: Is it sound, and how much of it is data?
  vmops.lifecycle.qemu_img_info:
    path: /var/lib/vms/web/root.qcow2
    check: true
    map: true
"""

RETURN = r"""
images:
  description: One entry for each path, in their order.
  returned: always
  type: list
  elements: dict
  contains:
    path:
      description: The image file.
      type: str
      returned: always
    exists:
      description: Whether it is there.
      type: bool
      returned: always
    error:
      description: Why it could not be read, or why O(check), O(map) or O(measure) failed. What was read before is
        told all the same.
      type: str
      returned: when something could not be read
    format:
      description: Its format.
      type: str
      returned: when it was read
    virtual_size:
      description: Bytes that a machine sees.
      type: int
      returned: when it was read
    actual_size:
      description: Bytes that it takes on the host's disk.
      type: int
      returned: when it was read
    file_size:
      description: Bytes from the file's beginning to its end, holes included.
      type: int
      returned: when it was read
    backing_file:
      description: The image that it is an overlay of, as stored in it.
      type: str
      returned: when it was read
    backing_format:
      description: That image's format, as stored.
      type: str
      returned: when it was read
    encrypted:
      description: Whether it is encrypted.
      type: bool
      returned: when it was read
    dirty:
      description: Whether it was not closed properly.
      type: bool
      returned: when it was read
    corrupt:
      description: Whether it is marked as corrupt.
      type: bool
      returned: when it was read
    options:
      description: Creation options that the image shows.
      type: dict
      returned: when it was read
    snapshots:
      description: Names of its internal snapshots.
      type: list
      elements: str
      returned: when it was read
    bitmaps:
      description: Names of its persistent bitmaps.
      type: list
      elements: str
      returned: when it was read
    references:
      description: Other files that it names (backing file, data file, extents), as it names them.
      type: list
      elements: str
      returned: when it was read, and when it wasn't because of one of them
    in_use_by:
      description:
        - Machines and tools that use it. C(pid) is null where the system doesn't tell. Programs that merely read it
          aren't counted.
      type: list
      elements: dict
      returned: when it was read
    made_from:
      description: The source that this collection made it from, if it did.
      type: str
      returned: when it was read
    backing_chain:
      description: The files below it, the nearest first, each like an image.
      type: list
      elements: dict
      returned: with O(backing_chain=true)
    check:
      description: Faults found, null for a format that can't be checked.
      type: dict
      returned: with O(check=true)
      sample: {"corruptions": 0, "leaks": 0}
    map:
      description: Bytes of data, of explicit zeros and of nothing, backing files included, and the number of extents.
      type: dict
      returned: with O(map=true)
      sample: {"data": 1048576, "zero": 0, "unallocated": 7340032, "extents": 3}
    required_size:
      description: Bytes that a conversion needs.
      type: int
      returned: with O(measure)
  sample:
    - path: /var/lib/vms/web/root.qcow2
      exists: true
      format: qcow2
      virtual_size: 21474836480
      actual_size: 200704
      file_size: 196928
      backing_file: null
      backing_format: null
      encrypted: false
      dirty: false
      corrupt: false
      options:
        cluster_size: "65536"
      snapshots: []
      bitmaps: []
      references: []
      in_use_by:
        - pid: 4711
          name: qemu-system-x86_64
          writes: true
      made_from: /srv/images/debian-12-genericcloud-amd64.raw
      backing_chain: []
commands:
  description: The C(qemu-img) commands that were run, as lists of words.
  returned: always
  type: list
  elements: list
  sample: [[/usr/bin/qemu-img, info, -U, --output=json, -f, qcow2, /var/lib/vms/web/root.qcow2]]
elapsed_s:
  description: Seconds that the module took.
  returned: always
  type: float
  sample: 0.012
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.vmops.lifecycle.plugins.module_utils._core.converge import report
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_img.report import Images
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_img.request import declared_request

FORMATS = ["raw", "qcow2", "vmdk", "vdi", "vhdx", "vpc"]


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "list", "elements": "path", "required": True},
            "format": {"type": "str", "choices": FORMATS},
            "backing_chain": {"type": "bool", "default": True},
            "check": {"type": "bool", "default": False},
            "map": {"type": "bool", "default": False},
            "measure": {"type": "str", "choices": ["raw", "qcow2"]},
            "measure_options": {"type": "dict", "default": {}},
            "timeout": {"type": "int", "default": 600},
        },
        supports_check_mode=True,
    )
    report(module, lambda deadline: Images(declared_request(module.params), deadline))


if __name__ == "__main__":
    main()
