// SPDX-License-Identifier: Apache-2.0
/** The real process with the real engine and the self-test guest: pipes, signals, and a terminal before and after. */
import { afterEach, describe, expect, it } from 'vitest';
import { type CommandProcess, hasScript, onTerminal, withPipes } from './command-process.ts';

const ECHO = ['run', 'selftest', '--append', 'mode=echo'];
/** The guest's first line: from then on the terminal is its own. */
const READY = 'echo: ready';

let command: CommandProcess | null = null;
afterEach(() => command?.kill());

const start = (made: CommandProcess): CommandProcess => {
  command = made;
  return made;
};

describe('with pipes', () => {
  it('types standard input into the guest and ends with it', async () => {
    const run = start(withPipes(...ECHO));
    run.type('typed \x1dq');
    expect(await run.end()).toBe(0);
    expect(run.output).toContain('typed \x1dq');
    expect(run.errors).toBe('');
  });

  it('goes on after the end of standard input', async () => {
    const run = start(withPipes(...ECHO, '--timeout', '5'));
    run.child.stdin!.end('typed');
    await run.waitFor('typed');
    expect(await run.end()).toBe(4);
    expect(run.errors).toMatch(/time-out/);
  });

  it.each([
    ['SIGINT', 130],
    ['SIGTERM', 143],
    ['SIGHUP', 129],
  ] as const)('ends by %s with status %i', async (signal, status) => {
    const run = start(withPipes(...ECHO));
    await run.waitFor(READY);
    run.child.kill(signal);
    expect(await run.end()).toBe(status);
  });

  it('ends as by SIGPIPE when its reader leaves', async () => {
    const run = start(withPipes(...ECHO));
    await run.waitFor(READY);
    run.child.stdout!.destroy();
    run.type('more');
    expect(await run.end()).toBe(141);
    expect(run.errors).toBe('');
  });

  it('has status 3 and registers when the guest crashes, 0 when it reboots and may not', async () => {
    const crash = start(withPipes('run', 'selftest', '--append', 'mode=panic', '--timeout', '20'));
    expect(await crash.end()).toBe(3);
    expect(crash.errors).toMatch(/paravane: the guest crashed\n.*RIP [0-9a-f]{16}/s);
    const reboot = start(withPipes('run', 'selftest', '--append', 'mode=reboot', '--no-reboot', '--timeout', '20'));
    expect(await reboot.end()).toBe(0);
  });
});

describe.runIf(hasScript())('on a terminal (made by util-linux script)', () => {
  const MODE = 'stty -a | tr " ;" "\\n\\n" | grep -xE -- "-?(icanon|echo|isig)" | tr "\\n" " "';
  const RUN = `$PARAVANE ${ECHO.join(' ')}`;
  const SANE = /after.*isig icanon echo/s;

  it('gives it back when the user quits from the menu', async () => {
    const run = start(onTerminal(`${RUN}; echo after $?; ${MODE}`));
    await run.waitFor(READY);
    run.type('\x1d');
    await run.waitFor('q quit');
    run.type('q');
    await run.waitFor(SANE);
    expect(run.output).toContain('after 0');
  });

  it('hands Ctrl-C to the guest', async () => {
    const run = start(onTerminal(`${RUN}; echo after $?; ${MODE}`));
    await run.waitFor(READY);
    run.type('\x03still here');
    await run.waitFor('still here');
    run.type('q');
    await run.waitFor(SANE);
    expect(run.output).toContain('after 0');
  });

  it('adds nothing to line feeds and takes nothing from returns', async () => {
    const run = start(onTerminal(`${RUN}; echo after $?; ${MODE}; stty -a | grep -oE -- "-?opost"`));
    await run.waitFor(READY);
    run.type('a\nb\rc');
    await run.waitFor('a\nb\rc');
    run.type('q');
    await run.waitFor(/after 0.*icanon echo\s+opost/s);
  });

  it.each(['TERM', 'HUP', 'INT'])('gives it back after SIG%s', async (signal) => {
    const run = start(onTerminal(`sh -c "echo pid \\$\\$; exec ${RUN}"; echo after $?; ${MODE}`));
    await run.waitFor(READY);
    process.kill(Number(/pid (\d+)/.exec(run.output)![1]), `SIG${signal}`);
    await run.waitFor(SANE);
  });

  it('gives it back when the output is closed', async () => {
    const run = start(onTerminal(`${RUN} | head -c 3; echo after; ${MODE}`));
    await run.waitFor(READY.slice(0, 3));
    run.type('more');
    await run.waitFor(SANE);
  });

  it('gives it back after a time-out', async () => {
    const run = start(onTerminal(`${RUN} --timeout 3; echo after $?; ${MODE}`));
    await run.waitFor(SANE);
    expect(run.output).toContain('after 4');
  });
});
