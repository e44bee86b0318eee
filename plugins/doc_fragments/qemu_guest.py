# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    """The options that say which guests are meant."""

    DOCUMENTATION = r"""
options:
  pidfile: &pidfile
    description:
      - The file that QEMU was told to write its process number to (C(-pidfile)).
      - QEMU keeps it locked for as long as it lives. Nobody but the lock's owner is taken for the guest, so a number
        that meanwhile belongs to another process does no harm.
      - A file that is neither empty nor holds a process's number is none of QEMU's. The guest is V(unproven) then, and
        the file stays.
    type: path
  qmp_socket: &qmp_socket
    description:
      - The Unix socket of QEMU's monitor (C(-qmp unix:…,server=on,wait=off)).
      - Without it there is neither an ACPI nor a C(quit) rung, and only the process can be seen.
      - A QEMU that listens there although the file was removed is taken for the guest, if it contradicts nothing else
        that is given. It can be reached by signals alone.
    type: path
  agent_socket: &agent_socket
    description:
      - The Unix socket of the guest agent's channel, the one behind C(org.qemu.guest_agent.0).
    type: path
  pid: &pid
    description:
      - The number of the QEMU process. By itself it only counts if that process is a QEMU. Beside others it must be
        the number of the process that they lead to, also if it has ended.
    type: int
  name: &name
    description:
      - The guest's name (C(-name)). Given beside others, it is compared with the guest's own. Where none of these leads
        to a process, but a QEMU of this name lives elsewhere, that is told by a warning, because another guest may bear
        it.
      - Given alone or with O(uuid), the guest is looked for among all QEMU processes of the host. That needs /proc, and
        a user who may see every process. Several that match are refused. The pidfile and the sockets on its command
        line are used as far as that process really has them locked or listens there.
    type: str
  uuid: &uuid
    description:
      - The guest's UUID (C(-uuid)). Compared, or looked for, as O(name) is. It is one guest's alone, so one that lives
        elsewhere leaves the guest V(unproven).
    type: str
  guests:
    description:
      - Several guests at once, instead of the options for one.
    type: list
    elements: dict
    suboptions:
      pidfile: *pidfile
      qmp_socket: *qmp_socket
      agent_socket: *agent_socket
      pid: *pid
      name: *name
      uuid: *uuid
      group:
        description:
          - Guests of a lower group are down before those of a higher one are touched. A group after one with a
            guest that stayed up is left alone.
          - Only M(vmops.lifecycle.qemu_guest_shutdown) uses it.
        type: int
        default: 0
      cleanup_paths: &cleanup_paths
        description:
          - More that belongs to the guest alone, and goes with it once its process is proven to have ended. Files,
            sockets, links and empty directories can be named. They are removed in the order given.
          - Only M(vmops.lifecycle.qemu_guest_shutdown) removes them. M(vmops.lifecycle.qemu_guest_info) lists them
            as leftovers of a dead guest.
          - A socket at which somebody listens, and a file that a living process has locked or open for writing, are
            left, and told as RV(vmops.lifecycle.qemu_guest_shutdown#module:guests[].left_behind).
        type: list
        elements: path
        default: []
  cleanup_paths: *cleanup_paths
"""
