// SPDX-License-Identifier: Apache-2.0
//
// What both test guests share: hypercalls by inline `syscall`, text output, trap records, address arithmetic and small memory routines.
#ifndef GUEST_H
#define GUEST_H
#include "abi.h"

#define PAGE_SIZE 4096
#define PAGE_ALIGNED __attribute__((aligned(4096)))

// ---- hypercalls ----
static inline s64 hypercall5(u64 nr, u64 a, u64 b, u64 c, u64 d, u64 e) {
  register u64 r10 __asm__("r10") = d;
  register u64 r8 __asm__("r8") = e;
  s64 result;
  __asm__ volatile("syscall" : "=a"(result), "+D"(a), "+S"(b), "+d"(c), "+r"(r10), "+r"(r8) : "0"(nr) : "rcx", "r11", "memory");
  return result;
}
#define hypercall4(nr, a, b, c, d) hypercall5(nr, (u64)(a), (u64)(b), (u64)(c), (u64)(d), 0)
#define hypercall3(nr, a, b, c) hypercall5(nr, (u64)(a), (u64)(b), (u64)(c), 0, 0)
#define hypercall2(nr, a, b) hypercall5(nr, (u64)(a), (u64)(b), 0, 0, 0)
#define hypercall1(nr, a) hypercall5(nr, (u64)(a), 0, 0, 0, 0)

s64 mmu_update_one(u64 machine_address, u64 value);
s64 mmuext(u32 cmd, u64 arg1, u64 arg2);
s64 update_va(const volatile void *va, u64 pte, u64 flags);
s64 xen_version(u32 cmd, void *arg);
s64 event_op(u32 cmd, void *arg);
s64 sched_op(u32 cmd, void *arg);
s64 vcpu_op(u32 cmd, void *arg);
_Noreturn void guest_shutdown(u32 reason);

// ---- memory ----
void *memcpy(void *to, const void *from, u64 n);
void *memset(void *to, int byte, u64 n);
int memcmp(const void *a, const void *b, u64 n);
u64 strlen(const char *s);
bool streq(const char *a, const char *b);
bool starts_with(const char *s, const char *prefix);

extern struct start_info *start_info;
extern u64 entry_regs[23];
extern u64 failsafe_selectors[4];
extern u8 _text_start[], _text_end[], _end[];
// Page tables and the pages around them, through the initial mapping at VIRT_BASE.
static inline u64 pfn_of(const volatile void *va) {
  return ((u64)va - VIRT_BASE) >> 12;
}
u64 mfn_of(const volatile void *va);
static inline u64 ma_of(const volatile void *va) {
  return mfn_of(va) << 12 | ((u64)va & 4095);
}
static inline bool is_initial_domain(void) {
  return start_info->flags & SIF_INITDOMAIN;
}
// The virtual address of a page the builder placed for us, found by its frame number in the p2m list; NULL when it is not ours.
void *va_of_mfn(u64 mfn);

// ---- text ----
void console_init(void);
void console_write(const char *text, u64 n);
bool console_read(char *byte);
extern struct xencons_interface *console_ring; // NULL in the initial domain
void print(const char *format, ...); // %s %c %d %u %x (32 bits), %ld %lu %lx (64 bits)
void format_text(char *out, u64 size, const char *format, __builtin_va_list args);
// The value of `name=` on the command line ("" when it stands alone), or NULL. Ends at a blank.
const char *option(const char *name);
u64 option_number(const char *name, u64 otherwise);

// ---- traps ----
struct regs {
  u64 r15, r14, r13, r12, r11, r10, r9, r8, rbp, rdi, rsi, rdx, rcx, rbx, rax;
  u64 vector, error, rip;
  u32 cs, saved_mask;
  u64 rflags, rsp, ss;
};
enum { TRAP_event = 256, TRAP_syscall = 257, TRAP_failsafe = 258, TRAP_sysenter = 259, TRAP_syscall32 = 260 };

struct trap_record {
  u64 count, cr2;
  u8 mask_inside;
  u64 frame_top; // the address just above SS
  struct regs regs;
};
extern struct trap_record last_trap;
// Called first; true means handled, return to regs as they now are.
extern bool (*trap_hook)(struct regs *regs);
// Called for every event upcall (after evtchn_upcall_pending was cleared).
extern void (*event_hook)(void);
// Where the next trap continues (used by TRY); 0 = none.
extern u64 resume_rip;
extern u8 trap_stubs[];
void event_callback(void), syscall_callback(void), failsafe_callback(void), sysenter_callback(void), syscall32_callback(void);
u64 guard_call(void (*fn)(void));
void guard_abort(void);
u64 user_call(const u64 regs[6]);
_Noreturn void user_exit(u64 value);
void traps_init(void);
static inline u64 trap_stub(u32 vector) {
  return (u64)trap_stubs + 16 * vector;
}

// Runs one or more instructions; when they trap, continues behind them. last_trap tells: count is 0 when nothing trapped.
#define TRY_CLOBBERS "rax", "rcx", "rdx", "rdi", "rsi", "r8", "r9", "r10", "r11", "cc", "memory"
#define TRY(text, ...)                                                                                                                               \
  do {                                                                                                                                               \
    last_trap.count = 0;                                                                                                                             \
    __asm__ volatile("leaq 77f(%%rip), %%rax\n\tmovq %%rax, resume_rip(%%rip)\n\t" text "\n77:\tmovq $0, resume_rip(%%rip)\n\t"                   \
                     :                                                                                                                               \
                     : __VA_ARGS__                                                                                                                   \
                     : TRY_CLOBBERS);                                                                                                                \
  } while (0)

// ---- time and events ----
extern struct shared_info *shared;
extern struct vcpu_info *vcpu; // moves when vcpu_info is registered elsewhere
u64 now_ns(void);
u64 time_at(const struct vcpu_time_info *parameters); // by these parameters, whatever the shared page says now
static inline u64 rdtsc(void) {
  u32 lo, hi;
  __asm__ volatile("lfence; rdtsc" : "=a"(lo), "=d"(hi)::"memory");
  return (u64)hi << 32 | lo;
}
static inline void barrier(void) {
  __asm__ volatile("" ::: "memory");
}
#define READ_ONCE(x) (*(volatile __typeof__(x) *)&(x))
#define WRITE_ONCE(x, v) (*(volatile __typeof__(x) *)&(x) = (v))

void guest_main(void);
#endif
