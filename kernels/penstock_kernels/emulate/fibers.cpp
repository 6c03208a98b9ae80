// One fiber per CUDA thread, one block at a time, on one CPU. The order in which threads run between two
// barriers is a parameter: whoever depends on it has a race.
#include "fibers.h"

#include <csetjmp>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <link.h>
#include <random>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>
#include <vector>

namespace cuda_cpu {

Builtins builtins;

namespace {

constexpr size_t STACK_BYTES = 256 << 10;
constexpr int WARP = 32;
constexpr int MAX_THREADS = 1024;
constexpr size_t MAX_SHARED = 227 << 10;

enum class State { ready, at_barrier, at_warp, done };

struct Copy {
  void* to;
  const void* from;
  int size;
};

struct Fiber {
  State state;
  bool alive = false;  // has a stack that waits inside a kernel, or between two of its blocks
  jmp_buf at;
  ucontext_t start;
  char* stack = nullptr;
  int index, lane;
  uint3 thread;
  Site site;
  unsigned mask;
  const void* value;
  void* gathered;
  int size;
  std::vector<Copy> noted;
  std::vector<std::vector<Copy>> groups;
};

Fiber fibers[MAX_THREADS];
Fiber* current = nullptr;
jmp_buf scheduler;
sigjmp_buf on_fault;
const Launch* launched;
int thread_count;
unsigned char* shared = nullptr;
char* shared_pages = nullptr;
size_t shared_mapped = 0;
char message[512];
bool failed;
void* anchor = nullptr;
void* fault_address;
int fault_signal;

void say(const char* rule, const Fiber* at) {
  if (failed) return;
  failed = true;
  const uint3& b = builtins.block;
  int n = snprintf(message, sizeof message, "%s: block (%u,%u,%u)", rule, b.x, b.y, b.z);
  if (at && n < (int)sizeof message)
    snprintf(message + n, sizeof message - n, " thread (%u,%u,%u), last seen at %s:%d", at->thread.x, at->thread.y,
             at->thread.z, at->site.file ? at->site.file : "the start", at->site.line);
}

// Back to the scheduler; returns when this thread is given the CPU again.
void give_up() {
  if (!_setjmp(current->at)) _longjmp(scheduler, 1);
}

// A fiber outlives its block, since making one costs more than most blocks do.
void live() {
  for (;;) {
    launched->body(launched->arguments);
    if (!current->noted.empty() || !current->groups.empty()) {
      bool open = !current->noted.empty();
      for (auto& group : current->groups) open = open || !group.empty();
      if (open) say("returned without waiting for its asynchronous copies", current);
    }
    current->state = State::done;
    give_up();
  }
}

void resume(Fiber& f) {
  current = &f;
  builtins.thread = f.thread;
  builtins.lane = f.lane;
  if (_setjmp(scheduler)) return;
  if (f.alive) _longjmp(f.at, 1);
  f.alive = true;
  getcontext(&f.start);
  f.start.uc_stack.ss_sp = f.stack;
  // Stacks that begin at different lines of the cache do not evict each other.
  f.start.uc_stack.ss_size = STACK_BYTES - (size_t)f.index * 576 % 16384 / 64 * 64;
  f.start.uc_link = nullptr;
  makecontext(&f.start, live, 0);
  setcontext(&f.start);
}

bool same(Site a, Site b) { return a.line == b.line && a.file == b.file; }

// Whether all lanes that `f` named wait beside it at the same place, with the same mask.
bool met(const Fiber* warp, int lanes, const Fiber& f) {
  for (int i = 0; i < WARP; ++i) {
    if (!(f.mask >> i & 1)) continue;
    if (i >= lanes) return false;
    const Fiber& other = warp[i];
    if (other.state != State::at_warp || other.mask != f.mask || !same(other.site, f.site)) return false;
  }
  return true;
}

void exchange(Fiber* warp, unsigned mask) {
  for (int i = 0; i < WARP; ++i) {
    if (!(mask >> i & 1) || !warp[i].gathered) continue;
    char* to = (char*)warp[i].gathered;
    int size = warp[i].size;
    for (int j = 0; j < WARP; ++j)
      if (mask >> j & 1) memcpy(to + j * size, warp[j].value, size);
      else memset(to + j * size, 0xff, size);
  }
  for (int i = 0; i < WARP; ++i)
    if (mask >> i & 1) warp[i].state = State::ready;
}

int lanes_of(int first) { return thread_count - first < WARP ? thread_count - first : WARP; }

bool release_warp(int first) {
  Fiber* warp = fibers + first;
  bool any = false;
  for (int i = 0; i < lanes_of(first); ++i)
    if (warp[i].state == State::at_warp && met(warp, lanes_of(first), warp[i])) {
      exchange(warp, warp[i].mask);
      any = true;
    }
  return any;
}

bool release_block() {
  Fiber* first = nullptr;
  int waiting = 0, done = 0;
  for (int i = 0; i < thread_count; ++i) {
    Fiber& f = fibers[i];
    done += f.state == State::done;
    if (f.state != State::at_barrier) continue;
    ++waiting;
    if (!first) first = &f;
    else if (!same(first->site, f.site)) {
      say("threads of a block wait at different barriers", &f);
      return false;
    }
  }
  if (!waiting || waiting + done != thread_count) return false;
  if (done) {
    say("barrier after some threads of the block returned", first);
    return false;
  }
  for (int i = 0; i < thread_count; ++i) fibers[i].state = State::ready;
  return true;
}

int poison(dl_phdr_info* info, size_t, void*) {
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    if (info->dlpi_phdr[i].p_type != PT_TLS || !info->dlpi_tls_data) continue;
    char* begin = (char*)info->dlpi_tls_data;
    size_t size = info->dlpi_phdr[i].p_memsz;
    if ((char*)anchor < begin || (char*)anchor >= begin + size) continue;
    memset(begin, 0xff, size);
    return 1;
  }
  return 0;
}

void poison_shared() {
  if (anchor) dl_iterate_phdr(poison, nullptr);
  if (shared) memset(shared, 0xff, launched->shared);
}

// Dynamic shared memory ends at a page that may not be touched (but for what its alignment to 16 costs).
void map_shared(size_t size) {
  if (shared_pages) munmap(shared_pages, shared_mapped);
  shared = nullptr, shared_pages = nullptr;
  if (!size) return;
  size_t page = sysconf(_SC_PAGESIZE), used = (size + page - 1) / page * page;
  shared_mapped = used + page;
  shared_pages = (char*)mmap(nullptr, shared_mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (shared_pages == MAP_FAILED) abort();
  mprotect(shared_pages + used, page, PROT_NONE);
  shared = (unsigned char*)shared_pages + used - (size + 15) / 16 * 16;
}

void begin_block(unsigned b) {
  const Launch& l = *launched;
  builtins.block = uint3{b % l.grid.x, b / l.grid.x % l.grid.y, b / l.grid.x / l.grid.y};
  poison_shared();
  for (int i = 0; i < thread_count; ++i) {
    Fiber& f = fibers[i];
    f.state = State::ready;
    f.index = i, f.lane = i % WARP;
    unsigned u = i;
    f.thread = uint3{u % l.block.x, u / l.block.x % l.block.y, u / l.block.x / l.block.y};
    f.site = Site{nullptr, 0};
    f.noted.clear(), f.groups.clear();
  }
}

// A row of numbers in the order of threads or of warps that the launch asks for.
void arrange(std::vector<int>& order, int count, std::mt19937& random) {
  order.resize(count);
  for (int i = 0; i < count; ++i) order[i] = launched->order == 1 ? count - 1 - i : i;
  if (launched->order > 1)
    for (int i = count - 1; i > 0; --i) std::swap(order[i], order[random() % (i + 1)]);
}

// Gives each ready thread of a warp the CPU once, and lets those meet that wait for each other. False when
// the warp can do nothing more before the block does.
bool step_warp(int first, std::vector<int>& lanes, std::mt19937& random) {
  bool moved = false;
  arrange(lanes, lanes_of(first), random);
  for (int lane : lanes) {
    if (fibers[first + lane].state != State::ready) continue;
    moved = true;
    resume(fibers[first + lane]);
    if (failed) return false;
  }
  return release_warp(first) || moved;
}

// Lets every warp go as far as it can: in a fixed order one after the other to the end, which lets a warp
// run ahead of the others as far as the barriers allow; in a random one by steps, now this warp, now that.
void run_warps(std::vector<int>& lanes, std::mt19937& random) {
  static std::vector<int> warps;
  arrange(warps, (thread_count + WARP - 1) / WARP, random);
  while (!warps.empty()) {
    size_t at = launched->order > 1 ? random() % warps.size() : 0;
    // A warp that is far ahead or far behind shows more than warps in step.
    unsigned steps = launched->order > 1 ? 1 + random() % 8 : ~0u;
    bool more = true;
    while (more && steps--) more = step_warp(warps[at] * WARP, lanes, random);
    if (failed) return;
    if (!more) warps.erase(warps.begin() + at);
  }
}

// Runs until all threads returned or none can go on.
void run_block(std::vector<int>& lanes, std::mt19937& random) {
  do {
    run_warps(lanes, random);
    if (failed) return;
  } while (release_block());
  if (failed) return;
  for (int i = 0; i < thread_count; ++i)
    if (fibers[i].state != State::done) {
      say("deadlock: a barrier or warp operation that not every named thread reaches", &fibers[i]);
      return;
    }
}

void caught(int number, siginfo_t* info, void*) {
  fault_address = info->si_addr;
  fault_signal = number;
  siglongjmp(on_fault, 1);
}

struct Traps {
  static constexpr int numbers[3] = {SIGSEGV, SIGBUS, SIGFPE};
  struct sigaction before[3];
  stack_t stack_before;
  Traps() {
    static char stack[64 << 10];
    stack_t own{};
    own.ss_sp = stack;
    own.ss_size = sizeof stack;
    sigaltstack(&own, &stack_before);
    struct sigaction action {};
    action.sa_sigaction = caught;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    for (int i = 0; i < 3; ++i) sigaction(numbers[i], &action, &before[i]);
  }
  ~Traps() {
    for (int i = 0; i < 3; ++i) sigaction(numbers[i], &before[i], nullptr);
    sigaltstack(&stack_before, nullptr);
  }
};

bool refused(const Launch& l) {
  unsigned threads = l.block.x * l.block.y * l.block.z;
  if (threads < 1 || threads > (unsigned)MAX_THREADS) {
    snprintf(message, sizeof message, "a block of %u threads, expected 1 to %d", threads, MAX_THREADS);
    return true;
  }
  if (!l.grid.x || !l.grid.y || !l.grid.z || l.grid.x > 0x7fffffffu || l.grid.y > 65535 || l.grid.z > 65535) {
    snprintf(message, sizeof message, "a grid of (%u,%u,%u), expected at least 1 and at most (2147483647,65535,65535)",
             l.grid.x, l.grid.y, l.grid.z);
    return true;
  }
  if (l.shared > MAX_SHARED) {
    snprintf(message, sizeof message, "%zu bytes of shared memory, expected at most %zu", l.shared, MAX_SHARED);
    return true;
  }
  return false;
}

void run_blocks(const Launch& l) {
  std::mt19937 random(l.order);
  unsigned blocks = l.grid.x * l.grid.y * l.grid.z;
  std::vector<unsigned> turn(blocks);
  for (unsigned i = 0; i < blocks; ++i) turn[i] = l.order == 1 ? blocks - 1 - i : i;
  if (l.order > 1)
    for (unsigned i = blocks - 1; i > 0; --i) std::swap(turn[i], turn[random() % (i + 1)]);
  std::vector<int> lanes;
  for (unsigned b : turn) {
    begin_block(b);
    run_block(lanes, random);
    if (failed) return;
  }
}
}  // namespace

int run(const Launch& l) {
  failed = false;
  if (refused(l)) return 1;
  launched = &l;
  thread_count = l.block.x * l.block.y * l.block.z;
  for (int i = 0; i < thread_count; ++i)
    if (!fibers[i].stack) {
      void* p = mmap(nullptr, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
      if (p == MAP_FAILED) abort();
      fibers[i].stack = (char*)p;
    }
  map_shared(l.shared);
  builtins.block_dim = l.block;
  builtins.grid_dim = l.grid;
  Traps traps;
  if (sigsetjmp(on_fault, 1)) {
    char what[96];
    snprintf(what, sizeof what, fault_signal == SIGFPE ? "integer division by zero" : "memory fault at address %p",
             fault_address);
    say(what, current);
  } else {
    run_blocks(l);
  }
  if (failed)  // threads lie half way through a kernel: never to be resumed
    for (Fiber& f : fibers) f.alive = false;
  return failed;
}

void fail(const char* rule, Site site) {
  current->site = site;
  say(rule, current);
  _longjmp(scheduler, 1);
}

void block_barrier(Site site) {
  current->state = State::at_barrier;
  current->site = site;
  give_up();
}

void warp_gather(Site site, unsigned mask, const void* value, void* gathered, int size) {
  Fiber& f = *current;
  if (!(mask >> f.lane & 1)) fail("a lane is not named in its own mask", site);
  f.state = State::at_warp;
  f.site = site;
  f.mask = mask, f.value = value, f.gathered = gathered, f.size = size;
  give_up();
}

unsigned char* dynamic_shared() { return shared; }

void copy_later(void* to, const void* from, int size) { current->noted.push_back({to, from, size}); }

void commit_copies() {
  current->groups.push_back(current->noted);
  current->noted.clear();
}

void wait_copies(int groups_left, Site site) {
  auto& groups = current->groups;
  current->site = site;
  while ((int)groups.size() > groups_left) {
    for (const Copy& c : groups.front()) memcpy(c.to, c.from, c.size);
    groups.erase(groups.begin());
  }
}

void poison_segment_of(void* of) { anchor = of; }
}  // namespace cuda_cpu

extern "C" __attribute__((visibility("default"))) const char* cuda_cpu_error() { return cuda_cpu::message; }
