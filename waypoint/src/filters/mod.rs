//! Request filters, one per file: pure decisions that `request` carries out in the written order.

pub mod cors;
pub mod fault;
pub mod rbac;
