/* The floor: what any client that reads these streams must at least spend. One epoll loop, recvmsg with the kernel's
 * receive stamp, the next request at once; nothing is parsed or kept but the stamps.
 *
 *   floor_client PORT STREAMS REQUESTS REQUEST_FILE     the file holds one whole HTTP request
 *
 * Prints: requests reads seconds cpu_seconds
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { STAMPS = 1 << 20, MAX_EVENTS = 512 };

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static double cpu_seconds(void) {
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return u.ru_utime.tv_sec + u.ru_stime.tv_sec + (u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

int main(int argc, char **argv) {
    if (argc != 5) { fprintf(stderr, "usage: floor_client PORT STREAMS REQUESTS REQUEST_FILE\n"); return 2; }
    int streams = atoi(argv[2]), requests = atoi(argv[3]), poller = epoll_create1(0), one = 1;
    static char request[65536], data[65536];
    static int64_t stamps[STAMPS];
    FILE *f = fopen(argv[4], "rb");
    if (!f) { perror(argv[4]); return 1; }
    ssize_t length = fread(request, 1, sizeof request, f);
    int *fds = calloc(streams, sizeof *fds);
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[1])), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    for (int i = 0; i < streams; i++) {
        fds[i] = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(fds[i], (void *)&to, sizeof to)) { perror("connect"); return 1; }
        setsockopt(fds[i], SOL_SOCKET, SO_TIMESTAMPNS, &one, sizeof one);
        setsockopt(fds[i], IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        struct epoll_event e = {EPOLLIN, {.fd = fds[i]}};
        epoll_ctl(poller, EPOLL_CTL_ADD, fds[i], &e);
    }
    double start = seconds(), cpu = cpu_seconds();
    int sent = 0, ended = 0;
    for (; sent < streams && sent < requests; sent++)
        if (send(fds[sent], request, length, 0) != length) return 1;
    long reads = 0;
    struct epoll_event got[MAX_EVENTS];
    while (ended < requests) {
        int n = epoll_wait(poller, got, MAX_EVENTS, -1);
        for (int i = 0; i < n; i++) {
            char control[64];
            struct iovec part = {data, sizeof data};
            struct msghdr m = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
            ssize_t size = recvmsg(got[i].data.fd, &m, MSG_DONTWAIT);
            if (size < 5) { if (size == 0) return 1; continue; }
            struct cmsghdr *c = CMSG_FIRSTHDR(&m);
            if (c) {
                struct timespec *t = (void *)CMSG_DATA(c);
                stamps[reads & (STAMPS - 1)] = t->tv_sec * 1000000000L + t->tv_nsec;
            }
            reads++;
            if (memcmp(data + size - 5, "0\r\n\r\n", 5)) continue;
            ended++;
            if (sent < requests) {
                sent++;
                if (send(got[i].data.fd, request, length, 0) != length) return 1;
            }
        }
    }
    printf("%d %ld %.6f %.6f\n", ended, reads, seconds() - start, cpu_seconds() - cpu);
    return 0;
}
