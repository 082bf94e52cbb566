//! What an operator sees: logs, and the words of health.

pub mod admin;
pub mod cards;
pub mod exits;
pub mod machine;
pub mod memory;
pub mod systemd;
pub mod telemetry;
pub mod watchdog;
