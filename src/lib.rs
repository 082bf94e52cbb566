//! `sam2d`: one click, one mask, nothing leaves the building. Not for diagnostic use.
//!
//! The way of a slice: [`http`] reads a request, [`service`] answers it from [`cache`] or has
//! [`imaging`] decode the bytes (in a child process) and [`engine`] segment them on the one thread
//! that owns the device. [`domain`] is the plain data all of them speak in; [`access`] knows who holds
//! a token, [`audit`] who did what.
//!
//! Imports flow one way, `main → app → {cli, http, ops} → service → {engine, cache, imaging} →
//! domain`; siblings don't know each other. A test holds it.

pub mod access;
pub mod app;
pub mod audit;
pub mod cache;
pub mod cli;
pub mod config;
pub mod control;
pub mod domain;
pub mod engine;
pub mod http;
pub mod imaging;
pub mod ops;
pub mod service;
