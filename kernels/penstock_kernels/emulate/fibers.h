// What a kernel under the executor may ask of the scheduler in fibers.cpp. It includes little, so that
// each .cu file builds in a moment.
#pragma once
#include <cstddef>
#include <cstdint>

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};

namespace cuda_cpu {

// Where in the source a thread waits; two barriers are the same if file and line are.
struct Site {
  const char* file;
  int line;
};

// What the built-in variables show: written before a thread is given the CPU.
struct Builtins {
  uint3 thread;
  uint3 block;
  dim3 block_dim;
  dim3 grid_dim;
  int lane;
};
extern Builtins builtins;

// A launch: geometry, bytes of dynamic shared memory, the order of threads, and the kernel with its arguments.
struct Launch {
  dim3 grid, block;
  size_t shared;
  unsigned order;
  void (*body)(void*);
  void* arguments;
};

int run(const Launch& launch);

void block_barrier(Site site);
// All lanes named in `mask` meet; then `gathered` (32 x size bytes) holds the value of each. A lane that
// is not named leaves 0xff: on a GPU its value is undefined.
void warp_gather(Site site, unsigned mask, const void* value, void* gathered, int size);
// Says that the kernel broke a rule, and gives the CPU back for good.
[[noreturn]] void fail(const char* rule, Site site);
// The launch's dynamic shared memory.
unsigned char* dynamic_shared();

// cp.async: a copy is only noted, and its bytes move when its group is waited for.
void copy_later(void* to, const void* from, int size);
void commit_copies();
void wait_copies(int groups_left, Site site);

// Each library of kernels names its own thread-local segment, in which its __shared__ variables lie.
void poison_segment_of(void* anchor);
}  // namespace cuda_cpu
