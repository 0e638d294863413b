//! Who claims one key (an address, a VIP, a host name): nearly always one, sometimes several. The order
//! among them depends only on what they are, never on who came first.

use std::{slice, sync::Arc};

use crate::{service::Service, workload::Workload};

/// Something that can share a key with others of its kind.
pub(super) trait Claimant {
    /// Sorts claimants; the first is preferred. Unique per claimant.
    fn rank(&self) -> impl Ord + '_;

    /// Whether both are versions of the same resource.
    fn same_resource(&self, other: &Self) -> bool;
}

impl Claimant for Workload {
    /// A pod before an entry that somebody wrote, then a healthy one before one that is ending.
    fn rank(&self) -> impl Ord + '_ {
        (!self.is_pod(), !self.healthy, &self.uid)
    }

    fn same_resource(&self, other: &Self) -> bool {
        self.uid == other.uid
    }
}

impl Claimant for Service {
    fn rank(&self) -> impl Ord + '_ {
        &self.key
    }

    fn same_resource(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

/// The claimants of one key, best first, never none.
#[derive(Debug)]
pub(super) enum Claims<T> {
    One(Arc<T>),
    Many(Arc<[Arc<T>]>),
}

impl<T> Clone for Claims<T> {
    fn clone(&self) -> Self {
        match self {
            Self::One(one) => Self::One(one.clone()),
            Self::Many(many) => Self::Many(many.clone()),
        }
    }
}

impl<T> Claims<T> {
    pub(super) fn as_slice(&self) -> &[Arc<T>] {
        match self {
            Self::One(one) => slice::from_ref(one),
            Self::Many(many) => many,
        }
    }

    pub(super) fn best(&self) -> &Arc<T> {
        &self.as_slice()[0]
    }
}

impl<T: Claimant> Claims<T> {
    /// With `claimant` among them; an older version of it goes.
    pub(super) fn with(before: Option<Self>, claimant: &Arc<T>) -> Self {
        let others = before.as_ref().map_or(&[][..], Self::as_slice);
        let others = others.iter().filter(|other| !other.same_resource(claimant));
        let mut all: Vec<Arc<T>> = others.chain([claimant]).cloned().collect();
        all.sort_by(|a, b| a.rank().cmp(&b.rank()));
        Self::from_vec(all).expect("the claimant is in it")
    }

    /// Without `claimant`; `None` when nobody is left.
    pub(super) fn without(self, claimant: &T) -> Option<Self> {
        let others = self
            .as_slice()
            .iter()
            .filter(|other| !other.same_resource(claimant));
        Self::from_vec(others.cloned().collect())
    }

    fn from_vec(mut all: Vec<Arc<T>>) -> Option<Self> {
        match all.len() {
            0 => None,
            1 => all.pop().map(Self::One),
            _ => Some(Self::Many(all.into())),
        }
    }
}
