#!/usr/bin/python
# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: ovf_import
short_description: Imports an OVF or OVA package into vSphere, and ends its lease on every path
version_added: 0.2.0
description:
  - Has one virtual machine of an OVF or OVA package be there, powered on, a template, or not be there at all.
  - An import holds a lease at the server. This module ends it however the import ends, also where the module itself is
    killed. For that a small process of its own, the guard, logs in, begins the lease, completes or aborts it, and logs
    out.
  - All that can speak against an import is looked at before its lease begins, and told at once.
  - What is sent is compared with the package's manifest, and with what the server has received, before the lease is
    completed. With O(verify=ignore) neither is done, and no digests are taken.
  - The machine bears a mark of the package and of the choices that shaped it. A second run finds that and changes
    nothing. A machine that an import left unfinished is known by its mark as well, and removed by the next run. A clone
    bears the mark of the machine that it was made of, and counts as none of this module's.
author:
  - vmops.lifecycle contributors (@vmops)
extends_documentation_fragment:
  - vmops.lifecycle.vsphere_connection
  - vmops.lifecycle.ovf_source
options:
  name:
    description:
      - The virtual machine's name, of 80 characters at most, with O(replace) of 70, without V(/), V(\\) and V(%).
      - The machine is looked for by this name in O(folder). One that was moved to another folder is not found.
    type: str
    required: true
  source:
    description:
      - The package, an .ovf or an .ova file, as a path on the host where the module runs or as an http or https URL.
        It has to describe one machine, no vApp of several.
      - Needed unless O(state=absent).
    type: str
    required: false
  state:
    description:
      - V(present) has the machine be there, and leaves its power alone.
      - V(poweredon) has it be there and run.
      - V(template) has it be there as a template. Only a vCenter has templates.
      - V(absent) powers it off, hard, and removes it with its disks, if this module imported it or O(force) is set. Of
        the options of the package and the place only O(datacenter) and O(folder) matter then.
    type: str
    choices: [present, poweredon, template, absent]
    default: present
  datacenter:
    description:
      - The datacenter's name or path. Needed where there are several, unless something in it is named by its whole
        path, such as V(/DC0/vm/prod) in O(folder).
      - Names and paths are those of the inventory, as vCenter's client shows it. Ids, such as V(group-v3), are none.
    type: str
  cluster:
    description:
      - The cluster's name or path. A host that stands alone is named the same way.
      - A cluster without DRS chooses no host by itself. Name one of its hosts in O(host) as well.
      - What is named of cluster, pool and host has to belong together.
    type: str
  resource_pool:
    description:
      - The resource pool's name or path. By default the root pool of the cluster or of the host. It can't be a vApp.
    type: str
  host:
    description:
      - The host that the machine is registered at, by name or path. Needed in a cluster without DRS. One with DRS
        chooses it by itself.
    type: str
  folder:
    description:
      - The folder's name or path, such as V(/DC0/vm/prod). By default the datacenter's own one for machines. It has to
        be there.
    type: str
  datastore:
    description:
      - The datastore's name or path. Needed where the host or the cluster can use several. It gets the machine and all
        of its disks.
    type: str
  datastore_cluster:
    description:
      - Instead of O(datastore), a datastore cluster of the datacenter. The member with the most free space is taken,
        of those that the host or the cluster can use and that aren't in maintenance. Storage DRS isn't asked.
    type: str
  networks:
    description:
      - For each of the package's networks the name or path of the server's network or distributed port group. One that
        isn't named here goes to the server's network of the same name; where there is none, that is refused.
      - Of several with the same path, as NSX makes them, the one is meant whose id is given, such as
        V(dvportgroup-34). The refusal of the path names the ids.
    type: dict
  disk_provisioning:
    description:
      - How the disks are kept. By default as the server likes.
      - With V(thick), V(eagerZeroedThick), V(flat), V(monolithicFlat) and V(twoGbMaxExtentFlat) the disks' whole
        capacity has to be free on the datastore, unless that decides by itself how much of a disk it takes, as vSAN,
        vVols and NFS do. With the others, and by default, room for the package's files has to be free. The server may
        need more, and refuses then by itself.
    type: str
    choices:
      - thin
      - thick
      - eagerZeroedThick
      - monolithicSparse
      - monolithicFlat
      - twoGbMaxExtentSparse
      - twoGbMaxExtentFlat
      - sparse
      - flat
      - seSparse
  properties:
    description:
      - Values of the package's properties, by their keys, such as V(appliance.dns.1), which are class, id and instance
        of a property. M(vmops.lifecycle.ovf_info) tells them. Properties that aren't meant for whoever deploys
        (C(ovf:userConfigurable="false")) can be set as well.
      - One that needs a value and has no default keeps a vCenter from powering the machine on. With O(state=poweredon)
        such a package isn't imported without; otherwise, and by an ESXi host, it is, with a warning.
      - Ansible shows these values. Give passwords in O(secret_properties).
    type: dict
  secret_properties:
    description:
      - More of them, such as passwords. Ansible shows these values nowhere. The server keeps them in the machine's
        properties; what O(inject_ovf_env) does to them is said there.
      - No mark of the machine holds them, nor the values of properties that the package itself calls passwords. So
        another value alone does not make it another machine.
    type: dict
  deployment_option:
    description: One of the package's configurations, by its id. By default the package's own default.
    type: str
  ip_allocation_policy:
    description:
      - How the machine gets its addresses, if the package lets that be chosen. V(dhcpPolicy) leaves it to DHCP,
        V(fixedPolicy) to the properties that have addresses. With V(transientPolicy) and V(fixedAllocatedPolicy) a
        vCenter gives it some of the network's IP pool, while it runs or for good.
    type: str
    choices: [dhcpPolicy, transientPolicy, fixedPolicy, fixedAllocatedPolicy]
  ip_protocol:
    description: Which addresses it gets by this policy.
    type: str
    choices: [IPv4, IPv6]
  accept_eulas:
    description: Whether the package's licences are accepted. A package that has some isn't imported without.
    type: bool
    default: false
  inject_ovf_env:
    description:
      - Whether the OVF environment is written into the machine's own configuration as C(guestinfo.ovfEnv). It has all
        of the package's properties, each with the value from here or else with the default of the deployment option.
      - For ESXi hosts that are asked without a vCenter. They ignore properties when they power a machine on, so its
        guest gets none otherwise; a warning says so. A vCenter makes the environment itself at each power-on.
      - The values stand there in the clear, also those of O(secret_properties) and the package's own passwords, for
        all who may read the machine's configuration. They stay until somebody removes them.
      - The guest has to read C(guestinfo.ovfEnv) by VMware's tools. One that only looks on a CD finds none.
    type: bool
    default: false
  annotation:
    description: The machine's notes. By default the package's.
    type: str
  wait_for_ip:
    description:
      - With O(state=poweredon), whether to wait until the machine tells an address, as long as O(timeout) lasts. That
        needs VMware's tools in it.
      - An address that counts on its own link only (169.254.0.0/16, fe80::/10), or in the machine itself, is none.
    type: bool
    default: false
  replace:
    description:
      - Whether a machine that was imported from another package, or with other choices, is replaced. Without it that is
        refused, and the refusal names what differs, as far as the machine's mark tells.
      - The new one is imported beside it, as C(NAME.vmops-new), so both need room for a while. When it is complete, the
        old one is renamed C(NAME.vmops-old), the new one gets the name, and last of all the old one is removed.
      - Nothing of the old machine is kept, neither its disks and snapshots nor its addresses, tags and permissions.
      - One that is powered on or suspended is only replaced with O(force).
    type: bool
    default: false
  force:
    description:
      - Whether the task takes machines away that it would refuse to touch otherwise. It means all of the following at
        once, so give it to the run that needs it, not to each.
      - With O(replace), a machine that is powered on is powered off, hard, once the new one is complete, and one that
        is suspended loses its memory.
      - With O(replace), a machine of this name is replaced that this module did not import, or that is a clone of one
        that it did.
      - With O(state=absent), such a machine is removed. One that this module imported is removed without O(force), also
        where it runs.
      - A machine of which neither its own state nor the server's tasks tell how its import ended is removed, and
        imported anew if it is wanted. It may be whole, so look at it first. The refusal says how to keep it.
      - A machine called C(NAME.vmops-old) is removed also where it bears no mark, as one that was replaced by force and
        is left of a run that was killed.
      - It does not help against an import of the same machine that is under way, nor against anything that is found
        wrong beforehand.
    type: bool
    default: false
  upload:
    description:
      - How the package's files get to the server's hosts.
      - With V(push) they pass this host, which hashes them on the way and sends them.
      - With V(pull) the hosts fetch them themselves, from the http or https URL in O(source), so that nothing passes
        this host but the descriptor and the files' beginnings. That needs vSphere 6.7 or newer, and the privilege
        VApp.PullFromUrls; each host must reach the URL by itself, without a proxy.
      - With V(auto) hosts fetch them where that can work and what they fetch can be verified as O(verify) wants it;
        otherwise the files are sent. So hosts fetch where V(pull) isn't refused, the URL has no query and no proxy is
        used for it, the manifest has the SHA-1 or SHA-256 of each file (or O(verify=ignore)), and the server, which has
        to be 7.0.2 or newer, says that its hosts reach each of them.
      - V(pull) is refused for a local package, for files that are packed, in chunks or sparse, and for a URL with
        credentials or headers, as they are told to nobody but the package's own server.
      - Hosts know no authorities. Who the server of an https URL is, the module finds out by O(url_validate_certs) and
        O(url_ca_path), and pins the hosts to that server's certificate.
      - What hosts fetch isn't hashed here. The digests that the server tells of it are compared with the manifest's
        before the lease is completed. A file that isn't in a manifest, or only by its SHA-512, which no server tells,
        is not verified. There is a warning then, and with O(verify=required) or O(verify=signed) it is refused.
      - O(parallel_disks), O(retries) and O(stall_timeout) don't hold for what hosts fetch. O(timeout) does.
    type: str
    choices: [push, pull, auto]
    default: push
  parallel_disks:
    description:
      - How many files are sent at once. Disks that build on each other (C(ovf:parentRef)) are sent one after the other.
    type: int
    default: 4
  retries:
    description:
      - How often a file is sent again, from its beginning, whose transfer broke or was refused by a status that may
        pass (408, 429, 5xx). V(0) is a single attempt.
      - The pauses before the attempts grow from half a second. Where a server refuses at once, the default is over in
        some seconds; for a host that may be away for longer, such as while it restarts, give more.
      - Of a package at a URL it is also how often in a row a part is asked for again that could not be read. What had
        come by then is kept, and progress begins the count anew.
    type: int
    default: 3
  stall_timeout:
    description:
      - Seconds for which the server of a URL, or the host that takes a file, may be silent until the transfer is taken
        for broken. Then it is tried again, as O(retries) allows.
      - It does not hold for calls of the server's API. Those have a minute each, and no longer than O(timeout) lasts.
    type: int
    default: 60
  timeout:
    description:
      - Seconds that the whole task may take, with the wait for an address. Ending a lease and a login comes on top.
        That takes moments as a rule, and 90 seconds at most, even where the server answers nothing any more.
    type: int
    default: 3600
notes:
  - In check mode the server is asked, and nothing on it is changed.
  - Where the module and its guard are killed together, as with a container, nobody is left to end the lease. The server
    does it after its own time-out, some minutes, and the next run of the task removes what is left. The login stays
    until the server ends idle sessions.
  - Where only the guard is killed while it logs in, the module finds that login in the server's list of sessions and
    ends it. It does the same where neither of them can log out. This needs the privilege Sessions.TerminateSession. A
    login that can't be ended at all stays as above; a warning says so, and does not fail the task.
  - The mark of a whole machine is written after its lease was completed, which needs the privilege
    VirtualMachine.Config.AdvancedConfig. Where that fails the task succeeds with a warning, and the next run writes it.
    It can if the server still knows that the import succeeded, or if the machine runs, is suspended or has
    a snapshot.
attributes:
  check_mode:
    support: full
    description: Has the server make the import specification, and tells what would be imported.
  diff_mode:
    support: full
    description: Shows the machine's state.
  platform:
    support: full
    platforms: posix
    description: The module runs where Python runs, which can be the control node.
seealso:
  - module: vmops.lifecycle.ovf_info
"""

EXAMPLES = r"""
- name: An appliance, running
  vmops.lifecycle.ovf_import:
    hostname: vcenter.example.com
    username: deployer@vsphere.local
    password: "{{ vcenter_password }}"
    source: /srv/packages/appliance-2.1.ova
    name: appliance1
    cluster: production
    folder: appliances
    datastore: ssd1
    networks:
      VM Network: dmz
    properties:
      appliance.hostname: appliance1.example.com
    secret_properties:
      appliance.password: "{{ appliance_password }}"
    accept_eulas: true
    state: poweredon
    wait_for_ip: true

- name: A template from a package on a web server
  vmops.lifecycle.ovf_import:
    source: https://packages.example.com/base/base.ovf
    name: base-template
    datastore: ssd1
    verify: required
    state: template
  environment:
    VMWARE_HOST: vcenter.example.com
    VMWARE_USER: deployer@vsphere.local
    VMWARE_PASSWORD: "{{ vcenter_password }}"

- name: The machine is not needed any more
  vmops.lifecycle.ovf_import:
    hostname: vcenter.example.com
    username: deployer@vsphere.local
    password: "{{ vcenter_password }}"
    name: appliance1
    state: absent
"""

RETURN = r"""
vm:
  description: The machine as it is now; none if there is none.
  returned: success
  type: dict
  contains:
    moref:
      description: Its id at the server.
      type: str
      returned: success
      sample: vm-66
    name:
      description: Its name.
      type: str
      returned: success
      sample: appliance1
    path:
      description: Its place in the inventory.
      type: str
      returned: success
      sample: /DC0/vm/appliances/appliance1
    power_state:
      description: V(poweredOn), V(poweredOff) or V(suspended).
      type: str
      returned: success
      sample: poweredOn
    template:
      description: Whether it is a template.
      type: bool
      returned: success
      sample: false
    ip_addresses:
      description: The addresses that its tools tell.
      type: list
      elements: str
      returned: success
      sample: [192.0.2.17]
    digest:
      description: The mark of the package and of the choices that shaped it; none of a machine that has no such mark.
      type: str
      returned: success
      sample: 9f1c6de6a1b84b8b8ff4f41cb3a8ac0df4c53b6b3e2b2a4e3cc97a6a9d3c0f15
lease:
  description: The lease of the import.
  returned: when one was to begin
  type: dict
  contains:
    id:
      description: Its id at the server; none if the server's answer never came.
      type: str
      returned: success
      sample: session[5221]52d0
    outcome:
      description: How it ended, V(completed), V(aborted), V(already_ended) or V(unknown).
      type: str
      returned: success
      sample: completed
    abort_fault:
      description: Why aborting it failed, if it did.
      type: str
      returned: success
      sample: null
    log:
      description: The file in which the guard tells what it did; none where all went well, for it is removed then.
      type: str
      returned: success
      sample: null
files:
  description:
    - The files that were sent. Their digests are SHA-256, those that the manifest has, and those that the server can
      tell; none with O(verify=ignore), which takes none.
    - Of files that hosts fetched only the name, the bytes and the digests that the server tells are known.
  returned: when a lease began
  type: list
  elements: dict
  sample:
    - name: disk1.vmdk
      bytes: 67584
      seconds: 0.021
      mb_per_s: 3.2
      sha256: 4a4e0a4c1be7e7ba7cd4ae3a6a9f4e7bb0a93b1b6d1a3d6f5b1d9f0a3a2b1c0d
      attempts:
        - number: 1
          seconds: 0.021
          error: null
upload:
  description: How they came there, V(push) or V(pull).
  returned: when a lease began
  type: str
  sample: push
would_import:
  description: What would be imported, and where, or what was to be where that failed.
  returned: when something is to be imported, in check mode or before it failed
  type: dict
  contains:
    files:
      description: The files that the server wants, each with its C(name) and its C(size) in bytes.
      type: list
      elements: dict
      returned: success
      sample:
        - name: disk1.vmdk
          size: 67584
    disks:
      description: The package's disks, each with its C(id) and its C(capacity) in bytes.
      type: list
      elements: dict
      returned: success
      sample:
        - id: disk1
          capacity: 8388608
    networks:
      description: For each of the package's networks the server's.
      type: dict
      returned: success
      sample:
        VM Network: dmz
    folder:
      description: The folder's name.
      type: str
      returned: success
      sample: appliances
    pool:
      description: The resource pool's name.
      type: str
      returned: success
      sample: Resources
    host:
      description: The name of the host that was asked for; none if the cluster chooses.
      type: str
      returned: success
      sample: null
    datastore:
      description: The datastore's name.
      type: str
      returned: success
      sample: ssd1
    eulas:
      description: The package's licences, each with its C(text) and the C(section) that it is of.
      type: list
      elements: dict
      returned: success
      sample: []
imported:
  description: The same of what was imported.
  returned: when something was imported
  type: dict
elapsed_s:
  description: Seconds that the task took.
  returned: always
  type: float
  sample: 4.2
error:
  description:
    - What went wrong, as data. Its C(kind) tells what can be done about it.
    - Where something speaks against the import beforehand, C(problems) has all of it, each with its option, file or key
      (C(where)), the C(problem), and what to do C(instead).
    - Where a machine is there that was imported otherwise, C(differs) names what is another, as far as the machine's
      mark tells, such as C(package), C(annotation) or C(properties.net.hostname.1).
  returned: failure
  type: dict
  sample:
    kind: remote_failed
    operation: logging in as deployer
    fault: InvalidLogin
secondary_errors:
  description: What went wrong besides, while cleaning up.
  returned: when something did
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.vmops.lifecycle.plugins.module_utils._core.converge import run
from ansible_collections.vmops.lifecycle.plugins.module_utils._core.wait import Deadline
from ansible_collections.vmops.lifecycle.plugins.module_utils._ovf.declare import SOURCE_SPEC, declared_access, secrets
from ansible_collections.vmops.lifecycle.plugins.module_utils._vsphere.declare import CONNECTION_SPEC, endpoint_from
from ansible_collections.vmops.lifecycle.plugins.module_utils._vsphere.importer import OvfImport
from ansible_collections.vmops.lifecycle.plugins.module_utils._vsphere.wish import PROVISIONING, UPLOAD, wish_from


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **CONNECTION_SPEC,
            **SOURCE_SPEC,
            "source": {"type": "str"},
            "name": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "poweredon", "template", "absent"], "default": "present"},
            "datacenter": {"type": "str"},
            "cluster": {"type": "str"},
            "resource_pool": {"type": "str"},
            "host": {"type": "str"},
            "folder": {"type": "str"},
            "datastore": {"type": "str"},
            "datastore_cluster": {"type": "str"},
            "networks": {"type": "dict"},
            "disk_provisioning": {"type": "str", "choices": list(PROVISIONING)},
            "properties": {"type": "dict"},
            "secret_properties": {"type": "dict", "no_log": True},
            "deployment_option": {"type": "str"},
            "ip_allocation_policy": {
                "type": "str",
                "choices": ["dhcpPolicy", "transientPolicy", "fixedPolicy", "fixedAllocatedPolicy"],
            },
            "ip_protocol": {"type": "str", "choices": ["IPv4", "IPv6"]},
            "accept_eulas": {"type": "bool", "default": False},
            "inject_ovf_env": {"type": "bool", "default": False},
            "annotation": {"type": "str"},
            "wait_for_ip": {"type": "bool", "default": False},
            "replace": {"type": "bool", "default": False},
            "force": {"type": "bool", "default": False},
            "upload": {"type": "str", "choices": list(UPLOAD), "default": "push"},
            "parallel_disks": {"type": "int", "default": 4},
            "retries": {"type": "int", "default": 3},
            "timeout": {"type": "int", "default": 3600},
        },
        mutually_exclusive=[["datastore", "datastore_cluster"]],
        supports_check_mode=True,
    )

    def build(deadline: Deadline) -> OvfImport:
        params = module.params
        return OvfImport(wish_from(params), endpoint_from(params), declared_access(params), deadline)

    if module.params["source"]:
        module.no_log_values.update(secrets(module.params))
    run(module, build)


if __name__ == "__main__":
    main()
