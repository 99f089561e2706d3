// SPDX-License-Identifier: Apache-2.0
//
// Hypercall wrappers, memory routines, console and text. The console is the PV ring of a guest domain; the initial domain of a real Xen has no
// ring and prints through HYPERVISOR_console_io.
#include "guest.h"

struct xencons_interface *console_ring;
struct shared_info *shared;
struct vcpu_info *vcpu;

s64 mmu_update_one(u64 machine_address, u64 value) {
  struct mmu_update request = {machine_address, value};
  return hypercall4(__HYPERVISOR_mmu_update, &request, 1, 0, DOMID_SELF);
}

s64 mmuext(u32 cmd, u64 arg1, u64 arg2) {
  struct mmuext_op op = {.cmd = cmd, .arg1 = arg1, .arg2 = arg2};
  return hypercall4(__HYPERVISOR_mmuext_op, &op, 1, 0, DOMID_SELF);
}

s64 update_va(const volatile void *va, u64 pte, u64 flags) {
  return hypercall3(__HYPERVISOR_update_va_mapping, va, pte, flags);
}

s64 xen_version(u32 cmd, void *arg) {
  return hypercall2(__HYPERVISOR_xen_version, cmd, arg);
}

s64 event_op(u32 cmd, void *arg) {
  return hypercall2(__HYPERVISOR_event_channel_op, cmd, arg);
}

s64 sched_op(u32 cmd, void *arg) {
  return hypercall2(__HYPERVISOR_sched_op, cmd, arg);
}

s64 vcpu_op(u32 cmd, void *arg) {
  return hypercall3(__HYPERVISOR_vcpu_op, cmd, 0, arg);
}

_Noreturn void guest_shutdown(u32 reason) {
  // The host side must have taken the last line before the domain ends.
  if (console_ring)
    while (READ_ONCE(console_ring->out_cons) != console_ring->out_prod) sched_op(SCHEDOP_yield, NULL);
  for (;;) sched_op(SCHEDOP_shutdown, &reason);
}

void *memcpy(void *to, const void *from, u64 n) {
  void *start = to;
  __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n)::"memory");
  return start;
}

void *memset(void *to, int byte, u64 n) {
  void *start = to;
  __asm__ volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(byte) : "memory");
  return start;
}

int memcmp(const void *a, const void *b, u64 n) {
  const u8 *x = a, *y = b;
  for (; n; n--, x++, y++)
    if (*x != *y) return *x - *y;
  return 0;
}

u64 strlen(const char *s) {
  u64 n = 0;
  while (s[n]) n++;
  return n;
}

bool streq(const char *a, const char *b) {
  while (*a && *a == *b) a++, b++;
  return *a == *b;
}

bool starts_with(const char *s, const char *prefix) {
  while (*prefix)
    if (*s++ != *prefix++) return false;
  return true;
}

u64 mfn_of(const volatile void *va) {
  return ((u64 *)start_info->mfn_list)[pfn_of(va)];
}

void *va_of_mfn(u64 mfn) {
  // Builders put these pages right behind start_info: look there first, then everywhere.
  const u64 *p2m = (const u64 *)start_info->mfn_list;
  u64 near = pfn_of(start_info);
  for (u64 pfn = near; pfn < near + 4 && pfn < start_info->nr_pages; pfn++)
    if (p2m[pfn] == mfn) return (void *)(VIRT_BASE + (pfn << 12));
  for (u64 pfn = 0; pfn < start_info->nr_pages; pfn++)
    if (p2m[pfn] == mfn) return (void *)(VIRT_BASE + (pfn << 12));
  return NULL;
}

void console_init(void) {
  if (!is_initial_domain()) console_ring = va_of_mfn(start_info->console_mfn);
}

static void console_notify(void) {
  u32 port = start_info->console_evtchn;
  event_op(EVTCHNOP_send, &port);
}

void console_write(const char *text, u64 n) {
  if (!console_ring) {
    hypercall3(__HYPERVISOR_console_io, CONSOLEIO_write, n, text);
    return;
  }
  u32 prod = console_ring->out_prod;
  for (u64 i = 0; i < n; i++) {
    while (prod - READ_ONCE(console_ring->out_cons) >= sizeof console_ring->out) {
      barrier();
      console_ring->out_prod = prod;
      console_notify();
      sched_op(SCHEDOP_yield, NULL);
    }
    console_ring->out[prod++ % sizeof console_ring->out] = text[i];
  }
  barrier();
  console_ring->out_prod = prod;
  console_notify();
}

bool console_read(char *byte) {
  if (!console_ring) return hypercall3(__HYPERVISOR_console_io, CONSOLEIO_read, 1, byte) == 1;
  u32 cons = console_ring->in_cons;
  if (READ_ONCE(console_ring->in_prod) == cons) return false;
  barrier();
  *byte = console_ring->in[cons % sizeof console_ring->in];
  barrier();
  console_ring->in_cons = cons + 1;
  console_notify();
  return true;
}

struct sink {
  char *out;
  u64 size, used;
};

static void put(struct sink *sink, char c) {
  if (sink->used + 1 < sink->size) sink->out[sink->used++] = c;
}

static void put_number(struct sink *sink, u64 value, u32 base) {
  char digits[24];
  int n = 0;
  do digits[n++] = "0123456789abcdef"[value % base];
  while (value /= base);
  while (n) put(sink, digits[--n]);
}

void format_text(char *out, u64 size, const char *format, __builtin_va_list args) {
  struct sink sink = {out, size, 0};
  for (; *format; format++) {
    if (*format != '%') {
      put(&sink, *format);
      continue;
    }
    bool wide = *++format == 'l';
    if (wide) format++;
    if (*format == 's') {
      const char *s = __builtin_va_arg(args, const char *);
      while (*s) put(&sink, *s++);
    } else if (*format == 'c') {
      put(&sink, (char)__builtin_va_arg(args, int));
    } else if (*format == 'd') {
      s64 value = wide ? __builtin_va_arg(args, s64) : __builtin_va_arg(args, s32);
      if (value < 0) put(&sink, '-');
      put_number(&sink, value < 0 ? -(u64)value : (u64)value, 10);
    } else if (*format == 'u' || *format == 'x') {
      u64 value = wide ? __builtin_va_arg(args, u64) : __builtin_va_arg(args, u32);
      put_number(&sink, value, *format == 'u' ? 10 : 16);
    } else {
      put(&sink, *format);
    }
  }
  out[sink.used] = 0;
}

void print(const char *format, ...) {
  char line[512];
  __builtin_va_list args;
  __builtin_va_start(args, format);
  format_text(line, sizeof line, format, args);
  __builtin_va_end(args);
  console_write(line, strlen(line));
}

const char *option(const char *name) {
  const char *at = start_info->cmd_line;
  u64 n = strlen(name);
  while (*at) {
    while (*at == ' ') at++;
    if (starts_with(at, name) && (at[n] == '=' || at[n] == ' ' || !at[n])) return at + n + (at[n] == '=');
    while (*at && *at != ' ') at++;
  }
  return NULL;
}

u64 option_number(const char *name, u64 otherwise) {
  const char *text = option(name);
  if (!text || *text < '0' || *text > '9') return otherwise;
  u64 value = 0;
  while (*text >= '0' && *text <= '9') value = value * 10 + (u64)(*text++ - '0');
  return value;
}

u64 time_at(const struct vcpu_time_info *t) {
  u64 delta = rdtsc() - t->tsc_timestamp, high;
  delta = t->tsc_shift < 0 ? delta >> -t->tsc_shift : delta << t->tsc_shift;
  __asm__("mulq %3" : "=a"(delta), "=d"(high) : "0"(delta), "rm"((u64)t->tsc_to_system_mul));
  return t->system_time + (high << 32 | delta >> 32);
}

u64 now_ns(void) {
  const struct vcpu_time_info *t = &vcpu->time;
  u32 version;
  u64 result;
  do {
    version = READ_ONCE(t->version);
    barrier();
    result = time_at(t);
    barrier();
  } while ((version & 1) || version != READ_ONCE(t->version));
  return result;
}
