// A stand-in for libnvinfer, libnvinfer_lean and libtensorrt_rtx, compiled with NVIDIA's own headers, so that
// its tables are what a compiler makes of them. A "plan" is the 28 bytes of a real one's header and then text:
//   model PATH        a socket where whoever runs the test answers with numbers
//   memory N          what an execution context needs, in bytes
//   fail CALL         deserialize, context, shape, location or format: that call fails, an output has another
//                     shape, or all tensors are in host memory or in another format than plain rows
//   in|out NAME TYPE D…               a tensor: TYPE as nvinfer1::DataType, −1 where dynamic
//   profile INDEX NAME LEAST… ; MOST… an input's range in an optimisation profile
#include "NvInferRuntime.h"
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <map>
#include <memory>
#include <sstream>
#include <string>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include <vector>

[[noreturn]] static void stub(const char *name) {
  std::fprintf(stderr, "stand-in libnvinfer: %s was called, which no test expects\n", name);
  std::abort();
}

namespace nvinfer1 {
#include "stubs.inc"

// A function of the stand-in libcuda, which whoever loads this has loaded.
template <class F> static F cuda(const char *name) {
  void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
  auto function = library ? reinterpret_cast<F>(dlsym(library, name)) : nullptr;
  if (!function) stub("anything without the stand-in libcuda");
  return function;
}

// Objects alive, by kind: whoever frees a runtime before its engine is caught, and whoever frees none is counted.
static int runtimes, engines, contexts;
static void count(int &kind, int difference) {
  kind += difference;
  cuda<void (*)(int)>("standin_object")(difference);
}
static void misuse(const char *what) {
  std::fprintf(stderr, "stand-in libnvinfer: %s\n", what);
  std::abort();
}

struct Reporter {
  ILogger *logger = nullptr;
  IErrorRecorder *recorder = nullptr;
  void fail(ErrorCode code, const char *words) const {
    logger->log(ILogger::Severity::kERROR, words);
    if (recorder) recorder->reportError(code, words);
  }
};

struct Tensor { std::string name; TensorIOMode mode; DataType type; Dims64 dims; };
struct Range { std::vector<int64_t> least, most; };

struct Plan {
  std::string model, fail;
  int64_t memory = 1 << 20;
  std::vector<Tensor> tensors;
  std::map<std::pair<int, std::string>, Range> ranges;
  int profiles = 1;
  const Tensor *find(char const *name) const {
    for (auto &tensor : tensors) if (tensor.name == name) return &tensor;
    return nullptr;
  }
};

static std::size_t volume(Dims64 const &dims) {
  std::size_t all = 1;
  for (int i = 0; i < dims.nbDims; i++) all *= std::size_t(dims.d[i]);
  return all;
}

// The other end of the socket: name, number of dimensions, dimensions and values of each input out; in come a
// status byte, and then either the outputs or a code and words.
class Wire {
  int file = -1;
public:
  explicit Wire(std::string const &path) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::snprintf(address.sun_path, sizeof address.sun_path, "%s", path.c_str());
    file = ::socket(AF_UNIX, SOCK_STREAM, 0);
    if (::connect(file, reinterpret_cast<sockaddr *>(&address), sizeof address) != 0) misuse("no model answers at the plan's socket");
  }
  ~Wire() { ::close(file); }
  void write(void const *from, std::size_t bytes) {
    for (auto *p = static_cast<char const *>(from); bytes > 0;) {
      auto done = ::send(file, p, bytes, MSG_NOSIGNAL);
      if (done <= 0) misuse("the model went away");
      p += done; bytes -= std::size_t(done);
    }
  }
  void read(void *into, std::size_t bytes) {
    for (auto *p = static_cast<char *>(into); bytes > 0;) {
      auto done = ::recv(file, p, bytes, 0);
      if (done <= 0) misuse("the model went away");
      p += done; bytes -= std::size_t(done);
    }
  }
  template <class T> void put(T value) { write(&value, sizeof value); }
  template <class T> T take() { T value; read(&value, sizeof value); return value; }
  void name(std::string const &name) { char text[32] = {}; std::snprintf(text, sizeof text, "%s", name.c_str()); write(text, sizeof text); }
};

struct Inference {
  std::string model;
  struct Bound { Tensor tensor; void *address; };
  std::vector<Bound> inputs, outputs;
  void run() const {
    Wire wire(model);
    wire.put<uint8_t>('R');
    wire.put<uint32_t>(uint32_t(inputs.size()));
    for (auto &[tensor, address] : inputs) {
      wire.name(tensor.name);
      wire.put<uint32_t>(uint32_t(tensor.dims.nbDims));
      for (int i = 0; i < tensor.dims.nbDims; i++) wire.put<uint32_t>(uint32_t(tensor.dims.d[i]));
      std::vector<float> values(volume(tensor.dims));
      for (std::size_t i = 0; i < values.size(); i++)
        values[i] = tensor.type == DataType::kHALF ? float(static_cast<_Float16 *>(address)[i]) : static_cast<float *>(address)[i];
      wire.write(values.data(), values.size() * sizeof(float));
    }
    for (auto &[tensor, address] : outputs) {
      std::vector<float> values(volume(tensor.dims));
      wire.name(tensor.name);
      wire.put<uint32_t>(uint32_t(values.size()));
      wire.read(values.data(), values.size() * sizeof(float));
      for (std::size_t i = 0; i < values.size(); i++)
        if (tensor.type == DataType::kHALF) static_cast<_Float16 *>(address)[i] = _Float16(values[i]);
        else static_cast<float *>(address)[i] = values[i];
    }
    wire.name(""); // no more
  }
};

struct Engine final : StubVCudaEngine {
  ICudaEngine *face;
  Plan plan;
  Reporter reporter;
  ICudaEngine *getPImpl() noexcept override { return face; }
  int32_t getNbIOTensors() const noexcept override { return int32_t(plan.tensors.size()); }
  char const *getIOTensorName(int32_t i) const noexcept override { return plan.tensors.at(std::size_t(i)).name.c_str(); }
  TensorIOMode getTensorIOMode(char const *name) const noexcept override { auto *t = plan.find(name); return t ? t->mode : TensorIOMode::kNONE; }
  DataType getTensorDataType(char const *name) const noexcept override { auto *t = plan.find(name); return t ? t->type : DataType::kFLOAT; }
  Dims getTensorShape(char const *name) const noexcept override { auto *t = plan.find(name); return t ? t->dims : Dims{-1, {}}; }
  TensorLocation getTensorLocation(char const *) const noexcept override { return plan.fail == "location" ? TensorLocation::kHOST : TensorLocation::kDEVICE; }
  TensorFormat getTensorFormat(char const *) const noexcept override { return plan.fail == "format" ? TensorFormat::kHWC8 : TensorFormat::kLINEAR; }
  int32_t getNbOptimizationProfiles() const noexcept override { return plan.profiles; }
  Dims getProfileShape(char const *name, int32_t index, OptProfileSelector select) const noexcept override {
    auto *tensor = plan.find(name);
    if (!tensor || index < 0 || index >= plan.profiles) return Dims{-1, {}};
    auto range = plan.ranges.find({index, name});
    if (range == plan.ranges.end()) return tensor->dims;
    Dims dims = tensor->dims;
    auto &of = select == OptProfileSelector::kMIN ? range->second.least : range->second.most;
    for (int i = 0; i < dims.nbDims; i++) dims.d[i] = of.at(std::size_t(i));
    return dims;
  }
  int64_t getDeviceMemorySizeV2() const noexcept override { return plan.memory; }
  IExecutionContext *createExecutionContext(ExecutionContextAllocationStrategy) noexcept override;
};

struct Context final : StubVExecutionContext {
  IExecutionContext *face;
  Engine *engine;
  std::map<std::string, Dims64> shapes;
  std::map<std::string, void *> addresses;
  int profile = 0;
  IExecutionContext *getPImpl() noexcept override { return face; }
  bool refuse(const char *words) const { engine->reporter.fail(ErrorCode::kINVALID_ARGUMENT, words); return false; }
  bool setOptimizationProfileAsync(int32_t index, cudaStream_t stream) noexcept override {
    if (!stream || index < 0 || index >= engine->plan.profiles) return refuse("stand-in: no such profile");
    profile = index;
    shapes.clear(); // as TensorRT does
    return true;
  }
  bool setInputShape(char const *name, Dims const &dims) noexcept override {
    auto *tensor = engine->plan.find(name);
    if (!tensor || tensor->mode != TensorIOMode::kINPUT || tensor->dims.nbDims != dims.nbDims) return refuse("stand-in: no such input, or another rank");
    auto range = engine->plan.ranges.find({profile, name});
    for (int i = 0; i < dims.nbDims; i++) {
      bool dynamic = tensor->dims.d[i] == -1;
      if (!dynamic && dims.d[i] != tensor->dims.d[i]) return refuse("stand-in: a fixed dimension was given another extent");
      if (dynamic && range != engine->plan.ranges.end()) {
        auto &[least, most] = range->second;
        if (dims.d[i] < least.at(std::size_t(i)) || dims.d[i] > most.at(std::size_t(i))) return refuse("stand-in: beyond the profile");
      }
    }
    shapes[name] = dims;
    return true;
  }
  Dims getTensorShape(char const *name) const noexcept override {
    auto *tensor = engine->plan.find(name);
    if (!tensor) return Dims{-1, {}};
    auto known = shapes.find(name);
    if (known != shapes.end()) return known->second;
    Dims dims = tensor->dims;
    auto batch = shapes.find("point_coords");
    if (tensor->mode == TensorIOMode::kOUTPUT && batch != shapes.end())
      for (int i = 0; i < dims.nbDims; i++) if (dims.d[i] == -1) dims.d[i] = batch->second.d[0];
    if (tensor->mode == TensorIOMode::kOUTPUT && (engine->plan.fail == "shape" || cuda<int (*)(const char *)>("standin_told")("shape"))) dims.d[dims.nbDims - 1] += 1;
    return dims;
  }
  bool setTensorAddress(char const *name, void *address) noexcept override {
    if (!engine->plan.find(name) || reinterpret_cast<std::uintptr_t>(address) % 256 != 0) return refuse("stand-in: no such tensor, or a crooked address");
    addresses[name] = address;
    return true;
  }
  bool enqueueV3(cudaStream_t stream) noexcept override {
    auto work = std::make_unique<Inference>();
    work->model = engine->plan.model;
    for (auto &tensor : engine->plan.tensors) {
      auto concrete = tensor;
      concrete.dims = getTensorShape(tensor.name.c_str());
      for (int i = 0; i < concrete.dims.nbDims; i++) if (concrete.dims.d[i] < 0) return refuse("stand-in: an input has no shape");
      if (!addresses[tensor.name]) return refuse("stand-in: a tensor has no address");
      (tensor.mode == TensorIOMode::kINPUT ? work->inputs : work->outputs).push_back({concrete, addresses[tensor.name]});
    }
    Wire wire(engine->plan.model);
    wire.put<uint8_t>(work->inputs.size() == 1 ? 'E' : 'D');
    auto status = wire.take<uint8_t>();
    if (status != 0) {
      engine->reporter.fail(static_cast<ErrorCode>(status), status == 5 ? "stand-in: told to lack memory" : "stand-in: told to fail");
      return false;
    }
    auto put = cuda<int (*)(void *, void (*)(void *), void *)>("standin_put");
    // A recorded inference runs many times, so it is kept for good.
    return put(stream, [](void *with) { static_cast<Inference *>(with)->run(); }, work.release()) == 0;
  }
};

struct PublicContext final : IExecutionContext {
  Context hidden;
  PublicContext() { mImpl = &hidden; hidden.face = this; count(contexts, 1); }
  ~PublicContext() noexcept override { count(contexts, -1); }
};
struct PublicEngine final : ICudaEngine {
  Engine hidden;
  PublicEngine() { mImpl = &hidden; hidden.face = this; count(engines, 1); }
  ~PublicEngine() noexcept override { if (contexts == engines) misuse("an engine freed before its context"); count(engines, -1); }
};

IExecutionContext *Engine::createExecutionContext(ExecutionContextAllocationStrategy) noexcept {
  if (plan.fail == "context") { reporter.fail(ErrorCode::kFAILED_ALLOCATION, "stand-in: no memory for a context"); return nullptr; }
  auto *context = new PublicContext;
  context->hidden.engine = this;
  return context;
}

struct Runtime final : StubVRuntime {
  IRuntime *face;
  Reporter reporter;
  IRuntime *getPImpl() noexcept override { return face; }
  void setErrorRecorder(IErrorRecorder *recorder) noexcept override {
    if (reporter.recorder) reporter.recorder->decRefCount();
    reporter.recorder = recorder;
    if (recorder) recorder->incRefCount();
  }
  bool hostCode = false;
  void setEngineHostCodeAllowed(bool allowed) noexcept override { hostCode = allowed; }
  ICudaEngine *deserializeCudaEngine(void const *blob, std::size_t size) noexcept override {
    auto *bytes = static_cast<unsigned char const *>(blob);
#ifdef STANDIN_RTX
    const char *magic = "vtrt";
#else
    const char *magic = "ftrt";
#endif
    if (size < 28 || std::memcmp(bytes, magic, 4) != 0) {
      reporter.fail(ErrorCode::kINVALID_STATE, "stand-in: not a plan");
      return nullptr;
    }
#ifdef STANDIN_LEAN
    // A version-compatible plan carries the code that reads it.
    if (!hostCode) { reporter.fail(ErrorCode::kINVALID_STATE, "stand-in: this plan brings code, which is not allowed"); return nullptr; }
#endif
    auto engine = std::make_unique<PublicEngine>();
    auto &plan = engine->hidden.plan;
    engine->hidden.reporter = reporter;
    std::istringstream text(std::string(reinterpret_cast<char const *>(bytes) + 28, size - 28));
    for (std::string line, word; std::getline(text, line);) {
      std::istringstream words(line);
      words >> word;
      if (word == "model") words >> plan.model;
      else if (word == "memory") words >> plan.memory;
      else if (word == "fail") words >> plan.fail;
      else if (word == "profile") {
        int index; std::string name, part;
        words >> index >> name;
        Range range;
        for (bool most = false; words >> part;) { if (part == ";") most = true; else (most ? range.most : range.least).push_back(std::stol(part)); }
        plan.ranges[{index, name}] = range;
        plan.profiles = std::max(plan.profiles, index + 1);
      } else if (word == "in" || word == "out") {
        Tensor tensor; int type; long extent;
        tensor.mode = word == "in" ? TensorIOMode::kINPUT : TensorIOMode::kOUTPUT;
        words >> tensor.name >> type;
        tensor.type = static_cast<DataType>(type);
        tensor.dims = Dims64{0, {}};
        while (words >> extent) tensor.dims.d[tensor.dims.nbDims++] = extent;
        plan.tensors.push_back(tensor);
      }
    }
    if (plan.fail == "deserialize") { reporter.fail(ErrorCode::kINTERNAL_ERROR, "stand-in: told not to read this plan"); return nullptr; }
    reporter.logger->log(ILogger::Severity::kINFO, "stand-in: plan read");
    return engine.release();
  }
};
struct PublicRuntime final : IRuntime {
  Runtime hidden;
  PublicRuntime() { mImpl = &hidden; hidden.face = this; count(runtimes, 1); }
  ~PublicRuntime() noexcept override {
    if (engines == runtimes) misuse("a runtime freed before its engine");
    count(runtimes, -1);
    if (hidden.reporter.recorder) hidden.reporter.recorder->decRefCount();
  }
};
} // namespace nvinfer1

#ifndef STANDIN_VERSION
#define STANDIN_VERSION NV_TENSORRT_VERSION
#endif
#define API extern "C" __attribute__((visibility("default")))
API int32_t getInferLibVersion() noexcept { return STANDIN_VERSION; }
API int32_t getInferLibBuildVersion() noexcept { return NV_TENSORRT_BUILD; }
API void *createInferRuntime_INTERNAL(void *logger, int32_t version) noexcept {
  using namespace nvinfer1;
  if (version != STANDIN_VERSION || !logger) return nullptr;
  // Without CUDA a real one hands out garbage; who calls it then is caught here.
  if (!dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD)) return reinterpret_cast<void *>(0x228);
  auto *runtime = new PublicRuntime;
  runtime->hidden.reporter.logger = static_cast<ILogger *>(logger);
  runtime->hidden.reporter.logger->log(ILogger::Severity::kWARNING, "stand-in: not the real TensorRT");
  return static_cast<IRuntime *>(runtime);
}
