//! The one thread that owns the engine.
