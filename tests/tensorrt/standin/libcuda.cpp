// A stand-in for libcuda.so.1. Device memory is host memory; work on a stream is done when the stream is
// synchronised and not before, so that who reads an answer or reuses a staging buffer too early is caught.
// What it pretends is read, at every call that can fail, from the file that STANDIN_CUDA names: one word a line.
//   none      cuInit finds no device        old     the driver speaks CUDA 11.4
//   oom       allocations fail              sticky  synchronising fails with 719, and everything after it
//   name X    the device's name             free N  megabytes that cuMemGetInfo tells as free
//   capture   streams can't be captured     unknown synchronising fails with a code that has no name
//   shape     the stand-in libnvinfer tells outputs of another shape
//   room N    bytes of device memory that there are, all allocations together
// What is alive is counted, so that a test can tell a leak: standin_alive, at the end.
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <unistd.h>
#include <vector>

namespace {
using Result = int;
using Work = std::function<void()>;
struct Graph { std::vector<Work> work; };
struct Stream { std::vector<Work> queue; Graph *capturing = nullptr; };
std::recursive_mutex lock;
bool lost = false;
enum Kind { DEVICE_MEMORY, HOST_MEMORY, STREAMS, GRAPHS, CONTEXTS, OBJECTS, KINDS };
std::atomic<int> alive[KINDS], copies;
thread_local bool current = false;

std::string told(const char *word) {
  const char *path = std::getenv("STANDIN_CUDA");
  if (!path) return "";
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);)
    if (line.compare(0, std::strlen(word), word) == 0) return line;
  return "";
}
bool is(const char *word) { return !told(word).empty(); }

[[noreturn]] void misuse(const char *what) {
  std::fprintf(stderr, "stand-in libcuda: %s\n", what);
  std::abort();
}
// Every call but the first few needs a context on this thread and a device that is not lost.
Result ready() {
  if (!current) misuse("a call without a current context");
  return lost ? 719 : 0;
}
void run(Stream &stream) {
  std::vector<Work> queue;
  queue.swap(stream.queue);
  for (auto &work : queue) work();
}
Result put(void *handle, Work work) {
  std::lock_guard guard(lock);
  if (Result bad = ready()) return bad;
  if (!handle) misuse("work on the null stream");
  auto &stream = *static_cast<Stream *>(handle);
  (stream.capturing ? stream.capturing->work : stream.queue).push_back(std::move(work));
  return 0;
}
std::vector<Stream *> streams;
using Pointer = std::uint64_t;
std::map<Pointer, std::size_t> sizes; // of what is allocated on the device
std::size_t taken() {
  std::size_t bytes = 0;
  for (auto &[pointer, size] : sizes) bytes += size;
  return bytes;
}
} // namespace

#define API extern "C" __attribute__((visibility("default")))
using Device = int;

API Result cuInit(unsigned) { return is("none") ? 100 : 0; }
API Result cuDriverGetVersion(int *version) { *version = is("old") ? 11040 : 12060; return 0; }
API Result cuDeviceGetCount(int *count) { *count = 1; return 0; }
API Result cuDeviceGet(Device *device, int ordinal) { *device = 0; return ordinal == 0 ? 0 : 101; }
API Result cuDeviceGetName(char *name, int length, Device) {
  std::string line = told("name ");
  std::snprintf(name, std::size_t(length), "%s", line.empty() ? "Stand-in" : line.c_str() + 5);
  return 0;
}
API Result cuDeviceGetAttribute(int *value, int attribute, Device) {
  if (attribute == 75) *value = 8;
  else if (attribute == 76) *value = 7;
  else misuse("an attribute that nobody told it of");
  return 0;
}
API Result cuDeviceTotalMem_v2(std::size_t *bytes, Device) { *bytes = std::size_t(8) << 30; return 0; }
API Result cuDevicePrimaryCtxRetain(void **context, Device) { static int one; *context = &one; alive[CONTEXTS]++; return 0; }
API Result cuDevicePrimaryCtxRelease_v2(Device) {
  // Whatever lies on the device goes with its last context.
  if (--alive[CONTEXTS] == 0 && alive[DEVICE_MEMORY] + alive[STREAMS] + alive[GRAPHS] + alive[OBJECTS] > 0) misuse("the context went before what lives in it");
  return 0;
}
API Result cuCtxSetCurrent(void *context) { current = context != nullptr; return lost ? 719 : 0; }
API Result cuMemGetInfo_v2(std::size_t *free, std::size_t *total) {
  if (Result bad = ready()) return bad;
  std::string line = told("free ");
  *free = line.empty() ? std::size_t(4) << 30 : std::strtoull(line.c_str() + 5, nullptr, 10) * 1000000;
  *total = std::size_t(8) << 30;
  return 0;
}
API Result cuMemAlloc_v2(Pointer *pointer, std::size_t bytes) {
  if (Result bad = ready()) return bad;
  if (is("oom")) return 2;
  std::lock_guard guard(lock);
  std::string room = told("room ");
  if (!room.empty() && taken() + bytes > std::strtoull(room.c_str() + 5, nullptr, 10)) return 2;
  void *memory = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
  if (!memory) return 2;
  std::memset(memory, 0xFF, bytes); // NaN in every precision: who reads what nobody wrote is caught
  *pointer = reinterpret_cast<Pointer>(memory);
  sizes[*pointer] = bytes;
  alive[DEVICE_MEMORY]++;
  return 0;
}
API Result cuMemFree_v2(Pointer pointer) {
  std::lock_guard guard(lock);
  if (!current) misuse("memory freed without a current context");
  for (auto *stream : streams) run(*stream); // the driver waits for what still uses it
  if (!sizes.erase(pointer)) misuse("memory freed that is not allocated");
  std::free(reinterpret_cast<void *>(pointer));
  alive[DEVICE_MEMORY]--;
  return lost ? 719 : 0;
}
API Result cuMemHostAlloc(void **pointer, std::size_t bytes, unsigned flags) {
  if (Result bad = ready()) return bad;
  if (flags & 4) misuse("write-combined memory, which is slow to read");
  if (is("oom")) return 2;
  *pointer = std::aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
  alive[HOST_MEMORY]++;
  return *pointer ? 0 : 2;
}
API Result cuMemFreeHost(void *pointer) { std::free(pointer); alive[HOST_MEMORY]--; return 0; }
API Result cuMemcpyHtoDAsync_v2(Pointer to, const void *from, std::size_t bytes, void *stream) {
  copies++;
  return put(stream, [=] { std::memcpy(reinterpret_cast<void *>(to), from, bytes); });
}
API Result cuMemcpyDtoHAsync_v2(void *to, Pointer from, std::size_t bytes, void *stream) {
  return put(stream, [=] { std::memcpy(to, reinterpret_cast<void *>(from), bytes); });
}
API Result cuMemcpyDtoDAsync_v2(Pointer to, Pointer from, std::size_t bytes, void *stream) {
  return put(stream, [=] { std::memcpy(reinterpret_cast<void *>(to), reinterpret_cast<void *>(from), bytes); });
}
API Result cuMemsetD8Async(Pointer to, unsigned char value, std::size_t bytes, void *stream) {
  return put(stream, [=] { std::memset(reinterpret_cast<void *>(to), value, bytes); });
}
API Result cuStreamCreate(void **handle, unsigned flags) {
  if (Result bad = ready()) return bad;
  if (flags != 1) misuse("a stream that waits for the null stream");
  std::lock_guard guard(lock);
  streams.push_back(new Stream);
  *handle = streams.back();
  alive[STREAMS]++;
  return 0;
}
API Result cuStreamDestroy_v2(void *handle) {
  std::lock_guard guard(lock);
  run(*static_cast<Stream *>(handle));
  std::erase(streams, static_cast<Stream *>(handle));
  delete static_cast<Stream *>(handle);
  alive[STREAMS]--;
  return 0;
}
API Result cuStreamSynchronize(void *handle) {
  if (Result bad = ready()) return bad;
  if (is("sticky")) { lost = true; return 719; }
  if (is("unknown")) return 4242;
  std::unique_lock guard(lock);
  auto &stream = *static_cast<Stream *>(handle);
  std::vector<Work> queue;
  queue.swap(stream.queue);
  guard.unlock(); // work may take its time, or hang
  for (auto &work : queue) work();
  return 0;
}
API Result cuStreamBeginCapture_v2(void *handle, unsigned) {
  if (Result bad = ready()) return bad;
  if (is("capture")) return 900;
  static_cast<Stream *>(handle)->capturing = new Graph;
  return 0;
}
API Result cuStreamEndCapture(void *handle, void **graph) {
  auto &stream = *static_cast<Stream *>(handle);
  *graph = stream.capturing;
  if (stream.capturing) alive[GRAPHS]++;
  stream.capturing = nullptr;
  return *graph ? 0 : 901;
}
API Result cuGraphInstantiateWithFlags(void **executable, void *graph, unsigned long long) {
  *executable = new Graph(*static_cast<Graph *>(graph));
  alive[GRAPHS]++;
  return 0;
}
API Result cuGraphLaunch(void *executable, void *handle) {
  std::string path = std::getenv("STANDIN_GRAPHS") ? std::getenv("STANDIN_GRAPHS") : "";
  if (!path.empty()) std::ofstream(path, std::ios::app) << "launched\n";
  for (auto &work : static_cast<Graph *>(executable)->work)
    if (Result bad = put(handle, work)) return bad;
  return 0;
}
API Result cuGraphExecDestroy(void *executable) { delete static_cast<Graph *>(executable); alive[GRAPHS]--; return 0; }
API Result cuGraphDestroy(void *graph) { delete static_cast<Graph *>(graph); alive[GRAPHS]--; return 0; }
API Result cuGetErrorName(Result code, const char **name) {
  switch (code) {
  case 2: *name = "CUDA_ERROR_OUT_OF_MEMORY"; return 0;
  case 100: *name = "CUDA_ERROR_NO_DEVICE"; return 0;
  case 719: *name = "CUDA_ERROR_LAUNCH_FAILED"; return 0;
  case 900: *name = "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"; return 0;
  default: *name = nullptr; return 1;
  }
}
// What the stand-in libnvinfer puts its inferences on a stream with.
API Result standin_put(void *stream, void (*work)(void *), void *with) { return put(stream, [=] { work(with); }); }
// What it counts of its objects, and what it must pretend.
API void standin_object(int difference) { alive[OBJECTS] += difference; }
API int standin_told(const char *word) { return is(word); }
// For tests: memory on the device, pinned memory, streams, graphs, contexts, TensorRT's objects.
API int standin_alive(int kind) { return kind >= 0 && kind < KINDS ? alive[kind].load() : -1; }
// Bytes allocated on the device.
API long standin_device_bytes() { std::lock_guard guard(lock); return long(taken()); }
// Copies from the host so far.
API int standin_copies() { return copies; }
// A device that is lost stays so for the process; a test that is over must not be the last.
API void standin_forget() { lost = false; }
