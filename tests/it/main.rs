//! One binary for all integration tests: linking is what takes long.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod accept;
mod cache;
mod cards;
mod cli;
mod config;
mod decoder;
mod dicom_support;
mod doctor;
mod http;
mod layering;
mod operations;
mod parity;
mod reload;
mod service;
mod sockets;
mod starting;
mod supply;
mod support;
mod threats;
mod watchdog;
