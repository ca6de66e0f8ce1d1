//! What tells one request from another under the same id.

use std::borrow::Cow;

use cell_model::{Asked, Command, CopySight, Generation, Revision, Seq, TakeoverOrder};

/// What somebody asks for, as it is told from another request with the same id. What the control plane has found out by itself
/// and added to the command is left out: it may find another thing the next time.
///
/// # Panics
/// Never: a command is made of what can be written.
#[must_use]
pub fn asked(actor: &str, command: &Command, expected: Option<Revision>) -> Asked {
    let plain = match command {
        Command::PlaceTenant { tenant, .. } | Command::UnplacedTenant { tenant, .. } => {
            Cow::Owned(Command::CreateTenant(tenant.clone()))
        }
        Command::TakeOver { tenant, order } => {
            let nothing = CopySight {
                generation: Generation(0),
                complete: false,
                applied: Seq(0),
                heard: Seq(0),
                ungated: false,
            };
            let order = TakeoverOrder { stopped: Generation(0), copy: nothing, ..order.clone() };
            Cow::Owned(Command::TakeOver { tenant: tenant.clone(), order })
        }
        command => Cow::Borrowed(command),
    };
    let said =
        postcard::to_stdvec(&(actor, plain, expected)).expect("a command has no part that cannot be written");
    let mut short = [0; 16];
    blake3::Hasher::new().update(&said).finalize_xof().fill(&mut short);
    Asked(short)
}

#[cfg(test)]
mod tests {
    use cell_model::{CellId, CellState, NewTenant, Suggestion, TenantId, Tier};

    use super::*;

    fn cordon(cell: &str) -> Command {
        Command::SetCellState { cell: CellId::new(cell).unwrap(), state: CellState::Cordoned }
    }

    #[test]
    fn whoever_asks_for_another_thing_or_is_another_asks_differently() {
        let first = asked("operator/a", &cordon("c1"), None);
        assert_eq!(first, asked("operator/a", &cordon("c1"), None));
        for other in [
            asked("operator/b", &cordon("c1"), None),
            asked("operator/a", &cordon("c2"), None),
            asked("operator/a", &cordon("c1"), Some(Revision(1))),
        ] {
            assert_ne!(first, other);
        }
    }

    #[test]
    fn what_the_planner_suggests_is_no_part_of_the_question() {
        let tenant =
            NewTenant { id: TenantId::new("t").unwrap(), cell: None, tier: Tier::Bronze, residency: String::new() };
        let placed = |cell: &str| {
            let suggestion =
                Suggestion { cell: CellId::new(cell).unwrap(), why: cell.into(), explained: cell.into() };
            asked("a", &Command::PlaceTenant { tenant: tenant.clone(), suggestion }, None)
        };
        assert_eq!(placed("c1"), placed("c2"));
        assert_eq!(placed("c1"), asked("a", &Command::CreateTenant(tenant.clone()), None));
        let nowhere = Command::UnplacedTenant { tenant: tenant.clone(), explained: "none".into() };
        assert_eq!(placed("c1"), asked("a", &nowhere, None));
    }
}
