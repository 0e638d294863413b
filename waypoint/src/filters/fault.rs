//! Fault injection of a route: wait, then perhaps answer. Pure; random numbers are passed in.

use crate::model::route::{Abort, Fault};
use crate::model::text::RequestView;
use rand::RngExt;
use std::time::Duration;

/// What this request suffers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Plan {
    /// Wait first.
    pub delay: Option<Duration>,
    /// Then answer so.
    pub abort: Option<Abort>,
}

/// Draws the faults of one request.
pub fn plan(fault: &Fault, request: &RequestView<'_>, rng: &mut impl RngExt) -> Plan {
    if !fault.headers.iter().all(|header| header.matches(request)) {
        return Plan::default();
    }
    let delay = fault
        .delay
        .filter(|(_, share)| share.hit(rng))
        .map(|(delay, _)| delay);
    let abort = fault
        .abort
        .filter(|(_, share)| share.hit(rng))
        .map(|(abort, _)| abort);
    Plan { delay, abort }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::route::Share;
    use rand::SeedableRng;

    #[test]
    fn shares_of_nothing_and_of_all_are_exact() {
        let headers = http::HeaderMap::new();
        let request = RequestView {
            method: "GET",
            path: "/",
            authority: "a",
            scheme: "http",
            headers: &headers,
        };
        let mut rng = rand::rngs::SmallRng::seed_from_u64(1);
        let fault = Fault {
            delay: Some((Duration::from_secs(1), Share::ALL)),
            abort: Some((Abort::Grpc(14), Share { part: 0, of: 100 })),
            headers: vec![],
        };
        for _ in 0..100 {
            assert_eq!(
                plan(&fault, &request, &mut rng),
                Plan {
                    delay: Some(Duration::from_secs(1)),
                    abort: None
                }
            );
        }
    }
}
