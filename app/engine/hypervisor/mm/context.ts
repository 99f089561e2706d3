// SPDX-License-Identifier: Apache-2.0
/** The parts of the PV MMU that its operations share, put together once for each thread by `PvMmu`. */
import type { GuestMemory } from '../../memory/guest-memory.ts';
import { EPERM, ESRCH } from '../errno.ts';
import type { FrameTable } from './frame-table.ts';
import type { GuestWords } from './guest-words.ts';
import type { M2p } from './m2p.ts';
import type { MmState } from './mm-state.ts';
import type { PageTypes } from './page-types.ts';
import type { TableUpdate } from './table-update.ts';
import type { TlbControl } from './tlb.ts';
import type { PageWalk } from './walk.ts';
import type { WorkBudget } from './work-budget.ts';

export const DOMID_SELF = 0x7ff0;
export const DOMID_IO = 0x7ff1;
export const DOMID_XEN = 0x7ff2;

export interface MmContext {
  readonly memory: GuestMemory;
  readonly domId: number;
  readonly frames: FrameTable;
  readonly state: MmState;
  readonly tlb: TlbControl;
  readonly m2p: M2p;
  readonly types: PageTypes;
  readonly tables: TableUpdate;
  readonly walk: PageWalk;
  readonly words: GuestWords;
  readonly work: WorkBudget;
}

/** 0 when `domid` names the calling domain; -EPERM for domains that exist elsewhere (dom0, Xen, I/O), -ESRCH for all others. */
export function checkDomid(context: MmContext, domid: number): number {
  if (domid === DOMID_SELF || domid === context.domId) return 0;
  return domid === 0 || domid === DOMID_IO || domid === DOMID_XEN ? -EPERM : -ESRCH;
}
