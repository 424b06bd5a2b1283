/* Loaded before libc: one system call in DELAYS_ONE_OF waits, before or after, up to DELAYS_MOST_US, halved up to
   thirteen times. What only ever happens in one order then happens in others too. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <semaphore.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static unsigned long one_of, most_us;
static __thread uint64_t state;

__attribute__((constructor)) static void begin(void) {
    const char *often = getenv("DELAYS_ONE_OF"), *most = getenv("DELAYS_MOST_US");
    one_of = often ? strtoul(often, NULL, 10) : 0;
    most_us = most ? strtoul(most, NULL, 10) : 0;
}

static uint64_t drawn(void) {
    if (!state) {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        state = ((uint64_t)now.tv_nsec * 2654435761u) ^ ((uint64_t)getpid() << 32) ^ (uintptr_t)&state;
        state += !state;
    }
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state >> 16;
}

static void wait_perhaps(void) {
    int kept = errno;
    if (one_of && drawn() % one_of == 0) {
        unsigned long us = most_us >> drawn() % 14;
        struct timespec rest = {(time_t)(us / 1000000), (long)(us % 1000000 * 1000)};
        nanosleep(&rest, NULL);
    }
    errno = kept;
}

#define DELAYED(type, name, takes, given) \
    type name takes { \
        static type(*real) takes; \
        if (!real) real = (type(*) takes)dlsym(RTLD_NEXT, #name); \
        wait_perhaps(); \
        type came = real given; \
        wait_perhaps(); \
        return came; \
    }

DELAYED(ssize_t, read, (int fd, void *at, size_t size), (fd, at, size))
DELAYED(ssize_t, write, (int fd, const void *at, size_t size), (fd, at, size))
DELAYED(ssize_t, pwrite64, (int fd, const void *at, size_t size, off_t offset), (fd, at, size, offset))
DELAYED(ssize_t, recv, (int fd, void *at, size_t size, int flags), (fd, at, size, flags))
DELAYED(ssize_t, recvmsg, (int fd, struct msghdr *message, int flags), (fd, message, flags))
DELAYED(ssize_t, send, (int fd, const void *at, size_t size, int flags), (fd, at, size, flags))
DELAYED(ssize_t, sendmsg, (int fd, const struct msghdr *message, int flags), (fd, message, flags))
DELAYED(int, accept4, (int fd, struct sockaddr *who, socklen_t *size, int flags), (fd, who, size, flags))
DELAYED(int, connect, (int fd, const struct sockaddr *who, socklen_t size), (fd, who, size))
DELAYED(int, listen, (int fd, int waiting), (fd, waiting))
DELAYED(int, close, (int fd), (fd))
DELAYED(int, epoll_wait, (int fd, struct epoll_event *events, int most, int ms), (fd, events, most, ms))
DELAYED(int, flock, (int fd, int how), (fd, how))
DELAYED(int, fsync, (int fd), (fd))
DELAYED(int, rename, (const char *from, const char *to), (from, to))
DELAYED(int, unlink, (const char *path), (path))
DELAYED(int, kill, (pid_t pid, int which), (pid, which))
DELAYED(int, sem_post, (sem_t *of), (of))
DELAYED(pid_t, waitpid, (pid_t pid, int *status, int flags), (pid, status, flags))
