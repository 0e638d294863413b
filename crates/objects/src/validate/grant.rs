//! Checks of `ReferenceGrant`. It opens something, so what is not clear in it is refused.

use super::{Check, Checked, ensure, is_label};
use crate::grant::ReferenceGrant;

impl Check for ReferenceGrant {
    fn check(&self) -> Checked {
        for (i, from) in self.spec.from.iter().enumerate() {
            let at = format!("spec.from[{i}]");
            ensure(!from.kind.is_empty(), format!("{at}.kind"), "is missing")?;
            ensure(
                is_label(&from.namespace),
                format!("{at}.namespace"),
                format!("`{}` must be the name of a namespace", from.namespace),
            )?;
        }
        for (i, to) in self.spec.to.iter().enumerate() {
            ensure(
                !to.kind.is_empty(),
                format!("spec.to[{i}].kind"),
                "is missing",
            )?;
        }
        Ok(())
    }
}
