#!/usr/bin/python

# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: ovf_import_tasks_info
short_description: Tell which imports run on a vCenter or ESXi host
version_added: 0.2.0
author:
  - vmops.lifecycle contributors (@vmops)
description:
  - Tells the imports of OVF and OVA packages that the server is at work on, whichever client began them, and how far
    they are.
  - Changes nothing. To end those that nobody needs any more see M(vmops.lifecycle.ovf_import_cleanup).
extends_documentation_fragment:
  - vmops.lifecycle.vsphere_connection
options:
  timeout:
    description: Seconds within which the server has to answer.
    type: int
    default: 60
notes:
  - It logs out, whatever happens, by a second login if need be. Only where it is killed, or the server can't be reached
    for more than some seconds, its login stays until the server ends it, which it does when the login has been idle for
    long.
  - The server tells a user of those tasks only whose resource pools the user may see.
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
    description: The module runs where Python runs, which can be the control node.
seealso:
  - module: vmops.lifecycle.ovf_import_cleanup
  - module: vmops.lifecycle.ovf_import
"""

EXAMPLES = r"""
- name: See what is being imported
  vmops.lifecycle.ovf_import_tasks_info:
    hostname: vcenter.example.com
    username: deployer@vsphere.local
    password: "{{ vcenter_password }}"
  register: now

- name: Wait with the maintenance until nothing is
  vmops.lifecycle.ovf_import_tasks_info:
    hostname: vcenter.example.com
    username: deployer@vsphere.local
    password: "{{ vcenter_password }}"
  register: now
  until: not now.imports
  retries: 60
  delay: 60
"""

RETURN = r"""
imports:
  description: The imports that are queued or run, the oldest first.
  returned: success
  type: list
  elements: dict
  contains:
    task:
      description: The key of the server's task.
      type: str
    state:
      description: V(queued) or V(running).
      type: str
    entity:
      description:
        - What the server tells the task to be of, with moref, name and kind. That is the resource pool until the
          machine is made. After that a vCenter names the machine, an older server or a host still the pool.
      type: dict
    machine:
      description:
        - The virtual machine that is being made, with moref and name. Null before it is there, and where the machines
          of several imports into one resource pool can't be told from each other.
      type: dict
    owner:
      description:
        - The process that imports, with host, user, pid and started. Null where it isn't
          M(vmops.lifecycle.ovf_import) that does.
      type: dict
    user:
      description: The server's user who began it.
      type: str
    queued_at:
      description: Since when, by the server's clock.
      type: str
    age_s:
      description: How long that is, in seconds.
      type: float
    percentage:
      description: How far it is, as its client tells the server. Some clients never tell. Null before the first time.
      type: int
    cancelable:
      description: Whether the server lets it be cancelled.
      type: bool
  sample:
    - age_s: 13.9
      cancelable: true
      entity:
        kind: ResourcePool
        moref: resgroup-27
        name: Resources
      machine:
        moref: vm-62
        name: web1
      owner:
        host: ci1
        pid: 31464
        started: '2026-11-22T02:56:45Z'
        user: deployer
      percentage: 42
      queued_at: '2026-11-22T02:56:45.563219+00:00'
      state: running
      task: task-import-1
      user: administrator@vsphere.local
elapsed_s:
  description: Seconds that the task took.
  returned: always
  type: float
  sample: 0.2
error:
  description: What went wrong, as data. Its C(kind) tells what can be done about it.
  returned: failure
  type: dict
  sample:
    kind: remote_failed
    operation: logging in as deployer
    fault: InvalidLogin
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.vmops.lifecycle.plugins.module_utils._core.converge import report
from ansible_collections.vmops.lifecycle.plugins.module_utils._vsphere.declare import CONNECTION_SPEC
from ansible_collections.vmops.lifecycle.plugins.module_utils._vsphere.imports import ImportTasks


def main() -> None:
    module = AnsibleModule(
        argument_spec={**CONNECTION_SPEC, "timeout": {"type": "int", "default": 60}},
        supports_check_mode=True,
    )
    report(module, lambda deadline: ImportTasks(module.params, deadline))


if __name__ == "__main__":
    main()
