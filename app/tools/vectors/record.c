// SPDX-License-Identifier: Apache-2.0
/*
 * Runs single instructions on the real processor and reports what they did.
 *
 * Reads cases from standard input, writes results to standard output, both as the fixed-size structures below. Each case is
 * entered and left through a signal: the handler stores what the previous case did and returns into the next one with all of its
 * registers, so that no code of this program runs between the two. Code pages are filled with INT3.
 *
 * Build: gcc -O1 -no-pie -static -o record record.c      (x86-64 Linux)
 */
#define _GNU_SOURCE
#include <asm/ldt.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define CODE 0x100000u
#define CODE_BYTES 0x2000u
#define DATA 0x110000u
#define DATA_BYTES 0x4000u
#define STACK 0x120000u
#define STACK_BYTES 0x2000u
/* A page of zeros that can only be read. */
#define READ_ONLY 0x116000u
#define READ_ONLY_BYTES 0x1000u
/* GS has a base, so that segment overrides are seen to work. */
#define GS_BASE 0x108000u
#define GS_SELECTOR 7
/* The part of each memory area that a case sets and reports. */
#define DATA_WINDOW_BYTES 640u
#define STACK_WINDOW_BYTES 512u
#define DATA_WINDOW (DATA + 0x1000 - 256)
#define STACK_WINDOW (STACK + 0x1000 - 256)

struct state {
  uint64_t gpr[16];
  uint64_t rip, rflags;
  uint8_t fx[512];
  uint8_t data[DATA_WINDOW_BYTES];
  uint8_t stack[STACK_WINDOW_BYTES];
};
struct input {
  uint32_t mode, length;
  uint8_t code[16];
  struct state state;
};
struct output {
  uint32_t trap, error;
  uint64_t cr2;
  struct state state;
};

static struct input in;
static struct output out;
static int started;

static const int order[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                              REG_R8, REG_R9, REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};

static int read_all(void *to, size_t bytes) {
  size_t done = 0;
  while (done < bytes) {
    ssize_t n = read(0, (char *)to + done, bytes - done);
    if (n <= 0) return 0;
    done += n;
  }
  return 1;
}

/* Segment registers that a case may have changed; FS belongs to the C library. */
static void load_segments(void) {
  __asm__ volatile("mov %0, %%ds\n\tmov %0, %%es\n\tmov %1, %%gs" ::"r"(0x2b), "r"(GS_SELECTOR));
}

static void on_signal(int number, siginfo_t *info, void *context) {
  (void)number;
  (void)info;
  load_segments();
  ucontext_t *uc = context;
  greg_t *g = uc->uc_mcontext.gregs;
  uint8_t *fx = (uint8_t *)uc->uc_mcontext.fpregs;
  if (started) {
    out.trap = g[REG_TRAPNO];
    out.error = g[REG_ERR];
    out.cr2 = g[REG_CR2];
    for (int i = 0; i < 16; i++) out.state.gpr[i] = g[order[i]];
    out.state.rip = g[REG_RIP];
    out.state.rflags = g[REG_EFL];
    memcpy(out.state.fx, fx, 512);
    memcpy(out.state.data, (void *)(uintptr_t)DATA_WINDOW, DATA_WINDOW_BYTES);
    memcpy(out.state.stack, (void *)(uintptr_t)STACK_WINDOW, STACK_WINDOW_BYTES);
    if (fwrite(&out, sizeof out, 1, stdout) != 1) _exit(3);
  }
  started = 1;
  if (!read_all(&in, sizeof in)) {
    fflush(stdout);
    _exit(0);
  }
  memset((void *)(uintptr_t)CODE, 0xcc, CODE_BYTES);
  memcpy((void *)(uintptr_t)in.state.rip, in.code, in.length);
  memset((void *)(uintptr_t)DATA, 0, DATA_BYTES);
  memset((void *)(uintptr_t)STACK, 0, STACK_BYTES);
  memcpy((void *)(uintptr_t)DATA_WINDOW, in.state.data, DATA_WINDOW_BYTES);
  memcpy((void *)(uintptr_t)STACK_WINDOW, in.state.stack, STACK_WINDOW_BYTES);
  for (int i = 0; i < 16; i++) g[order[i]] = in.state.gpr[i];
  g[REG_RIP] = in.state.rip;
  g[REG_EFL] = in.state.rflags;
  /* The low 416 bytes: x87, MXCSR and XMM; the rest belongs to the kernel. */
  memcpy(fx, in.state.fx, 416);
  uint32_t magic;
  memcpy(&magic, fx + 464, 4);
  if (magic == 0x46505853) {
    /* With an extended area, its header says which parts are in use. */
    uint64_t used;
    memcpy(&used, fx + 512, 8);
    used |= 3;
    memcpy(fx + 512, &used, 8);
  }
  uint64_t selectors = g[REG_CSGSFS];
  g[REG_CSGSFS] = (selectors & ~0xffffull) | (in.mode == 32 ? 0x23 : 0x33);
  /* SS is in the uppermost word. */
  g[REG_CSGSFS] = (g[REG_CSGSFS] & 0x0000ffffffffffffull) | (0x2bull << 48);
}

static void map(uintptr_t at, size_t bytes) {
  void *got = mmap((void *)at, bytes, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
  if (got != (void *)at) {
    perror("mmap");
    exit(2);
  }
}

int main(void) {
  map(CODE, CODE_BYTES);
  map(DATA, DATA_BYTES);
  map(STACK, STACK_BYTES);
  map(READ_ONLY, READ_ONLY_BYTES);
  mprotect((void *)(uintptr_t)READ_ONLY, READ_ONLY_BYTES, PROT_READ);
  /* Present from now on, so that writes are protection violations. */
  (void)*(volatile uint8_t *)READ_ONLY;
  mlock((void *)(uintptr_t)READ_ONLY, READ_ONLY_BYTES);
  stack_t alternate = {.ss_sp = malloc(1 << 18), .ss_size = 1 << 18};
  sigaltstack(&alternate, NULL);
  struct sigaction action = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};
  const int signals[] = {SIGTRAP, SIGSEGV, SIGILL, SIGFPE, SIGBUS};
  for (size_t i = 0; i < sizeof signals / sizeof *signals; i++) sigaction(signals[i], &action, NULL);
  struct user_desc gs = {.base_addr = GS_BASE, .limit = 0xfffff, .seg_32bit = 1, .limit_in_pages = 1, .useable = 1};
  if (syscall(SYS_modify_ldt, 0x11, &gs, sizeof gs) != 0) {
    perror("modify_ldt");
    return 2;
  }
  raise(SIGTRAP);
  return 1;
}
