//! Kept connections.
