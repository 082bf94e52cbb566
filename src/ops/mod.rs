//! What an operator sees: logs, and the words of health.

pub mod admin;
pub mod memory;
pub mod systemd;
pub mod telemetry;
