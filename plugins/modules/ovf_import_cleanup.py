#!/usr/bin/python

# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: ovf_import_cleanup
short_description: Cancel imports that hang on a vCenter or ESXi host, and remove what they leave
version_added: 0.2.0
author:
  - vmops.lifecycle contributors (@vmops)
description:
  - Cancels the server's tasks that import OVF and OVA packages, if they are older than O(older_than) and stand still,
    whichever client began them. An import whose client has died would otherwise keep its machine locked until the
    server gives it up.
  - Waits until each has really ended.
  - A machine that M(vmops.lifecycle.ovf_import) was making is removed as well, where the server leaves it behind. That
    is so only if the machine bears the mark of an import under way, and the server's tasks tell that this import has
    failed. A machine without the mark is never removed.
  - What can't be cancelled or removed fails the task, after all else was done.
extends_documentation_fragment:
  - vmops.lifecycle.vsphere_connection
options:
  older_than:
    description:
      - Only imports that began at least so many seconds ago are cancelled, by the server's clock.
      - Choose more than any good import takes. Some clients, govc among them, never tell the server a percentage, so
        that theirs seem to stand still.
    type: int
    required: true
  watch:
    description:
      - An import stands still if its percentage is the same after so many seconds. The task takes as long, if there are
        imports older than O(older_than).
      - In that time a good import has to get on by one percent, which takes 50 seconds of 250 GB at 50 MB/s. Clients
        tell their percentage every few seconds, M(vmops.lifecycle.ovf_import) every 10, so fewer are too few.
    type: int
    default: 60
  force:
    description: Whether imports are cancelled that don't stand still, too. None is watched then.
    type: bool
    default: false
  name:
    description: Only the import of the virtual machine of this name.
    type: str
  entity:
    description:
      - Only imports whose task the server tells to be of this entity, by name or by its id, such as V(resgroup-8).
      - That is the resource pool until the machine is made. After that a vCenter names the machine, an older server or
        a host still the pool.
    type: str
  initiator:
    description:
      - Only imports that this user of the server began, as V(DOMAIN\\name) or V(name@domain). Without a domain, the
        users of this name of all domains.
    type: str
  timeout:
    description: Seconds that the whole task may take.
    type: int
    default: 300
notes:
  - It logs out, whatever happens, by a second login if need be. Only where it is killed, or the server can't be reached
    for more than some seconds, its login stays until the server ends it, which it does when the login has been idle for
    long.
  - To cancel what another user began, one needs the privilege C(Global.CancelTask).
  - A machine that M(vmops.lifecycle.ovf_import) left unfinished, and whose task the server has forgotten, is left
    alone. A vCenter keeps their history for weeks; a host forgets them ten minutes after their end.
attributes:
  check_mode:
    support: full
    description: Watches imports as well, and tells which would be cancelled.
  diff_mode:
    support: full
    description: Shows the imports that are older than O(older_than), and the machines that are to be removed.
  platform:
    support: full
    platforms: posix
    description: The module runs where Python runs, which can be the control node.
seealso:
  - module: vmops.lifecycle.ovf_import_tasks_info
  - module: vmops.lifecycle.ovf_import
"""

EXAMPLES = r"""
- name: Nothing hangs for more than an hour
  vmops.lifecycle.ovf_import_cleanup:
    hostname: vcenter.example.com
    username: administrator@vsphere.local
    password: "{{ vcenter_password }}"
    older_than: 3600

- name: End an import that was begun by mistake, whatever it is doing
  vmops.lifecycle.ovf_import_cleanup:
    hostname: vcenter.example.com
    username: deployer@vsphere.local
    password: "{{ vcenter_password }}"
    older_than: 0
    name: appliance1
    force: true
"""

RETURN = r"""
cancelled:
  description:
    - The imports that were cancelled, as they were before. Each is told as by
      RV(vmops.lifecycle.ovf_import_tasks_info#module:imports). In check mode those that would be.
  returned: when the server could be asked
  type: list
  elements: dict
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
      percentage: 99
      queued_at: '2026-11-22T02:56:45.563219+00:00'
      state: running
      task: task-import-1
      user: administrator@vsphere.local
moving:
  description: The imports that are old enough, and were left alone because they don't stand still. Told the same way.
  returned: when the server could be asked
  type: list
  elements: dict
  sample: []
removed:
  description:
    - The machines that were removed. In check mode those that would be, without those that cancelled imports may leave.
  returned: when the server could be asked
  type: list
  elements: dict
  contains:
    moref:
      description: Its id at the server.
      type: str
    name:
      description: Its name.
      type: str
  sample:
    - moref: vm-62
      name: web1
not_ended:
  description: The imports that could not be cancelled, and machines that could not be removed.
  returned: when the server could be asked
  type: list
  elements: dict
  contains:
    id:
      description: The key of the task, or the id of the machine.
      type: str
    what:
      description: What it is, in words.
      type: str
    reason:
      description: Why.
      type: str
    fault:
      description: The name of the server's fault, if it told one.
      type: str
  sample:
    - fault: NoPermission
      id: task-import-2
      reason: 'Permission to perform this operation was denied; privilegeId: Global.CancelTask (NoPermission)'
      what: The import of web1
elapsed_s:
  description: Seconds that the task took.
  returned: always
  type: float
  sample: 60.4
error:
  description: What went wrong, as data. Its C(kind) tells what can be done about it.
  returned: failure
  type: dict
  sample:
    ids:
      - task-import-2
    kind: not_cancelled
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.vmops.lifecycle.plugins.module_utils._core.converge import run
from ansible_collections.vmops.lifecycle.plugins.module_utils._vsphere.cleanup import build
from ansible_collections.vmops.lifecycle.plugins.module_utils._vsphere.declare import CONNECTION_SPEC


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **CONNECTION_SPEC,
            "older_than": {"type": "int", "required": True},
            "watch": {"type": "int", "default": 60},
            "force": {"type": "bool", "default": False},
            "name": {"type": "str"},
            "entity": {"type": "str"},
            "initiator": {"type": "str"},
            "timeout": {"type": "int", "default": 300},
        },
        supports_check_mode=True,
    )
    run(module, lambda deadline: build(module.params, deadline))


if __name__ == "__main__":
    main()
