// SPDX-License-Identifier: Apache-2.0
/** What a boot's log may say and still be the log of a healthy boot. */

/** Lines of warning level or worse, and words of trouble at any level. */
const BY_LEVEL = /^<[0-4]>/;
const BY_WORD = /\b(BUG|WARNING|Oops|panic|Call Trace|fail(s|ed|ure)?|errors?|unable|invalid|cannot|timed out|stall(ed|s)?)\b/i;

/**
 * The only messages of that kind, each printed by the same kernels as unprivileged PV guests of Xen 4.17 (or, the last, of any
 * hypervisor that lets a guest wait).
 */
const XEN_TOO: readonly (readonly [RegExp, string])[] = [
  [/^DMI not present or invalid\.$/, 'a PV guest has no firmware tables'],
  [/^tsc: Fast TSC calibration failed$/, "a PV guest's timer chip counts no faster than the kernel asks it; Xen then names the frequency"],
  [/^Grant table initialized$/, 'printed without a level'],
  [/^ACPI: MPS support code is not built-in, using acpi=off/, "the cloud kernel's comment on a guest without ACPI"],
  [/^AMD-Vi: AMD IOMMUv2 functionality not available on this system - This is not a bug\.$/, 'its words'],
  [/^RAS: Correctable Errors collector initialized\.$/, 'a name'],
  [/^Invalid max_queues \(4\), will use default max: 1\.$/, "xen-blkfront's remark on a guest with one processor"],
  [/^hrtimer: interrupt took \d+ ns$/, 'the host was busy with something else'],
];

/** Lines of `dmesg -r` that need an explanation. */
export function complaints(log: string): string[] {
  return log.split('\n').filter((line) => {
    const text = line.replace(/^<\d+>\[ *\d+\.\d+\] /, '');
    return (BY_LEVEL.test(line) || BY_WORD.test(text)) && !XEN_TOO.some(([known]) => known.test(text));
  });
}
