// SPDX-License-Identifier: Apache-2.0
//
// The Xen PV ABI for x86-64, as far as the test guests use it. Names and numbers follow the public headers (xen public/xen.h, event_channel.h,
// grant_table.h, memory.h, vcpu.h, sched.h, version.h, arch-x86/xen.h, io/*.h); the text is our own. Usable from assembly: types are left out there.
#ifndef GUEST_ABI_H
#define GUEST_ABI_H

// Hypercall numbers (rax).
#define __HYPERVISOR_set_trap_table 0
#define __HYPERVISOR_mmu_update 1
#define __HYPERVISOR_set_gdt 2
#define __HYPERVISOR_stack_switch 3
#define __HYPERVISOR_set_callbacks 4
#define __HYPERVISOR_fpu_taskswitch 5
#define __HYPERVISOR_platform_op 7
#define __HYPERVISOR_set_debugreg 8
#define __HYPERVISOR_get_debugreg 9
#define __HYPERVISOR_update_descriptor 10
#define __HYPERVISOR_memory_op 12
#define __HYPERVISOR_multicall 13
#define __HYPERVISOR_update_va_mapping 14
#define __HYPERVISOR_set_timer_op 15
#define __HYPERVISOR_xen_version 17
#define __HYPERVISOR_console_io 18
#define __HYPERVISOR_grant_table_op 20
#define __HYPERVISOR_vm_assist 21
#define __HYPERVISOR_iret 23
#define __HYPERVISOR_vcpu_op 24
#define __HYPERVISOR_set_segment_base 25
#define __HYPERVISOR_mmuext_op 26
#define __HYPERVISOR_nmi_op 28
#define __HYPERVISOR_sched_op 29
#define __HYPERVISOR_callback_op 30
#define __HYPERVISOR_event_channel_op 32
#define __HYPERVISOR_physdev_op 33
#define __HYPERVISOR_hvm_op 34
#define __HYPERVISOR_xenpmu_op 40

// Error numbers (returned negative).
#define XEN_EPERM 1
#define XEN_ENOENT 2
#define XEN_ESRCH 3
#define XEN_ENXIO 6
#define XEN_EFAULT 14
#define XEN_EBUSY 16
#define XEN_EEXIST 17
#define XEN_EINVAL 22
#define XEN_ENOSYS 38
#define XEN_EOPNOTSUPP 95
#define XEN_ETIME 62

#define DOMID_SELF 0x7ff0
#define VIRT_BASE 0xffffffff80000000
#define MACH2PHYS_VIRT_START 0xffff800000000000
#define FLAT_KERNEL_CS 0xe033
#define FLAT_KERNEL_DS 0xe02b
#define FLAT_USER_CS 0xe033
#define FLAT_USER_DS 0xe02b
#define FLAT_RING3_CS32 0xe023
// What a bounce frame shows as CS when the guest kernel was interrupted: the requested privilege level is cleared.
#define BOUNCED_KERNEL_CS 0xe030
#define VGCF_in_syscall 0x100

#define SIF_PRIVILEGED 1
#define SIF_INITDOMAIN 2

#define CALLBACKOP_register 0
#define CALLBACKOP_unregister 1
#define CALLBACKTYPE_event 0
#define CALLBACKTYPE_failsafe 1
#define CALLBACKTYPE_syscall 2
#define CALLBACKTYPE_nmi 4
#define CALLBACKTYPE_sysenter 5
#define CALLBACKTYPE_syscall32 7
#define CALLBACKF_mask_events 1

#define SCHEDOP_yield 0
#define SCHEDOP_block 1
#define SCHEDOP_shutdown 2
#define SCHEDOP_poll 3
#define SHUTDOWN_poweroff 0
#define SHUTDOWN_reboot 1
#define SHUTDOWN_suspend 2
#define SHUTDOWN_crash 3

#define CONSOLEIO_write 0
#define CONSOLEIO_read 1

#define XENVER_version 0
#define XENVER_extraversion 1
#define XENVER_compile_info 2
#define XENVER_capabilities 3
#define XENVER_changeset 4
#define XENVER_platform_parameters 5
#define XENVER_get_features 6
#define XENVER_pagesize 7
#define XENVER_guest_handle 8
#define XENVER_commandline 9
#define XENFEAT_writable_page_tables 0
#define XENFEAT_auto_translated_physmap 2
#define XENFEAT_mmu_pt_update_preserve_ad 5
#define XENFEAT_gnttab_map_avail_bits 7

#define MMU_NORMAL_PT_UPDATE 0
#define MMU_MACHPHYS_UPDATE 1
#define MMU_PT_UPDATE_PRESERVE_AD 2
#define MMU_PT_UPDATE_NO_TRANSLATE 3
#define MMUEXT_PIN_L1_TABLE 0
#define MMUEXT_PIN_L2_TABLE 1
#define MMUEXT_PIN_L3_TABLE 2
#define MMUEXT_PIN_L4_TABLE 3
#define MMUEXT_UNPIN_TABLE 4
#define MMUEXT_NEW_BASEPTR 5
#define MMUEXT_TLB_FLUSH_LOCAL 6
#define MMUEXT_INVLPG_LOCAL 7
#define MMUEXT_TLB_FLUSH_MULTI 8
#define MMUEXT_INVLPG_MULTI 9
#define MMUEXT_TLB_FLUSH_ALL 10
#define MMUEXT_INVLPG_ALL 11
#define MMUEXT_FLUSH_CACHE 12
#define MMUEXT_SET_LDT 13
#define MMUEXT_NEW_USER_BASEPTR 15
#define MMUEXT_CLEAR_PAGE 16
#define MMUEXT_COPY_PAGE 17
#define MMUEXT_MARK_SUPER 19
#define UVMF_NONE 0
#define UVMF_TLB_FLUSH 1
#define UVMF_INVLPG 2
#define UVMF_ALL 4
#define VMASST_CMD_enable 0
#define VMASST_CMD_disable 1
#define VMASST_TYPE_4gb_segments 0
#define VMASST_TYPE_writable_pagetables 2
#define VMASST_TYPE_pae_extended_cr3 3
#define VMASST_TYPE_runstate_update_flag 5

#define SEGBASE_FS 0
#define SEGBASE_GS_USER 1
#define SEGBASE_GS_KERNEL 2
#define SEGBASE_GS_USER_SEL 3

#define VIRQ_TIMER 0
#define VIRQ_DEBUG 1
#define EVTCHNOP_bind_interdomain 0
#define EVTCHNOP_bind_virq 1
#define EVTCHNOP_close 3
#define EVTCHNOP_send 4
#define EVTCHNOP_status 5
#define EVTCHNOP_alloc_unbound 6
#define EVTCHNOP_bind_ipi 7
#define EVTCHNOP_bind_vcpu 8
#define EVTCHNOP_unmask 9
#define EVTCHNOP_init_control 11
#define EVTCHNOP_expand_array 12
#define EVTCHNOP_set_priority 13
#define EVTCHNSTAT_closed 0
#define EVTCHNSTAT_unbound 1
#define EVTCHNSTAT_interdomain 2
#define EVTCHNSTAT_virq 4
#define EVTCHNSTAT_ipi 5
#define EVTCHN_FIFO_PENDING 31
#define EVTCHN_FIFO_MASKED 30
#define EVTCHN_FIFO_LINKED 29
#define EVTCHN_FIFO_LINK_BITS 17

#define VCPUOP_initialise 0
#define VCPUOP_up 1
#define VCPUOP_is_up 3
#define VCPUOP_get_runstate_info 4
#define VCPUOP_register_runstate_memory_area 5
#define VCPUOP_set_periodic_timer 6
#define VCPUOP_stop_periodic_timer 7
#define VCPUOP_set_singleshot_timer 8
#define VCPUOP_stop_singleshot_timer 9
#define VCPUOP_register_vcpu_info 10
#define VCPU_SSHOTTMR_future 1
#define RUNSTATE_running 0
#define RUNSTATE_blocked 2

#define GNTTABOP_map_grant_ref 0
#define GNTTABOP_unmap_grant_ref 1
#define GNTTABOP_setup_table 2
#define GNTTABOP_copy 5
#define GNTTABOP_query_size 6
#define GNTTABOP_set_version 8
#define GNTTABOP_get_version 10
#define GNTMAP_host_map 2
#define GNTMAP_readonly 4
#define GNTCOPY_source_gref 1
#define GNTCOPY_dest_gref 2
#define GTF_permit_access 1
#define GTF_readonly 4
#define GTF_reading 8
#define GTF_writing 16
#define GNTST_okay 0
#define GNTST_bad_gntref -3
#define GNTST_permission_denied -8
#define GNTST_bad_copy_arg -10

#define XENMEM_decrease_reservation 1
#define XENMEM_maximum_ram_page 2
#define XENMEM_current_reservation 3
#define XENMEM_maximum_reservation 4
#define XENMEM_populate_physmap 6
#define XENMEM_memory_map 9
#define XENMEM_exchange 11
#define XENMEM_machphys_mapping 12

#define PHYSDEVOP_set_iopl 6
#define PHYSDEVOP_set_iobitmap 7

#define XS_DIRECTORY 1
#define XS_READ 2
#define XS_GET_PERMS 3
#define XS_WATCH 4
#define XS_UNWATCH 5
#define XS_TRANSACTION_START 6
#define XS_TRANSACTION_END 7
#define XS_GET_DOMAIN_PATH 10
#define XS_WRITE 11
#define XS_MKDIR 12
#define XS_RM 13
#define XS_SET_PERMS 14
#define XS_WATCH_EVENT 15
#define XS_ERROR 16

#define _PAGE_PRESENT 0x1
#define _PAGE_RW 0x2
#define _PAGE_USER 0x4
#define _PAGE_PCD 0x10
#define _PAGE_ACCESSED 0x20
#define _PAGE_DIRTY 0x40
#define _PAGE_PSE 0x80
#define _PAGE_NX 0x8000000000000000
#define PTE_RO (_PAGE_PRESENT | _PAGE_USER | _PAGE_ACCESSED)
#define PTE_RW (_PAGE_PRESENT | _PAGE_RW | _PAGE_USER | _PAGE_ACCESSED | _PAGE_DIRTY)
#define PTE_TABLE (_PAGE_PRESENT | _PAGE_RW | _PAGE_USER | _PAGE_ACCESSED | _PAGE_DIRTY)

#define X86_EFLAGS_TF 0x100
#define X86_EFLAGS_IF 0x200
#define X86_CR0_TS 8
#define MSR_EFER 0xc0000080
#define MSR_FS_BASE 0xc0000100
#define MSR_GS_BASE 0xc0000101
#define MSR_KERNEL_GS_BASE 0xc0000102

#ifndef __ASSEMBLER__
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long u64;
typedef signed char s8;
typedef short s16;
typedef int s32;
typedef long s64;
typedef _Bool bool;
#define true 1
#define false 0
#define NULL ((void *)0)

struct vcpu_time_info {
  u32 version, pad0;
  u64 tsc_timestamp, system_time;
  u32 tsc_to_system_mul;
  s8 tsc_shift;
  u8 flags, pad1[2];
};

struct vcpu_info {
  u8 evtchn_upcall_pending, evtchn_upcall_mask;
  u8 pad0[6];
  u64 evtchn_pending_sel;
  u64 cr2, pad1;
  struct vcpu_time_info time;
};

struct shared_info {
  struct vcpu_info vcpu_info[32];
  u64 evtchn_pending[64], evtchn_mask[64];
  u32 wc_version, wc_sec, wc_nsec, wc_sec_hi;
};

struct start_info {
  char magic[32];
  u64 nr_pages, shared_info;
  u32 flags, pad0;
  u64 store_mfn;
  u32 store_evtchn, pad1;
  u64 console_mfn; // info_off and info_size (two u32) for the initial domain
  u32 console_evtchn, pad2;
  u64 pt_base, nr_pt_frames, mfn_list, mod_start, mod_len;
  char cmd_line[1024];
  u64 first_p2m_pfn, nr_p2m_frames;
};

struct xencons_interface {
  char in[1024], out[2048];
  u32 in_cons, in_prod, out_cons, out_prod;
};

struct xenstore_domain_interface {
  char req[1024], rsp[1024];
  u32 req_cons, req_prod, rsp_cons, rsp_prod;
  u32 server_features, connection, error;
};

struct xsd_sockmsg {
  u32 type, req_id, tx_id, len;
};

struct trap_info {
  u8 vector, flags;
  u16 cs;
  u64 address;
};

struct callback_register {
  u16 type, flags;
  u64 address;
};

struct mmu_update {
  u64 ptr, val;
};

struct mmuext_op {
  u32 cmd, pad0;
  u64 arg1; // mfn or linear_addr
  u64 arg2; // nr_ents, vcpumask or src_mfn
};

struct multicall_entry {
  u64 op;
  s64 result;
  u64 args[6];
};

struct evtchn_alloc_unbound {
  u16 dom, remote_dom;
  u32 port;
};
struct evtchn_bind_interdomain {
  u16 remote_dom, pad;
  u32 remote_port, local_port;
};
struct evtchn_bind_virq {
  u32 virq, vcpu, port;
};
struct evtchn_bind_ipi {
  u32 vcpu, port;
};
struct evtchn_bind_vcpu {
  u32 port, vcpu;
};
struct evtchn_status {
  u16 dom, pad0;
  u32 port, status, vcpu;
  union {
    struct {
      u16 dom, pad;
      u32 port;
    } interdomain;
    u32 virq;
  } u;
};
struct evtchn_init_control {
  u64 control_gfn;
  u32 offset, vcpu;
  u8 link_bits, pad[7];
};
struct evtchn_set_priority {
  u32 port, priority;
};
struct evtchn_fifo_control_block {
  u32 ready, rsvd, head[16];
};

struct sched_poll {
  u32 *ports;
  u32 nr_ports, pad;
  u64 timeout;
};

struct vcpu_set_singleshot_timer {
  u64 timeout_abs_ns;
  u32 flags, pad;
};
struct vcpu_register_vcpu_info {
  u64 mfn;
  u32 offset, rsvd;
};
struct vcpu_runstate_info {
  s32 state, pad;
  u64 state_entry_time, time[4];
};

struct xen_memory_reservation {
  u64 *extent_start;
  u64 nr_extents;
  u32 extent_order, mem_flags;
  u16 domid, pad[3];
};
struct xen_memory_map {
  u32 nr_entries, pad;
  void *buffer;
};
struct e820entry {
  u64 addr, size;
  u32 type;
} __attribute__((packed));
struct xen_machphys_mapping {
  u64 v_start, v_end, max_mfn;
};

struct grant_entry_v1 {
  u16 flags, domid;
  u32 frame;
};
struct gnttab_map_grant_ref {
  u64 host_addr;
  u32 flags, ref;
  u16 dom;
  s16 status;
  u32 handle;
  u64 dev_bus_addr;
};
struct gnttab_unmap_grant_ref {
  u64 host_addr, dev_bus_addr;
  u32 handle;
  s16 status, pad;
};
struct gnttab_setup_table {
  u16 dom, pad;
  u32 nr_frames;
  s16 status, pad1[3];
  u64 *frame_list;
};
struct gnttab_copy_ptr {
  u64 ref_or_gmfn;
  u16 domid, offset, pad[2];
};
struct gnttab_copy {
  struct gnttab_copy_ptr source, dest;
  u16 len, flags;
  s16 status, pad;
};
struct gnttab_query_size {
  u16 dom, pad;
  u32 nr_frames, max_nr_frames;
  s16 status, pad1;
};
struct gnttab_get_version {
  u16 dom, pad;
  u32 version;
};

struct physdev_set_iopl {
  u32 iopl;
};

_Static_assert(sizeof(struct vcpu_info) == 64, "vcpu_info");
_Static_assert(__builtin_offsetof(struct shared_info, wc_version) == 3072, "shared_info");
_Static_assert(__builtin_offsetof(struct start_info, cmd_line) == 128, "start_info");
_Static_assert(__builtin_offsetof(struct start_info, first_p2m_pfn) == 1152, "start_info");
_Static_assert(sizeof(struct gnttab_copy) == 40, "gnttab_copy");
_Static_assert(sizeof(struct xen_memory_reservation) == 32, "xen_memory_reservation");
_Static_assert(sizeof(struct gnttab_setup_table) == 24, "gnttab_setup_table");
#endif
#endif
