//! Single facts of the life of a connection.
