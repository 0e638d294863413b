//! When the time of a request is up, before its answer's head and after it. Used by `forward`, which hands it on to the
//! answer's body.

use crate::upload::Upload;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// Whose time is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Late {
    /// The route's.
    Route,
    /// That of this try.
    Try,
}

/// The times of one try.
#[derive(Clone)]
pub struct Clock {
    /// The request, of which the end begins the route's time.
    pub upload: Upload,
    /// The route's time.
    pub route: Option<Duration>,
    /// When the try's time is up, which is for the whole answer (the Gateway API's `backendRequest`).
    pub own: Option<Instant>,
}

impl Clock {
    /// Is there a limit at all?
    pub fn runs(&self) -> bool {
        self.route.is_some() || self.own.is_some()
    }

    /// Ends when time is up.
    pub async fn up(self) -> Late {
        let Self { upload, route, own } = self;
        let route = async {
            let Some(limit) = route else {
                return std::future::pending().await;
            };
            upload.ended().await;
            let begun = upload.ended_at().unwrap_or_else(Instant::now);
            sleep_until(begun + limit).await;
        };
        let own = async {
            match own {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = route => Late::Route,
            () = own => Late::Try,
        }
    }
}
