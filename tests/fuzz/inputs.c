/* Inputs for a harness where libFuzzer is not there: seeded mutations of a corpus, and what reaches new code joins it.
 *
 *   PROGRAM -seed=1 -runs=1000 -max_total_time=60 -max_len=512 -timeout=60 -artifact_prefix=DIR/ [KEPT [CORPUS ..]]
 *
 * The words are libFuzzer's, and what they mean: 0 is no limit; what is kept is written to the first directory; a file
 * instead of a directory is one input, run once. An input that ends in SIGABRT (sanitizers are told to abort) or that takes
 * longer than the time-out is written to DIR/crash-SEED-NUMBER.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <limits.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { MAX_LEN = 1 << 16, MAX_KEPT = 1 << 14, EDGES = 1 << 16 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
const char *__asan_default_options(void) { return "abort_on_error=1:detect_leaks=0:quarantine_size_mb=16"; } /* the harnesses count themselves */
const char *__ubsan_default_options(void) { return "abort_on_error=1:print_stacktrace=1"; }

static struct kept {
    uint8_t *data;
    size_t size;
} kept[MAX_KEPT];
static int n_kept;
static uint8_t now[MAX_LEN]; /* the input that runs */
static size_t now_size;
static uint64_t state;
static long seed = 1, runs, seconds, max_len = 512, timeout_s = 60, executed;
static const char *artifacts = "";

static uint8_t hits[EDGES], reached[EDGES]; /* by this input, how often; by any: a bit for 1, 2, 4 .. 128 times */
static int n_reached;
static uintptr_t before;

/* gcc -fsanitize-coverage=trace-pc calls this on every basic block. */
void __sanitizer_cov_trace_pc(void) {
    uintptr_t at = (uintptr_t)__builtin_return_address(0) * 0x9E3779B97F4A7C15u >> 40;
    uint8_t *edge = &hits[(at ^ before) % EDGES];
    *edge += *edge < 255;
    before = at >> 1;
}

static uint64_t draw(uint64_t below) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (state * 0x2545F4914F6CDD1Du >> 16) % below;
}

static void write_input(const char *folder, const char *kind) {
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s%s-%ld-%ld", folder, kind, seed, executed);
    FILE *f = fopen(path, "wb");
    if (!f) return;
    fwrite(now, 1, now_size, f);
    fclose(f);
}

static void died(int signal_) {
    if (signal_ == SIGALRM) fprintf(stderr, "TIMEOUT: an input took longer than %ld s\n", timeout_s);
    fprintf(stderr, "stat::number_of_executed_units: %ld\n", executed);
    write_input(artifacts, "crash");
    _exit(77);
}

static void keep(void) {
    if (n_kept == MAX_KEPT) return;
    kept[n_kept].data = malloc(now_size + 1);
    memcpy(kept[n_kept].data, now, now_size);
    kept[n_kept++].size = now_size;
}

/* True where it reached what none did before. */
static int run(void) {
    int is_new = 0;
    memset(hits, 0, sizeof hits);
    before = 0;
    executed++;
    alarm(timeout_s);
    uint8_t *exact = malloc(now_size + !now_size); /* of its very size: the harness must not read beyond it either */
    memcpy(exact, now, now_size);
    LLVMFuzzerTestOneInput(exact, now_size);
    free(exact);
    for (int i = 0; i < EDGES; i++) {
        if (!hits[i]) continue;
        uint8_t bit = 1 << (31 - __builtin_clz(hits[i]));
        n_reached += !reached[i];
        is_new |= !(reached[i] & bit);
        reached[i] |= bit;
    }
    return is_new;
}

static void run_file(const char *path) {
    FILE *f = fopen(path, "rb");
    if (!f) return;
    now_size = fread(now, 1, max_len, f);
    fclose(f);
    run();
    keep();
}

static void run_all(const char *path) {
    struct stat seen;
    if (stat(path, &seen) || !S_ISDIR(seen.st_mode)) {
        run_file(path);
        return;
    }
    struct dirent **names;
    int n = scandir(path, &names, NULL, alphasort); /* in one order: what follows depends on it */
    for (int i = 0; i < n; i++) {
        char inner[PATH_MAX];
        snprintf(inner, sizeof inner, "%s/%s", path, names[i]->d_name);
        if (names[i]->d_name[0] != '.') run_file(inner);
        free(names[i]);
    }
    if (n >= 0) free(names);
}

/* Put `n` bytes in place of `cut` at `at`, as far as there is room. */
static void splice(size_t at, size_t cut, const uint8_t *data, size_t n) {
    if (now_size - cut + n > (size_t)max_len) n = max_len - (now_size - cut);
    memmove(now + at + n, now + at + cut, now_size - at - cut);
    memcpy(now + at, data, n);
    now_size = now_size - cut + n;
}

static void mutate(void) {
    uint8_t piece[64];
    size_t at = draw(now_size + 1), left = now_size - at, n = 1 + draw(draw(4) ? 4 : sizeof piece);
    for (size_t i = 0; i < sizeof piece; i++) piece[i] = draw(3) ? draw(256) : draw(20);
    if (n > left && draw(2)) n = left;
    switch (draw(6)) {
    case 0: splice(at, 0, piece, n); break;
    case 1: splice(at, n < left ? n : left, piece, 0); break;
    case 2: splice(at, n < left ? n : left, piece, n); break;
    case 3: if (left) now[at] ^= 1 << draw(8); break;
    case 4: if (left) now[at] += draw(2) ? 1 : -1; break;
    default: { /* a piece of another input */
        struct kept *other = &kept[draw(n_kept)];
        size_t from = draw(other->size + 1);
        splice(at, draw(left + 1), other->data + from, draw(other->size - from + 1));
    }
    }
}

static void options(int argc, char **argv) {
    static const struct {
        const char *form;
        long *value;
    } numbers[] = {{"-seed=%ld", &seed}, {"-runs=%ld", &runs}, {"-max_total_time=%ld", &seconds}, {"-max_len=%ld", &max_len}, {"-timeout=%ld", &timeout_s}};
    for (int i = 1; i < argc; i++) {
        for (size_t k = 0; k < sizeof numbers / sizeof *numbers; k++) sscanf(argv[i], numbers[k].form, numbers[k].value);
        if (!strncmp(argv[i], "-artifact_prefix=", 17)) artifacts = argv[i] + 17;
    }
    if (max_len > MAX_LEN) max_len = MAX_LEN;
    state = 0x9E3779B97F4A7C15u ^ (uint64_t)seed * 0xD1342543DE82EF95u;
}

int main(int argc, char **argv) {
    const char *keep_in = NULL;
    int given_file = 0;
    options(argc, argv);
    signal(SIGABRT, died);
    signal(SIGALRM, died);
    keep(); /* the empty one */
    for (int i = 1; i < argc; i++) {
        struct stat seen;
        if (*argv[i] == '-' || stat(argv[i], &seen)) continue;
        if (!S_ISDIR(seen.st_mode)) given_file = 1;
        else if (!keep_in) keep_in = argv[i];
        run_all(argv[i]);
    }
    char folder[PATH_MAX];
    snprintf(folder, sizeof folder, "%s/", keep_in ? keep_in : "");
    for (time_t until = time(NULL) + seconds; !given_file && (!runs || executed < runs) && (!seconds || time(NULL) < until);) {
        struct kept *from = &kept[draw(n_kept)];
        memcpy(now, from->data, now_size = from->size);
        for (uint64_t times = 1 + draw(6); times; times--) mutate();
        if (!run()) continue;
        keep();
        if (keep_in) write_input(folder, "new");
    }
    alarm(0);
    fprintf(stderr, "stat::number_of_executed_units: %ld\nstat::new_units: %d\nedges: %d\n", executed, n_kept, n_reached);
    return 0;
}
