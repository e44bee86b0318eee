#!/usr/bin/python

# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: qemu_guest_shutdown
short_description: Shut a QEMU guest or a fleet of them down for certain
version_added: 0.1.0
author:
  - vmops.lifecycle contributors (@vmops)
description:
  - Brings guests down by a ladder of rungs, the gentlest first. The guest agent is asked, the ACPI power button is
    pressed and pressed again, QEMU is told to C(quit), gets SIGTERM, gets SIGKILL. No rung above O(max_rung) is used,
    and each leaves enough of O(timeout) to those after it.
  - A guest counts as down only when the kernel says that its process has ended. A monitor's answer, a closed
    connection or a missing file don't count.
  - Everything that is given of a guest must name one and the same process. Where it doesn't, nothing is sent.
    Signals go to exactly the process that was identified, also if its number is given to another one meanwhile.
  - Nothing is sent to a process that isn't proven to be a QEMU, whoever locks a pidfile or listens at a socket. Its
    command line proves it, or its monitor's greeting where the program has another name or /proc hides other users'
    processes. So with a hidden command line a guest whose monitor is hung or held by somebody else is V(unproven).
  - All guests are driven at the same time, and each is waited for by what the kernel reports, not by asking again.
  - A guest that is already down is no change. What a killed one left behind is cleaned up.
  - A guest that can't be identified fails the task, and keeps no other guest up.
  - A guest that M(vmops.lifecycle.qemu_guest_start) is just starting is waited for until its monitor listens, for half
    of O(timeout), and with several guests for 10 seconds at most. If it doesn't by then, the guest is V(unproven)
    rather than V(absent). What a start has made anew is never cleaned up.
extends_documentation_fragment:
  - vmops.lifecycle.qemu_guest
options:
  timeout:
    description:
      - Seconds for the whole task. Ordered groups, and guests that wait for their turn, get a fair share each.
      - A monitor that doesn't answer within 2 seconds, or a fifth of this time if that is less, counts as hung or busy.
    type: int
    default: 180
  max_rung:
    description:
      - The last rung that may be used. V(agent) asks the guest agent, V(acpi) presses the power button, V(quit)
        tells QEMU to end, V(terminate) sends SIGTERM and V(kill) SIGKILL. From V(quit) on the guest isn't asked.
      - The last one has all the time that is left. So has a QEMU whose guest has shut itself down, but for what the
        signals after it need.
      - A guest whose monitor is hung or held by somebody else can only be reached by its agent and by signals.
    type: str
    choices: [agent, acpi, quit, terminate, kill]
    default: quit
  profile:
    description:
      - How the power button is pressed.
      - V(default) presses again after 10 seconds, then after ever longer pauses up to 30 seconds, because a guest
        that is still booting loses a press.
      - V(windows) presses twice within half a second each time. V(single) presses once and never again, for guests
        that take a second press for a cancellation.
      - A guest that reboots instead is pressed again by every profile.
    type: str
    choices: [default, windows, single]
    default: default
  paused:
    description:
      - What to do about a guest that is paused. It can't react. V(fail) leaves it alone and fails, V(resume) lets it
        run and shuts it down, V(force) ends it as it is, which needs O(max_rung) of V(quit) or more.
      - V(force) also ends a guest that is being migrated or saved, and what is left here of one that was, which
        otherwise are left alone.
    type: str
    choices: [fail, resume, force]
    default: fail
  block_jobs:
    description:
      - What to do while block jobs (mirror, backup, commit, stream) are under way, which a shutdown would cancel
        silently. V(wait) waits until they end by themselves, V(cancel) cancels them, V(fail) leaves the guest alone.
      - A mirror or commit that is ready only waits for whoever started it. V(wait) fails for such a one at once.
    type: str
    choices: [wait, cancel, fail]
    default: wait
  require_graceful:
    description:
      - Fail if a guest did not shut itself down, that is, if V(quit) or a signal stopped it, or if it panicked or
        rebooted on its way. It is down all the same. By default there is a warning.
    type: bool
    default: false
  cleanup:
    description:
      - Once a guest is down, remove its O(pidfile), O(qmp_socket) and O(agent_socket), as far as they are still the
        same files, and its O(cleanup_paths). What a living process uses is left.
    type: bool
    default: true
  parallel:
    description:
      - How many guests of a group are shut down at the same time. V(0) means all.
    type: int
    default: 0
attributes:
  check_mode:
    support: full
    description: Only queries, and tells by RV(guests[].first_rung) which rung would be tried first.
  diff_mode:
    support: full
    description: Shows which guests run, and which files of dead ones lie about, before and after.
  platform:
    support: full
    platforms: posix
    description: Without pidfd (that is, not on Linux) no signal is sent, a pidfile is needed to prove a guest's end,
      and its name or UUID to use its monitor.
seealso:
  - module: vmops.lifecycle.qemu_guest_info
  - module: vmops.lifecycle.qemu_guest_start
"""

EXAMPLES = r"""
- name: Shut one guest down, at most by telling QEMU to quit
  vmops.lifecycle.qemu_guest_shutdown:
    pidfile: /run/vmops/web1/qemu.pid
    qmp_socket: /run/vmops/web1/qmp.sock
    agent_socket: /run/vmops/web1/agent.sock

- name: A clean-up must end, whatever state the guest is in
  vmops.lifecycle.qemu_guest_shutdown:
    pidfile: /run/vmops/web1/qemu.pid
    qmp_socket: /run/vmops/web1/qmp.sock
    max_rung: kill
    paused: force
    block_jobs: cancel
    timeout: 60
    cleanup_paths:
      - /dev/shm/web1

- name: The applications first, then the database, never by force
  vmops.lifecycle.qemu_guest_shutdown:
    guests:
      - name: app1
        pidfile: /run/vmops/app1/qemu.pid
        qmp_socket: /run/vmops/app1/qmp.sock
      - name: app2
        pidfile: /run/vmops/app2/qemu.pid
        qmp_socket: /run/vmops/app2/qmp.sock
      - name: db
        pidfile: /run/vmops/db/qemu.pid
        qmp_socket: /run/vmops/db/qmp.sock
        group: 1
    max_rung: acpi
    require_graceful: true
    timeout: 300
"""

RETURN = r"""
guests:
  description: One record for each guest, in the order given, also when the task fails. Empty if it fails before it
    looked at any.
  returned: unless the options are wrong
  type: list
  elements: dict
  contains:
    guest:
      description: The guest's name or whatever else it was given by.
      type: str
    group:
      description: Its group.
      type: int
    state_before:
      description:
        - What it was found to be. V(absent), V(stale) (dead, with files left), V(running), V(paused), V(prelaunch),
          V(suspended), V(migrating), V(migrated) (was sent or saved, and stands still since), V(shutdown) (off, with
          QEMU living on), V(broken) (panicked or stopped by an error), V(monitor_busy) (another client holds the
          monitor), V(monitor_hung), V(no_monitor) (only the process is known), V(identity_mismatch) (what was given
          names different processes) or V(unproven) (what it is can't be told, or what was given can't be a guest's).
      type: str
    status_before:
      description: QEMU's own word for it, if its monitor answered.
      type: str
    state:
      description: What it is now.
      type: str
    pid:
      description: The process, if it lives.
      type: int
    first_rung:
      description: The rung that was, or in check mode would be, tried first.
      type: str
    method:
      description: The rung that brought it down; null if it went by itself or didn't.
      type: str
    graceful:
      description: Whether the guest shut itself down, even if its QEMU had to be ended after that. Null if nothing was
        done, or nothing was needed.
      type: bool
    shutdown_reason:
      description:
        - QEMU's own word for why it ended, such as V(guest-shutdown), V(host-qmp-quit) or V(host-signal).
        - After V(guest-panic), and after V(guest-reset) of a QEMU that ends when its guest reboots, the guest is down
          but not gracefully.
      type: str
    guest_rebooted:
      description: How often the guest rebooted instead.
      type: int
    block_jobs_cancelled:
      description: Block jobs that ended with the guest, or were cancelled for it.
      type: list
      elements: str
    attempts:
      description: All that was sent or would have been, in order.
      type: list
      elements: dict
      contains:
        vm:
          description: The guest.
          type: str
        rung:
          description: The rung, or V(prepare) for what woke or resumed the guest or cancelled its block jobs.
          type: str
        n:
          description: The how manieth attempt on this rung.
          type: int
        started:
          description: When it was sent, in seconds since the task began.
          type: float
        ended:
          description: When it was answered, given up, or the guest ended.
          type: float
        sent:
          description:
            - The command or signal; null if there was nobody to send it to. The agent is only asked to come in step
              first, by V(guest-sync-delimited), and gets V(guest-shutdown) when it has answered that.
          type: str
        reply:
          description: What was answered.
          type: raw
        events:
          description: What QEMU reported until the next attempt.
          type: list
          elements: str
        outcome:
          description:
            - V(accepted), V(refused), V(no_answer), V(nobody_listens) (no agent in the guest), V(connection_lost),
              V(ended) (the process has ended) or V(sent).
          type: str
        errno:
          description: The system's error, if there was one.
          type: str
    cleaned:
      description: The files that were removed.
      type: list
      elements: str
    left_behind:
      description:
        - The files that were not removed, and why. Those with the outcome V(kept) are no longer the guest's, another
          process uses them, or they are symbolic links, which QEMU never makes.
      type: list
      elements: dict
    problem:
      description: Why the guest isn't as asked; empty if it is.
      type: str
  sample:
    - attempts:
        - ended: 0.049
          errno: null
          events:
            - POWERDOWN
            - SHUTDOWN
          n: 1
          outcome: ended
          reply: {}
          rung: acpi
          sent: system_powerdown
          started: 0.03
          vm: web1
      block_jobs_cancelled: []
      cleaned: []
      first_rung: acpi
      graceful: true
      group: 0
      guest: web1
      guest_rebooted: 0
      left_behind: []
      method: acpi
      pid: null
      problem: ''
      shutdown_reason: guest-shutdown
      state: absent
      state_before: running
      status_before: running
guest:
  description: The same record, where the task is about one guest.
  returned: when O(guests) isn't given and the guest was looked at
  type: dict
elapsed_s:
  description: How long the task took, in seconds.
  returned: always
  type: float
  sample: 0.061
error:
  description: What went wrong, as data.
  returned: on failure
  type: dict
  contains:
    kind:
      description: V(guest_not_down) where guests are not as asked, or another kind of error.
      type: str
    guests:
      description: Each guest that is not as asked, with its state and the reason.
      type: list
      elements: dict
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.vmops.lifecycle.plugins.module_utils._core.converge import run
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_guest.options import GUESTS, IDENTITY, guests_from
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_guest.shutdown import Shutdown, wish_from


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **IDENTITY,
            **GUESTS,
            "timeout": {"type": "int", "default": 180},
            "max_rung": {
                "type": "str",
                "choices": ["agent", "acpi", "quit", "terminate", "kill"],
                "default": "quit",
            },
            "profile": {"type": "str", "choices": ["default", "windows", "single"], "default": "default"},
            "paused": {"type": "str", "choices": ["fail", "resume", "force"], "default": "fail"},
            "block_jobs": {"type": "str", "choices": ["wait", "cancel", "fail"], "default": "wait"},
            "require_graceful": {"type": "bool", "default": False},
            "cleanup": {"type": "bool", "default": True},
            "parallel": {"type": "int", "default": 0},
        },
        supports_check_mode=True,
    )
    run(module, lambda deadline: Shutdown(wish_from(module.params, guests_from(module.params)), deadline))


if __name__ == "__main__":
    main()
