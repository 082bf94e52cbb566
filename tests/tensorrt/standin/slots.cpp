// Prints the slot of every method that src/engine/tensorrt/sys.rs uses, as a compiler makes it of NVIDIA's
// headers: the word of a pointer to a virtual member function is its offset in the table (Itanium C++ ABI),
// plus one except on ARM. Two destructor slots stand before the first.
#include "NvInferRuntime.h"
#include <cstdint>
#include <cstdio>
#include <cstring>

template <class Method> long slot(Method method) {
  std::uintptr_t words[2];
  static_assert(sizeof method == sizeof words, "a pointer to a member function");
  std::memcpy(words, &method, sizeof words);
#if defined(__aarch64__)
  return long(words[0] / sizeof(void *)) - 2;
#else
  return long((words[0] - 1) / sizeof(void *)) - 2;
#endif
}

using namespace nvinfer1;
#define SLOT(Class, method) std::printf(#Class "." #method " %ld\n", slot(&apiv::Class::method));

int main() {
  using Deserialize = ICudaEngine *(apiv::VRuntime::*)(void const *, std::size_t) noexcept;
  std::printf("VRuntime.deserializeCudaEngine %ld\n", slot(static_cast<Deserialize>(&apiv::VRuntime::deserializeCudaEngine)));
  SLOT(VRuntime, setErrorRecorder)
  SLOT(VRuntime, setEngineHostCodeAllowed)
  SLOT(VCudaEngine, createExecutionContext)
  SLOT(VCudaEngine, getNbOptimizationProfiles)
  SLOT(VCudaEngine, getNbIOTensors)
  SLOT(VCudaEngine, getIOTensorName)
  SLOT(VCudaEngine, getTensorIOMode)
  SLOT(VCudaEngine, getTensorDataType)
  SLOT(VCudaEngine, getTensorLocation)
  SLOT(VCudaEngine, getTensorFormat)
  SLOT(VCudaEngine, getTensorShape)
  SLOT(VCudaEngine, getProfileShape)
  SLOT(VCudaEngine, getDeviceMemorySizeV2)
  SLOT(VExecutionContext, setOptimizationProfileAsync)
  SLOT(VExecutionContext, setInputShape)
  SLOT(VExecutionContext, getTensorShape)
  SLOT(VExecutionContext, setTensorAddress)
  SLOT(VExecutionContext, enqueueV3)
}
