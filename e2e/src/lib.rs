//! What several test binaries of this package share; the tests themselves are in `tests/`.

pub mod cases;
