//! The wire: hyper, the routes and the contract's words.
