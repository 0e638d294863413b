//! A driver of `proto` over any AsyncRead + AsyncWrite, for everybody who is not a ztunnel worker.
