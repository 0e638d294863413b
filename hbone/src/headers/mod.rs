//! Heads of CONNECT requests and responses, parsed into valid types at the edge and written back.
//! Pure; used by `proto` for every HEADERS frame and by callers that route and report.

mod authority;
mod baggage;
mod connect;
mod forwarded;
mod traceparent;

pub use authority::{Authority, AuthorityError, Host};
pub use baggage::{Baggage, WorkloadKind};
pub use connect::{ConnectRequest, ConnectResponse, IstioSource, OtherHeaders};
pub use forwarded::Forwarded;
pub use traceparent::{Traceparent, TraceparentError};
