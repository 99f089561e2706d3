// SPDX-License-Identifier: Apache-2.0
/**
 * The event-channel operations of one domain, for its vCPU threads and for dom0's side on the I/O thread
 * (xen public/event_channel.h). Results are negated error numbers, 0, or a port number where a port is made.
 *
 * GUEST: every port, vCPU and domain number is bounded here.
 * Left out: physical interrupts (a guest without devices cannot bind them) and channels between guests.
 */
import { EVTCHN_FIFO_PRIORITY_DEFAULT, EVTCHN_FIFO_PRIORITY_MIN, FIFO_CONTROL_BLOCK, FIFO_WORDS_PER_PAGE } from '../abi/event-channel.ts';
import { DOMID_SELF, NR_VIRQS, VCPU_INFO, VIRQ_DEBUG, VIRQ_TIMER, VIRQ_XENOPROF, VIRQ_XENPMU } from '../abi/xen.ts';
import { EEXIST, EINVAL, ENOENT, ENOSPC, ENXIO, EOPNOTSUPP, ESRCH } from '../errno.ts';
import { mfn, PAGE_SIZE } from '../../memory/frames.ts';
import type { MmuPort } from '../mmu-port.ts';
import { FIFO_MAX_PAGES, FIFO_QUEUES, type SharedState, STATE, VCPU_STATE } from '../shared-state.ts';
import { EventDelivery } from './delivery.ts';
import { DOM0_PORT, ECS, PORT, PortTable } from './port-table.ts';

/** What keeps guest frames in place while the hypervisor writes to them. */
export type FrameHolder = Pick<MmuPort, 'holdFrame' | 'releaseFrame'>;

/** What EVTCHNOP_status reports. */
export interface PortStatus {
  status: number;
  vcpu: number;
  first: number;
  second: number;
}

const DOM0 = 0;

export class EventChannels {
  readonly delivery: EventDelivery;
  readonly table: PortTable;
  readonly #state: SharedState;
  readonly #frames: FrameHolder;

  /** `self` is the vCPU whose thread this is, or -1 for another thread. */
  constructor(state: SharedState, self: number, frames: FrameHolder) {
    this.#state = state;
    this.table = new PortTable(state);
    this.delivery = new EventDelivery(state, this.table, self);
    this.#frames = frames;
  }

  allocUnbound(dom: number, remoteDom: number): number {
    if (!this.#isSelf(dom)) return -ESRCH;
    return this.#locked(() => {
      const port = this.#newPort();
      if (port < 0) return port;
      this.table.set(port, PORT.remoteDom, remoteDom === DOMID_SELF ? this.#domid : remoteDom);
      this.table.set(port, PORT.state, ECS.unbound);
      return port;
    });
  }

  bindInterdomain(remoteDom: number, remotePort: number): number {
    if (remoteDom === DOM0) return -EINVAL;
    if (!this.#isSelf(remoteDom)) return -ESRCH;
    let local = -EINVAL;
    this.#locked(() => {
      if (!this.#valid(remotePort) || this.table.get(remotePort, PORT.state) !== ECS.unbound) return;
      if (this.table.get(remotePort, PORT.remoteDom) !== this.#domid) return;
      local = this.#newPort();
      if (local < 0) return;
      this.#connect(local, this.#domid, remotePort);
      this.#connect(remotePort, this.#domid, local);
    });
    // Something may have been sent before the channel existed: the new end looks once.
    if (local > 0) this.delivery.notify(local);
    return local;
  }

  bindVirq(virq: number, vcpu: number): number {
    if (!(virq < NR_VIRQS)) return -EINVAL;
    if (!isPerVcpuVirq(virq) && vcpu !== 0) return -EINVAL;
    if (!this.#hasVcpu(vcpu)) return -ENOENT;
    return this.#locked(() => {
      const slot = VCPU_STATE.virqPorts + virq * 4;
      if (this.#state.getVcpu(vcpu, slot) !== 0) return -EEXIST;
      const port = this.#newPort();
      if (port < 0) return port;
      this.table.set(port, PORT.notifyVcpu, vcpu);
      this.table.set(port, PORT.remotePort, virq);
      this.table.set(port, PORT.state, ECS.virq);
      this.#state.setVcpu(vcpu, slot, port);
      return port;
    });
  }

  bindIpi(vcpu: number): number {
    if (!this.#hasVcpu(vcpu)) return -ENOENT;
    return this.#locked(() => {
      const port = this.#newPort();
      if (port < 0) return port;
      this.table.set(port, PORT.notifyVcpu, vcpu);
      this.table.set(port, PORT.state, ECS.ipi);
      return port;
    });
  }

  close(port: number): number {
    if (!this.#valid(port)) return -EINVAL;
    return this.#locked(() => this.#close(port));
  }

  /** PERF: hot in guest boots; takes no lock. */
  send(port: number): number {
    if (!this.#valid(port)) return -EINVAL;
    switch (this.table.get(port, PORT.state)) {
      case ECS.interdomain: {
        const remote = this.table.get(port, PORT.remotePort);
        if (this.table.get(port, PORT.remoteDom) === DOM0) this.#notifyDom0(remote);
        else this.delivery.notify(remote);
        return 0;
      }
      case ECS.ipi:
        this.delivery.notify(port);
        return 0;
      case ECS.unbound:
        return 0;
      default:
        return -EINVAL;
    }
  }

  status(dom: number, port: number, out: PortStatus): number {
    if (!this.#isSelf(dom)) return -ESRCH;
    if (!this.#valid(port)) return -EINVAL;
    const state = this.table.get(port, PORT.state);
    out.status = state <= ECS.reserved ? 0 : state - 1;
    out.vcpu = this.table.get(port, PORT.notifyVcpu);
    out.first = 0;
    out.second = 0;
    if (state === ECS.unbound || state === ECS.interdomain) out.first = this.table.get(port, PORT.remoteDom);
    if (state === ECS.interdomain) out.second = this.table.get(port, PORT.remotePort);
    if (state === ECS.virq) out.first = this.table.get(port, PORT.remotePort);
    return 0;
  }

  bindVcpu(port: number, vcpu: number): number {
    if (!this.#hasVcpu(vcpu)) return -ENOENT;
    if (!this.#valid(port)) return -EINVAL;
    return this.#locked(() => {
      const state = this.table.get(port, PORT.state);
      const movable =
        state === ECS.unbound || state === ECS.interdomain || (state === ECS.virq && !isPerVcpuVirq(this.table.get(port, PORT.remotePort)));
      if (!movable) return -EINVAL;
      this.table.set(port, PORT.notifyVcpu, vcpu);
      return 0;
    });
  }

  unmask(port: number): number {
    if (!this.#valid(port)) return -EINVAL;
    this.delivery.unmask(port);
    return 0;
  }

  /** EVTCHNOP_reset: closes everything and returns to the 2-level ABI. */
  reset(dom: number): number {
    if (!this.#isSelf(dom)) return -ESRCH;
    const state = this.#state;
    return this.#locked(() => {
      for (let port = 1; port < state.get(STATE.maxPorts); port++) if (this.table.get(port, PORT.state) >= ECS.unbound) this.#close(port);
      if (state.get(STATE.fifoEnabled) === 0) return 0;
      for (let page = 0; page < state.get(STATE.fifoPageCount); page++)
        this.#frames.releaseFrame(mfn(state.get(STATE.fifoPages + page * 4)), true);
      state.set(STATE.fifoPageCount, 0);
      for (let vcpu = 0; vcpu < state.vcpuCount; vcpu++) {
        const frame = state.getVcpu(vcpu, VCPU_STATE.controlFrame);
        if (frame >= 0) this.#frames.releaseFrame(mfn(frame), true);
        state.setVcpu(vcpu, VCPU_STATE.controlFrame, -1);
        state.setVcpu(vcpu, VCPU_STATE.controlBlock, 0);
        for (let queue = 0; queue < FIFO_QUEUES; queue++) state.setVcpu(vcpu, VCPU_STATE.fifoTails + queue * 4, 0);
      }
      state.set(STATE.fifoEnabled, 0);
      return 0;
    });
  }

  /** EVTCHNOP_init_control: the first call switches the domain to the FIFO ABI. `frame` is NaN when it was no frame number. */
  initControl(frame: number, offset: number, vcpu: number): number {
    const state = this.#state;
    if (!this.#hasVcpu(vcpu)) return -ENOENT;
    if (offset > PAGE_SIZE - FIFO_CONTROL_BLOCK.size || (offset & 7) !== 0) return -EINVAL;
    return this.#locked(() => {
      if (state.getVcpu(vcpu, VCPU_STATE.controlBlock) !== 0) return -EINVAL;
      if (!this.#holdable(frame)) return -EINVAL;
      state.setVcpu(vcpu, VCPU_STATE.controlFrame, frame);
      state.setVcpu(vcpu, VCPU_STATE.controlBlock, state.memory.frameOffset(mfn(frame)) + offset);
      if (state.get(STATE.fifoEnabled) === 0) this.#switchToFifo();
      return 0;
    });
  }

  expandArray(frame: number): number {
    const state = this.#state;
    if (state.get(STATE.fifoEnabled) === 0) return -EOPNOTSUPP;
    const page = state.get(STATE.fifoPageCount);
    if (page >= FIFO_MAX_PAGES) return -ENOSPC;
    if (!this.#holdable(frame)) return -EINVAL;
    state.set(STATE.fifoPages + page * 4, frame);
    state.set(STATE.fifoPageCount, page + 1);
    for (let port = Math.max(1, page * FIFO_WORDS_PER_PAGE); port < (page + 1) * FIFO_WORDS_PER_PAGE; port++) {
      if (this.table.get(port, PORT.savedPending) === 0) continue;
      this.table.set(port, PORT.savedPending, 0);
      this.delivery.setPending(port);
    }
    return 0;
  }

  setPriority(port: number, priority: number): number {
    if (!this.#valid(port) || !(priority <= EVTCHN_FIFO_PRIORITY_MIN)) return -EINVAL;
    if (this.#state.get(STATE.fifoEnabled) === 0) return -EOPNOTSUPP;
    this.table.set(port, PORT.priority, priority);
    return 0;
  }

  /** Sends a virtual interrupt to a vCPU; nothing happens while the guest has not bound it. From any thread. */
  sendVirq(vcpu: number, virq: number): void {
    const port = this.#state.getVcpu(vcpu, VCPU_STATE.virqPorts + virq * 4);
    if (port !== 0) this.delivery.notify(port);
  }

  /** dom0 binds to `guestPort`, which the guest (or the domain builder) left unbound for dom0: dom0's port, or an error. */
  dom0Bind(guestPort: number): number {
    if (!this.#valid(guestPort)) return -EINVAL;
    return this.#locked(() => {
      if (this.table.get(guestPort, PORT.state) !== ECS.unbound || this.table.get(guestPort, PORT.remoteDom) !== DOM0) return -EINVAL;
      const port = this.table.freeDom0();
      if (port === 0) return -ENOSPC;
      this.table.setDom0(port, DOM0_PORT.guestPort, guestPort);
      this.table.setDom0(port, DOM0_PORT.inUse, 1);
      this.#connect(guestPort, DOM0, port);
      return port;
    });
  }

  /** dom0 sends on its port. */
  dom0Send(port: number): void {
    const guestPort = this.#guestEnd(port);
    if (guestPort !== 0) this.delivery.notify(guestPort);
  }

  /** dom0 closes its port; the guest's end becomes unbound again. */
  dom0Close(port: number): void {
    this.#locked(() => {
      const guestPort = this.#guestEnd(port);
      if (guestPort !== 0) {
        this.table.set(guestPort, PORT.state, ECS.unbound);
        this.table.set(guestPort, PORT.remotePort, 0);
      }
      this.table.setDom0(port, DOM0_PORT.inUse, 0);
      this.table.setDom0(port, DOM0_PORT.guestPort, 0);
      return 0;
    });
  }

  get #domid(): number {
    return this.#state.get(STATE.domid);
  }

  #isSelf(dom: number): boolean {
    return dom === DOMID_SELF || dom === this.#domid;
  }

  #valid(port: number): boolean {
    return port > 0 && port < this.#state.get(STATE.maxPorts);
  }

  #hasVcpu(vcpu: number): boolean {
    return vcpu >= 0 && vcpu < this.#state.vcpuCount;
  }

  /** Is `frame` memory of the guest that can be kept writable? */
  #holdable(frame: number): boolean {
    return frame >= 0 && frame < this.#state.memory.layout.shape.guestFrames && this.#frames.holdFrame(frame, true) === 0;
  }

  #locked<T>(action: () => T): T {
    this.#state.lock(STATE.evtchnLock);
    try {
      return action();
    } finally {
      this.#state.unlock(STATE.evtchnLock);
    }
  }

  #newPort(): number {
    const limit = this.#state.get(STATE.maxPorts);
    for (let port = 1; port < limit; port++) {
      if (this.table.get(port, PORT.state) !== ECS.free || this.delivery.isBusy(port)) continue;
      this.table.set(port, PORT.notifyVcpu, 0);
      this.table.set(port, PORT.priority, EVTCHN_FIFO_PRIORITY_DEFAULT);
      this.table.set(port, PORT.remoteDom, 0);
      this.table.set(port, PORT.remotePort, 0);
      return port;
    }
    return -ENOSPC;
  }

  #connect(port: number, remoteDom: number, remotePort: number): void {
    this.table.set(port, PORT.remoteDom, remoteDom);
    this.table.set(port, PORT.remotePort, remotePort);
    this.table.set(port, PORT.state, ECS.interdomain);
  }

  #guestEnd(port: number): number {
    const guestPort = this.table.getDom0(port, DOM0_PORT.guestPort);
    const joined =
      guestPort !== 0 &&
      this.table.getDom0(port, DOM0_PORT.inUse) !== 0 &&
      this.table.get(guestPort, PORT.state) === ECS.interdomain &&
      this.table.get(guestPort, PORT.remoteDom) === DOM0 &&
      this.table.get(guestPort, PORT.remotePort) === port;
    return joined ? guestPort : 0;
  }

  #close(port: number): number {
    const state = this.table.get(port, PORT.state);
    const remote = this.table.get(port, PORT.remotePort);
    switch (state) {
      case ECS.free:
      case ECS.reserved:
        return -EINVAL;
      case ECS.virq:
        for (let vcpu = 0; vcpu < this.#state.vcpuCount; vcpu++) {
          if (this.#state.getVcpu(vcpu, VCPU_STATE.virqPorts + remote * 4) === port)
            this.#state.setVcpu(vcpu, VCPU_STATE.virqPorts + remote * 4, 0);
        }
        break;
      case ECS.interdomain:
        if (this.table.get(port, PORT.remoteDom) === DOM0) this.table.setDom0(remote, DOM0_PORT.guestPort, 0);
        else this.table.set(remote, PORT.state, ECS.unbound);
        break;
      default:
    }
    this.delivery.clearPending(port);
    // The queue of its last link stays on record: the event may still be linked there.
    this.table.set(port, PORT.state, ECS.free);
    this.table.set(port, PORT.notifyVcpu, 0);
    this.table.set(port, PORT.savedPending, 0);
    return 0;
  }

  #switchToFifo(): void {
    const state = this.#state;
    for (let port = 1; port < state.get(STATE.maxPorts); port++) {
      if (this.table.get(port, PORT.state) < ECS.unbound) continue;
      if (this.delivery.isPending(port)) this.table.set(port, PORT.savedPending, 1);
      this.table.set(port, PORT.priority, EVTCHN_FIFO_PRIORITY_DEFAULT);
    }
    state.set(STATE.fifoEnabled, 1);
  }

  #notifyDom0(port: number): void {
    const state = this.#state;
    const bit = 1 << (port & 31);
    if ((Atomics.or(state.i32, state.word(STATE.dom0Pending) + (port >>> 5), bit) & bit) !== 0) return;
    Atomics.or(state.i32, state.word(STATE.dom0Summary) + (port >>> 10), 1 << ((port >>> 5) & 31));
    const wake = state.word(STATE.dom0Wake);
    Atomics.add(state.i32, wake, 1);
    Atomics.notify(state.i32, wake);
  }

  /**
   * VCPUOP_register_vcpu_info: moves a vCPU's block into guest memory. Everything counts as pending, so that nothing is lost.
   * -ENXIO: no place for the block; -EINVAL: moved before, or not a writable frame of the guest.
   */
  moveVcpuInfo(vcpu: number, frame: number, offset: number): number {
    const state = this.#state;
    if (!(offset <= PAGE_SIZE - VCPU_INFO.size) || (offset & 3) !== 0) return -ENXIO;
    if (state.getVcpu(vcpu, VCPU_STATE.infoFrame) !== -1) return -EINVAL;
    if (!this.#holdable(frame)) return -EINVAL;
    const from = state.vcpuInfo(vcpu);
    const to = state.memory.frameOffset(mfn(frame)) + offset;
    state.u8.copyWithin(to, from, from + VCPU_INFO.size);
    state.setVcpu(vcpu, VCPU_STATE.infoFrame, frame);
    state.setVcpu(vcpu, VCPU_STATE.infoHost, to);
    state.u8[to + VCPU_INFO.upcallPending] = 1;
    state.i32[(to + VCPU_INFO.pendingSel) >>> 2] = -1;
    state.i32[((to + VCPU_INFO.pendingSel) >>> 2) + 1] = -1;
    state.memory.wrote(mfn(frame), offset, VCPU_INFO.size);
    return 0;
  }

  /** How many ports are in use, for statistics. */
  count(): number {
    let used = 0;
    for (let port = 1; port < this.#state.get(STATE.maxPorts); port++) if (this.table.get(port, PORT.state) >= ECS.unbound) used++;
    return used;
  }
}

/** VIRQs that every vCPU may bind for itself; the others exist once a domain (xen public/xen.h). */
function isPerVcpuVirq(virq: number): boolean {
  return virq === VIRQ_TIMER || virq === VIRQ_DEBUG || virq === VIRQ_XENOPROF || virq === VIRQ_XENPMU;
}
