#!/usr/bin/python

# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: ovf_info
short_description: Tell what an OVF or OVA package is
version_added: 0.2.0
author:
  - vmops.lifecycle contributors (@vmops)
description:
  - Tells products, licences, networks, disks, properties, deployment options, hardware and files of a package, and
    what would keep it from being imported into vSphere. No server of VMware's is needed.
  - Of a package only the descriptor, the manifest and the headers of files are read, also at a URL, unless
    O(checksum) wants all of it read.
  - A package with problems is told all the same, with all of them in RV(ovf.problems). The task fails where there is
    no package, or one that isn't safe to read, such as an archive with links, or a descriptor that leads out of it.
extends_documentation_fragment:
  - vmops.lifecycle.ovf_source
options:
  checksum:
    description:
      - Whether to read all files and compare them with the manifest, if O(verify) lets that count.
    type: bool
    default: false
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
    platforms: posix
    description: Wherever Python runs.
notes:
  - OVF 1 and 2 are read (DMTF DSP0243). In an archive sparse files are read as what they unpack to. Files may be in
    chunks, or packed by gzip.
  - The result has the defaults of the package's properties, except of those that it marks as passwords.
seealso:
  - name: Open Virtualization Format
    description: The specification.
    link: https://www.dmtf.org/standards/ovf
"""

EXAMPLES = r"""
- name: What is this package?
  vmops.lifecycle.ovf_info:
    source: /srv/packages/web.ova
  register: package

- name: Which properties can be set?
  ansible.builtin.debug:
    msg: "{{ package.ovf.properties | selectattr('user_configurable') | map(attribute='key') }}"

- name: Is it whole, and as its maker left it?
  vmops.lifecycle.ovf_info:
    source: /srv/packages/web.ovf
    verify: required
    checksum: true
  register: package
  failed_when: package.ovf.problems | length > 0

- name: One on a server that wants a token
  vmops.lifecycle.ovf_info:
    source: https://packages.example.com/web/1.2/web.ova
    url_headers:
      Authorization: "Bearer {{ packages_token }}"
"""

RETURN = r"""
ovf:
  description: The package.
  type: dict
  returned: success
  contains:
    location:
      description: Where it is, a URL without credentials and query.
      type: str
      returned: success
      sample: /srv/packages/web.ova
    kind:
      description: V(ovf) for a descriptor with its files beside it, V(ova) for an archive.
      type: str
      returned: success
      sample: ova
    descriptor:
      description: The descriptor's file.
      type: dict
      returned: success
      contains:
        name:
          description: Its name.
          type: str
          returned: success
          sample: web.ovf
        size:
          description: Its bytes.
          type: int
          returned: success
          sample: 4632
        sha256:
          description: The SHA-256 of its content.
          type: str
          returned: success
          sample: 776a2c6a97654254919d045fb77a4f7180dddbb416fe7152bdf35af38fae996b
    is_vapp:
      description: Whether it describes a system of machines, not one machine.
      type: bool
      returned: success
      sample: false
    products:
      description: What its maker says that it holds.
      type: list
      elements: dict
      returned: success
      contains:
        class_id:
          description: A part of its properties' keys, as is C(instance).
          type: str
          returned: success
          sample: net
        instance:
          description: See C(class_id).
          type: str
          returned: success
          sample: "1"
        name:
          description: The product.
          type: str
          returned: success
          sample: Web server
        vendor:
          description: Who makes it.
          type: str
          returned: success
          sample: Example
        version:
          description: Its version.
          type: str
          returned: success
          sample: "1.2"
        full_version:
          description: Its version in full.
          type: str
          returned: success
          sample: 1.2.3
    eulas:
      description: The licences that whoever imports it has to accept.
      type: list
      elements: dict
      returned: success
      contains:
        section:
          description: The machine or system that it is of.
          type: str
          returned: success
          sample: web
        text:
          description: The licence.
          type: str
          returned: success
          sample: Be kind.
    networks:
      description: The networks that it wants.
      type: list
      elements: dict
      returned: success
      contains:
        name:
          description: The name that is mapped to a network of yours.
          type: str
          returned: success
          sample: VM Network
        description:
          description: What it is for.
          type: str
          returned: success
          sample: A network
    disks:
      description: The virtual disks.
      type: list
      elements: dict
      returned: success
      contains:
        id:
          description: Its name in the descriptor.
          type: str
          returned: success
          sample: disk1
        file:
          description: The file with its content, null for an empty disk.
          type: str
          returned: success
          sample: disk1.vmdk
        capacity:
          description: Bytes that the machine sees, null where a property says it.
          type: int
          returned: success
          sample: 8388608
        capacity_property:
          description: That property.
          type: str
          returned: success
          sample: null
        populated_size:
          description: Bytes that are used, if the descriptor tells.
          type: int
          returned: success
          sample: null
        format:
          description: The URI of its format.
          type: str
          returned: success
          sample: http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized
        parent:
          description: The disk that it is a difference to, if it is one.
          type: str
          returned: success
          sample: null
    properties:
      description: What can be set for the machines' guests.
      type: list
      elements: dict
      returned: success
      contains:
        key:
          description: The name by which it is set.
          type: str
          returned: success
          sample: net.hostname.1
        type:
          description: The type of its value.
          type: str
          returned: success
          sample: string
        qualifiers:
          description: What its value may be.
          type: str
          returned: success
          sample: MinLen(1) MaxLen(63)
        default:
          description: Its value unless another is set. That of a password is masked.
          type: str
          returned: success
          sample: web1
        option_defaults:
          description: Other defaults, by the deployment option.
          type: dict
          returned: success
          sample: {}
        user_configurable:
          description: Whether it is meant to be set.
          type: bool
          returned: success
          sample: true
        password:
          description: Whether it is a password.
          type: bool
          returned: success
          sample: false
        label:
          description: A name for people.
          type: str
          returned: success
          sample: Host name
        description:
          description: What it is.
          type: str
          returned: success
          sample: Its name
        category:
          description: What it belongs to.
          type: str
          returned: success
          sample: Network
    deployment_options:
      description: The configurations to choose from.
      type: list
      elements: dict
      returned: success
      contains:
        id:
          description: The name by which it is chosen.
          type: str
          returned: success
          sample: small
        label:
          description: A name for people.
          type: str
          returned: success
          sample: Small
        description:
          description: What it is.
          type: str
          returned: success
          sample: Two processors
        default:
          description: Whether it is used where none is chosen.
          type: bool
          returned: success
          sample: true
    machines:
      description: The virtual machines.
      type: list
      elements: dict
      returned: success
      contains:
        id:
          description: Its name in the descriptor.
          type: str
          returned: success
          sample: web
        name:
          description: Its name for people.
          type: str
          returned: success
          sample: web
        operating_system:
          description: The guest's system.
          type: str
          returned: success
          sample: Other Linux (64-bit)
        hardware_versions:
          description: Versions of vSphere's virtual hardware, or other products' types.
          type: list
          elements: str
          returned: success
          sample: [vmx-13]
        cpus:
          description: Virtual processors, with the default deployment option.
          type: int
          returned: success
          sample: 2
        memory_mib:
          description: Memory in MiB, with that option.
          type: int
          returned: success
          sample: 512
        networks:
          description: The networks of its adapters, one each.
          type: list
          elements: str
          returned: success
          sample: [VM Network]
    transports:
      description: How a guest may be told its properties.
      type: list
      elements: str
      returned: success
      sample: [com.vmware.guestInfo]
    files:
      description: The files that the descriptor refers to.
      type: list
      elements: dict
      returned: success
      contains:
        id:
          description: Its name in the descriptor.
          type: str
          returned: success
          sample: file1
        href:
          description: Its name in the package.
          type: str
          returned: success
          sample: disk1.vmdk
        size:
          description: Bytes that it shall have, as it is in the package. Null where the descriptor doesn't tell.
          type: int
          returned: success
          sample: 139264
        compression:
          description: V(identity) or V(gzip).
          type: str
          returned: success
          sample: identity
        chunk_size:
          description: Bytes of each piece of one that is in pieces.
          type: int
          returned: success
          sample: null
        members:
          description: The names of the pieces, or its own.
          type: list
          elements: str
          returned: success
          sample: [disk1.vmdk]
    members:
      description: The files that are there. In an archive that is all, else those of the package.
      type: list
      elements: dict
      returned: success
      contains:
        name:
          description: Its name.
          type: str
          returned: success
          sample: disk1.vmdk
        size:
          description: Its bytes.
          type: int
          returned: success
          sample: 139264
    manifest:
      description: The manifest, null without one.
      type: dict
      returned: success
      contains:
        name:
          description: Its name.
          type: str
          returned: success
          sample: web.mf
        verdict:
          description: V(unchecked) without O(checksum), V(ignored) with O(verify=ignore), V(unreadable), else
            V(matches) or V(differs).
          type: str
          returned: success
          sample: matches
        digests:
          description: What it says, by the files' names.
          type: dict
          returned: success
          sample: {"disk1.vmdk": "sha256:a3d7d401f6ab814ffd1824f3902bc433c67665e025f72a5ad5138273cec3535b"}
    certificate:
      description: The certificate's file, null without one.
      type: dict
      returned: success
      contains:
        name:
          description: Its name.
          type: str
          returned: success
          sample: web.cert
        verdict:
          description: V(ignored) with O(verify=ignore), V(unreadable), V(unchecked) without C(openssl), else V(matches)
            or V(differs), whether its signature is that of the manifest.
          type: str
          returned: success
          sample: matches
        signed_by:
          description: Who signed the manifest.
          type: str
          returned: when it was read
          sample: CN=packages,O=Example
        issued_by:
          description: Who says that he is it.
          type: str
          returned: when it was read
          sample: CN=packages,O=Example
        not_before:
          description: When the certificate's time begins.
          type: str
          returned: when it was read
          sample: Nov 22 00:00:00 2026 GMT
        not_after:
          description: When it ends.
          type: str
          returned: when it was read
          sample: Nov 22 00:00:00 2027 GMT
        in_dates:
          description: Whether it is now within its time.
          type: bool
          returned: when it was read
          sample: true
        trusted:
          description: Whether the host trusts somebody who vouches for the signer.
          type: bool
          returned: when it was read
          sample: false
        doubt:
          description: Why not.
          type: str
          returned: when it was read
          sample: self-signed certificate
    problems:
      description: What keeps it from being imported, all at once.
      type: list
      elements: dict
      returned: success
      contains:
        where:
          description: The file, key or option.
          type: str
          returned: success
          sample: config.iso
        problem:
          description: What is wrong.
          type: str
          returned: success
          sample: the descriptor refers to it, and the package has no such file
        instead:
          description: What to do.
          type: str
          returned: success
          sample: Get the package anew
elapsed_s:
  description: Seconds that the module took.
  returned: always
  type: float
  sample: 0.071
error:
  description: What went wrong, as data. Its C(kind) tells what can be done about it.
  returned: failure
  type: dict
  sample:
    kind: bad_input
    option: source
    expected: Name the .ovf or .ova file of a package
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.vmops.lifecycle.plugins.module_utils._core.converge import report
from ansible_collections.vmops.lifecycle.plugins.module_utils._ovf.declare import SOURCE_SPEC, secrets
from ansible_collections.vmops.lifecycle.plugins.module_utils._ovf.info import PackageInfo


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **SOURCE_SPEC,
            "checksum": {"type": "bool", "default": False},
            "timeout": {"type": "int", "default": 600},
        },
        supports_check_mode=True,
    )
    module.no_log_values.update(secrets(module.params))
    report(module, lambda deadline: PackageInfo(module.params, deadline))


if __name__ == "__main__":
    main()
