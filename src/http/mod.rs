//! The wire: hyper, the routes and the contract's words (`docs/API.md`).
//!
//! The way of a request: [`guard`] looks at its head (Host, Origin, who is asking) before a byte of
//! its body is read; [`routes`] names what it wants; [`intake`] lets the body in, bounded in time
//! and by its [`budget`] of bytes; [`wire`] turns both request forms into one service request, and
//! what the service says into an answer or a problem.
//!
//! Architecture invariant: nothing that a client sent is ever logged — no path, no query, no field,
//! no file name, no id of its own. A log line has the method, the route's template, the status, the
//! time taken and *our* request id.

pub mod budget;
pub mod cors;
mod course;
pub mod editor;
mod failure;
pub mod guard;
pub mod handler;
pub mod head;
pub mod intake;
pub mod linger;
pub mod metrics;
pub mod network;
pub mod openapi;
pub mod options;
pub mod request_id;
pub mod routes;
pub mod seats;
pub mod security;
pub mod server;
pub mod strict;
pub mod tls;
pub mod wire;

pub use options::Options;
