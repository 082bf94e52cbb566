//! TensorRT through our own thin binding.
