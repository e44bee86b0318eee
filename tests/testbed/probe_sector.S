/* Copyright: (c) 2026, vmops.lifecycle contributors
 * GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The boot sector by which plugins/module_utils/_qemu_guest/accel.py tells whether an accelerator is worth using.
 * Its code is kept there as hexadecimal; after a change here:
 *   gcc -c -o probe.o probe_sector.S && ld -Ttext 0x7c00 --oformat binary -o probe.bin probe.o && xxd -p probe.bin
 */
.code16
.globl _start
_start:
  cli
  xorw %ax,%ax
  movw %ax,%ds
  movw %ax,%es
  movw %ax,%ss
  movw $0x7c00,%sp
  /* page tables at 0x1000 (PML4), 0x2000 (PDPT), 0x3000 (PD, one 2 MiB page) */
  movw $0x1000,%di
  movw $0x0c00,%cx
  xorl %eax,%eax
  cld
  rep stosl
  movw $0x2003,0x1000
  movw $0x3003,0x2000
  movw $0x0083,0x3000
  lgdt gdtr
  lidt idtr
  movl %cr4,%eax
  orb $0x20,%al
  movl %eax,%cr4
  movl $0x1000,%eax
  movl %eax,%cr3
  movl $0xc0000080,%ecx
  rdmsr
  orb $1,%ah
  wrmsr
  movl %cr0,%eax
  orl $0x80000001,%eax
  movl %eax,%cr0
  ljmpl $8,$start64
.code64
start64:
  movw $16,%ax
  movw %ax,%ds
  movw %ax,%ss
  /* IDT entry 32 at 0x5000+32*16 : interrupt gate to tick */
  movl $0x5200,%edi
  movl $tick,%eax
  movw %ax,(%rdi)
  movw $8,2(%rdi)
  movw $0x8e00,4(%rdi)
  movl $0,%ecx
  movw %cx,6(%rdi)
  movq %rcx,8(%rdi)
  /* PIC: remap to 32, unmask IRQ0; PIT: 1 ms */
  movb $0x11,%al
  outb %al,$0x20
  movb $0x20,%al
  outb %al,$0x21
  movb $4,%al
  outb %al,$0x21
  movb $1,%al
  outb %al,$0x21
  movb $0xfe,%al
  outb %al,$0x21
  movb $0x34,%al
  outb %al,$0x43
  movb $0xa9,%al
  outb %al,$0x40
  movb $4,%al
  outb %al,$0x40
  /* so much work that only an accelerator that runs the guest's instructions itself, or TCG, ends in time */
  movl $100000000,%ecx
3: decl %ecx
  jnz 3b
  movl $20,%ebx
  sti
1: hlt
  jmp 1b
tick:
  movb $0x20,%al
  outb %al,$0x20
  decl %ebx
  jz done
  iretq
done:
  movb $42,%al
  outb %al,$0xf4
2: hlt
  jmp 2b
.balign 8
gdt: .quad 0, 0x00209a0000000000, 0x0000920000000000
gdtr: .word 23
  .long gdt
idtr: .word 0x0fff
  .long 0x5000
.org 510
.word 0xaa55
