// SPDX-License-Identifier: Apache-2.0
/**
 * Small endless guest loops on the bare software CPU: guest instructions per second of each kind of work.
 *
 * Data starts at 1 MiB, the stack ends at 512 KiB, code stands at 4 KiB; all registers are zero at the start.
 */
import { VMEXIT, VMEXIT_NAMES } from '../engine/accel/accelerator.ts';
import { createFlatMachine } from '../engine/cpu/flat-machine.ts';
import { CTX, REG } from '../engine/memory/vcpu-context.ts';
import { type BenchContext, median, type Suite } from './figure.ts';

const MEMORY_BYTES = 0x400000;
const CODE = 0x1000;
const STACK_TOP = 0x80000;
const DATA = 0x100000;
const DATA_BYTES = 0x200000;
const BUDGET = 200_000;
const WARM_UP_MS = 1000;
const RUN_MS = 1000;
const ALU_BAR = 60;

interface Loop {
  readonly name: string;
  /** What the bytes mean, in Intel's syntax. */
  readonly text: string;
  readonly code: string;
  readonly bar?: number;
}

const LOOPS: readonly Loop[] = [
  {
    name: 'integer arithmetic',
    text: 'mov rcx,1; 1: add rax,rcx; rol rax,7; xor rdx,rax; sub rsi,rdx; lea rcx,[rcx+rcx*2+5]; and rdi,rsi; add rbx,3; dec ebp; jnz 1b; jmp 1b',
    code: '48c7c1010000004801c848c1c0074831c24829d6488d4c49054821f74883c303ffcd75e3ebe1',
    bar: ALU_BAR,
  },
  {
    name: 'sieve in memory',
    text:
      '0: mov edi,2; 1: lea rsi,[rdi+rdi]; 2: mov byte [rsi+DATA],1; add rsi,rdi; cmp rsi,1000000; jb 2b; ' +
      '3: inc rdi; cmp edi,1000; jae 0b; cmp byte [rdi+DATA],0; jne 3b; jmp 1b',
    code: 'bf02000000488d343fc68600001000014801fe4881fe40420f0072ed48ffc781ffe803000073d980bf000010000075ecebd3',
  },
  {
    name: 'recursive calls',
    text:
      '0: mov edi,24; call 1f; jmp 0b; 1: cmp edi,2; jb 2f; push rbx; push rdi; dec edi; call 1b; mov ebx,eax; pop rdi; sub edi,2; ' +
      'call 1b; add eax,ebx; pop rbx; ret; 2: mov eax,edi; ret',
    code: 'bf18000000e802000000ebf483ff0272185357ffcfe8f2ffffff89c35f83ef02e8e7ffffff01d85bc389f8c3',
  },
  {
    name: 'unpredictable branches',
    text:
      'mov eax,12345; 1: mov ecx,eax; shl ecx,13; xor eax,ecx; mov ecx,eax; shr ecx,17; xor eax,ecx; mov ecx,eax; shl ecx,5; xor eax,ecx; ' +
      'test al,1; jz 2f; add rdx,1; 2: test al,2; jz 3f; add rdx,3; 3: cmp eax,0x40000000; ja 4f; sub rdx,2; 4: jmp 1b',
    code: 'b83930000089c1c1e10d31c889c1c1e91131c889c1c1e10531c8a80174044883c201a80274044883c2033d0000004077044883ea02ebce',
  },
  {
    name: 'byte copy',
    text: '0: mov esi,DATA; mov edi,DATA+64K; mov ecx,4096; 1: movzx eax,byte [rsi]; mov [rdi],al; inc rsi; inc rdi; dec ecx; jnz 1b; jmp 0b',
    code: 'be00001000bf00001100b9001000000fb606880748ffc648ffc7ffc975f1ebe0',
  },
  {
    name: 'SSE2 dot product',
    text: '0: mov esi,DATA; mov ecx,4096; xorpd xmm0,xmm0; 1: movsd xmm1,[rsi]; mulsd xmm1,[rsi+8]; addsd xmm0,xmm1; add rsi,8; dec ecx; jnz 1b; jmp 0b',
    code: 'be00001000b900100000660f57c0f20f100ef20f594e08f20f58c14883c608ffc975ebebdb',
  },
  {
    name: 'x87 dot product',
    text: '0: fldz; mov esi,DATA; mov ecx,4096; 1: fld qword [rsi]; fmul qword [rsi+8]; faddp; add rsi,8; dec ecx; jnz 1b; fstp st0; jmp 0b',
    code: 'd9eebe00001000b900100000dd06dc4e08dec14883c608ffc975f1ddd8ebe1',
  },
];

/** 0: mov esi,DATA; mov edi,DATA+64K; mov ecx,8192; rep movsq; inc rbx; jmp 0b */
const STRING_COPY = 'be00001000bf00001100b900200000f348a548ffc3ebe9';
const STRING_COPY_BYTES = 0x10000;

interface Sample {
  readonly seconds: number;
  readonly instructions: number;
  /** What the loop added to RBX. */
  readonly counted: number;
}

/** A machine with the loop loaded; the result runs it for about `ms` milliseconds. */
function load(code: string): (ms: number) => Sample {
  const { memory, vcpu } = createFlatMachine(MEMORY_BYTES);
  memory.write(CODE, Buffer.from(code, 'hex'));
  const data = Float64Array.from({ length: DATA_BYTES / 8 }, (_, n) => 1 + (n % 1000) / 1000);
  memory.write(DATA, new Uint8Array(data.buffer));
  vcpu.ctx.rip = CODE;
  vcpu.ctx.setGpr(REG.rsp, STACK_TOP);
  return (ms) => {
    const instructions = vcpu.ctx.num(CTX.instructions);
    const counter = vcpu.ctx.lo(CTX.gpr + REG.rbx * 8);
    const start = performance.now();
    let now = start;
    while (now - start < ms) {
      const reason = vcpu.run(BUDGET);
      if (reason !== VMEXIT.budget) throw new Error(`the loop was left with ${VMEXIT_NAMES[reason]}`);
      now = performance.now();
    }
    return {
      seconds: (now - start) / 1000,
      instructions: vcpu.ctx.num(CTX.instructions) - instructions,
      counted: vcpu.ctx.lo(CTX.gpr + REG.rbx * 8) - counter,
    };
  };
}

/** The median of `runs`, after a warm-up in which V8 optimizes. */
function measure(code: string, runs: number, of: (sample: Sample) => number): number {
  const loop = load(code);
  loop(WARM_UP_MS);
  return median(Array.from({ length: runs }, () => of(loop(RUN_MS))));
}

async function run({ runs, say, add }: BenchContext): Promise<void> {
  for (const loop of LOOPS) {
    say(`loop: ${loop.name}`);
    add({
      suite: 'cpu',
      name: loop.name,
      unit: 'M instructions/s',
      values: { interp: measure(loop.code, runs, ({ instructions, seconds }) => instructions / seconds / 1e6) },
      ...(loop.bar === undefined ? {} : { bar: { of: 'interp', rule: 'at least', limit: loop.bar } }),
    });
  }
  say('loop: string copy');
  const interp = measure(STRING_COPY, runs, ({ counted, seconds }) => (counted * STRING_COPY_BYTES) / seconds / 1e6);
  add({ suite: 'cpu', name: 'string copy (rep movsq)', unit: 'MB/s', values: { interp } });
}

export const cpuLoops: Suite = { name: 'cpu', summary: 'small loops on the bare CPU', run };
