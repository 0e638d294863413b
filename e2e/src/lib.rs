//! Nothing to link: this package holds the tests that need several crates or the real binaries at once
//! (`tests/`), and later the scripts that start foreign parts.
