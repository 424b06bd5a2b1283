/* The reader: wait, receive, stamp, append, without the interpreter. reader.py says what for.
 *
 * An adopted stream is read from its reply's first byte on. What Python must look at comes back from reader_wait as pairs of
 * descriptor and event: an unusual beginning, a possible end, a great length, a close, a loss; and epoll's events on all other
 * descriptors.
 * Reads come first: streams that ended wait in a queue while others have bytes. One thread.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>

enum { MAX_EVENTS = 512, MAX_ASKED = 16, MAX_TURNS = 4, RECV_BYTES = 65536, LEAST_REST_NS = 50000, MARGIN_NS = 100000 };
enum { READ_BYTES = sizeof(struct timespec) + sizeof(uint32_t) }; /* of a read, beside what it brought */
enum { KEEP_BYTES = 1 << 18, KEEP_READS = 1 << 14 }; /* of an unused stream */
enum { UNUSUAL = 1 << 16, MAY_END = 1 << 17, CLOSED = 1 << 18, LOST = 1 << 19, LONG = 1 << 20 }; /* LOST carries errno below */

struct stream { /* reader.py reads these fields: keep the two alike */
    int64_t reads, bytes, reads_room, bytes_room;
    struct timespec *stamps; /* CLOCK_REALTIME, the kernel's; -1 s: CLOCK_MONOTONIC, our own */
    uint32_t *lengths;
    char *data;
    int64_t look_reads, look_bytes; /* so much, and Python looks at it */
    struct stream *next; /* unused ones */
    int64_t head, serial; /* bytes of the reply's head; which adoption this is */
    int queued; /* a possible end waits for Python */
    int handed; /* Python will take it: its socket may be ready, but the bytes are not ours any more */
};

struct ended {
    int fd, what;
    int64_t serial;
};

struct reader { /* the first five too */
    int64_t user_reads; /* stamped here for want of the kernel's */
    int64_t busy_max_ns; /* the longest between waking up and having handled what was there */
    int64_t woke_ns; /* of the last turn */
    int64_t found; /* events of the last turn, whoever took them */
    int64_t held; /* bytes of all streams, stamps and lengths too, until they come back through reader_reuse */
    int64_t serial;
    int poll_fd, room;
    struct stream **streams; /* by descriptor; NULL: not adopted */
    struct stream *unused;
    struct ended *ended; /* a ring: from `first`, `waiting` of `ended_room` */
    int first, waiting, ended_room;
    int32_t asked[2 * MAX_ASKED];
    char scratch[RECV_BYTES];
};

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

struct reader *reader_new(int poll_fd) {
    struct reader *r = calloc(1, sizeof *r);
    if (r) r->poll_fd = poll_fd;
    return r;
}

/* Append one read; 0 if there is no memory. */
static int append(struct reader *r, struct stream *s, struct timespec stamp, const char *data, size_t n) {
    if (s->reads == s->reads_room) {
        int64_t room = s->reads_room ? 2 * s->reads_room : 64;
        void *stamps = realloc(s->stamps, room * sizeof *s->stamps);
        if (stamps) s->stamps = stamps;
        void *lengths = realloc(s->lengths, room * sizeof *s->lengths);
        if (lengths) s->lengths = lengths;
        if (!stamps || !lengths) return 0;
        s->reads_room = room;
    }
    if (s->bytes + (int64_t)n > s->bytes_room) {
        int64_t room = s->bytes_room ? 2 * s->bytes_room : 4096;
        while (room < s->bytes + (int64_t)n) room *= 2;
        void *grown = realloc(s->data, room);
        if (!grown) return 0;
        s->data = grown;
        s->bytes_room = room;
    }
    s->stamps[s->reads] = stamp;
    s->lengths[s->reads++] = n;
    memcpy(s->data + s->bytes, data, n);
    s->bytes += n;
    r->held += n + READ_BYTES;
    return 1;
}

/* Take a stream over before its first byte; NULL if there is no memory. */
struct stream *reader_adopt(struct reader *r, int fd) {
    if (fd >= r->room) {
        int room = 2 * fd + 1024;
        struct stream **grown = realloc(r->streams, room * sizeof *grown);
        if (!grown) return NULL;
        memset(grown + r->room, 0, (room - r->room) * sizeof *grown);
        r->streams = grown;
        r->room = room;
    }
    struct stream *found = r->unused ? r->unused : calloc(1, sizeof *found);
    if (!found) return NULL;
    r->unused = found->next;
    found->serial = ++r->serial;
    found->look_reads = found->look_bytes = INT64_MAX;
    return r->streams[fd] = found;
}

/* The stream of this descriptor belongs to the caller until it comes back through reader_reuse. */
void reader_release(struct reader *r, int fd) { r->streams[fd] = NULL; }

/* Take the memory back for another stream, unless it is much: pages that are there already cost no fault. */
void reader_reuse(struct reader *r, struct stream *s) {
    r->held -= s->bytes + READ_BYTES * s->reads;
    if (s->bytes_room > KEEP_BYTES || s->reads_room > KEEP_READS) {
        free(s->data);
        free(s->stamps);
        free(s->lengths);
        *s = (struct stream){0};
    }
    s->reads = s->bytes = s->head = s->queued = s->handed = 0;
    s->next = r->unused;
    r->unused = s;
}

/* The length of the head of a chunked 200 that came whole in one read, as nearly every server sends it; 0 for others.
 * endings.py looks closer at the end. */
static int64_t usual_head(const char *data, size_t n) {
    static const char chunked[] = "\r\ntransfer-encoding: chunked\r\n";
    const char *end = memmem(data, n, "\r\n\r\n", 4);
    if (!end || memcmp(data, "HTTP/1.1 200", 12)) return 0; /* an end is not before byte 12 of an equal beginning */
    for (const char *at = data + 12; at + sizeof chunked - 1 <= end + 2; at++)
        if (*at == '\r' && !strncasecmp(at, chunked, sizeof chunked - 1)) return end + 4 - data;
    return 0;
}

/* One read of an adopted stream; what Python must look at, or 0. */
static int take(struct reader *r, struct stream *s, int fd) {
    char control[64];
    struct iovec part = {r->scratch, sizeof r->scratch};
    struct msghdr m = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    ssize_t n = recvmsg(fd, &m, MSG_DONTWAIT);
    if (n < 0) return errno == EAGAIN || errno == EINTR ? 0 : LOST | errno;
    if (n == 0) return CLOSED;
    struct timespec stamp;
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    if (c && c->cmsg_len >= CMSG_LEN(sizeof stamp)) memcpy(&stamp, CMSG_DATA(c), sizeof stamp);
    else {
        stamp = (struct timespec){-1, now_ns()};
        r->user_reads++;
    }
    if (!append(r, s, stamp, r->scratch, n)) return LOST | ENOMEM;
    if (s->reads == 1 && !(s->head = usual_head(s->data, s->bytes))) return UNUSUAL;
    if (s->bytes > s->head && !memcmp(s->data + s->bytes - 4, "\r\n\r\n", 4)) return MAY_END;
    if (s->reads < s->look_reads && s->bytes < s->look_bytes) return 0;
    s->look_reads = s->look_bytes = INT64_MAX; /* Python says when it looks again */
    return LONG;
}

/* Keep an end, or a length, for Python. */
static void queue(struct reader *r, int fd, int what, struct stream *s) {
    if (what == MAY_END && s->queued) return;
    if (what != LONG) s->queued = 1;
    s->handed = what != MAY_END && what != LONG;
    if (r->waiting == r->ended_room) {
        int room = r->ended_room ? 2 * r->ended_room : 1024;
        struct ended *grown = malloc(room * sizeof *grown);
        if (!grown) abort(); /* the parent sees that the worker died */
        for (int i = 0; i < r->waiting; i++) grown[i] = r->ended[(r->first + i) % r->ended_room];
        free(r->ended);
        r->ended = grown;
        r->ended_room = room;
        r->first = 0;
    }
    r->ended[(r->first + r->waiting++) % r->ended_room] = (struct ended){fd, what, s->serial};
}

/* Whether the descriptor is among the first k that Python looks at: what it does then may be the end of the stream. */
static int is_asked(const struct reader *r, int k, int fd) {
    while (k--) if (r->asked[2 * k] == fd) return 1;
    return 0;
}

/* Read until something is Python's, a poll found nothing, or the time is `until_ns`. After a poll that came at once and
 * found less than `enough`, let more arrive for `gather_ns` (less where the caller is due soon); not while stamps are our
 * own. Returns the number of pairs in `asked`: a few, so that the next reads are never far. */
int reader_wait(struct reader *r, int timeout_ms, int64_t until_ns, int64_t gather_ns, int enough) {
    static struct epoll_event events[MAX_EVENTS];
    int k = 0, turns = 0;
    r->found = 0;
    for (int64_t before = now_ns();;) {
        int n = epoll_wait(r->poll_fd, events, MAX_EVENTS, r->waiting || turns ? 0 : timeout_ms);
        int64_t woke = r->woke_ns = now_ns();
        for (int i = 0; i < n; i++) {
            int fd = events[i].data.fd, what;
            struct stream *s = fd < r->room ? r->streams[fd] : NULL;
            if (!s) {
                if (k == MAX_ASKED || is_asked(r, k, fd)) continue; /* it stays ready */
                r->asked[2 * k] = fd;
                r->asked[2 * k++ + 1] = events[i].events;
            } else if (!s->handed && (what = take(r, s, fd))) queue(r, fd, what, s);
        }
        if (n > 0) r->found += n;
        int64_t now = now_ns();
        if (now - woke > r->busy_max_ns) r->busy_max_ns = now - woke;
        if (n == MAX_EVENTS && ++turns < MAX_TURNS) continue;
        if (k || r->waiting || n <= 0 || now >= until_ns) break;
        turns = 0;
        r->found = 0;
        int64_t rest_ns = until_ns - now - MARGIN_NS < gather_ns ? until_ns - now - MARGIN_NS : gather_ns;
        if (woke - before < gather_ns && n < enough && rest_ns >= LEAST_REST_NS && !r->user_reads) {
            struct timespec rest = {0, rest_ns};
            nanosleep(&rest, NULL);
            before = now_ns();
        } else before = now;
    }
    for (; r->waiting && k < MAX_ASKED; r->waiting--, r->first = (r->first + 1) % r->ended_room) {
        struct ended e = r->ended[r->first];
        if (is_asked(r, k, e.fd)) break;
        struct stream *s = r->streams[e.fd];
        if (!s || s->serial != e.serial) continue; /* given up meanwhile */
        if (e.what != LONG) s->queued = 0;
        r->asked[2 * k] = e.fd;
        r->asked[2 * k++ + 1] = e.what;
    }
    return k;
}

int32_t *reader_asked(struct reader *r) { return r->asked; }
