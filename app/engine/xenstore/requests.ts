// SPDX-License-Identifier: Apache-2.0
/**
 * One wire request in, one reply out: the payload formats of docs/misc/xenstore.txt and the order of checks (known type,
 * privilege, transaction, arguments, rights). Knows no ring: the caller carries bytes.
 *
 * GUEST: payloads are the guest's, already copied and at most XENSTORE_PAYLOAD_MAX long. No payload makes this throw.
 */
import { err, ok } from '../../base/result.ts';
import type { Connection } from './connection.ts';
import { formatPermission, parsePermissions } from './permissions.ts';
import type { Store, XsResult } from './store.ts';
import type { StoreView, TransactionView } from './store-view.ts';
import { childNames } from './tree.ts';
import { toldPath } from './watches.ts';
import { domainPath, isRelative, parsePath, type XsPath } from './xs-path.ts';
import * as wire from './xs-wire.ts';

export interface XsReply {
  readonly type: number;
  readonly payload: Uint8Array;
  /** To be done once the reply is queued (a new watch fires after its acknowledgement). */
  readonly after?: () => void;
}

/** What requests about domains need; the server implements it. */
export interface DomainDirectory {
  introduce(domid: number, frame: number, port: number): XsResult<void>;
  release(domid: number): XsResult<void>;
  resume(domid: number): XsResult<void>;
  setTarget(domid: number, target: number): XsResult<void>;
  isIntroduced(domid: number): boolean;
}

export interface RequestContext {
  readonly store: Store;
  readonly domains: DomainDirectory;
  /** Sends the events of completed changes to the watches. */
  publish(): void;
}

const PRIVILEGED: ReadonlySet<number> = new Set([
  wire.XS_CONTROL,
  wire.XS_INTRODUCE,
  wire.XS_RELEASE,
  wire.XS_IS_DOMAIN_INTRODUCED,
  wire.XS_RESUME,
  wire.XS_SET_TARGET,
]);
/** Requests whose transaction number is not looked at. */
const WITHOUT_TRANSACTION: ReadonlySet<number> = new Set([wire.XS_WATCH, wire.XS_UNWATCH]);
const DOMID_SELF = 0x7ff0;
const ACK = wire.encodeStrings(['OK']);
const CONTROL_COMMANDS = 'check\nhelp\n';

type Handled = XsResult<Uint8Array | { readonly payload: Uint8Array; readonly after: () => void }>;

interface Request {
  readonly context: RequestContext;
  readonly connection: Connection;
  readonly transaction: TransactionView | null;
  readonly transactionId: number;
  readonly payload: Uint8Array;
}

/** Answers one request of `connection`. */
export function handleRequest(
  context: RequestContext,
  connection: Connection,
  type: number,
  transactionId: number,
  payload: Uint8Array,
): XsReply {
  const handler = HANDLERS.get(type);
  if (handler === undefined) return errorReply('ENOSYS');
  if (PRIVILEGED.has(type) && !connection.privileged) return errorReply('EACCES');
  let transaction: TransactionView | null = null;
  if (transactionId !== 0 && !WITHOUT_TRANSACTION.has(type)) {
    transaction = connection.transactions.get(transactionId) ?? null;
    if (transaction === null) return errorReply('ENOENT');
  }
  const handled = handler({ context, connection, transaction, transactionId, payload });
  context.publish();
  if (!handled.ok) return errorReply(handled.error);
  const reply = handled.value instanceof Uint8Array ? { payload: handled.value } : handled.value;
  if (reply.payload.length > wire.XENSTORE_PAYLOAD_MAX) return errorReply('E2BIG');
  return { type, ...reply };
}

export function errorReply(error: wire.XsErrno): XsReply {
  return { type: wire.XS_ERROR, payload: wire.encodeStrings([error]) };
}

const HANDLERS: ReadonlyMap<number, (request: Request) => Handled> = new Map([
  [wire.XS_CONTROL, control],
  [wire.XS_DIRECTORY, directory],
  [wire.XS_READ, read],
  [wire.XS_GET_PERMS, getPermissions],
  [wire.XS_WATCH, watch],
  [wire.XS_UNWATCH, unwatch],
  [wire.XS_TRANSACTION_START, transactionStart],
  [wire.XS_TRANSACTION_END, transactionEnd],
  [wire.XS_INTRODUCE, introduce],
  [wire.XS_RELEASE, (request: Request) => oneDomain(request, (domains, domid) => domains.release(domid))],
  [wire.XS_GET_DOMAIN_PATH, getDomainPath],
  [wire.XS_WRITE, write],
  [wire.XS_MKDIR, (request: Request) => onPath(request, (store, view, path) => store.mkdir(request.connection, view, path))],
  [wire.XS_RM, (request: Request) => onPath(request, (store, view, path) => store.rm(request.connection, view, path))],
  [wire.XS_SET_PERMS, setPermissions],
  [wire.XS_IS_DOMAIN_INTRODUCED, isDomainIntroduced],
  [wire.XS_RESUME, (request: Request) => oneDomain(request, (domains, domid) => domains.resume(domid))],
  [wire.XS_SET_TARGET, setTarget],
  [wire.XS_RESET_WATCHES, resetWatches],
  [wire.XS_DIRECTORY_PART, directoryPart],
]);

function viewOf(request: Request): StoreView {
  return request.transaction ?? request.context.store.live;
}

function pathOf(request: Request, text: string | null, special = false): XsPath | null {
  return text === null ? null : parsePath(text, request.connection.domid, special);
}

function acknowledged(result: XsResult<void>): Handled {
  return result.ok ? ok(ACK) : result;
}

/** Requests of the form `<path>|` that answer OK. */
function onPath(request: Request, operation: (store: Store, view: StoreView, path: XsPath) => XsResult<void>): Handled {
  const path = pathOf(request, wire.singleString(request.payload));
  return path === null ? err('EINVAL') : acknowledged(operation(request.context.store, viewOf(request), path));
}

function read(request: Request): Handled {
  const path = pathOf(request, wire.singleString(request.payload));
  if (path === null) return err('EINVAL');
  const node = request.context.store.read(request.connection, viewOf(request), path);
  return node.ok ? ok(node.value.value) : node;
}

function directory(request: Request): Handled {
  const path = pathOf(request, wire.singleString(request.payload));
  if (path === null) return err('EINVAL');
  const node = request.context.store.read(request.connection, viewOf(request), path);
  if (!node.ok) return node;
  return node.value.childBytes > wire.XENSTORE_PAYLOAD_MAX ? err('E2BIG') : ok(wire.encodeStrings(childNames(node.value)));
}

/** `<path>|<offset>|` answers `<generation>|` and as many whole names from `offset` on as fit; an empty name ends the list. */
function directoryPart(request: Request): Handled {
  const strings = wire.payloadStrings(request.payload);
  if (strings.length !== 2) return err('EINVAL');
  const path = pathOf(request, strings[0]);
  if (path === null) return err('EINVAL');
  const node = request.context.store.read(request.connection, viewOf(request), path);
  if (!node.ok) return node;
  const offset = wire.parseAtoi(strings[1]);
  const generation = String(node.value.generation);
  if (offset < 0 || offset >= node.value.childBytes) return ok(wire.encodeStrings([generation, '']));
  const names: string[] = [];
  let at = 0;
  let room = wire.XENSTORE_PAYLOAD_MAX - (generation.length + 1) - 1;
  for (const name of node.value.children.keys()) {
    const end = at + name.length + 1;
    if (end > offset) {
      // GUEST: an offset may point into a name; the rest of that name is sent, as if it began there.
      const part = at < offset ? name.slice(offset - at) : name;
      if (part.length + 1 > room) return ok(wire.encodeStrings([generation, ...names]));
      names.push(part);
      room -= part.length + 1;
    }
    at = end;
  }
  return ok(wire.encodeStrings([generation, ...names, '']));
}

/** `<path>|<value>`: the value is everything after the first NUL. */
function write(request: Request): Handled {
  const split = wire.stringAndRest(request.payload);
  const path = split === null ? null : pathOf(request, split.text);
  if (split === null || path === null) return err('EINVAL');
  return acknowledged(request.context.store.write(request.connection, viewOf(request), path, split.rest));
}

function getPermissions(request: Request): Handled {
  const path = pathOf(request, wire.singleString(request.payload), true);
  if (path === null) return err('EINVAL');
  const list = request.context.store.getPermissions(request.connection, viewOf(request), path);
  return list.ok ? ok(wire.encodeStrings(list.value.map(formatPermission))) : list;
}

function setPermissions(request: Request): Handled {
  const strings = wire.payloadStrings(request.payload);
  if (strings.length < 2) return err('EINVAL');
  const { connection, context } = request;
  if (!connection.privileged && strings.length - 1 > context.store.quotas.permissionsPerNode) return err('ENOSPC');
  const list = parsePermissions(strings.slice(1));
  const path = pathOf(request, strings[0], true);
  if (list === null || path === null) return err('EINVAL');
  return acknowledged(context.store.setPermissions(connection, viewOf(request), path, list));
}

function watch(request: Request): Handled {
  const { connection, context } = request;
  const strings = wire.payloadStrings(request.payload);
  if (strings.length !== 2) return err('EINVAL');
  const path = pathOf(request, strings[0], true);
  if (path === null) return err('EINVAL');
  if (!connection.privileged && connection.watches.size >= context.store.quotas.watches) return err('E2BIG');
  const added = connection.watches.add({ path, token: strings[1], relative: isRelative(strings[0]) });
  if (added === null) return err('EEXIST');
  return ok({ payload: ACK, after: () => connection.deliver(toldPath(added, path, connection.domid), added.token) });
}

function unwatch(request: Request): Handled {
  const strings = wire.payloadStrings(request.payload);
  if (strings.length !== 2) return err('EINVAL');
  const path = pathOf(request, strings[0], true);
  if (path === null) return err('EINVAL');
  return request.connection.watches.remove(path, strings[1]) ? ok(ACK) : err('ENOENT');
}

function resetWatches(request: Request): Handled {
  request.connection.resetState();
  return ok(ACK);
}

function transactionStart(request: Request): Handled {
  const { connection, context } = request;
  if (request.transaction !== null) return err('EBUSY');
  if (!connection.privileged && connection.transactions.size >= context.store.quotas.transactions) return err('ENOSPC');
  return ok(wire.encodeStrings([String(connection.addTransaction(context.store.beginTransaction(connection)))]));
}

function transactionEnd(request: Request): Handled {
  const how = wire.singleString(request.payload);
  if (how !== 'T' && how !== 'F') return err('EINVAL');
  if (request.transaction === null) return err('ENOENT');
  request.connection.transactions.delete(request.transactionId);
  if (how === 'F') return ok(ACK);
  return acknowledged(request.context.store.commitTransaction(request.connection, request.transaction));
}

function oneDomain(request: Request, operation: (domains: DomainDirectory, domid: number) => XsResult<void>): Handled {
  const text = wire.singleString(request.payload);
  const domid = text === null ? 0 : wire.parseAtoi(text);
  return domid === 0 ? err('EINVAL') : acknowledged(operation(request.context.domains, domid));
}

function introduce(request: Request): Handled {
  const strings = wire.payloadStrings(request.payload);
  if (strings.length < 3) return err('EINVAL');
  const port = wire.parseAtoi(strings[2]);
  if (port <= 0) return err('EINVAL');
  return acknowledged(request.context.domains.introduce(wire.parseAtoi(strings[0]), wire.parseAtoi(strings[1]), port));
}

function setTarget(request: Request): Handled {
  const strings = wire.payloadStrings(request.payload);
  if (strings.length < 2) return err('EINVAL');
  return acknowledged(request.context.domains.setTarget(wire.parseAtoi(strings[0]), wire.parseAtoi(strings[1])));
}

function isDomainIntroduced(request: Request): Handled {
  const text = wire.singleString(request.payload);
  if (text === null) return err('EINVAL');
  const domid = wire.parseAtoi(text);
  return ok(wire.encodeStrings([domid === DOMID_SELF || request.context.domains.isIntroduced(domid) ? 'T' : 'F']));
}

function getDomainPath(request: Request): Handled {
  const text = wire.singleString(request.payload);
  if (text === null) return err('EINVAL');
  return ok(wire.encodeStrings([domainPath(wire.parseAtoi(text) >>> 0)]));
}

/** The two commands that mean something here: `help`, and `check`, which recounts what the quotas rest on. */
function control(request: Request): Handled {
  const [command] = wire.payloadStrings(request.payload);
  if (command === 'help') return ok(wire.encodeStrings([CONTROL_COMMANDS]));
  if (command === 'check') return request.context.store.countsAreRight() ? ok(ACK) : err('EIO');
  return err('EINVAL');
}
