// SPDX-License-Identifier: Apache-2.0
import { expect, it } from 'vitest';
import { REQUEST_CONTINUE, REQUEST_STOP, STATE } from '../shared-state.ts';
import { fakeMachine } from '../testing/fake-machine.ts';
import { DomainControl } from './domain-control.ts';

const SUSPEND = 2;
const POWEROFF = 0;

it('a suspended domain goes on when it is told to, and can end afterwards', async () => {
  const { domain } = fakeMachine();
  const control = new DomainControl(domain.state);
  expect(control.suspended).toBe(false);
  domain.shutdown(SUSPEND);
  expect(await control.ended()).toEqual({ kind: 'shutdown', reason: 'suspend' });
  expect(control.suspended).toBe(true);

  const going = control.continueSuspended();
  expect(domain.state.get(STATE.request)).toBe(REQUEST_CONTINUE);
  domain.continueAfterSuspend(true);
  await going;
  expect([control.suspended, control.end]).toEqual([false, null]);

  const ended = control.ended();
  domain.shutdown(POWEROFF);
  expect(await ended).toEqual({ kind: 'shutdown', reason: 'poweroff' });
  expect(control.suspended).toBe(false);
});

it('who waits for the end hears of a stop', async () => {
  const { domain } = fakeMachine();
  const control = new DomainControl(domain.state);
  const ended = control.ended();
  control.stop();
  expect(await ended).toBe(null);
  expect(domain.state.get(STATE.request)).toBe(REQUEST_STOP);
});

it('who waits for a suspended domain to go on hears of a stop', async () => {
  const { domain } = fakeMachine();
  const control = new DomainControl(domain.state);
  domain.shutdown(SUSPEND);
  const going = control.continueSuspended();
  control.stop();
  await going;
  expect(control.suspended).toBe(true);
});
