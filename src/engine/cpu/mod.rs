//! The CPU engine: the same ONNX files on `rten`.
