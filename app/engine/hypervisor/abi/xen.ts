// SPDX-License-Identifier: Apache-2.0
/** Numbers and structure offsets of xen public/xen.h and public/arch-x86/xen*.h, for 64-bit PV guests. */

export const __HYPERVISOR_set_trap_table = 0;
export const __HYPERVISOR_mmu_update = 1;
export const __HYPERVISOR_set_gdt = 2;
export const __HYPERVISOR_stack_switch = 3;
export const __HYPERVISOR_set_callbacks = 4;
export const __HYPERVISOR_fpu_taskswitch = 5;
export const __HYPERVISOR_sched_op_compat = 6;
export const __HYPERVISOR_platform_op = 7;
export const __HYPERVISOR_set_debugreg = 8;
export const __HYPERVISOR_get_debugreg = 9;
export const __HYPERVISOR_update_descriptor = 10;
export const __HYPERVISOR_memory_op = 12;
export const __HYPERVISOR_multicall = 13;
export const __HYPERVISOR_update_va_mapping = 14;
export const __HYPERVISOR_set_timer_op = 15;
export const __HYPERVISOR_event_channel_op_compat = 16;
export const __HYPERVISOR_xen_version = 17;
export const __HYPERVISOR_console_io = 18;
export const __HYPERVISOR_physdev_op_compat = 19;
export const __HYPERVISOR_grant_table_op = 20;
export const __HYPERVISOR_vm_assist = 21;
export const __HYPERVISOR_update_va_mapping_otherdomain = 22;
export const __HYPERVISOR_iret = 23;
export const __HYPERVISOR_vcpu_op = 24;
export const __HYPERVISOR_set_segment_base = 25;
export const __HYPERVISOR_mmuext_op = 26;
export const __HYPERVISOR_xsm_op = 27;
export const __HYPERVISOR_nmi_op = 28;
export const __HYPERVISOR_sched_op = 29;
export const __HYPERVISOR_callback_op = 30;
export const __HYPERVISOR_xenoprof_op = 31;
export const __HYPERVISOR_event_channel_op = 32;
export const __HYPERVISOR_physdev_op = 33;
export const __HYPERVISOR_hvm_op = 34;
export const __HYPERVISOR_sysctl = 35;
export const __HYPERVISOR_domctl = 36;
export const __HYPERVISOR_kexec_op = 37;
export const __HYPERVISOR_tmem_op = 38;
export const __HYPERVISOR_argo_op = 39;
export const __HYPERVISOR_xenpmu_op = 40;
export const __HYPERVISOR_dm_op = 41;
export const __HYPERVISOR_hypfs_op = 42;
export const __HYPERVISOR_mca = 48;
/** Slots of the dispatch table and of a hypercall page that can hold a call. */
export const NR_HYPERCALLS = 64;

export const HYPERCALL_NAMES: readonly string[] = [
  'set_trap_table',
  'mmu_update',
  'set_gdt',
  'stack_switch',
  'set_callbacks',
  'fpu_taskswitch',
  'sched_op_compat',
  'platform_op',
  'set_debugreg',
  'get_debugreg',
  'update_descriptor',
  'nr_11',
  'memory_op',
  'multicall',
  'update_va_mapping',
  'set_timer_op',
  'event_channel_op_compat',
  'xen_version',
  'console_io',
  'physdev_op_compat',
  'grant_table_op',
  'vm_assist',
  'update_va_mapping_otherdomain',
  'iret',
  'vcpu_op',
  'set_segment_base',
  'mmuext_op',
  'xsm_op',
  'nmi_op',
  'sched_op',
  'callback_op',
  'xenoprof_op',
  'event_channel_op',
  'physdev_op',
  'hvm_op',
  'sysctl',
  'domctl',
  'kexec_op',
  'tmem_op',
  'argo_op',
  'xenpmu_op',
  'dm_op',
  'hypfs_op',
  'nr_43',
  'nr_44',
  'nr_45',
  'nr_46',
  'nr_47',
  'mca',
];

export const DOMID_SELF = 0x7ff0;
export const DOMID_FIRST_RESERVED = 0x7ff0;

export const VIRQ_TIMER = 0;
export const VIRQ_DEBUG = 1;
export const VIRQ_XENOPROF = 7;
export const VIRQ_XENPMU = 13;
export const NR_VIRQS = 24;

export const VMASST_CMD_enable = 0;
export const VMASST_CMD_disable = 1;
export const VMASST_TYPE_4gb_segments = 0;
export const VMASST_TYPE_4gb_segments_notify = 1;
export const VMASST_TYPE_writable_pagetables = 2;
export const VMASST_TYPE_pae_extended_cr3 = 3;
export const VMASST_TYPE_architectural_iopl = 4;
export const VMASST_TYPE_runstate_update_flag = 5;
export const VMASST_TYPE_m2p_strict = 32;

/** As signed numbers: 0xffff800000000000 and 0xffff880000000000. */
export const HYPERVISOR_VIRT_START = -(2 ** 47);
export const HYPERVISOR_VIRT_END = HYPERVISOR_VIRT_START + 2 ** 43;

export const FLAT_RING3_CS32 = 0xe023;
export const FLAT_RING3_SS = 0xe02b;
export const FLAT_RING3_CS64 = 0xe033;
export const FLAT_KERNEL_CS = FLAT_RING3_CS64;
export const FLAT_KERNEL_SS = FLAT_RING3_SS;
export const FLAT_USER_CS64 = FLAT_RING3_CS64;

export const SEGBASE_FS = 0;
export const SEGBASE_GS_USER = 1;
export const SEGBASE_GS_KERNEL = 2;
export const SEGBASE_GS_USER_SEL = 3;

export const VGCF_in_syscall = 1 << 8;
export const VGCF_i387_valid = 1 << 0;
export const VGCF_in_kernel = 1 << 2;
export const VGCF_failsafe_disables_events = 1 << 3;
export const VGCF_syscall_disables_events = 1 << 4;

export const CALLBACKOP_register = 0;
export const CALLBACKOP_unregister = 1;
export const CALLBACKTYPE_event = 0;
export const CALLBACKTYPE_failsafe = 1;
export const CALLBACKTYPE_syscall = 2;
export const CALLBACKTYPE_sysenter_deprecated = 3;
export const CALLBACKTYPE_nmi = 4;
export const CALLBACKTYPE_sysenter = 5;
export const CALLBACKTYPE_syscall32 = 7;
export const CALLBACKF_mask_events = 1;

/** struct vcpu_info. */
export const VCPU_INFO = { size: 64, upcallPending: 0, upcallMask: 1, pendingSel: 8, cr2: 16, time: 32 } as const;
/** struct vcpu_time_info. */
export const TIME_INFO = { size: 32, version: 0, tscTimestamp: 8, systemTime: 16, mul: 24, shift: 28, flags: 29 } as const;
export const XEN_PVCLOCK_TSC_STABLE_BIT = 1;
export const XEN_PVCLOCK_GUEST_STOPPED = 2;

export const XEN_LEGACY_MAX_VCPUS = 32;
/** struct shared_info. */
export const SHARED_INFO = {
  vcpuInfo: 0,
  evtchnPending: 2048,
  evtchnMask: 2560,
  wcVersion: 3072,
  wcSec: 3076,
  wcNsec: 3080,
  wcSecHi: 3084,
  maxPfn: 3088,
  pfnToMfnFrameListList: 3096,
  nmiReason: 3104,
  p2mCr3: 3112,
  p2mVaddr: 3120,
  p2mGeneration: 3128,
} as const;

/** struct vcpu_guest_context. */
export const GUEST_CONTEXT = {
  fpu: 0,
  flags: 512,
  userRegs: 520,
  trapCtxt: 720,
  ldtBase: 4816,
  ldtEnts: 4824,
  gdtFrames: 4832,
  gdtEnts: 4960,
  kernelSs: 4968,
  kernelSp: 4976,
  ctrlreg: 4984,
  debugreg: 5048,
  eventCallback: 5112,
  failsafeCallback: 5120,
  syscallCallback: 5128,
  vmAssist: 5136,
  fsBase: 5144,
  gsBaseKernel: 5152,
  gsBaseUser: 5160,
  size: 5168,
} as const;

/** struct cpu_user_regs: offsets of 64-bit registers, and of 16-bit selectors. */
export const USER_REGS = {
  r15: 0,
  r14: 8,
  r13: 16,
  r12: 24,
  rbp: 32,
  rbx: 40,
  r11: 48,
  r10: 56,
  r9: 64,
  r8: 72,
  rax: 80,
  rcx: 88,
  rdx: 96,
  rsi: 104,
  rdi: 112,
  errorCode: 120,
  rip: 128,
  cs: 136,
  savedUpcallMask: 140,
  rflags: 144,
  rsp: 152,
  ss: 160,
  es: 168,
  ds: 176,
  fs: 184,
  gs: 192,
  size: 200,
} as const;

/** struct iret_context, from the stack pointer up. */
export const IRET_FRAME = { rax: 0, r11: 8, rcx: 16, flags: 24, rip: 32, cs: 40, rflags: 48, rsp: 56, ss: 64, size: 72 } as const;

/** Is `va` (a signed number) a canonical 48-bit address? False for NaN. */
export function isCanonical(va: number): boolean {
  return va >= HYPERVISOR_VIRT_START && va < 2 ** 47;
}

/** May a hypercall argument point at `length` bytes from `va`: canonical, not wrapping, and outside of the hypervisor's range? */
export function isGuestRange(va: number, length: number): boolean {
  const end = va + length;
  if (va >= 0) return end <= 2 ** 47;
  return va >= HYPERVISOR_VIRT_END && end <= 0;
}
