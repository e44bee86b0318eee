# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    """The options that say which vCenter or ESXi host, and who logs in there."""

    DOCUMENTATION = r"""
options:
  hostname:
    description: The vCenter or the ESXi host. Without it, the environment's E(VMWARE_HOST).
    type: str
  username:
    description: Who logs in. Without it, the environment's E(VMWARE_USER).
    type: str
    aliases: [user, admin]
  password:
    description: Its password. Without it, the environment's E(VMWARE_PASSWORD).
    type: str
    aliases: [pass, pwd]
  port:
    description: The port of the server. Without it, the environment's E(VMWARE_PORT).
    type: int
    default: 443
  validate_certs:
    description:
      - Whether the server's certificate has to be one that this host trusts. Without it, the environment's
        E(VMWARE_VALIDATE_CERTS).
    type: bool
    default: true
  ca_path:
    description: A file of certificates in PEM form that are trusted instead of the host's own.
    type: path
  thumbprint:
    description:
      - The SHA-1, SHA-256 or SHA-512 thumbprint of the server's certificate. The server is trusted if it has this
        certificate, whoever signed it, and only then.
    type: str
  proxy_host:
    description: An HTTP proxy by which the server is reached. Without it, the environment's E(VMWARE_PROXY_HOST).
    type: str
  proxy_port:
    description: The proxy's port. Without it, the environment's E(VMWARE_PROXY_PORT).
    type: int
requirements:
  - pyVmomi 9.0 or newer, which on Python 3.9 is 9.0 itself
"""
