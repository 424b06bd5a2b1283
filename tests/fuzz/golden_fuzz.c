/* golden_server.c under a sanitizer: its own main runs, and the bytes of an input are what its clients do between its polls.
 *
 * Sockets are real (Unix ones), the clock is not: it goes on by itself and jumps to the deadline that is waited for.
 * Clients that asked only as they should must get exactly what they asked for, whatever the others do; the log must tell
 * what was sent and when; all memory must come back. Allocations fail, and sends come short, where the input says so.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>
#include "check.h"

static int may_fail_accept4(int, struct sockaddr *, socklen_t *, int);
static ssize_t may_fail_send(int, const void *, size_t, int);
static int next_turn(int, struct epoll_event *, int, int);
static int fails_in, live; /* allocations: until one fails (0: none does), that were not freed */
static int64_t clock_ns, tick_ns, wakes_ns; /* now, what each look at it takes, when the timer rings (0: never) */
static int listener, ended; /* ended: in the place of SIGTERM */
static struct sockaddr_un address;
static socklen_t address_size;

static void *counted(void *made) { live += made != NULL; return made; }
static int fails(void) { return fails_in && !--fails_in; }
static void *may_fail_malloc(size_t n) { return fails() ? NULL : counted(malloc(n)); }
static void *may_fail_calloc(size_t n, size_t size) { return fails() ? NULL : counted(calloc(n, size)); }
static void counted_free(void *old) { live -= old != NULL; free(old); }

static int own_clock(clockid_t which, struct timespec *t) {
    (void)which;
    clock_ns += tick_ns;
    *t = (struct timespec){clock_ns / 1000000000, clock_ns % 1000000000};
    return 0;
}

static int own_timer(int fd, int flags, const struct itimerspec *wake, void *old) {
    (void)fd, (void)flags, (void)old;
    wakes_ns = (int64_t)wake->it_value.tv_sec * 1000000000 + wake->it_value.tv_nsec;
    return 0;
}

static int unix_socket(void) { return listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0); }

static int unix_bind(int fd) { /* to a name of the kernel's choice */
    struct sockaddr_un any = {.sun_family = AF_UNIX};
    address_size = sizeof address;
    return bind(fd, (void *)&any, sizeof any.sun_family) || getsockname(fd, (void *)&address, &address_size);
}

#ifndef SOURCE
#define SOURCE "../../harness/measure/drive/golden/golden_server.c"
#endif
#define main golden_main
#define printf(...) ((void)0)
#define sigprocmask(...) ((void)0)
#define signalfd(...) (ended = eventfd(0, 0))
#define prctl(...) ((void)0)
#define malloc may_fail_malloc
#define calloc may_fail_calloc
#define free counted_free
#define clock_gettime own_clock
#define timerfd_settime own_timer
#define epoll_wait next_turn
#define socket(...) unix_socket()
#define bind(fd, ...) unix_bind(fd)
#define accept4 may_fail_accept4
#define send may_fail_send
#include SOURCE
#undef main
#undef printf
#undef malloc
#undef calloc
#undef free
#undef epoll_wait
#undef socket
#undef accept4
#undef send

enum { MAX_CLIENTS = 24, MAX_ASKS = 8, MAX_TURNS = 1000, MAX_GOT = 1 << 20, OTHER = 0 };

static struct client {
    int fd, served; /* ours; the server's, -1: not accepted */
    int clean; /* asked only as it should, stays to the end, and no send to it failed */
    int failed; /* one did: what came after would stand in the middle of something */
    int lazy, has_mail; /* does not read; something was sent to it */
    unsigned pace; /* bytes a turn that it sends; 0: all */
    char *out, *got;
    size_t out_bytes, sent_bytes, got_bytes;
    int asked[MAX_ASKS], n_asked; /* tokens; OTHER: something without */
} clients[MAX_CLIENTS];

static struct input in;
static int n_clients, n_accepted, turns, short_in, cut, events_sent;

static int may_fail_accept4(int fd, struct sockaddr *at, socklen_t *size, int flags) {
    int got = accept4(fd, at, size, flags), room = 1 << 20;
    if (got < 0) return got;
    setsockopt(got, SOL_SOCKET, SO_SNDBUF, &room, sizeof room);
    for (struct client *c = clients; c < clients + n_accepted; c++)
        if (c->served == got) c->served = -1;
    clients[n_accepted++].served = got; /* in the order in which they came */
    return got;
}

static ssize_t may_fail_send(int fd, const void *data, size_t n, int flags) {
    size_t part = short_in && !--short_in ? n / 2 : n;
    ssize_t k = send(fd, data, part, flags);
    if (k == (ssize_t)n) events_sent += memcmp(data, "HTTP", 4) != 0;
    for (struct client *c = clients; c < clients + n_clients; c++) {
        if (c->served != fd) continue;
        must(!c->failed);
        c->has_mail = 1;
        c->failed = k != (ssize_t)n;
        c->clean &= !c->failed;
    }
    return k;
}

static void say(struct client *c, const void *data, size_t n) {
    c->out = realloc(c->out, c->out_bytes + n + 1);
    memcpy(c->out + c->out_bytes, data, n);
    c->out_bytes += n;
}

/* A client's part of a turn: it sends and reads. */
static void talk(struct client *c) {
    char got[8192];
    if (c->fd < 0) return;
    size_t n = c->out_bytes - c->sent_bytes;
    if (c->pace && n > c->pace) n = c->pace;
    ssize_t k = n ? send(c->fd, c->out + c->sent_bytes, n, MSG_DONTWAIT | MSG_NOSIGNAL) : 0;
    if (k < 0 && errno != EAGAIN) k = n; /* nobody hears it */
    if (k > 0) c->sent_bytes += k;
    if (!c->has_mail || c->lazy) return;
    c->has_mail = 0;
    while ((k = recv(c->fd, got, sizeof got, MSG_DONTWAIT)) > 0) {
        if (c->got_bytes + k > MAX_GOT) continue;
        c->got = realloc(c->got, c->got_bytes + k + 1);
        memcpy(c->got + c->got_bytes, got, k);
        c->got_bytes += k;
        c->got[c->got_bytes] = 0;
    }
}

static struct client *join(void) {
    if (n_clients == MAX_CLIENTS) return &clients[0];
    struct client *c = &clients[n_clients++];
    *c = (struct client){.fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0), .served = -1, .clean = !fails_in};
    must(!connect(c->fd, (void *)&address, address_size));
    return c;
}

/* A request as it should be. */
static void ask(struct client *c, unsigned how, int tokens) {
    char body[256], text[512];
    if (c->n_asked == MAX_ASKS) return;
    c->asked[c->n_asked++] = how % 8 == 7 ? OTHER : tokens;
    int n = how % 8 == 7 ? sprintf(text, "GET /%s HTTP/1.1\r\nhost: x\r\n\r\n", how & 8 ? "health" : how & 16 ? "v1/models" : "x") : 0;
    if (!n) {
        int size = sprintf(body, "{\"prompt\":[1%s],\"max_tokens\":%s%d%s}", how & 8 ? ",22,333" : "", how & 16 ? " " : "", tokens,
                           how & 1 ? ",\"stream_options\":{\"include_usage\":true,\"continuous_usage_stats\":true}" : "");
        n = sprintf(text, "POST /v1/%scompletions HTTP/1.1\r\n%sContent-Length: %d\r\n%s\r\n%s", how & 2 ? "chat/" : "",
                    how & 4 ? "x-request-id: r-12\r\n" : "", size, how & 4 ? "" : "X-Request-ID:r-13\r\n", body);
    }
    say(c, text, n);
}

/* One as it should not be, put together from parts. */
static void ask_badly(struct client *c) {
    static const char *const lines[] = {"POST /v1/completions HTTP/1.1", "GET /v1/models HTTP/1.1", "POST /completions", "", "\r", "GET /health "};
    static const char *const heads[] = {
        "content-length: 0", "content-length: 18", "content-length: 17", "content-length: -1", "content-length: x", "content-length:", "CONTENT-LENGTH: 65535",
        "content-length: 65536", "content-length: 65400", "content-length: 18446744073709551606", "content-length: 9223372036854775807", "x-request-id:",
        "x-request-id: 0123456789012345678901234567890123456789012345678901234567890123456789", "x-request-id: \t\xff", "host: x", "x"};
    static const char *const bodies[] = {
        "{\"max_tokens\":3}", "{\"max_tokens\":0}", "{\"max_tokens\":-1}", "{\"max_tokens\":1048576}", "{\"max_tokens\":1048577}", "{\"max_tokens\":4294967297}",
        "{\"max_tokens\":99999999999999999999}", "{\"max_tokens\":\"3\"}", "{\"max_tokens\":1e3}", "{\"max_tokens\":", "{\"prompt\":[1,2", "{\"prompt\":[]}", "", "\r\n\r\n"};
    char text[1024];
    unsigned line = next_byte(&in), head = next_byte(&in), other = next_byte(&in), body = next_byte(&in);
    int n = sprintf(text, "%s\r\n%s\r\n%s\r\n\r\n%s", lines[line % 6], heads[head % 16], heads[other % 16], bodies[body % 14]);
    c->clean = 0;
    say(c, text, n);
}

static void leave(struct client *c) {
    c->clean = 0;
    if (c->fd >= 0) close(c->fd);
    c->fd = -1;
}

static void one_step(void) {
    static const char block[4096] = "x";
    unsigned what = next_byte(&in), which = next_byte(&in);
    struct client *c = n_clients ? &clients[which % n_clients] : join();
    const uint8_t *raw;
    size_t n;
    switch (what % 16) {
    case 0: join(); break;
    case 1: case 2: case 3: n = next_byte(&in); ask(c, n, 1 + next_byte(&in) % 40); break;
    case 4: case 5: ask_badly(c); break;
    case 6: n = next_byte(&in) % 64; c->clean = 0; raw = next_bytes(&in, &n); say(c, raw, n); break;
    case 7: c->clean = 0; for (n = next_byte(&in) % 20; n; n--) say(c, block, sizeof block); break;
    case 8: c->pace = next_byte(&in); break;
    case 9: leave(c); break;
    case 10: c->clean = 0; if (c->fd >= 0) shutdown(c->fd, next_byte(&in) % 2 ? SHUT_WR : SHUT_RDWR); break;
    case 11: c->clean = 0; c->lazy = !c->lazy; break;
    case 12: short_in = 1 + next_byte(&in); break;
    case 13: clock_ns += (int64_t)next_byte(&in) << next_byte(&in) % 32; break;
    case 14: fails_in = 1 + next_byte(&in) % 8; for (c = clients; c < clients + n_clients; c++) c->clean = 0; break;
    case 15: if (which > 250) cut = 1; break;
    }
}

/* In the place of epoll_wait, when nothing of the server's is half done. */
static int next_turn(int fd, struct epoll_event *got, int room, int timeout_ms) {
    for (int i = 0; i < heap_size; i++) {
        must(heap[i]->heap_at == i && heap[i]->now && peers[heap[i]->fd] == heap[i]);
        must(heap[(i - 1) / 2]->due <= heap[i]->due || !i);
    }
    int more = in.at < in.end;
    if (more) one_step();
    for (struct client *c = clients; c < clients + n_clients; c++) {
        struct peer *p = c->served >= 0 ? peers[c->served] : NULL;
        must(!p || !p->now || p->heap_at >= 0); /* a reply without a deadline would never end */
        talk(c);
        more |= c->fd >= 0 && c->sent_bytes < c->out_bytes && p;
    }
    int n = epoll_wait(fd, got, room, 0);
    if (!n && timeout_ms && clock_ns < wakes_ns) clock_ns = wakes_ns;
    if (++turns == MAX_TURNS) cut = 1;
    if (cut || (!n && !more && !heap_size)) got[n++].data.fd = ended;
    return n;
}

/* The reply of so many tokens that stands here; where the next begins. */
static const char *check_reply(const char *at, int tokens) {
    static const char head[] = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n";
    if (tokens == OTHER) {
        must(!strncmp(at, "HTTP/1.1 200 OK\r\n", 17) || !strncmp(at, "HTTP/1.1 404 Not Found\r\n", 24));
        const char *length = strstr(at, "content-length: "), *body = strstr(at, "\r\n\r\n");
        must(length && body && length < body);
        return body + 4 + atoi(length + 16);
    }
    must(!strncmp(at, head, sizeof head - 1));
    at += sizeof head - 1;
    int events = 0, tokens_said = -1;
    for (;;) {
        char *data;
        size_t size = strtoul(at, &data, 16);
        must(data > at && !strncmp(data, "\r\n", 2) && strlen(data) >= size + 4 && !strncmp(data + 2 + size, "\r\n", 2));
        at = data + size + 4;
        if (!size) break;
        must(!strncmp(data + 2, "data: ", 6) && !strncmp(data + size, "\n\n", 2));
        const char *usage = memmem(data, size, "\"completion_tokens\":", 20);
        if (usage) tokens_said = atoi(usage + 20);
        if (memmem(data, size, "\" tok\"", 6)) must(++events <= tokens && (!usage || tokens_said == events));
    }
    must(events == tokens && tokens_said == tokens);
    return at;
}

/* What SIGTERM wrote: each token at its time, none that was not sent. */
static void check_log(int file, int64_t ttft, int64_t itl, int64_t service) {
    off_t size = lseek(file, 0, SEEK_END);
    int64_t *log = mmap(NULL, size + 1, PROT_READ, MAP_PRIVATE, file, 0), sent = 0;
    must(log != MAP_FAILED && size % 8 == 0);
    for (int64_t *at = log; at < log + size / 8;) {
        int64_t received = at[8], n = at[9], soonest = received + service + ttft;
        must(memchr(at, 0, ID_BYTES) && n >= 0 && n <= MAX_TOKENS);
        for (at += 10; n--; at++, sent++) {
            must(at < log + size / 8 && *at >= soonest && *at <= clock_ns);
            soonest = *at + itl / 2;
        }
    }
    must(sent == events_sent);
    munmap(log, size + 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const int waits_us[] = {0, 1, 100, 5000, 1000000};
    char words[3][16], path[32];
    char *argv[] = {path, words[0], words[1], path, words[2], NULL};
    int64_t waits_ns[3];
    in = (struct input){data, data + size};
    for (int i = 0; i < 3; i++) {
        int wait_us = waits_us[next_byte(&in) % 5];
        sprintf(words[i], "%d", wait_us);
        waits_ns[i] = 1000LL * wait_us;
    }
    tick_ns = waits_us[next_byte(&in) % 3] * 10;
    n_clients = n_accepted = turns = short_in = cut = events_sent = fails_in = live = 0;
    heap_size = 0;
    free_at = clock_ns = wakes_ns = 0;
    first_reply = NULL;
    last_reply = &first_reply;
    int file = memfd_create("log", 0);
    sprintf(path, "/proc/self/fd/%d", file);
    must(!golden_main(5, argv));
    check_log(file, waits_ns[0], waits_ns[1], waits_ns[2]);
    for (struct client *c = clients; c < clients + n_clients; c++) {
        talk(c);
        const char *at = c->got;
        if (c->clean && !cut && c->n_asked) {
            must(at);
            for (int i = 0; i < c->n_asked; i++) at = check_reply(at, c->asked[i]);
            must(at == c->got + c->got_bytes);
        }
        leave(c);
        free(c->out);
        free(c->got);
        if (c->served >= 0 && peers[c->served]) drop(peers[c->served]);
    }
    for (struct reply *r; (r = first_reply);) {
        first_reply = r->next;
        counted_free(r->sent);
        counted_free(r);
    }
    counted_free(heap);
    must(!live);
    close(file), close(listener), close(poller), close(timer), close(ended);
    return 0;
}
