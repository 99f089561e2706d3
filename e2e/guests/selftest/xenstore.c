// SPDX-License-Identifier: Apache-2.0
//
// A small xenstore client over the shared ring, polling with SCHEDOP_yield, and the services that use it. Watch events that arrive while a reply
// is awaited are kept in a queue of eight.
#include "selftest.h"

static struct xenstore_domain_interface *ring;
static char reply[4200];
static u32 reply_length;
static char events[8][512];
static u32 event_head, event_tail;
static u32 request_id;

static void notify(void) {
  u32 port = start_info->store_evtchn;
  event_op(EVTCHNOP_send, &port);
}

static bool ring_open(void) {
  if (!ring) ring = va_of_mfn(start_info->store_mfn);
  return ring != NULL;
}

static bool ring_write(const void *data, u32 n, u64 limit) {
  const u8 *bytes = data;
  for (u32 i = 0; i < n; i++) {
    while (ring->req_prod - READ_ONCE(ring->req_cons) >= 1024) {
      notify();
      sched_op(SCHEDOP_yield, NULL);
      if (now_ns() > limit) return false;
    }
    ring->req[ring->req_prod % 1024] = (char)bytes[i];
    barrier();
    WRITE_ONCE(ring->req_prod, ring->req_prod + 1);
  }
  return true;
}

static bool ring_read(void *data, u32 n, u64 limit) {
  u8 *bytes = data;
  for (u32 i = 0; i < n; i++) {
    while (READ_ONCE(ring->rsp_prod) == ring->rsp_cons) {
      sched_op(SCHEDOP_yield, NULL);
      if (now_ns() > limit) return false;
    }
    barrier();
    bytes[i] = (u8)ring->rsp[ring->rsp_cons % 1024];
    barrier();
    WRITE_ONCE(ring->rsp_cons, ring->rsp_cons + 1);
  }
  return true;
}

// Takes one message off the ring; a watch event goes to the queue. False after the limit.
static bool receive(struct xsd_sockmsg *header, u64 limit) {
  if (!ring_read(header, sizeof *header, limit)) return false;
  if (header->len > 4096) return false;
  if (!ring_read(reply, header->len, limit)) return false;
  notify(); // there is room again
  reply[header->len] = 0;
  reply_length = header->len;
  if (header->type == XS_WATCH_EVENT && event_tail - event_head < 8) {
    u32 n = header->len < 511 ? header->len : 511;
    memcpy(events[event_tail % 8], reply, n);
    events[event_tail++ % 8][n] = 0;
  }
  return true;
}

// Returns 0, or 1 with the error's name in reply, or -1 when no answer came.
static s32 request(u32 type, u32 transaction, const void *payload, u32 length) {
  if (!ring_open()) return -1;
  u64 limit = now_ns() + 2000000000;
  struct xsd_sockmsg header = {type, ++request_id, transaction, length};
  if (!ring_write(&header, sizeof header, limit) || !ring_write(payload, length, limit)) return -1;
  notify();
  do
    if (!receive(&header, limit)) return -1;
  while (header.type == XS_WATCH_EVENT);
  if (header.req_id != request_id) return -1;
  if (header.type == XS_ERROR) return 1;
  return header.type == type ? 0 : -1;
}

static s32 on_path(u32 type, u32 transaction, const char *path) {
  return request(type, transaction, path, (u32)strlen(path) + 1);
}

static s32 write_node(u32 transaction, const char *path, const char *value) {
  char payload[256];
  u64 n = strlen(path) + 1, m = strlen(value);
  memcpy(payload, path, n);
  memcpy(payload + n, value, m);
  return request(XS_WRITE, transaction, payload, (u32)(n + m));
}

static s32 watch(u32 type, const char *path, const char *token) {
  char payload[256];
  u64 n = strlen(path) + 1, m = strlen(token) + 1;
  memcpy(payload, path, n);
  memcpy(payload + n, token, m);
  return request(type, 0, payload, (u32)(n + m));
}

// The next watch event as "path" NUL "token"; NULL when none comes in time.
static const char *next_event(u64 timeout_ns) {
  u64 limit = now_ns() + timeout_ns;
  struct xsd_sockmsg header;
  while (event_head == event_tail)
    if (!receive(&header, limit)) return NULL;
  return events[event_head++ % 8];
}

static bool event_is(const char *event, const char *path, const char *token) {
  return event && streq(event, path) && streq(event + strlen(event) + 1, token);
}

static bool reply_lists(const char *name) {
  for (u32 at = 0; at < reply_length; at += (u32)strlen(reply + at) + 1)
    if (streq(reply + at, name)) return true;
  return false;
}

void test_xenstore(void) {
  EXPECT(ring_open());
  EXPECT_EQ(on_path(XS_READ, 0, "domid"), 0);
  u64 domid = 0;
  EXPECT(reply_length > 0 && reply_length < 6);
  for (u32 i = 0; i < reply_length; i++) domid = domid * 10 + (u64)(reply[i] - '0');
  EXPECT_EQ(domid, own_domid());
  char home[64];
  EXPECT_EQ(on_path(XS_GET_DOMAIN_PATH, 0, ({ static char id[8]; memcpy(id, reply, reply_length); id[reply_length] = 0; id; })), 0);
  EXPECT(starts_with(reply, "/local/domain/"));
  memcpy(home, reply, reply_length < 60 ? reply_length : 60);
  EXPECT_EQ(write_node(0, "data/selftest", "hello"), 0);
  EXPECT_EQ(on_path(XS_READ, 0, "data/selftest"), 0);
  EXPECT(streq(reply, "hello"));
  EXPECT_EQ(on_path(XS_MKDIR, 0, "data/selftest/deep"), 0);
  EXPECT_EQ(on_path(XS_DIRECTORY, 0, "data"), 0);
  EXPECT(reply_lists("selftest"));
  EXPECT_EQ(on_path(XS_DIRECTORY, 0, "data/selftest"), 0);
  EXPECT(reply_lists("deep"));
  EXPECT_EQ(on_path(XS_GET_PERMS, 0, "data/selftest"), 0);
  EXPECT(reply[0] == 'n' || reply[0] == 'r' || reply[0] == 'w' || reply[0] == 'b');
  // A value longer than half a ring, twice, so that both directions wrap.
  static char long_write[700];
  memcpy(long_write, "data/selftest/long", 19);
  for (u32 i = 19; i < sizeof long_write; i++) long_write[i] = (char)('a' + i % 26);
  for (u32 round = 0; round < 2; round++) {
    EXPECT_EQ(request(XS_WRITE, 0, long_write, sizeof long_write), 0);
    EXPECT_EQ(on_path(XS_READ, 0, "data/selftest/long"), 0);
    EXPECT_EQ(reply_length, sizeof long_write - 19);
    EXPECT_EQ(memcmp(reply, long_write + 19, reply_length), 0);
  }
  EXPECT_EQ(on_path(XS_RM, 0, "data/selftest"), 0);
  EXPECT_EQ(on_path(XS_READ, 0, "data/selftest/long"), 1);
  EXPECT(streq(reply, "ENOENT"));
}

static u32 transaction_id(void) {
  u32 id = 0;
  for (u32 i = 0; reply[i] >= '0' && reply[i] <= '9'; i++) id = id * 10 + (u32)(reply[i] - '0');
  return id;
}

void test_xenstore_transaction(void) {
  EXPECT_EQ(request(XS_TRANSACTION_START, 0, "", 1), 0);
  u32 id = transaction_id();
  EXPECT(id != 0);
  EXPECT_EQ(write_node(id, "data/transaction", "inside"), 0);
  EXPECT_EQ(on_path(XS_READ, id, "data/transaction"), 0);
  EXPECT(streq(reply, "inside"));
  EXPECT_EQ(on_path(XS_READ, 0, "data/transaction"), 1); // not yet visible
  EXPECT_EQ(on_path(XS_TRANSACTION_END, id, "F"), 0);
  EXPECT_EQ(on_path(XS_READ, 0, "data/transaction"), 1);
  EXPECT_EQ(request(XS_TRANSACTION_START, 0, "", 1), 0);
  id = transaction_id();
  EXPECT_EQ(write_node(id, "data/transaction", "kept"), 0);
  EXPECT_EQ(on_path(XS_TRANSACTION_END, id, "T"), 0);
  EXPECT_EQ(on_path(XS_READ, 0, "data/transaction"), 0);
  EXPECT(streq(reply, "kept"));
  // What a transaction read changed under it: it must be repeated.
  EXPECT_EQ(request(XS_TRANSACTION_START, 0, "", 1), 0);
  id = transaction_id();
  EXPECT_EQ(on_path(XS_READ, id, "data/transaction"), 0);
  EXPECT_EQ(write_node(id, "data/transaction", "theirs"), 0);
  EXPECT_EQ(write_node(0, "data/transaction", "ours"), 0);
  EXPECT_EQ(on_path(XS_TRANSACTION_END, id, "T"), 1);
  EXPECT(streq(reply, "EAGAIN"));
  EXPECT_EQ(on_path(XS_READ, 0, "data/transaction"), 0);
  EXPECT(streq(reply, "ours"));
  EXPECT_EQ(on_path(XS_READ, 4711, "data/transaction"), 1); // no such transaction
  EXPECT_EQ(on_path(XS_RM, 0, "data/transaction"), 0);
}

void test_xenstore_watch(void) {
  event_head = event_tail;
  EXPECT_EQ(watch(XS_WATCH, "data/watched", "token 1"), 0);
  EXPECT(event_is(next_event(1000000000), "data/watched", "token 1")); // fires at once
  EXPECT_EQ(write_node(0, "data/watched", "a"), 0);
  EXPECT(event_is(next_event(1000000000), "data/watched", "token 1"));
  EXPECT_EQ(write_node(0, "data/watched/below", "b"), 0);
  EXPECT(event_is(next_event(1000000000), "data/watched/below", "token 1"));
  EXPECT_EQ(watch(XS_WATCH, "data/watched", "token 1"), 1);
  EXPECT(streq(reply, "EEXIST"));
  EXPECT_EQ(on_path(XS_RM, 0, "data/watched"), 0);
  EXPECT(event_is(next_event(1000000000), "data/watched", "token 1"));
  EXPECT_EQ(watch(XS_UNWATCH, "data/watched", "token 1"), 0);
  EXPECT_EQ(watch(XS_UNWATCH, "data/watched", "token 1"), 1);
  EXPECT(streq(reply, "ENOENT"));
  EXPECT_EQ(write_node(0, "data/watched", "c"), 0);
  EXPECT_EQ(on_path(XS_RM, 0, "data/watched"), 0);
  EXPECT_EQ(event_head, event_tail); // an event would have come before that reply
}

void test_xenstore_errors(void) {
  EXPECT_EQ(write_node(0, "/local/domain/0/selftest", "x"), 1);
  EXPECT(streq(reply, "EACCES"));
  EXPECT_EQ(write_node(0, "/tool/selftest", "x"), 1);
  EXPECT(streq(reply, "EACCES"));
  EXPECT_EQ(on_path(XS_READ, 0, "data/does-not-exist"), 1);
  EXPECT(streq(reply, "ENOENT"));
  EXPECT_EQ(on_path(XS_READ, 0, "data//double"), 1);
  EXPECT(streq(reply, "EINVAL"));
  EXPECT_EQ(on_path(XS_READ, 0, "bad path!"), 1);
  EXPECT(streq(reply, "EINVAL"));
  EXPECT_EQ(request(XS_READ, 0, "no-nul", 6), 1);
  EXPECT(streq(reply, "EINVAL"));
  EXPECT_EQ(request(120, 0, "x", 2), 1); // an unknown operation
}

void test_control_shutdown(void) {
  event_head = event_tail;
  EXPECT_EQ(watch(XS_WATCH, "control/shutdown", "shutdown"), 0);
  EXPECT(event_is(next_event(1000000000), "control/shutdown", "shutdown"));
  s32 rc = on_path(XS_READ, 0, "control/shutdown");
  EXPECT(rc == 0 || (rc == 1 && streq(reply, "ENOENT")));
  EXPECT(rc == 1 || reply_length == 0); // nobody asked for a shutdown
  EXPECT_EQ(watch(XS_UNWATCH, "control/shutdown", "shutdown"), 0);
}
