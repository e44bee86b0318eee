#!/usr/bin/python

# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: qemu_guest_info
short_description: Tell what QEMU guests are doing
version_added: 0.1.0
author:
  - vmops.lifecycle contributors (@vmops)
description:
  - Identifies guests as M(vmops.lifecycle.qemu_guest_shutdown) does, asks their monitors, and changes nothing.
  - A guest that is absent, hung, can't be told from another, or belongs to a user whose files the task may not read,
    is an answer, not an error.
extends_documentation_fragment:
  - vmops.lifecycle.qemu_guest
options:
  timeout:
    description:
      - Seconds for the whole task. A monitor that doesn't answer within 2 seconds, or a fifth of this time if that
        is less, counts as hung or busy. A guest that M(vmops.lifecycle.qemu_guest_start) is just starting is waited for
        until its monitor listens, for half of this time, and with several guests for 10 seconds at most; then it is
        V(unproven).
    type: int
    default: 10
attributes:
  check_mode:
    support: full
    description: It never changes anything.
  diff_mode:
    support: none
    description: There is no difference to show.
  platform:
    support: full
    platforms: posix
    description: Without pidfd (that is, not on Linux) a pidfile is needed to prove a guest's life or end, and its name
      or UUID to use its monitor.
seealso:
  - module: vmops.lifecycle.qemu_guest_shutdown
  - module: vmops.lifecycle.qemu_guest_start
"""

EXAMPLES = r"""
- name: Look at one guest
  vmops.lifecycle.qemu_guest_info:
    pidfile: /run/vmops/web1/qemu.pid
    qmp_socket: /run/vmops/web1/qmp.sock
    agent_socket: /run/vmops/web1/agent.sock
  register: web1

- name: Go on only with a guest whose agent is there
  ansible.builtin.assert:
    that:
      - web1.guest.state == 'running'
      - web1.guest.agent_connected

- name: Find a guest by its name alone
  vmops.lifecycle.qemu_guest_info:
    name: web1
"""

RETURN = r"""
guests:
  description: One record for each guest, in the order given.
  returned: success
  type: list
  elements: dict
  contains:
    guest:
      description: The guest's name or whatever else it was given by.
      type: str
    state:
      description:
        - V(absent), V(stale) (dead, with files left), V(running), V(paused), V(prelaunch), V(suspended), V(migrating),
          V(migrated) (was sent or saved, and stands still since), V(shutdown) (off, with QEMU living on), V(broken)
          (panicked or stopped by an error), V(monitor_busy) (another client holds the monitor), V(monitor_hung),
          V(no_monitor) (only the process is known), V(identity_mismatch) (what was given names different processes) or
          V(unproven) (what it is can't be told, or what was given can't be a guest's).
      type: str
    problem:
      description:
        - What V(identity_mismatch) or V(unproven) rests on, and what to do; otherwise empty.
        - Of a guest that is V(absent) or V(stale), that a QEMU of its name lives elsewhere.
      type: str
    status:
      description: QEMU's own word for the state.
      type: str
    pid:
      description: The QEMU process, if it lives. With V(unproven), the one that seems to be the guest, if any does.
      type: int
    process_state:
      description: The kernel's letter for the process's state, such as V(S), or V(T) for one that is stopped.
      type: str
    name:
      description: The guest's name, as QEMU tells it.
      type: str
    uuid:
      description: The guest's UUID, as QEMU tells it.
      type: str
    machine:
      description: The type of machine.
      type: str
    version:
      description: QEMU's version.
      type: str
    agent_connected:
      description: Whether something in the guest has opened the agent's channel; null if that can't be told.
      type: bool
    block_devices:
      description: The disks and drives, each with device, file, format, read_only and io_status.
      type: list
      elements: dict
    block_jobs:
      description: The block jobs under way, each with name, kind, ready, offset_bytes and length_bytes.
      type: list
      elements: dict
    images:
      description: The image files that the process has opened for writing, as far as this user may see them.
      type: list
      elements: str
    leftovers:
      description: The files that a dead guest left.
      type: list
      elements: str
    definition:
      description:
        - The options that M(vmops.lifecycle.qemu_guest_start) started the guest with, in its normal form; null if it
          was started otherwise, if its pidfile isn't known, or if this user may not read the record beside it.
      type: dict
    definition_digest:
      description:
        - The digest of these. It equals RV(vmops.lifecycle.qemu_guest_start#module:guest.digest).
      type: str
  sample:
    - agent_connected: false
      block_devices:
        - device: ide0-hd0
          file: /var/lib/vms/web1.img
          format: raw
          io_status: ok
          read_only: false
      block_jobs: []
      definition: null
      definition_digest: null
      guest: web1
      images:
        - /var/lib/vms/web1.img
      leftovers: []
      machine: pc-i440fx-7.2-machine
      name: web1
      pid: 4024
      problem: ''
      process_state: S
      state: running
      status: running
      uuid: 00000000-0000-0000-0000-000000000000
      version: 7.2.22
guest:
  description: The same record, where the task is about one guest.
  returned: when O(guests) isn't given
  type: dict
elapsed_s:
  description: How long the task took, in seconds.
  returned: always
  type: float
  sample: 0.012
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.vmops.lifecycle.plugins.module_utils._core.converge import report
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_guest.look import look_from
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_guest.options import GUESTS, IDENTITY


def main() -> None:
    module = AnsibleModule(
        argument_spec={**IDENTITY, **GUESTS, "timeout": {"type": "int", "default": 10}},
        supports_check_mode=True,
    )
    report(module, lambda deadline: look_from(module.params, deadline))


if __name__ == "__main__":
    main()
