//! HBONE, the tunnel of ambient mesh: HTTP/2 CONNECT over mutual TLS, in three layers.
//! `proto` is the pure codec (bytes in, events and bytes out), `headers` the heads of CONNECT,
//! `tokio` a driver over any AsyncRead + AsyncWrite. Knows no config, no Kubernetes, no metrics.

pub mod headers;
pub mod proto;
pub mod tokio;
