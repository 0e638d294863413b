//! Floods
