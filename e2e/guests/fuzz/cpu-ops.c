// SPDX-License-Identifier: Apache-2.0
//
// Instructions: privileged ones with any operand, model-specific registers, ports, selectors, self-modifying code (checked), random bytes in user
// mode under single-step, and HYPERVISOR_iret frames.
#include "fuzz.h"

static u8 smc_page[PAGE_SIZE] PAGE_ALIGNED;
static u8 user_code[PAGE_SIZE] PAGE_ALIGNED, user_data[PAGE_SIZE] PAGE_ALIGNED;
static u64 u_l1[512] PAGE_ALIGNED, u_l2[512] PAGE_ALIGNED, u_l3[512] PAGE_ALIGNED, u_l4[512] PAGE_ALIGNED;

void user_prepare(void) {
  u_l1[0] = mfn_of(user_code) << 12 | PTE_RW;
  u_l1[1] = mfn_of(user_data) << 12 | PTE_RW;
  u_l2[2] = mfn_of(u_l1) << 12 | PTE_TABLE;
  u_l3[0] = mfn_of(u_l2) << 12 | PTE_TABLE;
  u_l4[0] = mfn_of(u_l3) << 12 | PTE_TABLE;
  void *tables[] = {u_l1, u_l2, u_l3, u_l4};
  for (u32 i = 0; i < 4; i++) update_va(tables[i], mfn_of(tables[i]) << 12 | PTE_RO, UVMF_INVLPG);
  if (mmuext(MMUEXT_PIN_L4_TABLE, mfn_of(u_l4), 0)) fuzz_failed("the user tables cannot be pinned", 0, 0);
}

void op_privileged(void) {
  u64 at = safe_address(), value = some_number();
  switch (below(24)) {
    case 0: __asm__ volatile("hlt"); break;
    case 1: __asm__ volatile("lgdt (%0)" ::"r"(at)); break;
    case 2: __asm__ volatile("lidt (%0)" ::"r"(at)); break;
    case 3: __asm__ volatile("sgdt (%0)" ::"r"(at) : "memory"); break;
    case 4: __asm__ volatile("invlpg (%0)" ::"r"(at)); break;
    case 5: __asm__ volatile("lldt %w0" ::"r"(value)); break;
    case 6: __asm__ volatile("ltr %w0" ::"r"(value)); break;
    case 7: __asm__ volatile("lmsw %w0" ::"r"(value & ~8UL)); break;
    case 8: __asm__ volatile("clts"); break;
    case 9: __asm__ volatile("swapgs"); break;
    case 10: __asm__ volatile("sysretq" ::: "rcx"); break;
    case 11: __asm__ volatile("wbinvd"); break;
    case 12: __asm__ volatile("rdpmc" ::"c"(value) : "rax", "rdx"); break;
    case 13: __asm__ volatile("xsetbv" ::"a"(value), "d"(0), "c"(one_in(2) ? 0 : value)); break;
    case 14: __asm__ volatile("cli; sti"); break;
    case 15: __asm__ volatile(".byte 0x0f, 0x0b, 0x78, 0x65, 0x6e; cpuid" : "+a"(value), "+c"(at)::"rbx", "rdx"); break;
    case 16: __asm__ volatile("cpuid" : "+a"(value), "+c"(at)::"rbx", "rdx"); break;
    case 17: __asm__ volatile("verr %w0; lar %w0, %%eax; lsl %w0, %%eax" ::"r"(value) : "rax", "cc"); break;
    case 18: __asm__ volatile("int $0x42"); break;
    case 19: __asm__ volatile("monitor" ::"a"(at), "c"(0), "d"(0)); break;
    case 20: __asm__ volatile("vmcall" : "+a"(value)::"memory"); break;
    case 21: __asm__ volatile("movq %0, %%dr7; movq %%dr6, %0" : "+r"(value)); break;
    case 22: __asm__ volatile("sysenter"); break;
    default: __asm__ volatile("str %w0; sldt %w0; smsw %w0" : "+r"(value)); break;
  }
}

void op_msr(void) {
  static const u32 indices[] = {0x10, 0x1b, 0x8b, 0x174, 0x175, 0x176, 0x179, 0x1a0, 0x1d9, 0x277, 0x2ff, 0x40000000, 0x40000001, 0xc0000080, 0xc0000081,
    0xc0000082, 0xc0000083, 0xc0000084, 0xc0000100, 0xc0000101, 0xc0000102, 0xc0000103, 0xc0010015, 0x800, 0x808, 0x6e0, 0x3a, 0xda0};
  u32 index = one_in(8) ? (u32)some_number() : indices[below(sizeof indices / sizeof *indices)];
  u64 value = some_number();
  if (index == 0x40000000) value = pool_mfn[below(POOL_PAGES)] << 12; // a hypercall page over a pool page
  if (one_in(2)) __asm__ volatile("rdmsr" ::"c"(index) : "rax", "rdx");
  else if (!initial_domain || index >= 0xc0000080) __asm__ volatile("wrmsr" ::"c"(index), "a"((u32)value), "d"((u32)(value >> 32)));
}

void op_control(void) {
  u64 value = some_number();
  switch (below(6)) {
    case 0: __asm__ volatile("movq %0, %%cr4" ::"r"(value)); break;
    case 1: __asm__ volatile("movq %0, %%cr0" ::"r"(0x80050033 ^ (one_in(2) ? 1UL << below(64) : 8))); break;
    case 2: __asm__ volatile("movq %0, %%cr2" ::"r"(value)); break;
    case 3: __asm__ volatile("movq %0, %%cr3" ::"r"((0x4000000000 + (rnd() >> 40)) << 12)); break;
    case 4: __asm__ volatile("movq %0, %%cr8" ::"r"(value)); break;
    default: __asm__ volatile("movq %%cr0, %0; movq %%cr2, %0; movq %%cr3, %0; movq %%cr4, %0" : "=r"(value)); break;
  }
}

void op_ports(void) {
  u16 port = (u16)some_number();
  u32 iopl = (u32)(one_in(4) ? some_number() : 1);
  hypercall2(__HYPERVISOR_physdev_op, PHYSDEVOP_set_iopl, &iopl);
  if (one_in(8)) {
    u64 *q = (u64 *)args;
    q[0] = safe_address();
    q[1] = one_in(2) ? 65536 : some_number();
    hypercall2(__HYPERVISOR_physdev_op, PHYSDEVOP_set_iobitmap, q);
  }
  if (initial_domain) return; // its ports are real
  u64 at = safe_address(), n = below(40);
  switch (below(8)) {
    case 0: __asm__ volatile("inb %%dx, %%al" ::"d"(port) : "rax"); break;
    case 1: __asm__ volatile("inw %%dx, %%ax" ::"d"(port) : "rax"); break;
    case 2: __asm__ volatile("inl %%dx, %%eax" ::"d"(port) : "rax"); break;
    case 3: __asm__ volatile("outb %%al, %%dx" ::"d"(port), "a"(n)); break;
    case 4: __asm__ volatile("outl %%eax, %%dx" ::"d"(port), "a"(n)); break;
    case 5: __asm__ volatile("rep insl" : "+D"(at), "+c"(n) : "d"(port) : "memory"); break;
    case 6: __asm__ volatile("rep outsb" : "+S"(at), "+c"(n) : "d"(port) : "memory"); break;
    default: __asm__ volatile("movl $0x80000000, %%eax; movw $0xcf8, %%dx; outl %%eax, %%dx; movw $0xcfc, %%dx; inl %%dx, %%eax" ::: "rax", "rdx"); break;
  }
}

void op_selectors(void) {
  u16 selector = (u16)(one_in(2) ? below(64) * 8 + below(8) : one_in(2) ? 0xe000 + below(64) : some_number());
  switch (below(4)) {
    case 0: __asm__ volatile("movw %0, %%ds" ::"r"(selector)); break;
    case 1: __asm__ volatile("movw %0, %%es" ::"r"(selector)); break;
    case 2: __asm__ volatile("movw %0, %%fs" ::"r"(selector)); break;
    default: __asm__ volatile("movw %0, %%gs" ::"r"(selector)); break;
  }
  __asm__ volatile("xorl %%eax, %%eax; movl %%eax, %%ds; movl %%eax, %%es; movl %%eax, %%fs; movl %%eax, %%gs" ::: "rax");
}

// Code that was just written must be the code that runs: from outside, and from inside the same straight line.
void op_smc(void) {
  u32 value = (u32)rnd(), got;
  u8 *at = smc_page + below(PAGE_SIZE - 32);
  if (one_in(2)) {
    at[0] = 0xb8; // mov $value, %eax; ret
    memcpy(at + 1, &value, 4);
    at[5] = 0xc3;
    __asm__ volatile("call *%1" : "=a"(got) : "r"(at) : "memory");
  } else {
    static const u8 code[] = {0x89, 0x3d, 1, 0, 0, 0, 0xb8, 0, 0, 0, 0, 0xc3}; // mov %edi, 1(%rip); mov $0, %eax; ret
    memcpy(at, code, sizeof code);
    __asm__ volatile("call *%1" : "=a"(got) : "r"(at), "D"(value) : "memory");
  }
  if (got != value) fuzz_failed("stale code ran", got, value);
}

static u32 user_steps;
static bool (*outer_hook)(struct regs *regs);

static bool user_hook(struct regs *regs) {
  if ((regs->cs & 3) != 3) {
    trap_hook = outer_hook;
    return outer_hook && outer_hook(regs);
  }
  if (regs->vector == 1 && user_steps-- > 0) {
    regs->rflags |= X86_EFLAGS_TF;
    return true;
  }
  trap_hook = outer_hook;
  return false; // abandons the operation
}

void op_user(void) {
  if (!one_in(4)) return;
  // POPF, IRET and the like could clear TF, the only thing that stops an endless loop: not among the bytes.
  for (u32 i = 0; i < 128; i++) {
    u8 byte = (u8)rnd();
    if (byte == 0x9d || byte == 0xcf) byte = 0x90;
    if (one_in(3)) byte = one_in(2) ? 0x0f : 0x48;
    user_code[i] = byte;
  }
  memset(user_code + 128, 0xcc, 64);
  update_va(user_code, mfn_of(user_code) << 12 | PTE_RW, UVMF_INVLPG);
  if (mmuext(MMUEXT_NEW_USER_BASEPTR, mfn_of(u_l4), 0)) return;
  user_steps = 24;
  outer_hook = trap_hook;
  trap_hook = user_hook;
  u64 regs[6] = {0x400000 + below(64), 0x402000 - below(32) * 8, one_in(2) ? 0x401000 + below(4096) : some_number(), 0x401000 + below(4096), 0x302, 0};
  if (one_in(8)) regs[1] = some_number();
  user_call(regs);
  trap_hook = outer_hook;
}

// Frames for HYPERVISOR_iret: any RIP, CS and flags, with a stack pointer that can take the trap that follows. Kernel RIPs are never mapped ones.
void op_iret(void) {
  mmuext(MMUEXT_NEW_USER_BASEPTR, mfn_of(u_l4), 0);
  u64 cs = one_in(2) ? FLAT_USER_CS : one_in(2) ? BOUNCED_KERNEL_CS : rnd() & 0xffff, ss = one_in(2) ? FLAT_USER_DS : rnd() & 0xffff;
  u64 rip = unreadable_address(), flags = one_in(2) ? 0x202 : rnd() & ~(u64)X86_EFLAGS_TF & 0x3fffff, vgcf = one_in(4) ? some_number() : 0;
  if ((cs & 3) != 3) ss = FLAT_KERNEL_DS;
  outer_hook = trap_hook;
  __asm__ volatile("movq %%rsp, %%rbx; pushq %0; pushq %%rbx; pushq %1; pushq %2; pushq %3; pushq %4; pushq $0; pushq $0; pushq $0;"
                   "movl $23, %%eax; syscall; ud2" ::"r"(ss), "r"(flags), "r"(cs), "r"(rip), "r"(vgcf) : "rax", "rbx", "rcx", "r11", "memory");
}
