/* Stand-ins for two of the driver's libraries, in one file: built as libnvidia-ml.so.1 and as libcuda.so.1. Only what
 * harness/measure/nvidia_driver.py calls; set by environment variables:
 *
 *   FAKE_DRIVER_VERSION   what nvmlSystemGetDriverVersion says
 *   FAKE_DRIVER_GPUS      boards, of NVML and of CUDA
 *   FAKE_DRIVER_NVML      answer of nvmlInitWithFlags (9: driver not loaded)
 *   FAKE_DRIVER_FABRIC    nvmlGpuFabricState_t of every board; unset: not supported
 *   FAKE_DRIVER_CUDA      answer of cuInit (802: system not ready)
 */
#include <stdio.h>
#include <stdlib.h>

static int number(const char *name, int otherwise) {
    const char *text = getenv(name);
    return text ? atoi(text) : otherwise;
}

int nvmlInitWithFlags(unsigned flags) { (void)flags; return number("FAKE_DRIVER_NVML", 0); }
int nvmlShutdown(void) { return 0; }

int nvmlSystemGetDriverVersion(char *out, unsigned size) {
    const char *text = getenv("FAKE_DRIVER_VERSION");
    snprintf(out, size, "%s", text ? text : "");
    return text ? 0 : 3;
}

int nvmlDeviceGetCount_v2(unsigned *out) { *out = (unsigned)number("FAKE_DRIVER_GPUS", 0); return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **out) { *out = (void *)(size_t)(index + 1); return 0; }

typedef struct { unsigned char uuid[16]; int status; unsigned clique; unsigned char state; } fabric;

int nvmlDeviceGetGpuFabricInfo(void *board, fabric *out) {
    (void)board;
    if (!getenv("FAKE_DRIVER_FABRIC")) return 3;
    out->state = (unsigned char)number("FAKE_DRIVER_FABRIC", 0);
    return 0;
}

int cuInit(unsigned flags) { (void)flags; return number("FAKE_DRIVER_CUDA", 0); }
int cuDeviceGetCount(int *out) { *out = number("FAKE_DRIVER_GPUS", 0); return 0; }
