/* What the C harnesses share: the bytes of one input, and a check whose failure ends the process. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define must(what) ((what) ? (void)0 : violated(#what, __FILE__, __LINE__))

static _Noreturn void violated(const char *what, const char *file, int line) {
    fprintf(stderr, "VIOLATED %s:%d: %s\n", file, line, what);
    abort();
}

struct input {
    const uint8_t *at, *end;
};

static unsigned next_byte(struct input *in) { return in->at < in->end ? *in->at++ : 0; }

/* So many bytes of the input, less where it ends. */
static const uint8_t *next_bytes(struct input *in, size_t *n) {
    const uint8_t *at = in->at;
    if (*n > (size_t)(in->end - at)) *n = in->end - at;
    in->at += *n;
    return at;
}
