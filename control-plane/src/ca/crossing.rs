//! What is done when the Secret holds another root from one look to the next: somebody brought an authority into a running
//! mesh, took one away, or restored an older store. Whoever has not heard of the new root would refuse what it signs, so it
//! is taken up like one of a rotation: announced beside the old one, which signs on for an overlap, then signing, with the
//! old one trusted for another. Pure; asked by `vault`. In memory, so that who means a change at once starts anew.

use std::time::{Duration, SystemTime};

use super::secret::{self, Fields, SecretError};

/// Which authority signs, and what is trusted beside it.
#[derive(Debug)]
pub struct Crossing {
    /// What signs, as the Secret had it.
    signs: Fields,
    /// What will sign, and since when it is known.
    to: Option<(Fields, SystemTime)>,
    /// Roots of what signed before, and since when it does not.
    from: Option<(String, SystemTime)>,
}

impl Crossing {
    /// Signs with this.
    #[must_use]
    pub fn new(signs: Fields) -> Crossing {
        Crossing {
            signs,
            to: None,
            from: None,
        }
    }

    /// Whether another root waits to sign.
    #[must_use]
    pub fn is_under_way(&self) -> bool {
        self.to.is_some()
    }

    /// Takes what the Secret holds now.
    ///
    /// # Errors
    /// When it makes no authority; nothing changes then.
    pub fn take(
        &mut self,
        found: &Fields,
        now: SystemTime,
        overlap: Duration,
    ) -> Result<(), SecretError> {
        secret::issuer(found)?;
        let over = |since: SystemTime| now.duration_since(since).unwrap_or_default() >= overlap;
        if self.from.as_ref().is_some_and(|(_, since)| over(*since)) {
            self.from = None;
        }
        if secret::trusts(found, &self.signs)? {
            (self.signs, self.to) = (found.clone(), None);
            return Ok(());
        }
        let since = match &self.to {
            // A step of that one's own rotation, or nothing new.
            Some((to, since)) if secret::trusts(found, to)? => *since,
            _ => now,
        };
        // What has ended signs nothing that anybody accepts: waiting longer helps nobody.
        if over(since) || secret::issuer(&self.signs)?.not_after() <= now {
            self.from = Some((secret::roots(&self.signs)?.to_owned(), now));
            (self.signs, self.to) = (found.clone(), None);
        } else {
            self.to = Some((found.clone(), since));
        }
        Ok(())
    }

    /// What signs now, with all that is to be trusted.
    ///
    /// # Errors
    /// When roots cannot be read.
    pub fn fields(&self) -> Result<Fields, SecretError> {
        let mut fields = self.signs.clone();
        if let Some((to, _)) = &self.to {
            fields = secret::beside(&fields, secret::roots(to)?)?;
        }
        if let Some((roots, _)) = &self.from {
            fields = secret::beside(&fields, roots)?;
        }
        Ok(fields)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ca::rotation::{Plan, Step};

    const HOUR: Duration = Duration::from_secs(3600);
    const PLAN: Plan = Plan {
        overlap: HOUR,
        life: HOUR.saturating_mul(1000),
    };

    fn at(hour: u32) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000) + HOUR * hour
    }

    fn root() -> Fields {
        secret::create("td", at(0), &PLAN).unwrap()
    }

    /// What signs, and how many roots are trusted.
    fn now(crossing: &Crossing) -> (Vec<u8>, usize) {
        let fields = crossing.fields().unwrap();
        let roots = secret::issuer(&fields).unwrap();
        let count = roots.roots_pem().matches("BEGIN CERTIFICATE").count();
        (fields["ca-cert.pem"].clone(), count)
    }

    #[test]
    fn another_root_is_announced_then_signs_then_is_alone() {
        let (old, new) = (root(), root());
        let mut crossing = Crossing::new(old.clone());
        let expected = [(0, &old, 2), (1, &new, 2), (2, &new, 1), (9, &new, 1)];
        for (hour, signs, roots) in expected {
            crossing.take(&new, at(hour), HOUR).unwrap();
            assert_eq!(
                now(&crossing),
                (signs["ca-cert.pem"].clone(), roots),
                "{hour}"
            );
        }
    }

    #[test]
    fn a_slip_that_is_undone_changes_nothing() {
        let (old, new) = (root(), root());
        let mut crossing = Crossing::new(old.clone());
        crossing.take(&new, at(0), HOUR).unwrap();
        assert!(crossing.is_under_way());
        crossing.take(&old, at(1), HOUR).unwrap();
        assert!(!crossing.is_under_way());
        assert_eq!(now(&crossing), (old["ca-cert.pem"].clone(), 1));
        // And begins from the beginning when it is done again.
        crossing.take(&new, at(5), HOUR).unwrap();
        assert_eq!(now(&crossing), (old["ca-cert.pem"].clone(), 2));
    }

    #[test]
    fn a_rotation_is_no_crossing() {
        let mut fields = root();
        let mut crossing = Crossing::new(fields.clone());
        for (hour, step) in [(1, Step::Announce), (2, Step::Activate), (3, Step::Retire)] {
            fields = secret::after(&fields, step, "td", at(hour), &PLAN).unwrap();
            crossing.take(&fields, at(hour), HOUR).unwrap();
            assert_eq!(crossing.fields().unwrap(), fields);
        }
    }

    #[test]
    fn a_store_from_before_a_rotation_is_taken_up_slowly_too() {
        let old = root();
        let announced = secret::after(&old, Step::Announce, "td", at(1), &PLAN).unwrap();
        let active = secret::after(&announced, Step::Activate, "td", at(2), &PLAN).unwrap();
        let mut crossing = Crossing::new(active.clone());
        crossing.take(&old, at(3), HOUR).unwrap();
        assert_eq!(now(&crossing), (active["ca-cert.pem"].clone(), 2));
    }

    #[test]
    fn what_makes_no_authority_changes_nothing_and_what_has_ended_waits_for_nothing() {
        let (old, new) = (root(), root());
        let mut crossing = Crossing::new(old.clone());
        assert!(crossing.take(&Fields::new(), at(0), HOUR).is_err());
        assert_eq!(crossing.fields().unwrap(), old);
        crossing.take(&new, at(2000), HOUR).unwrap();
        assert_eq!(now(&crossing).0, new["ca-cert.pem"]);
    }
}
