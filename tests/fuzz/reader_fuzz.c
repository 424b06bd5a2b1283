/* reader.c under a sanitizer: the bytes of an input are a program of what servers and Python do to it.
 *
 * Streams are real sockets. By rules of its own the harness knows what each read must have caused, and after every wait
 * holds the reader against it: bytes as they were written and in order, lengths and sums, events reported once, in order,
 * and of no stream that was given back. Allocations fail where the input says so.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>
#include "check.h"

static int fails_in, failed, made; /* allocations: until one fails (0: none does), that failed, that were zeroed */

static int fails(void) { return fails_in && !--fails_in && ++failed; }

static void *may_fail_realloc(void *old, size_t n) { return fails() ? NULL : realloc(old, n); }

static void *may_fail_calloc(size_t n, size_t size) {
    if (fails()) return NULL;
    made++;
    return calloc(n, size);
}

#ifndef SOURCE
#define SOURCE "../../harness/measure/drive/reader.c"
#endif
#define realloc may_fail_realloc
#define calloc may_fail_calloc
#include SOURCE
#undef realloc
#undef calloc

enum { MAX_LINKS = 48, MAX_HELD = 64, MAX_EXPECTED = 64, MAX_SENT = 1 << 22, HIGH_FD = 1100 };
static const int64_t LATER_NS = 1000000000;

static struct link { /* a connection, and what the reader must have made of it */
    int near, far; /* -1: closed */
    int reset, tcp, adopted;
    char *sent; /* all that was written at the far end; the present stream begins at `from` */
    size_t sent_bytes, room, from;
    struct stream *s; /* NULL: not adopted */
    int64_t reads, bytes, head, look_reads, look_bytes;
    int queued, handed, expected[MAX_EXPECTED], n_expected;
} links[MAX_LINKS];

static struct held { /* a stream that was given back, until its memory is */
    struct stream *s;
    struct link *l;
    size_t from;
} held[MAX_HELD];

static struct reader *r;
static int n_links, n_held, listener, poller;
static int64_t own_stamps;
static unsigned policy; /* of Python: what it does with what is reported */

static const char *const PIECES[] = {
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    "HTTP/1.1 200 OK\r\ndate: x\r\ntransfer-encoding: chunked\r\nx: y\r\n\r\nc\r\ndata: {a}\n\n\r\n",
    "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\ne\r\ndata: [DONE]\n\n\r\n0\r\n\r\n",
    "c\r\ndata: {a}\n\n\r\n", "e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n", "0\r\n\r\n", "\r\n", "\n", "\r\n\r\n", "\r", "H",
    "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc", "HTTP/1.1 404 Not Found\r\ntransfer-encoding: chunked\r\n\r\n",
    "HTTP/1.1 200 OK\r\nx-transfer-encoding: chunked\r\n\r\n", "HTTP/1.1 200\r\ntransfer-encoding: chunked\r\n\r\n",
    "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", "transfer-encoding: chunked\r\n\r\n",
};
enum { N_PIECES = sizeof PIECES / sizeof *PIECES };

/* The same rule as the reader's, told another way. */
static int64_t head_bytes(const char *data, size_t n) {
    size_t end = 0;
    while (end + 4 <= n && memcmp(data + end, "\r\n\r\n", 4)) end++;
    if (end + 4 > n || end < 12 || memcmp(data, "HTTP/1.1 200", 12)) return 0;
    char *low = malloc(end + 3);
    for (size_t i = 0; i < end + 2; i++) low[i] = data[i] ? tolower((unsigned char)data[i]) : ' ';
    low[end + 2] = 0;
    int usual = strstr(low, "\r\ntransfer-encoding: chunked\r\n") != NULL;
    free(low);
    return usual ? (int64_t)end + 4 : 0;
}

static void expect(struct link *l, int what) {
    if (what == MAY_END && l->queued) return;
    if (what != LONG) l->queued = 1;
    if (what == UNUSUAL) l->handed = 1;
    must(l->n_expected < MAX_EXPECTED);
    l->expected[l->n_expected++] = what;
}

/* Go through the reads that are new, and note what they must cause. */
static void replay(struct link *l) {
    struct stream *s = l->s;
    const char *sent = l->sent + l->from;
    int64_t had = l->bytes;
    must(s->bytes <= (int64_t)(l->sent_bytes - l->from) && s->bytes <= s->bytes_room && s->reads <= s->reads_room);
    for (; l->reads < s->reads; l->reads++) {
        must(!l->handed && s->lengths[l->reads] > 0);
        l->bytes += s->lengths[l->reads];
        must(l->bytes <= s->bytes);
        struct timespec t = s->stamps[l->reads];
        must(t.tv_sec >= -1 && t.tv_nsec >= 0);
        own_stamps += t.tv_sec == -1;
        int64_t n = l->reads + 1;
        if (n == 1) l->head = head_bytes(sent, l->bytes);
        if (n == 1 && !l->head) expect(l, UNUSUAL);
        else if (l->bytes > l->head && !memcmp(sent + l->bytes - 4, "\r\n\r\n", 4)) expect(l, MAY_END);
        else if (n >= l->look_reads || l->bytes >= l->look_bytes) {
            l->look_reads = l->look_bytes = INT64_MAX;
            expect(l, LONG);
        }
    }
    must(l->bytes == s->bytes && l->head == s->head && l->look_reads == s->look_reads && l->look_bytes == s->look_bytes);
    if (s->bytes > had) must(!memcmp(s->data + had, sent + had, s->bytes - had));
}

static void adopt(struct link *l) {
    if (l->s || l->near < 0 || (failed && l->adopted)) return; /* a read without memory may be missing */
    l->s = reader_adopt(r, l->near);
    if (!l->s) return;
    l->adopted = 1;
    must(l->s->bytes == 0 && l->s->reads == 0 && l->s->head == 0 && !l->s->queued && !l->s->handed);
    l->reads = l->bytes = l->head = l->queued = l->handed = l->n_expected = 0;
    l->look_reads = l->look_bytes = INT64_MAX;
}

static void reuse(int i) {
    struct held *h = &held[i];
    if (h->s->bytes) must(!memcmp(h->s->data, h->l->sent + h->from, h->s->bytes)); /* nobody touched it */
    reader_reuse(r, h->s);
    *h = held[--n_held];
}

static void release(struct link *l) {
    if (!l->s) return;
    if (n_held == MAX_HELD) reuse(0);
    reader_release(r, l->near);
    held[n_held++] = (struct held){l->s, l, l->from};
    l->from += l->s->bytes;
    l->s = NULL;
}

static void close_near(struct link *l) {
    release(l);
    if (l->near >= 0) close(l->near);
    l->near = -1;
}

/* What Python does with an event of a stream that it adopted. */
static void reported(struct link *l, int what) {
    if (what & LOST || what == CLOSED) {
        must(!l->n_expected && !l->handed); /* all that came before it was said */
        if (what == CLOSED) must(l->far < 0 && (l->reset || l->from + l->s->bytes == l->sent_bytes)); /* of a reset, the stream before may have had the error */
        else if (what == (LOST | ENOMEM)) must(failed > 0);
        else must(what == (LOST | ECONNRESET) && l->reset);
        close_near(l);
        return;
    }
    must(l->n_expected && l->expected[0] == what);
    memmove(l->expected, l->expected + 1, --l->n_expected * sizeof *l->expected);
    if (what != LONG) l->queued = 0;
    if (what == UNUSUAL || (what == MAY_END && policy & 1)) release(l);
    if (what == MAY_END && policy & 2) adopt(l);
}

/* A descriptor that is Python's: it reads, or leaves it. */
static void readable(struct link *l, int what) {
    char got[4096];
    must(!(what & ~(EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)));
    if (!(policy & 4)) return;
    ssize_t n = recv(l->near, got, sizeof got, MSG_DONTWAIT);
    if (n <= 0) {
        close_near(l);
        return;
    }
    must(l->from + n <= l->sent_bytes && (failed || !memcmp(got, l->sent + l->from, n)));
    l->from += n;
}

static int wait_once(int64_t until_ns, int64_t gather_ns, int enough) {
    int k = reader_wait(r, 0, now_ns() + until_ns, gather_ns, enough);
    must(k >= 0 && k <= MAX_ASKED && r->waiting >= 0 && r->waiting <= r->ended_room && r->busy_max_ns >= 0);
    int64_t sum = 0;
    for (int i = 0; i < n_links; i++)
        if (links[i].s) {
            replay(&links[i]);
            sum += links[i].bytes + READ_BYTES * links[i].s->reads;
        }
    for (int i = 0; i < n_held; i++) sum += held[i].s->bytes + READ_BYTES * held[i].s->reads;
    must(r->held == sum);
    must(r->user_reads >= own_stamps && r->user_reads <= own_stamps + failed); /* without memory for it, a read is gone */
    int32_t asked[2 * MAX_ASKED];
    memcpy(asked, reader_asked(r), sizeof asked);
    for (int i = 0; i < k; i++) {
        struct link *l = links;
        while (l < links + n_links && l->near != asked[2 * i]) l++;
        must(l < links + n_links);
        for (int j = 0; j < i; j++) must(asked[2 * j] != asked[2 * i]); /* Python may have ended it at the first */
        if (asked[2 * i + 1] < UNUSUAL) must(!l->s), readable(l, asked[2 * i + 1]);
        else must(l->s), reported(l, asked[2 * i + 1]);
    }
    return k;
}

static void write_far(struct link *l, const void *data, size_t n) {
    if (l->far < 0 || l->sent_bytes + n > MAX_SENT) return;
    ssize_t k = send(l->far, data, n, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (k <= 0) return;
    while (l->sent_bytes + k > l->room) must((l->sent = realloc(l->sent, l->room *= 2)));
    memcpy(l->sent + l->sent_bytes, data, k);
    l->sent_bytes += k;
}

static void make_pair(int tcp, int pair[2]) {
    if (!tcp) {
        must(!socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
        return;
    }
    struct sockaddr_in at;
    socklen_t size = sizeof at;
    int one = 1;
    struct linger hard = {1, 0}; /* no connection stays behind */
    must(!getsockname(listener, (void *)&at, &size));
    must((pair[0] = socket(AF_INET, SOCK_STREAM, 0)) >= 0);
    must(!setsockopt(pair[0], SOL_SOCKET, SO_TIMESTAMPNS, &one, sizeof one));
    must(!setsockopt(pair[0], SOL_SOCKET, SO_LINGER, &hard, sizeof hard));
    must(!connect(pair[0], (void *)&at, size));
    must((pair[1] = accept(listener, NULL, NULL)) >= 0);
}

static struct link *open_link(int kind) {
    if (n_links == MAX_LINKS) return &links[kind % MAX_LINKS];
    struct link *l = &links[n_links++];
    int pair[2], high;
    memset(l, 0, sizeof *l);
    l->tcp = kind % 8 == 7;
    must((l->sent = malloc(l->room = 4096)));
    make_pair(l->tcp, pair);
    if (kind >= 192 && (high = fcntl(pair[0], F_DUPFD, HIGH_FD + 16 * (kind - 192))) >= 0) {
        close(pair[0]);
        pair[0] = high;
    }
    l->near = pair[0];
    l->far = pair[1];
    struct epoll_event e = {EPOLLIN, {.fd = l->near}};
    must(!epoll_ctl(poller, EPOLL_CTL_ADD, l->near, &e));
    adopt(l);
    return l;
}

static void close_far(struct link *l, int reset) {
    struct linger hard = {1, 0};
    if (l->far < 0) return;
    l->reset = reset;
    if (reset && l->tcp) setsockopt(l->far, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
    if (reset && !l->tcp && l->near >= 0) (void)!send(l->near, "x", 1, MSG_DONTWAIT | MSG_NOSIGNAL); /* closed unread: a reset */
    close(l->far);
    l->far = -1;
}

/* Bytes that the input names, whole or cut into reads. */
static void write_some(struct link *l, struct input *in) {
    unsigned kind = next_byte(in), cut = next_byte(in);
    size_t n = kind >= N_PIECES ? kind & 63 : strlen(PIECES[kind]);
    const void *data = kind >= N_PIECES ? next_bytes(in, &n) : (const void *)PIECES[kind];
    if (cut >= 64) cut = 0;
    for (size_t at = 0; at < n;) {
        size_t part = cut && at + cut < n ? cut : n - at;
        write_far(l, (const char *)data + at, part);
        at += part;
        if (cut) wait_once(0, 0, 1);
    }
}

static void write_long(struct link *l, unsigned kib) {
    static char block[1 << 14];
    if (!*block) memset(block, 'x', sizeof block);
    for (size_t left = 1024 * kib, n; left; left -= n) {
        write_far(l, block, n = left < sizeof block ? left : sizeof block);
        if (left / sizeof block % 4 == 3) wait_once(0, 0, 1);
    }
}

static void one_step(struct input *in) {
    unsigned what = next_byte(in), which = next_byte(in);
    struct link *l = n_links ? &links[which % n_links] : open_link(which);
    switch (what % 16) {
    case 0: case 1: case 2: write_some(l, in); break;
    case 3: for (struct link *each = links; each < links + n_links; each++) write_far(each, PIECES[2], strlen(PIECES[2])); break;
    case 4: write_long(l, next_byte(in)); break;
    case 5: for (unsigned n = next_byte(in) % 80; n; n--) { write_far(l, &"ab\r\n\r\n"[n % 6], 1); wait_once(0, 0, 1); } break;
    case 6: case 7: wait_once(which & 1 ? LATER_NS : 0, which & 2 ? LEAST_REST_NS : 0, 1 + which); break;
    case 8: open_link(which); break;
    case 9: for (int i = 0; i < 12; i++) open_link(0); break;
    case 10: close_far(l, next_byte(in) & 1); break;
    case 11: for (struct link *each = links; each < links + n_links; each++) if (each->s) close_far(each, which & 1); break;
    case 12:
        if (!l->s || l->n_expected > MAX_EXPECTED / 2) break;
        l->s->look_reads = l->look_reads = l->reads + next_byte(in) % 100;
        l->s->look_bytes = l->look_bytes = l->bytes + 64 * next_byte(in);
        break;
    case 13: if (which & 1) release(l); else if (l->s) { release(l); adopt(l); } else adopt(l); break;
    case 14: if (which & 1) close_near(l); else if (n_held) reuse(which % n_held); break;
    case 15: if (which & 1) policy = next_byte(in); else fails_in = 1 + next_byte(in) % 16; break;
    }
}

/* Everything comes to its end: every byte must be read, every close reported, all memory be there. */
static void finish(void) {
    fails_in = 0;
    policy = 4;
    for (struct link *l = links; l < links + n_links; l++) close_far(l, 0);
    for (struct link *l = links; l < links + n_links; l++)
        for (int turns = 0; l->near >= 0; turns++) {
            must(turns < 20000);
            if (!wait_once(0, 0, 1) && turns > 1000) poll(NULL, 0, 1); /* loopback is not always at once */
        }
    while (n_held) reuse(0);
    for (struct link *l = links; l < links + n_links; l++) free(l->sent);
    must(r->held == 0);
    for (struct stream *s; (s = r->unused); made--) {
        must(s->bytes_room <= KEEP_BYTES && s->reads_room <= KEEP_READS);
        r->unused = s->next;
        free(s->stamps);
        free(s->lengths);
        free(s->data);
        free(s);
    }
    must(made == 1); /* the reader itself: no stream is lost, none came back twice */
    free(r->streams);
    free(r->ended);
    free(r);
}

static void set_up(void) {
    struct rlimit files;
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    must(!getrlimit(RLIMIT_NOFILE, &files));
    if (files.rlim_cur < 4096) files.rlim_cur = files.rlim_max < 4096 ? files.rlim_max : 4096;
    setrlimit(RLIMIT_NOFILE, &files);
    listener = socket(AF_INET, SOCK_STREAM, 0);
    must(!bind(listener, (void *)&at, sizeof at) && !listen(listener, 16));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct input in = {data, data + size};
    if (!listener) set_up();
    n_links = n_held = fails_in = failed = made = own_stamps = policy = 0;
    must((poller = epoll_create1(0)) >= 0);
    must((r = reader_new(poller)));
    while (in.at < in.end) one_step(&in);
    finish();
    close(poller);
    return 0;
}
