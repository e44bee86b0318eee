#!/usr/bin/python

# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: nocloud_seed
short_description: Declare a cloud-init NoCloud seed image
version_added: 0.1.0
author:
  - vmops.lifecycle contributors (@vmops)
description:
  - Writes a small disk image from which cloud-init in a virtual machine takes its first configuration, and does
    nothing when the image holds that already.
  - The image is an ISO 9660 file system labelled C(cidata), with Rock Ridge and Joliet names. It is written by the
    module itself, so the managed host needs no program for it. The same declaration always makes the same bytes.
  - The file appears only whole. A task that is killed leaves the old image or the new one.
  - A running virtual machine goes on with the image that was there at its start, also when its guest reboots. The
    new one is read once it was shut down and started anew.
extends_documentation_fragment:
  - ansible.builtin.files
options:
  path:
    description:
      - The image file. A symbolic link is followed. New files may be read by their owner alone, unless O(mode) says
        otherwise.
    type: path
    required: true
  state:
    description: Whether the image shall be there.
    type: str
    choices: [present, absent]
    default: present
  user_data:
    description:
      - The user data. A dictionary is written as C(#cloud-config), a text as it is.
      - Without any an empty C(#cloud-config) is written, since cloud-init wants the file.
    type: raw
  meta_data:
    description:
      - The meta data, a dictionary or a text, such as C(local-hostname).
      - A dictionary without C(instance-id) gets one made from the seed's content. cloud-init does its work once for
        each, so a changed seed is carried out at the first boot that reads it. Give one of your own where it shall
        not be.
    type: raw
  network_config:
    description:
      - The network configuration in cloud-init's version 1 or 2, a dictionary or a text. By default the file is left
        out.
    type: raw
  vendor_data:
    description:
      - The vendor data. A dictionary is written as C(#cloud-config), a text as it is. By default the file is left
        out.
    type: raw
  force:
    description:
      - Whether a file that is no seed is replaced or removed all the same. By default only an empty file, or an
        ISO 9660 image labelled C(cidata), whoever made it, is touched. Anything else is refused.
    type: bool
    default: false
  timeout:
    description: Seconds to wait for another task that works on the same image.
    type: int
    default: 60
notes:
  - O(unsafe_writes) has no effect. The image always takes its place in one step.
  - Results and diffs show digests of the files, never what is in them. Ansible itself still logs a task's options, so
    give a task with passwords or keys C(no_log=true).
attributes:
  check_mode:
    support: full
    description: Compares only.
  diff_mode:
    support: full
    description: Shows digests.
  platform:
    support: full
    platforms: posix
    description: Wherever Python runs.
seealso:
  - module: vmops.lifecycle.qemu_guest_start
  - name: cloud-init's NoCloud data source
    description: What the files mean.
    link: https://cloudinit.readthedocs.io/en/latest/reference/datasources/nocloud.html
"""

EXAMPLES = r"""
- name: A machine with a user who logs in by a key
  vmops.lifecycle.nocloud_seed:
    path: /var/lib/vmops/web1/seed.iso
    meta_data:
      local-hostname: web1
    user_data:
      users:
        - name: admin
          sudo: ALL=(ALL) NOPASSWD:ALL
          ssh_authorized_keys:
            - "{{ lookup('ansible.builtin.file', '~/.ssh/id_ed25519.pub') }}"
    network_config:
      version: 2
      ethernets:
        all:
          match:
            name: en*
          dhcp4: true

- name: User data from a file, as they are
  vmops.lifecycle.nocloud_seed:
    path: /var/lib/vmops/db1/seed.iso
    user_data: "{{ lookup('ansible.builtin.file', 'db1-user-data.yml') }}"
    meta_data:
      instance-id: db1
      local-hostname: db1

- name: No seed any more
  vmops.lifecycle.nocloud_seed:
    path: /var/lib/vmops/web1/seed.iso
    state: absent
"""

RETURN = r"""
seed:
  description: The image as it is now.
  returned: success
  type: dict
  contains:
    path:
      description: Its path, symbolic links followed.
      type: str
      returned: success
      sample: /var/lib/vmops/web1/seed.iso
    exists:
      description: Whether it is there.
      type: bool
      returned: success
      sample: true
    size:
      description: Its size in bytes.
      type: int
      returned: success
      sample: 57344
    label:
      description: The file system's label.
      type: str
      returned: success
      sample: cidata
    files:
      description: The declared files and the SHA-256 of each.
      type: dict
      returned: success
      sample:
        meta-data: 6a2da20943931e9834fc12cfe5bb47bbd9ae43489a30726962b576f4e3993e50
        user-data: 7b5b3e9a6b4b4b34d43e7ee2d8d6c7c0a6d7a6f8d5a7c6e5b4a3928170605040
elapsed_s:
  description: Seconds that the task took.
  returned: always
  type: float
  sample: 0.004
error:
  description: What went wrong, as data. Its C(kind) tells what can be done about it.
  returned: failure
  type: dict
  sample:
    kind: bad_input
    option: path
    expected: Create it first
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.vmops.lifecycle.plugins.module_utils._core.attributes import FileAttributes
from ansible_collections.vmops.lifecycle.plugins.module_utils._core.converge import run
from ansible_collections.vmops.lifecycle.plugins.module_utils._nocloud_seed.seed import Seed


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "user_data": {"type": "raw"},
            "meta_data": {"type": "raw"},
            "network_config": {"type": "raw"},
            "vendor_data": {"type": "raw"},
            "force": {"type": "bool", "default": False},
            "timeout": {"type": "int", "default": 60},
        },
        add_file_common_args=True,
        supports_check_mode=True,
    )
    run(module, lambda deadline: Seed(module.params, deadline), FileAttributes(module))


if __name__ == "__main__":
    main()
