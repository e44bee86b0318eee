#!/usr/bin/python

# Copyright: (c) 2026, vmops.lifecycle contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: qemu_img
short_description: Declare one disk image file
version_added: 0.1.0
author:
  - vmops.lifecycle contributors (@vmops)
description:
  - Creates, converts, overlays, rebases, resizes, amends, snapshots, commits, checks and repairs a disk image with
    C(qemu-img), so that the file is as declared, and does nothing when it is already.
  - A new image, and one that is converted or repaired, grows in a file beside O(path) and takes its place in one
    step. A task that is killed, or whose disk is full, leaves the old image or the complete new one, and what it left
    beside is removed by the next run.
  - An image in use by a running machine is never replaced, resized or removed.
  - Nor is an image opened with what is below it where its header, or that of a backing file, names no file there but
    what QEMU would take for a protocol.
  - The content is never thrown away unasked. An existing image that isn't as declared is changed where its content
    stays, and refused where it would not, unless O(force=true) or O(allow_shrink=true) says otherwise.
extends_documentation_fragment:
  - ansible.builtin.files
options:
  path:
    description:
      - The image file. A symbolic link is followed to the image that it names. Other kinds of files are refused.
      - The name is only ever a file's, also where it looks like one of QEMU's protocols, such as C(nbd:disk).
    type: path
    required: true
  state:
    description:
      - Whether the image shall be there.
      - V(absent) removes the image and what belongs to it beside it. Nothing else is looked at then.
      - Of a VMDK that keeps its data in several files those go too that lie beside it and begin with its name, as
        QEMU and VMware name them. Any other file that it names is left alone, and a warning tells which.
    type: str
    choices: [present, absent]
    default: present
  format:
    description:
      - The image's format.
      - An existing image of another format is refused, or with O(force=true) converted, its content being kept.
    type: str
    choices: [raw, qcow2, vmdk, vdi, vhdx, vpc]
    default: qcow2
  size:
    description:
      - The virtual size, in bytes or with K, M, G, T, P or E (also KiB and so on), all of them powers of 1024, such
        as V(20G) or V(512MiB). It is rounded up to whole sectors of 512 bytes.
      - A larger image is shrunk only with O(allow_shrink=true).
      - By default it is that of O(source), of O(backing_file) or of the existing image. A new empty image needs it.
    type: str
  source:
    description:
      - An image file on the managed host, or an http or https URL, that gives a new image its content. A URL needs
        O(checksum). What a URL has after its C(?), and its user and password, are kept out of results and records.
      - An https server has to be one that the managed host trusts. C(SSL_CERT_FILE) in the task's environment names a
        file with the certificates to go by instead.
      - An encrypted source is refused. Decrypt it first, with C(qemu-img convert --object secret,id=key,file=KEYFILE
        --image-opts driver=qcow2,encrypt.key-secret=key,file.filename=IMAGE -O raw NEW).
      - The source only seeds. An image recorded as made from this source is left alone, whatever has been written to
        it since.
      - An image without such a record, or with one that names another source or other arguments, is compared with the
        source once. With equal content it is kept as it is and recorded as made from it, otherwise it is refused, or
        with O(force=true) made anew.
      - By default a new image is empty, and of an existing one the content is left as it is.
    type: str
  source_format:
    description:
      - The source's format. By default the one that its header shows, and V(raw) for a file that shows none.
    type: str
    choices: [raw, qcow2, vmdk, vdi, vhdx, vpc]
  checksum:
    description:
      - The checksum of O(source), as V(algorithm:digest), such as C(sha256:9f86d0…). It is compared before anything
        is written. One that is added to a task whose image is made already is compared once, as long as the source
        is there. By default the content of a local source isn't proved.
    type: str
  allow_references:
    description:
      - Whether a source may name other files of the host (a backing file, a data file, extents), whose content then
        comes along. Only for sources whose maker is trusted. Such a source is made into one file that stands alone.
      - The named file alone tells one state of such a source from another. A change of a file that it names makes no
        other source of it.
    type: bool
    default: false
  backing_file:
    description:
      - The image that this one is an overlay of; a relative name starts at the image's directory, and V(~) is the
        home directory.
      - An existing overlay of another image is rebased, its content being kept. An empty text makes an overlay stand
        alone.
      - By default an existing image's backing file is left as it is. Format V(qcow2) only.
    type: str
  backing_format:
    description:
      - The format of O(backing_file). By default the one that its header shows, and V(raw) for a file that shows none.
    type: str
    choices: [raw, qcow2, vmdk, vdi, vhdx, vpc]
  options:
    description:
      - Creation options of the format, as C(qemu-img create -f FORMAT -o help) lists them, such as C(cluster_size),
        C(compression_type), C(preallocation), C(extended_l2) or C(lazy_refcounts).
      - Of an existing image C(compat), C(lazy_refcounts) and C(refcount_bits) are amended. Others that differ are
        refused, or with O(force=true) reached by a conversion that keeps the content. What an image doesn't show, such
        as C(preallocation), is compared with what it was made with, as far as this collection made it. Made without
        it, an image has none.
      - A conversion of the image into itself, also the one that O(size) takes of V(vmdk), V(vdi), V(vhdx) and V(vpc),
        keeps the options that the image shows and those that this collection made it with, unless others are declared
        here or the format changes. An image that is made anew from O(source) has the declared ones only.
      - What a V(raw) or V(qcow2) image grows by has the C(preallocation) that is declared, or else the one that this
        collection made it with.
      - One path is one file, so of VMDK's C(subformat) only C(monolithicSparse) and C(streamOptimized) are accepted.
    type: dict
    default: {}
  compress:
    description:
      - Whether a conversion from O(source) writes compressed data. For V(qcow2), and for V(vmdk) with C(subformat)
        V(streamOptimized) in O(options).
      - An existing image that is recorded as made otherwise is made anew only with O(force=true). Without it, an equal
        image is adopted as it is.
      - Not together with O(encrypt), as QEMU doesn't encrypt compressed data, nor with C(preallocation) in O(options).
        An image that is converted into itself, and is encrypted or preallocated then, isn't compressed any more.
    type: bool
    default: false
  encrypt:
    description:
      - Encrypt the image with LUKS. Format V(qcow2) only.
      - Of an existing image it is compared whether it is encrypted, and those O(encrypt.options) that it shows
        (C(cipher-alg), C(cipher-mode), C(hash-alg), C(ivgen-alg)). Where they differ it is refused, or with
        O(force=true) reached by a conversion that keeps the content.
      - The passphrase is tried only when something is to be done to the image, as that takes a second or two. A task
        with a wrong one that finds nothing else to do is unchanged; a change with a wrong one fails, and the image is
        left as it was. This module doesn't change passphrases.
      - By default a new image is not encrypted and an existing one is left as it is.
    type: dict
    suboptions:
      secret:
        description:
          - The passphrase. It reaches C(qemu-img) through a pipe, and no command line, file or result.
        type: str
        required: true
      options:
        description:
          - Options of the encryption without their prefix C(encrypt.). Known are C(cipher-alg), C(cipher-mode),
            C(hash-alg), C(iter-time), C(ivgen-alg) and C(ivgen-hash-alg). C(iter-time) and C(ivgen-hash-alg) count only
            when the image is made.
        type: dict
        default: {}
  allow_shrink:
    description:
      - Whether O(size) may be smaller than an existing image or than O(source). What lies behind the new end is lost.
    type: bool
    default: false
  force:
    description:
      - Whether an image whose content is not the source's is made anew from O(source), which throws away what was
        written to it. An image that is recorded as made with another O(compress) or other O(options), which it doesn't
        show, is made anew as well.
      - Whether an image that is recorded as made from O(source), or whose task declares none, is converted into itself,
        its content being kept, where its format, its options or its encryption can't be changed otherwise.
      - An image in use is never touched, with or without it.
    type: bool
    default: false
  verify:
    description:
      - How a new, converted or repaired image is proved before it takes its place, and what it is made from before it
        is used.
      - V(check) looks for faults in the structure of both (formats V(raw) and V(vpc) have nothing to check), for
        O(commit) in that of the overlay and of its backing file. An image with corruptions is refused.
      - V(compare) also compares the new image's content with that of O(source), or of the image whose place it takes,
        and for O(commit) the backing file's with the overlay's. What O(repair) mends is not compared, nor is what is
        changed in place (O(size) and O(options) of most images).
    type: str
    choices: [none, check, compare]
    default: check
  repair:
    description:
      - Check an existing image and mend what is wrong, on a copy that replaces the image only when it came out well.
      - Formats V(raw) and V(vpc) have nothing to check, so images of these are left as they are.
      - V(leaks) mends lost space only and refuses an image with corruptions; V(all) tries to mend everything, which
        may lose data.
      - It takes away the marks of an image that QEMU has marked as corrupt, or that was not closed properly (dirty), as
        after a crash with C(lazy_refcounts), whose counts V(all) makes anew. Without a repair such an image is not
        changed.
      - Other changes of the same task, such as O(commit) or a conversion, come after the repair.
    type: str
    choices: [none, leaks, all]
    default: none
  snapshots:
    description:
      - Internal snapshots that shall be there or not. Others are left alone. Format V(qcow2) only.
      - They are taken after all other changes of the same task, such as O(size); for one of before, use a task before.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description:
          - The snapshot's name.
        type: str
        required: true
      state:
        description:
          - Whether it shall be there.
        type: str
        choices: [present, absent]
        default: present
  bitmaps:
    description:
      - Persistent dirty bitmaps that shall be there or not. Others are left alone. Format V(qcow2) only.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description:
          - The bitmap's name.
        type: str
        required: true
      state:
        description:
          - Whether it shall be there.
        type: str
        choices: [present, absent]
        default: present
      granularity:
        description:
          - Bytes that one bit stands for, such as V(64K). By default C(qemu-img) chooses. Only looked at when the
            bitmap is made.
        type: str
  commit:
    description:
      - Write an overlay's own data into its backing file, after which the overlay is empty. Other overlays of that
        backing file become unusable.
      - What an encrypted overlay holds is not encrypted any more in its backing file.
      - Another O(backing_file) than the current one is refused, as is O(source). Commit first, and rebase in a task of
        its own.
      - With O(repair) the overlay is repaired before.
    type: bool
    default: false
  timeout:
    description:
      - Seconds that the whole task may take, waiting for another task on the same image included (in check mode too,
        where that one hinders a look). Then C(qemu-img) is ended and the task fails.
    type: int
    default: 3600
attributes:
  check_mode:
    support: full
    description: Says what would be done. Files are read, and compared with their source, but nothing is fetched or
      written.
  diff_mode:
    support: full
    description: Shows what is managed of the image, before and after.
  platform:
    support: full
    description: Where a protection needs Linux, such as finding the process that holds an image, a warning tells that
      it isn't there.
    platforms: posix
notes:
  - O(unsafe_writes) has no effect. A new image always takes its place in one step. O(attributes) are set last, on the
    finished image, and one that is immutable is not changed.
  - The managed host needs C(qemu-img), version 7.2 or newer.
  - What an image was made from is kept in its extended attribute C(user.vmops.image), and in a hidden file beside it
    where the file system has no such attributes.
  - On a file system that has no extended attributes a copy of the image is taken for an image without a record.
  - A conversion that surely doesn't fit is refused before anything is written. Where C(qemu-img measure) asks for more
    than is free, the source is read once to leave the zeros that are written in it out of account; data that is
    compressed or encrypted counts as it unpacks.
  - A task with nothing to do mostly runs no program at all. What a raw image or the header of an ordinary qcow2 image
    doesn't tell is asked of C(qemu-img).
  - Snapshots, bitmaps, rebases, repairs and a shrink of qcow2 are made on a copy that replaces the image, as
    C(qemu-img) itself has moments in them in which the image is torn. Where the file system shares data between files
    (XFS, Btrfs) the copy takes no time and no room, elsewhere it takes both.
  - An image that is replaced keeps its owner, group, mode and labels, so that only root and its owner can replace it.
    Where it has other names (hard links), those keep the image as it was, and a warning tells it.
seealso:
  - module: vmops.lifecycle.qemu_img_info
  - module: vmops.lifecycle.qemu_guest_shutdown
"""

EXAMPLES = r"""
- name: An empty disk
  vmops.lifecycle.qemu_img:
    path: /var/lib/vms/db/data.qcow2
    size: 100G
    options:
      lazy_refcounts: true
    mode: "0640"

- name: A machine's disk, made from a cloud image and grown
  vmops.lifecycle.qemu_img:
    path: /var/lib/vms/web/root.qcow2
    source: /srv/images/debian-12-genericcloud-amd64.raw
    checksum: sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
    size: 20G

- name: A thin overlay of a shared base image
  vmops.lifecycle.qemu_img:
    path: /var/lib/vms/ci/run.qcow2
    backing_file: /srv/images/base.qcow2
    backing_format: qcow2

- name: An encrypted disk
  vmops.lifecycle.qemu_img:
    path: /var/lib/vms/vault/secret.qcow2
    size: 10G
    encrypt:
      secret: "{{ vault_disk_passphrase }}"

- name: A snapshot before an upgrade, and none from the last one
  vmops.lifecycle.qemu_img:
    path: /var/lib/vms/web/root.qcow2
    snapshots:
      - name: before-upgrade
      - name: before-last-upgrade
        state: absent

- name: An image for VMware, compressed
  vmops.lifecycle.qemu_img:
    path: /srv/export/web.vmdk
    format: vmdk
    source: /var/lib/vms/web/root.qcow2
    options:
      subformat: streamOptimized

- name: Mend lost space
  vmops.lifecycle.qemu_img:
    path: /var/lib/vms/web/root.qcow2
    repair: leaks

- name: Gone
  vmops.lifecycle.qemu_img:
    path: /var/lib/vms/web/root.qcow2
    state: absent
"""

RETURN = r"""
image:
  description:
    - The image as it is now. In check mode, as it was found.
    - Of one that names parts of itself that are no disks, or lie elsewhere, only the format is told.
  returned: success
  type: dict
  contains:
    path:
      description: The image file, a symbolic link followed.
      type: str
      returned: always
    exists:
      description: Whether it is there.
      type: bool
      returned: always
    format:
      description: Its format.
      type: str
      returned: when it is there
    virtual_size:
      description: Bytes that a machine sees.
      type: int
      returned: when it is there
    actual_size:
      description: Bytes that it takes on the host's disk.
      type: int
      returned: when it is there
    file_size:
      description: Bytes from the file's beginning to its end, holes included.
      type: int
      returned: when it is there
    backing_file:
      description: The image that it is an overlay of, as stored in it.
      type: str
      returned: when it is there
    backing_format:
      description: That image's format, as stored.
      type: str
      returned: when it is there
    encrypted:
      description: Whether it is encrypted.
      type: bool
      returned: when it is there
    dirty:
      description: Whether it was not closed properly.
      type: bool
      returned: when it is there
    corrupt:
      description: Whether it is marked as corrupt.
      type: bool
      returned: when it is there
    options:
      description: Creation options that the image shows.
      type: dict
      returned: when it is there
    snapshots:
      description: Names of its internal snapshots.
      type: list
      elements: str
      returned: when it is there
    bitmaps:
      description: Names of its persistent bitmaps.
      type: list
      elements: str
      returned: when it is there
  sample:
    path: /var/lib/vms/web/root.qcow2
    exists: true
    format: qcow2
    virtual_size: 21474836480
    actual_size: 200704
    file_size: 196928
    backing_file: null
    backing_format: null
    encrypted: false
    dirty: false
    corrupt: false
    options:
      cluster_size: "65536"
      compat: "1.1"
      compression_type: zlib
      extended_l2: "off"
      lazy_refcounts: "off"
      refcount_bits: "16"
      data_file_raw: "off"
    snapshots: []
    bitmaps: []
commands:
  description: The C(qemu-img) commands that were run, as lists of words. No secret is ever among the words.
  returned: always
  type: list
  elements: list
  sample: [[/usr/bin/qemu-img, resize, -q, -f, qcow2, /var/lib/vms/web/root.qcow2, "21474836480"]]
bytes:
  description: Bytes on disk of the new image, 0 when none was made. After a commit they are the emptied overlay's,
    not what was written to its backing file.
  returned: always
  type: int
  sample: 2147680256
throughput_mb_s:
  description: Millions of those bytes a second, checks and the flush to disk included.
  returned: always
  type: float
  sample: 1203.4
attempts:
  description: Attempts to fetch a source from the network.
  returned: always
  type: list
  elements: dict
  sample: [{"offset": 0, "bytes": 411041792, "elapsed_s": 4.1, "outcome": complete}]
elapsed_s:
  description: Seconds that the module took.
  returned: always
  type: float
  sample: 0.021
error:
  description: What went wrong, as data.
  returned: failure
  type: dict
  sample:
    kind: refused
    operation: change /var/lib/vms/web/root.qcow2
    holders:
      - pid: 4711
        name: qemu-system-x86_64
secondary_errors:
  description: What went wrong while cleaning up after the error.
  returned: failure, when there are any
  type: list
  elements: str
  sample: ["removing /var/lib/vms/web/.root.qcow2.vmops-new: Input/output error"]
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.vmops.lifecycle.plugins.module_utils._core.attributes import FileAttributes
from ansible_collections.vmops.lifecycle.plugins.module_utils._core.converge import run
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_img.declare import declared, url_secrets
from ansible_collections.vmops.lifecycle.plugins.module_utils._qemu_img.image import Image

FORMATS = ["raw", "qcow2", "vmdk", "vdi", "vhdx", "vpc"]
STATE = {"type": "str", "choices": ["present", "absent"], "default": "present"}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "state": STATE,
            "format": {"type": "str", "choices": FORMATS, "default": "qcow2"},
            "size": {"type": "str"},
            "source": {"type": "str"},
            "source_format": {"type": "str", "choices": FORMATS},
            "checksum": {"type": "str"},
            "allow_references": {"type": "bool", "default": False},
            "backing_file": {"type": "str"},
            "backing_format": {"type": "str", "choices": FORMATS},
            "options": {"type": "dict", "default": {}},
            "compress": {"type": "bool", "default": False},
            "encrypt": {
                "type": "dict",
                "options": {
                    "secret": {"type": "str", "required": True, "no_log": True},
                    "options": {"type": "dict", "default": {}},
                },
            },
            "allow_shrink": {"type": "bool", "default": False},
            "force": {"type": "bool", "default": False},
            "verify": {"type": "str", "choices": ["none", "check", "compare"], "default": "check"},
            "repair": {"type": "str", "choices": ["none", "leaks", "all"], "default": "none"},
            "snapshots": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {"name": {"type": "str", "required": True}, "state": STATE},
            },
            "bitmaps": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {"name": {"type": "str", "required": True}, "state": STATE, "granularity": {"type": "str"}},
            },
            "commit": {"type": "bool", "default": False},
            "timeout": {"type": "int", "default": 3600},
        },
        add_file_common_args=True,
        supports_check_mode=True,
    )
    module.no_log_values.update(url_secrets(module.params["source"]))
    attributes = FileAttributes(module)
    run(module, lambda deadline: Image(declared(module.params), deadline, attributes.dress), attributes)


if __name__ == "__main__":
    main()
