/* A stand-in for the NVIDIA Management Library, built as libnvidia-ml.so.1 by tests/observe/conftest.py.
 *
 * It implements only the entry points that harness/measure/observe/boards/nvml.py reaches through nvidia-ml-py, with values that a
 * test can compute by itself. Everything is set by environment variables, read at nvmlInit:
 *
 *   FAKE_NVML_GPUS         boards (default 8, at most 16)
 *   FAKE_NVML_MEMORY_MIB   memory of every board (default 81920); FAKE_NVML_SLICE_MIB: of every MIG slice (default the same)
 *   FAKE_NVML_POWER_MW     power of board 0 (default 300000); board i draws 10 W x i more, constant
 *   FAKE_NVML_PERIOD_MS    the energy counter moves once in this many ms of CLOCK_MONOTONIC (default 100)
 *   FAKE_NVML_ENERGY_PCT   what the energy counter counts of the power (default 100)
 *   FAKE_NVML_PROCESSES    "board:pid,board:pid": compute processes; "board.slice:pid" puts one on a MIG slice, "board:pid=MiB"
 *                          says what it holds (default 1024 MiB)
 *   FAKE_NVML_USED         "board:MiB,board:MiB": memory in use (default 71680 MiB; of slice i 5 + i GiB)
 *   FAKE_NVML_NAME         name of every board (default Fake H100); a slice's adds " MIG 1g.10gb"
 *   FAKE_NVML_OTHER_NAME   name of the last board, where it is another
 *   FAKE_NVML_STATE        file with lines "board MHz reasons degC" read at every question for one of them; the last line of a
 *                          board counts (default 1755 MHz, 0x4, 61 degC)
 *   FAKE_NVML_SLOW_MS      a list of processes takes this long
 *   FAKE_NVML_XID          "board:Xid": one critical error, waiting from the start
 *   FAKE_NVML_LIMIT_MW     enforced power limit (default 700000)
 *   FAKE_NVML_LOST         "board:path": that board answers GPU_IS_LOST while that file exists
 *   FAKE_NVML_UNKNOWN      "board:path": the same with NVML_ERROR_UNKNOWN
 *   FAKE_NVML_INIT         error code returned by nvmlInit (18: driver and library versions differ)
 *   FAKE_NVML_MIG          slices of board 0, which is then in MIG mode
 *   FAKE_NVML_FLAGS        words: hidden (process lists are empty: those of another pid namespace), no_energy, bare (no utilisation, clocks, temperature, reasons: not supported; process
 *                          list: no permission), old (functions of newer drivers missing), unavailable (power all ones)
 *
 * Counter of board i, in mJ: 1e9 + power_mw(i) x (CLOCK_MONOTONIC in ms rounded down to the period) / 1000.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { OK = 0, UNINITIALIZED = 1, BAD_ARGUMENT = 2, NOT_SUPPORTED = 3, NO_PERMISSION = 4, NOT_FOUND = 6,
       TOO_SMALL = 7, TIMEOUT = 10, FUNCTION_NOT_FOUND = 13, GPU_IS_LOST = 15, UNKNOWN = 999 };
enum { MAX_BOARDS = 16, MAX_SLICES = 7, MAX_PROCESSES = 64 };

typedef unsigned long long u64;
typedef struct { int board, slice; } device;                       /* slice -1: the board itself */
typedef struct { u64 total, free, used; } memory_v1;
typedef struct { unsigned version; u64 total, reserved, free, used; } memory_v2;
typedef struct { unsigned gpu, memory; } utilization;
typedef struct { unsigned pid; u64 used; unsigned gpu_instance, compute_instance; } process;
typedef struct { unsigned version, sensor; int celsius; } temperature_v1;
typedef struct { device *device; u64 type, data; unsigned gpu_instance, compute_instance; } event_data;
typedef struct { char legacy[16]; unsigned domain, bus, slot, id, subsystem; char bus_id[32]; } pci_info;

static device boards[MAX_BOARDS], slices[MAX_BOARDS][MAX_SLICES];
static struct { int board, slice; unsigned pid; u64 bytes; } processes[MAX_PROCESSES];
static int started, board_count, mig_slices, process_count, lost_board, unknown_board;
static u64 power_mw, period_ms;
static char lost_file[4096], unknown_file[4096];
static int no_energy, bare, old, unavailable, hidden;
static int xid_board, xid, xids_left;
static u64 used_bytes[MAX_BOARDS], board_bytes, slice_bytes;

static u64 now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (u64)t.tv_sec * 1000u + (u64)t.tv_nsec / 1000000u;
}

static long number(const char *name, long otherwise) {
    const char *text = getenv(name);
    return text && *text ? atol(text) : otherwise;
}

static int fails_with(const char *name, char *file) {
    const char *text = getenv(name);
    int board = -1;
    *file = 0;
    if (text) sscanf(text, "%d:%4095s", &board, file);
    return board;
}

static void read_processes(void) {
    const char *text = getenv("FAKE_NVML_PROCESSES");
    process_count = 0;
    while (text && *text && process_count < MAX_PROCESSES) {
        int board = 0, slice = -1;
        unsigned pid = 0;
        if (sscanf(text, "%d.%d:%u", &board, &slice, &pid) != 3) {
            slice = -1;
            sscanf(text, "%d:%u", &board, &pid);
        }
        unsigned mib = 1024;
        const char *end = strchr(text, ','), *held = strchr(text, '=');
        if (held && (!end || held < end)) sscanf(held, "=%u", &mib);
        processes[process_count].bytes = (u64)mib << 20;
        processes[process_count].board = board;
        processes[process_count].slice = slice;
        processes[process_count++].pid = pid;
        text = strchr(text, ',');
        if (text) text++;
    }
}

static void read_used(void) {
    const char *text = getenv("FAKE_NVML_USED");
    for (int i = 0; i < MAX_BOARDS; i++) used_bytes[i] = 70ull << 30;
    while (text && *text) {
        int board = -1;
        unsigned mib = 0;
        if (sscanf(text, "%d:%u", &board, &mib) == 2 && board >= 0 && board < MAX_BOARDS) used_bytes[board] = (u64)mib << 20;
        text = strchr(text, ',');
        if (text) text++;
    }
}

/* Clock, reasons and temperature of a board now. */
static void state_now(int board, unsigned *mhz, unsigned *reasons, int *celsius) {
    const char *path = getenv("FAKE_NVML_STATE");
    FILE *file = path ? fopen(path, "r") : NULL;
    int which, c;
    unsigned m, r;
    *mhz = 1755u;
    *reasons = 0x4u;
    *celsius = 61;
    if (!file) return;
    while (fscanf(file, "%d %u %x %d", &which, &m, &r, &c) == 4)
        if (which == board) { *mhz = m; *reasons = r; *celsius = c; }
    fclose(file);
}

int nvmlInitWithFlags(unsigned flags) {
    const char *words = getenv("FAKE_NVML_FLAGS");
    int code = (int)number("FAKE_NVML_INIT", 0);
    (void)flags;
    if (code) return code;
    if (!words) words = "";
    no_energy = strstr(words, "no_energy") != NULL;
    bare = strstr(words, "bare") != NULL;
    old = strstr(words, "old") != NULL;
    unavailable = strstr(words, "unavailable") != NULL;
    hidden = strstr(words, "hidden") != NULL;
    xid_board = -1;
    xids_left = getenv("FAKE_NVML_XID") && sscanf(getenv("FAKE_NVML_XID"), "%d:%d", &xid_board, &xid) == 2;
    board_count = (int)number("FAKE_NVML_GPUS", 8);
    if (board_count > MAX_BOARDS) board_count = MAX_BOARDS;
    mig_slices = (int)number("FAKE_NVML_MIG", 0);
    if (mig_slices > MAX_SLICES) mig_slices = MAX_SLICES;
    board_bytes = (u64)number("FAKE_NVML_MEMORY_MIB", 80 << 10) << 20;
    slice_bytes = (u64)number("FAKE_NVML_SLICE_MIB", (long)(board_bytes >> 20)) << 20;
    power_mw = (u64)number("FAKE_NVML_POWER_MW", 300000);
    period_ms = (u64)number("FAKE_NVML_PERIOD_MS", 100);
    lost_board = fails_with("FAKE_NVML_LOST", lost_file);
    unknown_board = fails_with("FAKE_NVML_UNKNOWN", unknown_file);
    for (int i = 0; i < MAX_BOARDS; i++) {
        boards[i] = (device){i, -1};
        for (int j = 0; j < MAX_SLICES; j++) slices[i][j] = (device){i, j};
    }
    read_processes();
    read_used();
    started++;
    return OK;
}

int nvmlShutdown(void) {
    if (!started) return UNINITIALIZED;
    started--;
    return OK;
}

const char *nvmlErrorString(int code) {
    return code == 18 ? "Driver/library version mismatch" : code == GPU_IS_LOST ? "GPU is lost" : "fake error";
}

/* What every device query asks first: is the library open, does the board still answer. */
static int state(const device *d) {
    if (!started) return UNINITIALIZED;
    if (!d) return BAD_ARGUMENT;
    if (d->board == lost_board && access(lost_file, F_OK) == 0) return GPU_IS_LOST;
    if (d->board == unknown_board && access(unknown_file, F_OK) == 0) return UNKNOWN;
    return OK;
}

static int is_mig(const device *d) { return mig_slices && d->board == 0; }

/* Board-level counters answer for boards only. */
#define ON_BOARD(d) do { int s_ = state(d); if (s_) return s_; if ((d)->slice >= 0) return NOT_SUPPORTED; } while (0)

int nvmlSystemGetDriverVersion(char *out, unsigned size) { snprintf(out, size, "999.10.01"); return OK; }
int nvmlSystemGetNVMLVersion(char *out, unsigned size) { snprintf(out, size, "99.999.10.01"); return OK; }
int nvmlSystemGetCudaDriverVersion_v2(int *out) { *out = 13010; return OK; }
int nvmlDeviceGetCount_v2(unsigned *out) { *out = (unsigned)board_count; return started ? OK : UNINITIALIZED; }

int nvmlDeviceGetHandleByIndex_v2(unsigned index, device **out) {
    if (!started) return UNINITIALIZED;
    if (index >= (unsigned)board_count) return BAD_ARGUMENT;
    *out = &boards[index];
    return OK;
}

int nvmlDeviceGetName(device *d, char *out, unsigned size) {
    const char *name = getenv("FAKE_NVML_NAME"), *other = getenv("FAKE_NVML_OTHER_NAME");
    int s = state(d);
    if (s) return s;
    if (!name) name = "Fake H100";
    if (other && d->board == board_count - 1) name = other;
    snprintf(out, size, d->slice < 0 ? "%s" : "%s MIG 1g.10gb", name);
    return OK;
}

int nvmlDeviceGetUUID(device *d, char *out, unsigned size) {
    int s = state(d);
    if (s) return s;
    if (d->slice < 0) snprintf(out, size, "GPU-%08d-0000-0000-0000-000000000000", d->board);
    else snprintf(out, size, "MIG-%08d-0000-0000-0000-00000000000%d", d->board, d->slice);
    return OK;
}

int nvmlDeviceGetMigMode(device *d, unsigned *current, unsigned *pending) {
    ON_BOARD(d);
    if (!mig_slices) return NOT_SUPPORTED;
    *current = *pending = (unsigned)is_mig(d);
    return OK;
}

int nvmlDeviceGetMaxMigDeviceCount(device *d, unsigned *out) {
    ON_BOARD(d);
    *out = is_mig(d) ? MAX_SLICES : 0;
    return OK;
}

int nvmlDeviceGetMigDeviceHandleByIndex(device *d, unsigned index, device **out) {
    ON_BOARD(d);
    if (!is_mig(d) || index >= (unsigned)mig_slices) return NOT_FOUND;
    *out = &slices[d->board][index];
    return OK;
}

/* Energy and power answer for a slice too, with its board's values: whoever adds up rows must not ask slices. */
int nvmlDeviceGetTotalEnergyConsumption(device *d, u64 *out) {
    int s = state(d);
    if (s) return s;
    if (no_energy) return NOT_SUPPORTED;
    u64 counted_mw = (power_mw + 10000ull * (u64)d->board) * (u64)number("FAKE_NVML_ENERGY_PCT", 100) / 100ull;
    *out = 1000000000ull + counted_mw * (now_ms() / period_ms * period_ms) / 1000ull;
    return OK;
}

int nvmlDeviceGetPowerUsage(device *d, unsigned *out) {
    int s = state(d);
    if (s) return s;
    *out = unavailable ? 0xffffffffu : (unsigned)power_mw + 10000u * (unsigned)d->board;
    return OK;
}

int nvmlDeviceGetUtilizationRates(device *d, utilization *out) {
    ON_BOARD(d);
    if (bare || is_mig(d)) return NOT_SUPPORTED;
    out->gpu = 90u;
    out->memory = 40u;
    return OK;
}

int nvmlDeviceGetMemoryInfo_v2(device *d, memory_v2 *out) {
    int s = state(d);
    if (s) return s;
    if (old) return FUNCTION_NOT_FOUND;
    if (out->version != (sizeof(memory_v2) | 2u << 24)) return BAD_ARGUMENT;
    out->total = d->slice < 0 ? board_bytes : slice_bytes;
    out->reserved = 1ull << 30;
    out->used = d->slice < 0 ? used_bytes[d->board] : (u64)(5 + d->slice) << 30;
    out->free = out->total - out->reserved - out->used;
    return OK;
}

int nvmlDeviceGetMemoryInfo(device *d, memory_v1 *out) {
    int s = state(d);
    if (s) return s;
    out->total = d->slice < 0 ? board_bytes : slice_bytes;
    out->used = 71ull << 30; /* the first version counts reserved memory as used */
    out->free = out->total - out->used;
    return OK;
}

int nvmlDeviceGetClockInfo(device *d, unsigned kind, unsigned *out) {
    ON_BOARD(d);
    if (bare) return NOT_SUPPORTED;
    unsigned mhz, reasons;
    int celsius;
    state_now(d->board, &mhz, &reasons, &celsius);
    *out = kind == 1 ? mhz : kind == 2 ? 2619u : 0u;
    return OK;
}

int nvmlDeviceGetTemperatureV(device *d, temperature_v1 *out) {
    ON_BOARD(d);
    if (old) return FUNCTION_NOT_FOUND;
    if (bare) return NOT_SUPPORTED;
    if (out->version != (sizeof(temperature_v1) | 1u << 24)) return BAD_ARGUMENT;
    unsigned mhz, reasons;
    state_now(d->board, &mhz, &reasons, &out->celsius);
    return OK;
}

int nvmlDeviceGetTemperature(device *d, unsigned sensor, unsigned *out) {
    ON_BOARD(d);
    if (bare || sensor != 0) return NOT_SUPPORTED;
    *out = 60u;
    return OK;
}

int nvmlDeviceGetCurrentClocksEventReasons(device *d, u64 *out) {
    ON_BOARD(d);
    if (old) return FUNCTION_NOT_FOUND;
    if (bare) return NOT_SUPPORTED;
    unsigned mhz, reasons;
    int celsius;
    state_now(d->board, &mhz, &reasons, &celsius);
    *out = reasons;
    return OK;
}

int nvmlDeviceGetCurrentClocksThrottleReasons(device *d, u64 *out) {
    ON_BOARD(d);
    if (bare) return NOT_SUPPORTED;
    *out = 0x8;
    return OK;
}

static int list_processes(device *d, unsigned *count, process *out) {
    unsigned found = 0;
    int s = state(d);
    if (s) return s;
    if (bare) return NO_PERMISSION;
    long slow_ms = number("FAKE_NVML_SLOW_MS", 0);
    if (slow_ms) usleep((useconds_t)slow_ms * 1000u);
    for (int i = 0; i < process_count && !hidden; i++) {
        if (processes[i].board != d->board || (d->slice >= 0 && processes[i].slice != d->slice)) continue;
        if (out && found < *count) out[found] = (process){processes[i].pid, processes[i].bytes, 0u, 0u};
        found++;
    }
    s = found > *count ? TOO_SMALL : OK;
    *count = found;
    return s;
}

int nvmlDeviceGetComputeRunningProcesses_v3(device *d, unsigned *count, process *out) {
    return old ? FUNCTION_NOT_FOUND : list_processes(d, count, out);
}

int nvmlDeviceGetComputeRunningProcesses_v2(device *d, unsigned *count, process *out) {
    return list_processes(d, count, out);
}

int nvmlDeviceGetEnforcedPowerLimit(device *d, unsigned *out) {
    ON_BOARD(d);
    *out = (unsigned)number("FAKE_NVML_LIMIT_MW", 700000);
    return OK;
}

int nvmlDeviceGetPowerManagementDefaultLimit(device *d, unsigned *out) { ON_BOARD(d); *out = 700000u; return OK; }
int nvmlDeviceGetMaxClockInfo(device *d, unsigned kind, unsigned *out) { ON_BOARD(d); *out = kind == 1 ? 1980u : 2619u; return OK; }
int nvmlDeviceGetCurrPcieLinkWidth(device *d, unsigned *out) { ON_BOARD(d); *out = 16u; return OK; }
int nvmlDeviceGetMaxPcieLinkWidth(device *d, unsigned *out) { ON_BOARD(d); *out = 16u; return OK; }
int nvmlDeviceGetMaxPcieLinkGeneration(device *d, unsigned *out) { ON_BOARD(d); *out = 5u; return OK; }

int nvmlDeviceGetNvLinkState(device *d, unsigned link, unsigned *out) {
    ON_BOARD(d);
    if (board_count < 2) return NOT_SUPPORTED;
    if (link >= 18) return BAD_ARGUMENT;
    *out = 1u;
    return OK;
}

int nvmlDeviceGetTotalEccErrors(device *d, int kind, int counter, u64 *out) {
    ON_BOARD(d);
    (void)kind;
    (void)counter;
    if (bare) return NOT_SUPPORTED;
    *out = 0;
    return OK;
}

int nvmlDeviceGetPciInfo_v3(device *d, pci_info *out) {
    ON_BOARD(d);
    memset(out, 0, sizeof *out);
    snprintf(out->bus_id, sizeof out->bus_id, "00000000:%02X:00.0", 0x3b + d->board);
    return OK;
}

int nvmlEventSetCreate(int **out) { static int set; *out = &set; return OK; }

int nvmlDeviceRegisterEvents(device *d, u64 types, int *set) {
    ON_BOARD(d);
    (void)set;
    return types == 8 ? OK : BAD_ARGUMENT; /* nvmlEventTypeXidCriticalError */
}

int nvmlEventSetWait_v2(int *set, event_data *out, unsigned timeout_ms) {
    (void)set;
    (void)timeout_ms;
    if (!xids_left) return TIMEOUT;
    xids_left = 0;
    *out = (event_data){&boards[xid_board], 8, (u64)xid, 0u, 0u};
    return OK;
}

int nvmlDeviceGetPersistenceMode(device *d, unsigned *out) { ON_BOARD(d); *out = 1u; return OK; }

int nvmlDeviceGetEccMode(device *d, unsigned *current, unsigned *pending) {
    ON_BOARD(d);
    if (bare) return NOT_SUPPORTED;
    *current = *pending = 1u;
    return OK;
}
