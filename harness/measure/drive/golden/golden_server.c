/* Golden server in C: an OpenAI-compatible stream whose every send time is known, for measuring clients at high rates.
 *
 *   golden_server TTFT_US ITL_US LOG [SERVICE_US [ADDRESS]]      listens on 127.0.0.1 or ADDRESS, an ephemeral port, printed as the first line
 *
 * Every completion request gets max_tokens events (1 to MAX_TOKENS, else 400) of one token each on absolute deadlines (TTFT, then one per ITL),
 * with running usage where the request asks for it, a usage event and [DONE]. With SERVICE_US a request first waits in one
 * queue for a single server that takes so long for each (first come, first served): with Poisson arrivals that is M/D/1,
 * TTFT = wait + SERVICE + TTFT_US, capacity known by formula. The request head must come with
 * content-length and may name itself by x-request-id.
 *
 * LOG, written on SIGTERM, native int64 throughout, per request: 8 words of id (64 bytes, zero-padded), time received,
 * number of tokens n, n send times (CLOCK_MONOTONIC, read just before the send). One thread, epoll, a heap of deadlines.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { MAX_FD = 1 << 16, IN_CAP = 1 << 16, ID_BYTES = 64, MAX_EVENTS = 1024 };
enum { MAX_TOKENS = 1 << 20 }; /* of a reply: its send times are kept */
enum { SPIN_NS = 20000, STEPS = 256 }; /* a timer costs more than so short a wait; sends between two looks at the sockets */

struct reply {
    char id[ID_BYTES];
    int64_t received;
    int64_t n;
    int64_t *sent;
    struct reply *next;
};

struct peer {
    int fd;
    size_t have;
    char in[IN_CAP];
    struct reply *now; /* NULL between requests */
    int64_t done;
    int64_t due;
    int running_usage, prompt_tokens;
    int heap_at; /* -1: not in the heap */
};

static struct peer *peers[MAX_FD];
static struct peer **heap;
static int heap_size;
static struct reply *first_reply, **last_reply = &first_reply;
static int64_t ttft_ns, itl_ns, service_ns, free_at; /* free_at: when the queue's server has done all it has */
static int poller, timer;

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void place(struct peer *p, int at) { heap[at] = p; p->heap_at = at; }

static void sift(struct peer *p, int at) {
    while (at > 0 && heap[(at - 1) / 2]->due > p->due) {
        place(heap[(at - 1) / 2], at);
        at = (at - 1) / 2;
    }
    for (;;) {
        int child = 2 * at + 1;
        if (child >= heap_size) break;
        if (child + 1 < heap_size && heap[child + 1]->due < heap[child]->due) child++;
        if (heap[child]->due >= p->due) break;
        place(heap[child], at);
        at = child;
    }
    place(p, at);
}

static void schedule(struct peer *p, int64_t due) {
    p->due = due;
    sift(p, p->heap_at >= 0 ? p->heap_at : heap_size++);
}

static void unschedule(struct peer *p) {
    int at = p->heap_at;
    if (at < 0) return;
    p->heap_at = -1;
    struct peer *moved = heap[--heap_size];
    if (moved != p) sift(moved, at);
}

/* What it was not sent yet it never is. */
static void drop(struct peer *p) {
    if (p->now) p->now->n = p->done;
    unschedule(p);
    peers[p->fd] = NULL;
    close(p->fd);
    free(p);
}

/* Append text, a number: what a send costs limits the rate at which this server knows the truth, and sprintf is half of it. */
static char *put(char *to, const char *text, size_t n) { memcpy(to, text, n); return to + n; }
#define PUT(to, text) put(to, text, sizeof(text) - 1)

static char *put_number(char *to, int64_t value) {
    char digits[20], *at = digits + sizeof digits;
    do *--at = '0' + value % 10; while (value /= 10);
    return put(to, at, digits + sizeof digits - at);
}

enum kind { TOKEN, LAST_TOKEN, USAGE_ONLY };

/* Append one event as an HTTP chunk; `usage` < 0: none. Returns the new end. */
static char *put_event(char *to, enum kind kind, const struct peer *p, int64_t usage) {
    char *body = to + 5, *end = body; /* before it room for the length in hex, and CRLF */
    end = PUT(end, "data: {\"id\":\"cmpl-1\",\"object\":\"text_completion\",\"created\":1,\"model\":\"golden\",\"choices\":[");
    if (kind != USAGE_ONLY) {
        end = PUT(end, "{\"index\":0,\"text\":\" tok\",\"logprobs\":null,\"finish_reason\":");
        end = kind == LAST_TOKEN ? PUT(end, "\"length\"") : PUT(end, "null");
        end = PUT(end, ",\"stop_reason\":null}");
    }
    end = PUT(end, "]");
    if (usage >= 0) {
        end = PUT(end, ",\"usage\":{\"prompt_tokens\":");
        end = put_number(end, p->prompt_tokens);
        end = PUT(end, ",\"total_tokens\":");
        end = put_number(end, p->prompt_tokens + usage);
        end = PUT(end, ",\"completion_tokens\":");
        end = put_number(end, usage);
        end = PUT(end, "}");
    }
    end = PUT(end, "}\n\n");
    int n = end - body;
    end = PUT(end, "\r\n");
    int digits = n < 256 ? 2 : 3;
    for (int i = 0; i < digits; i++) to[i] = "0123456789abcdef"[n >> 4 * (digits - 1 - i) & 15];
    memcpy(to + digits, "\r\n", 2);
    if (digits == 3) return end;
    memmove(to + 4, body, end - body);
    return end - 1;
}

static void step(struct peer *p) {
    char out[2048], *end = out;
    struct reply *r = p->now;
    int last = p->done + 1 == r->n;
    end = put_event(end, last ? LAST_TOKEN : TOKEN, p, p->running_usage ? p->done + 1 : -1);
    if (last) {
        end = put_event(end, USAGE_ONLY, p, r->n);
        end = PUT(end, "e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n");
    }
    int64_t sent = r->sent[p->done] = now_ns();
    if (send(p->fd, out, end - out, MSG_NOSIGNAL) != end - out) {
        drop(p);
        return;
    }
    p->done++;
    if (last) p->now = NULL;
    else { /* a late server does not make up for it in bursts: two tokens that leave together are one read to any client */
        int64_t soonest = sent + itl_ns / 2;
        schedule(p, p->due + itl_ns > soonest ? p->due + itl_ns : soonest);
    }
}

static long number_after(const char *text, const char *key, long otherwise) {
    const char *at = strstr(text, key);
    return at ? atol(at + strlen(key)) : otherwise;
}

static int count_prompt(const char *body) {
    const char *at = strstr(body, "\"prompt\":[");
    int n = 1;
    if (at) for (; *at && *at != ']'; at++) n += *at == ',';
    return n;
}

/* All but a completion: the list of models, a health check, 404 for the rest. Not logged. Returns 0 for a completion, < 0
 * where the answer did not go whole. */
static int answer_other(struct peer *p) {
    char *line = strchr(p->in, '\r');
    *line = 0;
    int completion = strstr(p->in, "/completions") != NULL, models = strstr(p->in, "/models ") != NULL;
    int found = models || strstr(p->in, "/health ") != NULL;
    *line = '\r';
    if (completion) return 0;
    const char *body = models ? "{\"object\":\"list\",\"data\":[{\"id\":\"golden\",\"object\":\"model\"}]}" : "{}";
    char out[512];
    int n = sprintf(out, "HTTP/1.1 %s\r\ncontent-type: application/json\r\ncontent-length: %zu\r\n\r\n%s",
                    found ? "200 OK" : "404 Not Found", strlen(body), body);
    return send(p->fd, out, n, MSG_NOSIGNAL) == n ? 1 : -1;
}

/* Say why a request is not answered, and close: what else came with it is not looked at. */
static void refuse(struct peer *p, const char *status) {
    char out[128];
    int n = sprintf(out, "HTTP/1.1 %s\r\ncontent-length: 0\r\nconnection: close\r\n\r\n", status);
    (void)!send(p->fd, out, n, MSG_NOSIGNAL);
    drop(p);
}

static void forget(struct peer *p, size_t n) {
    memmove(p->in, p->in + n, p->have - n);
    p->have -= n;
}

/* Begin the reply to the completion request that stands first in the input. */
static void begin(struct peer *p, const char *body, size_t whole) {
    int64_t received = now_ns();
    char kept = p->in[whole];
    p->in[whole] = 0;
    long n = number_after(body, "\"max_tokens\":", 16);
    struct reply *r = n < 1 || n > MAX_TOKENS ? NULL : calloc(1, sizeof *r);
    if (!r) { refuse(p, "400 Bad Request"); return; }
    r->received = received;
    r->n = n;
    r->sent = calloc(n, sizeof *r->sent);
    if (!r->sent) { free(r); refuse(p, "503 Service Unavailable"); return; }
    const char *field = strcasestr(p->in, "x-request-id:");
    if (field && field < body) sscanf(field + 13, " %63[^\r]", r->id);
    p->running_usage = strstr(body, "\"continuous_usage_stats\":true") != NULL;
    p->prompt_tokens = count_prompt(body);
    p->in[whole] = kept;
    forget(p, whole);
    *last_reply = r;
    last_reply = &r->next;
    p->now = r;
    p->done = 0;
    static const char head[] = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n";
    if (send(p->fd, head, sizeof head - 1, MSG_NOSIGNAL) != sizeof head - 1) { drop(p); return; }
    if (free_at < r->received) free_at = r->received;
    free_at += service_ns; /* from stamps, not from when we got round to it: a late wake-up costs no capacity */
    schedule(p, (service_ns ? free_at : r->received) + ttft_ns);
}

/* Take whole requests from the input, as far as they are there, until one begins a reply. */
static void take(struct peer *p) {
    while (!p->now) {
        p->in[p->have] = 0;
        char *body = strstr(p->in, "\r\n\r\n");
        if (!body) return;
        body += 4;
        char *field = strcasestr(p->in, "content-length:");
        size_t length = field && field < body ? strtoul(field + 15, NULL, 10) : 0;
        size_t whole = (size_t)(body - p->in) + length;
        if (length >= IN_CAP || whole >= IN_CAP) { refuse(p, "413 Content Too Large"); return; }
        if (p->have < whole) return;
        int other = answer_other(p);
        if (!other) { begin(p, body, whole); return; }
        if (other < 0) { drop(p); return; }
        forget(p, whole);
    }
}

static void welcome(int listener) {
    for (int fd; (fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0;) {
        int one = 1;
        if (fd >= MAX_FD) { close(fd); continue; }
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        struct peer *p = malloc(sizeof *p);
        if (!p) { close(fd); continue; }
        p->fd = fd; p->have = 0; p->now = NULL; p->heap_at = -1;
        peers[fd] = p;
        struct epoll_event e = {EPOLLIN, {.fd = fd}};
        epoll_ctl(poller, EPOLL_CTL_ADD, fd, &e);
    }
}

static void hear(struct peer *p) {
    ssize_t got = recv(p->fd, p->in + p->have, IN_CAP - 1 - p->have, 0);
    if (got <= 0) {
        drop(p);
        return;
    }
    p->have += got;
    take(p);
}

static void write_log(const char *path) {
    FILE *f = fopen(path, "wb");
    if (!f) { perror(path); return; }
    for (struct reply *r = first_reply; r; r = r->next) {
        fwrite(r->id, 1, ID_BYTES, f);
        fwrite(&r->received, sizeof r->received, 1, f);
        fwrite(&r->n, sizeof r->n, 1, f);
        fwrite(r->sent, sizeof *r->sent, r->n, f);
    }
    fclose(f);
}

int main(int argc, char **argv) {
    if (argc < 4 || argc > 6) { fprintf(stderr, "usage: golden_server TTFT_US ITL_US LOG [SERVICE_US [ADDRESS]]\n"); return 2; }
    ttft_ns = atoll(argv[1]) * 1000;
    itl_ns = atoll(argv[2]) * 1000;
    service_ns = argc > 4 ? atoll(argv[4]) * 1000 : 0;
    const char *host = argc > 5 ? argv[5] : "127.0.0.1";
    sigset_t ends; /* asked for like a socket: a handler's flag is not seen by a wait that begins just after it */
    sigemptyset(&ends);
    sigaddset(&ends, SIGTERM);
    sigprocmask(SIG_BLOCK, &ends, NULL);
    int told = signalfd(-1, &ends, SFD_NONBLOCK);
    prctl(PR_SET_PDEATHSIG, SIGTERM); /* a real-time server must not outlive the client that started it */
    heap = calloc(MAX_FD, sizeof *heap);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr = {inet_addr(host)}};
    socklen_t size = sizeof at;
    setsockopt(listener, IPPROTO_TCP, TCP_CONGESTION, "reno", 4); /* the cheapest; a system may have set one that paces */
    if (told < 0 || bind(listener, (void *)&at, size) || listen(listener, 8192) || getsockname(listener, (void *)&at, &size)) {
        perror("golden_server");
        return 1;
    }
    printf("%d\n", ntohs(at.sin_port));
    fflush(stdout);
    poller = epoll_create1(0);
    timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    struct epoll_event e = {EPOLLIN, {.fd = listener}}, got[MAX_EVENTS];
    epoll_ctl(poller, EPOLL_CTL_ADD, listener, &e);
    e.data.fd = timer;
    epoll_ctl(poller, EPOLL_CTL_ADD, timer, &e);
    e.data.fd = told;
    epoll_ctl(poller, EPOLL_CTL_ADD, told, &e);
    int finished = 0;
    for (int64_t next = 0; !finished;) {
        int soon = next && next - now_ns() < SPIN_NS;
        if (!soon) {
            struct itimerspec wake = {.it_value = {next / 1000000000, next % 1000000000}}; /* 0 disarms */
            timerfd_settime(timer, TFD_TIMER_ABSTIME, &wake, NULL);
        }
        int n = epoll_wait(poller, got, MAX_EVENTS, soon ? 0 : -1);
        for (int i = 0; i < n; i++) {
            int fd = got[i].data.fd;
            if (fd == listener) welcome(fd);
            else if (fd == told) finished = 1;
            else if (fd != timer && peers[fd]) hear(peers[fd]);
        }
        int steps = 0;
        while (heap_size && heap[0]->due <= now_ns() && steps++ < STEPS) {
            struct peer *p = heap[0];
            unschedule(p);
            int fd = p->fd; /* p may be gone after the step */
            step(p);
            if (peers[fd] == p && !p->now) take(p);
        }
        next = heap_size ? heap[0]->due : 0;
    }
    while (heap_size) drop(heap[0]);
    write_log(argv[3]);
    return 0;
}
