// SPDX-License-Identifier: Apache-2.0
//
// A little x87 and SSE arithmetic with known results, and FXSAVE/FXRSTOR around it: the processor state a PV guest owns.
#include "selftest.h"

void test_x87(void) {
  u8 pi[10], tenth[10];
  u16 control, status;
  s64 rounded;
  __asm__ volatile("fninit; fnstcw %0; fldpi; fstpt %1; fld1; fldl2t; fdivrp; fstpt %2; fldpi; fldpi; fmulp; fistpll %3; fnstsw %4"
                   : "=m"(control), "=m"(pi), "=m"(tenth), "=m"(rounded), "=m"(status));
  EXPECT_EQ(control, 0x37f);
  static const u8 pi_bits[10] = {0x35, 0xc2, 0x68, 0x21, 0xa2, 0xda, 0x0f, 0xc9, 0x00, 0x40};
  EXPECT_EQ(memcmp(pi, pi_bits, 10), 0);
  EXPECT_EQ(rounded, 10); // pi squared
  EXPECT_EQ(status & 0x3800, 0); // the stack is empty again
  // 1 / 3 with a 64-bit mantissa.
  u8 third[10];
  u32 three = 3;
  __asm__ volatile("fld1; fidivl %1; fstpt %0" : "=m"(third) : "m"(three));
  static const u8 third_bits[10] = {0xab, 0xaa, 0xaa, 0xaa, 0xaa, 0xaa, 0xaa, 0xaa, 0xfd, 0x3f};
  EXPECT_EQ(memcmp(third, third_bits, 10), 0);
  u32 zero_flag;
  __asm__ volatile("fnclex; fld1; fldz; fdivrp; fstp %%st(0); fnstsw %0" : "=m"(status));
  zero_flag = status & 4;
  __asm__ volatile("fnclex; fld1; fldz; fdivrp %%st, %%st(1); fnstsw %0; fstp %%st(0); fninit" : "=m"(status));
  EXPECT_EQ((status & 4) | zero_flag, 4); // one of the two orders divides by zero
}

void test_sse(void) {
  static const float a[4] __attribute__((aligned(16))) = {1.5f, -2.0f, 1e10f, 0.0f};
  static const float b[4] __attribute__((aligned(16))) = {2.0f, 0.25f, 1e10f, -0.0f};
  static u32 out[4] __attribute__((aligned(16)));
  __asm__ volatile("movaps %1, %%xmm0; mulps %2, %%xmm0; movaps %%xmm0, %0" : "=m"(out) : "m"(a), "m"(b));
  EXPECT_EQ(out[0], 0x40400000);
  EXPECT_EQ(out[1], 0xbf000000);
  EXPECT_EQ(out[2], 0x60ad78ec);
  EXPECT_EQ(out[3], 0x80000000);
  u32 mxcsr;
  __asm__ volatile("stmxcsr %0" : "=m"(mxcsr));
  EXPECT_EQ(mxcsr & ~0x3fu, 0x1f80);
  u64 root, sum;
  u64 two = 0x4000000000000000, bytes = 0x0102030405060708;
  __asm__ volatile("movq %1, %%xmm1; sqrtsd %%xmm1, %%xmm2; movq %%xmm2, %0" : "=r"(root) : "r"(two));
  EXPECT_EQ(root, 0x3ff6a09e667f3bcd);
  __asm__ volatile("movq %1, %%xmm3; paddb %%xmm3, %%xmm3; pshufd $0x44, %%xmm3, %%xmm4; movq %%xmm4, %0" : "=r"(sum) : "r"(bytes));
  EXPECT_EQ(sum, 0x020406080a0c0e10);
  // State saved, spoiled, restored.
  static u8 area[512] __attribute__((aligned(16)));
  __asm__ volatile("fxsave64 %0" : "=m"(area));
  __asm__ volatile("pxor %%xmm2, %%xmm2; fxrstor64 %1; movq %%xmm2, %0" : "=r"(root) : "m"(area));
  EXPECT_EQ(root, 0x3ff6a09e667f3bcd);
  TRY("movaps (%0), %%xmm5", "r"(area + 1)); // not aligned
  EXPECT_TRAP(13, 0);
}
