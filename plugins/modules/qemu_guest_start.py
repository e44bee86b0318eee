#!/usr/bin/python

# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: qemu_guest_start
short_description: One QEMU guest, up as declared
version_added: 0.1.0
author:
  - vmops.lifecycle contributors (@vmops)
description:
  - Starts a virtual machine with QEMU as a daemon and waits until it is ready. A guest that already runs as declared
    is left alone.
  - What a guest was started with is recorded beside its pidfile. A running guest that is declared differently is
    reported as drift, and restarted only with O(restart=if_needed).
  - The process is watched while the task waits. If it ends, the task fails at once with QEMU's own words.
  - A guest that doesn't become ready within O(timeout) is left running, so that nothing it writes is cut short and
    its console can be looked at. The task fails and says so, the next run goes on waiting, and
    M(vmops.lifecycle.qemu_guest_shutdown) ends it. The same holds for a task that is killed while it waits.
  - Of a task that is killed while QEMU itself is starting, the next run waits for that start to come to its end, and
    goes on from there. No second guest is started beside it.
  - A running guest whose disk was removed, or replaced by another file, is refused. It still writes to the old file,
    which is lost when its process ends. The message tells where that can be copied from.
  - It makes no images. See M(vmops.lifecycle.qemu_img) for disks and M(vmops.lifecycle.nocloud_seed) for the seed.
options:
  name:
    description:
      - The guest's name, 1 to 63 letters, digits, dots, dashes and underscores.
      - One user runs one guest of a name below one O(run_dir).
    type: str
    required: true
  run_dir:
    description:
      - The directory below which the guest gets a private one of its name, with its pidfile, sockets and logs.
      - By default C(/run/vmops) for root, else C(vmops) in C($XDG_RUNTIME_DIR) or C(/run/user/UID), or
        C(/tmp/vmops-UID) where there is none. A guest that runs in another of these is found there, as sessions of
        one user differ. Where C($XDG_RUNTIME_DIR) itself differs from task to task, state this option.
      - The default ones are often in memory, and hold the logs. For a guest that writes much to its console take a
        directory on a disk.
      - Symbolic links in it are followed, so that one guest has one place. The paths returned are the resolved ones.
      - The system limits a socket's path to 107 bytes, so it should be short.
    type: path
  emulator:
    description: The QEMU program, by name or absolute path.
    type: str
    default: qemu-system-x86_64
  memory:
    description: The guest's memory in bytes or with K, M, G, T, as V(512M) or V(2G); powers of 1024.
    type: str
    default: 1G
  cpus:
    description: The number of virtual processors.
    type: int
    default: 1
  machine:
    description: QEMU's machine type, such as V(q35), V(pc) or V(microvm), with its own options after commas.
    type: str
    default: q35
  cpu:
    description: QEMU's processor model. By default V(host) under KVM and V(max) under TCG.
    type: str
  accel:
    description:
      - V(auto) takes KVM if a tiny guest is seen to boot under it within 5 seconds, else TCG, QEMU's emulation. A yes
        is kept in O(run_dir), in C(.accel.json), until the host or its QEMU changes, a no for a minute.
      - Other architectures than x86 are emulated unless V(kvm) is stated.
    type: str
    choices: [auto, kvm, tcg]
    default: auto
  uuid:
    description:
      - The machine's UUID. By default one made from O(name) and the host's machine-id, the same at every start.
      - State it, and the O(networks[].mac) of its cards, for a machine that is to keep them on another host, or that
        has a namesake on this one below another O(run_dir).
    type: str
  disks:
    description: The guest's disks, in the order in which it tries to boot from them.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: An image file or block device. Its name is only ever a file's.
        type: path
        required: true
      format:
        description: The image's format. It is never guessed.
        type: str
        choices: [raw, qcow2, vmdk, vdi, vhdx, vpc]
        default: qcow2
      interface:
        description: What the guest sees. A V(cdrom) is read-only.
        type: str
        choices: [virtio, scsi, ide, nvme, cdrom]
        default: virtio
      readonly:
        description: Whether the guest may only read.
        type: bool
        default: false
      cache:
        description: QEMU's cache mode. V(unsafe) loses data when the host fails.
        type: str
        choices: [writeback, none, writethrough, directsync, unsafe]
        default: writeback
      discard:
        description: Whether what the guest discards is given back to the host.
        type: str
        choices: [unmap, ignore]
        default: unmap
      serial:
        description: The serial number that the guest sees, at most 20 letters, digits, dots, dashes and underscores.
        type: str
  seed:
    description: A cloud-init seed image, given to the guest as a read-only disk.
    type: path
  networks:
    description:
      - The guest's network cards. By default one in user mode, which needs nothing of the host and no rights. An
        empty list gives none.
    type: list
    elements: dict
    suboptions:
      mode:
        description:
          - V(user) is QEMU's own network behind the host's. V(tap) uses a tap device of the host, V(bridge) a bridge
            of the host through QEMU's bridge helper. V(none) leaves the card out.
        type: str
        choices: [user, tap, bridge, none]
        default: user
      model:
        description: The card that the guest sees.
        type: str
        choices: [virtio, e1000, e1000e, rtl8139]
        default: virtio
      mac:
        description:
          - Its address. By default one made from O(name), the card's position and the host's machine-id, so that
            guests of one name on two hosts of a network have two.
        type: str
      interface:
        description:
          - The host's tap device or bridge, for these two modes. It must be there and up.
          - A tap must belong to the user who starts QEMU. A bridge is joined by QEMU's C(qemu-bridge-helper), which
            must be set-uid root for other users, and must find the bridge in C(/etc/qemu/bridge.conf).
        type: str
      forwards:
        description: Ports of the host that lead into the guest, for O(networks[].mode=user).
        type: list
        elements: dict
        default: []
        suboptions:
          protocol:
            description: The protocol.
            type: str
            choices: [tcp, udp]
            default: tcp
          host_address:
            description:
              - The IPv4 address of the host to listen at, V(0.0.0.0) for all. By default only the host itself can
                connect.
            type: str
            default: 127.0.0.1
          host_port:
            description: The host's port.
            type: int
            required: true
          guest_port:
            description: The guest's port.
            type: int
            required: true
  firmware:
    description: A firmware image instead of the machine's own, such as OVMF's code.
    type: path
  firmware_vars:
    description:
      - The firmware's writable variables, a file of this guest alone. With it O(firmware) is put into flash memory.
    type: path
  kernel:
    description: A Linux kernel to boot directly.
    type: path
  initrd:
    description: Its initial file system.
    type: path
  append:
    description: Its command line. The serial console, whose log is returned, is C(console=ttyS0).
    type: str
  agent:
    description: Whether the guest gets a channel for the QEMU guest agent.
    type: bool
    default: true
  display:
    description:
      - QEMU's display, such as V(none) or V(vnc=unix:/run/user/1000/web1.vnc). Without one there is no graphics card
        either.
    type: str
    default: none
  extra_args:
    description:
      - Further words of QEMU's command line, added at its end. What another option declares is refused here, such as
        C(-m) beside O(memory), or a machine type after C(-machine). Its properties, such as C(usb=on), are added.
      - Everybody on the host can read a command line. Keep secrets out of it.
    type: list
    elements: str
    default: []
  ready:
    description:
      - What shows that the guest is ready.
      - V(none) waits for QEMU itself, V(agent) for an answer of the guest agent, V(port) for a TCP port, V(console)
        for a text on the serial console.
      - A forwarded port counts as open once the guest itself takes a connection.
      - It is no part of the declared machine. Of a guest that runs already, what it was once seen to have reached
        counts, and anything else is waited for.
    type: str
    choices: [none, agent, port, console]
    default: none
  ready_host:
    description:
      - The address to connect to for O(ready=port). By default the O(networks[].forwards[].host_address) of the
        forward with that port, and V(127.0.0.1) where that is all of the host's or there is none.
      - A guest on taps or bridges alone has an address of its own, which is to be named here.
    type: str
  ready_port:
    description: The port to connect to for O(ready=port). By default the host's port of the first TCP forward.
    type: int
  ready_text:
    description: The text to wait for with O(ready=console), taken literally.
    type: str
  restart:
    description:
      - Whether a running guest that is declared differently is shut down and started anew.
      - Before that, the declaration is tried as far as this takes nothing from the running guest. What fails then
        fails the task, and the guest runs on as it was. Tried are, by QEMU itself, the machine, its processor,
        O(firmware), a O(kernel) with its O(initrd), the disks (opened to look, without locks) and what O(display)
        says; and whether ports of the host that the running guest doesn't have can be had.
      - Not tried are whether the host has the memory, whether disks may be written and locked, a tap or bridge beyond
        its being there, the address of a display, O(firmware_vars), O(seed) beyond its being there, O(extra_args),
        and with these the machine's own options. If one of these fails, the old guest has been shut down.
    type: str
    choices: [never, if_needed]
    default: never
  paused:
    description:
      - What to do about a guest that runs as declared but is paused, by somebody or by QEMU for an error of its disk.
      - V(leave) leaves it so, with a warning. V(resume) lets it run. V(force) leaves it too.
      - Where O(restart=if_needed) is to shut a paused guest down, V(leave) fails, V(resume) lets it run and then shuts
        it down, V(force) ends it as it is, which needs O(max_rung) of V(quit) or more.
    type: str
    choices: [leave, resume, force]
    default: leave
  max_rung:
    description:
      - How far O(restart=if_needed) may go to shut the running guest down. See
        M(vmops.lifecycle.qemu_guest_shutdown).
    type: str
    choices: [agent, acpi, quit, terminate, kill]
    default: quit
  timeout:
    description: Seconds for the whole task.
    type: int
    default: 180
notes:
  - QEMU runs as the task's own user. It opens every file named, so that user must be allowed to.
  - The contents of files (a kernel, a seed) are not compared, only their names. A running QEMU goes on with the
    files that it opened at its start, also when its guest reboots. A new seed is read only once the guest was shut
    down and started anew.
attributes:
  check_mode:
    support: full
    description: Looks only, and says what would be done. Files that the guest needs need not be there yet, QEMU and the
      host's network devices must be.
  diff_mode:
    support: full
    description: Shows what the guest runs with and what is declared, also where that difference is only reported.
  platform:
    support: full
    platforms: posix
    description: Linux is complete. Elsewhere a process is known by the lock that QEMU keeps on its pidfile.
seealso:
  - module: vmops.lifecycle.qemu_img
  - module: vmops.lifecycle.nocloud_seed
  - module: vmops.lifecycle.qemu_guest_shutdown
  - module: vmops.lifecycle.qemu_guest_info
"""

EXAMPLES = r"""
- name: A machine from a disk and a seed, reached over SSH at port 2222 of the host
  vmops.lifecycle.qemu_guest_start:
    name: web1
    memory: 2G
    cpus: 2
    disks:
      - path: /var/lib/vmops/web1/disk.qcow2
    seed: /var/lib/vmops/web1/seed.iso
    networks:
      - forwards:
          - host_port: 2222
            guest_port: 22
    ready: port
  register: web1

- name: A machine on the host's bridge, ready when its guest agent answers
  vmops.lifecycle.qemu_guest_start:
    name: db1
    memory: 8G
    cpus: 4
    disks:
      - path: /var/lib/vmops/db1/system.qcow2
      - path: /dev/vg0/db1-data
        format: raw
        cache: none
    networks:
      - mode: bridge
        interface: br0
        mac: 52:54:00:0d:b1:01
    ready: agent
    restart: if_needed

- name: A kernel straight from the build, whose success is a text on its console
  vmops.lifecycle.qemu_guest_start:
    name: kernel-test
    kernel: /srv/build/vmlinuz
    initrd: /srv/build/initrd
    append: console=ttyS0 quiet
    networks: []
    ready: console
    ready_text: all tests passed
    timeout: 300
"""

RETURN = r"""
guest:
  description: The guest as it is now.
  returned: success
  type: dict
  contains:
    name:
      description: Its name.
      type: str
      returned: success
      sample: web1
    state:
      description:
        - V(running), V(starting) for one that was started and has not been seen ready, or V(absent) (in check mode).
        - V(paused), V(prelaunch), V(suspended), V(migrating), V(migrated), V(shutdown) or V(broken), as
          RV(vmops.lifecycle.qemu_guest_info#module:guests[].state) has them, for one that is up and doesn't run. There
          is a warning then.
      type: str
      returned: success
      sample: running
    status:
      description:
        - QEMU's own word for the state, or null where its monitor didn't answer at once. It then counts as running,
          and there is a warning with the reason.
      type: str
      returned: success
      sample: running
    pid:
      description: QEMU's process, or null.
      type: int
      returned: success
      sample: 20115
    accel:
      description: The accelerator that it runs with, or null where its start was not recorded.
      type: str
      returned: success
      sample: tcg
    digest:
      description: The digest (SHA-256) of the declaration that it was started with, or null.
      type: str
      returned: success
      sample: 3f1c3fd9b5c6f6a1b7a5b9a7b6f3c5f2d3d1a0f5c1f9a4f0e8d7c6b5a4938271
    run_dir:
      description: Its private directory.
      type: str
      returned: success
      sample: /run/vmops/web1
    pidfile:
      description: QEMU's pidfile. QEMU keeps it locked while it lives.
      type: str
      returned: success
      sample: /run/vmops/web1/qemu.pid
    qmp_socket:
      description: The socket of QEMU's monitor.
      type: str
      returned: success
      sample: /run/vmops/web1/qmp.sock
    agent_socket:
      description: The socket of the guest agent's channel, or null without one.
      type: str
      returned: success
      sample: /run/vmops/web1/agent.sock
    console_log:
      description:
        - What the guest wrote to its serial console since its start.
        - QEMU sets it no limit. A guest that writes without end fills the file system of O(run_dir).
      type: str
      returned: success
      sample: /run/vmops/web1/console.log
    qemu_log:
      description: What QEMU said since its start.
      type: str
      returned: success
      sample: /run/vmops/web1/qemu.log
drift:
  description: The options in which a running guest differs from the declaration. Empty where it does not.
  returned: success
  type: list
  elements: dict
  sample:
    - option: memory
      running: 536870912
      declared: 1073741824
commands:
  description: The command line that was run, as a list of words.
  returned: always
  type: list
  elements: list
  sample:
    - [/usr/bin/qemu-system-x86_64, -name, guest=web1, -machine, q35, -accel, tcg, -daemonize]
attempts:
  description:
    - With O(restart=if_needed), what was sent to the running guest to shut it down, as
      M(vmops.lifecycle.qemu_guest_shutdown) tells it.
  returned: always
  type: list
  elements: dict
  sample: []
elapsed_s:
  description: Seconds that the task took.
  returned: always
  type: float
  sample: 3.412
error:
  description: What went wrong, as data. Its C(kind) tells what can be done about it.
  returned: failure
  type: dict
  sample:
    kind: start_failed
    said: "Could not set up host forwarding rule 'tcp:127.0.0.1:2222-:22'"
    rc: 1
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.vmops.lifecycle.plugins.module_utils._core.converge import run
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_guest.start import Guest

DISK = {
    "path": {"type": "path", "required": True},
    "format": {"type": "str", "choices": ["raw", "qcow2", "vmdk", "vdi", "vhdx", "vpc"], "default": "qcow2"},
    "interface": {"type": "str", "choices": ["virtio", "scsi", "ide", "nvme", "cdrom"], "default": "virtio"},
    "readonly": {"type": "bool", "default": False},
    "cache": {
        "type": "str",
        "choices": ["writeback", "none", "writethrough", "directsync", "unsafe"],
        "default": "writeback",
    },
    "discard": {"type": "str", "choices": ["unmap", "ignore"], "default": "unmap"},
    "serial": {"type": "str"},
}
FORWARD = {
    "protocol": {"type": "str", "choices": ["tcp", "udp"], "default": "tcp"},
    "host_address": {"type": "str", "default": "127.0.0.1"},
    "host_port": {"type": "int", "required": True},
    "guest_port": {"type": "int", "required": True},
}
NETWORK = {
    "mode": {"type": "str", "choices": ["user", "tap", "bridge", "none"], "default": "user"},
    "model": {"type": "str", "choices": ["virtio", "e1000", "e1000e", "rtl8139"], "default": "virtio"},
    "mac": {"type": "str"},
    "interface": {"type": "str"},
    "forwards": {"type": "list", "elements": "dict", "default": [], "options": FORWARD},
}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "run_dir": {"type": "path"},
            "emulator": {"type": "str", "default": "qemu-system-x86_64"},
            "memory": {"type": "str", "default": "1G"},
            "cpus": {"type": "int", "default": 1},
            "machine": {"type": "str", "default": "q35"},
            "cpu": {"type": "str"},
            "accel": {"type": "str", "choices": ["auto", "kvm", "tcg"], "default": "auto"},
            "uuid": {"type": "str"},
            "disks": {"type": "list", "elements": "dict", "default": [], "options": DISK},
            "seed": {"type": "path"},
            "networks": {"type": "list", "elements": "dict", "options": NETWORK},
            "firmware": {"type": "path"},
            "firmware_vars": {"type": "path"},
            "kernel": {"type": "path"},
            "initrd": {"type": "path"},
            "append": {"type": "str"},
            "agent": {"type": "bool", "default": True},
            "display": {"type": "str", "default": "none"},
            "extra_args": {"type": "list", "elements": "str", "default": []},
            "ready": {"type": "str", "choices": ["none", "agent", "port", "console"], "default": "none"},
            "ready_host": {"type": "str"},
            "ready_port": {"type": "int"},
            "ready_text": {"type": "str"},
            "restart": {"type": "str", "choices": ["never", "if_needed"], "default": "never"},
            "paused": {"type": "str", "choices": ["leave", "resume", "force"], "default": "leave"},
            "max_rung": {"type": "str", "choices": ["agent", "acpi", "quit", "terminate", "kill"], "default": "quit"},
            "timeout": {"type": "int", "default": 180},
        },
        supports_check_mode=True,
    )
    run(module, lambda deadline: Guest(module.params, deadline))


if __name__ == "__main__":
    main()
