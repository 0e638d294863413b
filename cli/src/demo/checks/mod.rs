//! The lines of the demo, in the order in which they are printed. Each takes its figures from the running
//! system and says so; a line that cannot show its fact fails.
mod l4;
mod l7;
mod life;
mod secrecy;

use anyhow::Result;

use super::line::Printer;
use super::mesh::Mesh;

type Check = fn(&mut Mesh) -> Result<String>;

const CHECKS: [(&str, Check); 14] = [
    ("identities", secrecy::identities),
    ("secret between nodes", secrecy::wire),
    ("pod outside the mesh", l4::outsider),
    ("L4 allow", l4::allow),
    ("L4 deny", l4::deny),
    ("policy named but unknown", l4::unknown_policy),
    ("L7 split 90/10", l7::split),
    ("L7 routing by header", l7::header),
    ("L7 deny", l7::deny),
    ("L7 retry", l7::retry),
    ("edit takes effect", l7::edit),
    ("opt out by label", life::opt_out),
    ("opt in by label", life::opt_in),
    ("ztunnel killed", life::kill_ztunnel),
];

/// Prints every line.
///
/// # Errors
/// Only when the user interrupted or a process of the mesh died: a fact that cannot be shown is a failed
/// line, and the next one follows.
pub fn run(mesh: &mut Mesh, printer: &mut Printer) -> Result<()> {
    for (title, check) in CHECKS {
        let shown = check(mesh);
        mesh.interrupt().check()?;
        printer.fact(title, shown);
        mesh.check_alive()?;
    }
    Ok(())
}
