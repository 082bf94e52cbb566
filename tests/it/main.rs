//! One binary for all integration tests: linking is what takes long.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cli;
mod config;
mod decoder;
mod layering;
mod parity;
mod service;
mod support;
