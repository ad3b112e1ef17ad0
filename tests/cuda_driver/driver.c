/* A stand-in for libcuda.so.1: as many cards as CUDA_VISIBLE_DEVICES names (two without it), and, as real drivers do, nothing but
   CUDA_ERROR_NOT_INITIALIZED in a process that was forked from one which has started CUDA. */
#include <stdlib.h>
#include <unistd.h>

enum { SUCCESS = 0, NOT_INITIALIZED = 3, NO_DEVICE = 100 };
static pid_t owner;
static int cards;

static int count_cards(void) {
  const char *names = getenv("CUDA_VISIBLE_DEVICES");
  int count = 1;
  if (names == NULL) return 2;
  if (*names == '\0') return 0;
  while (*names) count += *names++ == ',';
  return count;
}

int cuInit(unsigned flags) {
  (void)flags;
  if (owner == 0) { owner = getpid(); cards = count_cards(); }
  if (owner != getpid()) return NOT_INITIALIZED;
  return cards ? SUCCESS : NO_DEVICE;
}

int cuDeviceGetCount(int *count) {
  if (owner != getpid()) return NOT_INITIALIZED;
  *count = cards;
  return SUCCESS;
}

int cuDeviceTotalMem_v2(size_t *bytes, int card) {
  (void)card;
  *bytes = (size_t)80 << 30;
  return SUCCESS;
}
