//! Options of all commands that this one has no use for: whoever says one counts on it, so it is refused and not passed over.

use crate::cli::{Audit, Command, Get, Global, Move, OfCells, OfQuarantine};
use crate::failure::Failure;
use crate::store::Store;

/// One record is changed, and only as it was read.
const fn changes_one_record(command: &Command) -> bool {
    match command {
        Command::Create(_)
        | Command::Delete(_)
        | Command::Cordon(_)
        | Command::Uncordon(_)
        | Command::Tenant(_) => true,
        Command::Cell(of) => matches!(of, OfCells::Dead { .. } | OfCells::Declare(_)),
        Command::Move(Move::Tenant(asked)) => !asked.dry_run,
        Command::Move(of) => {
            !matches!(of, Move::List { .. } | Move::Describe { .. } | Move::Proof { .. } | Move::VerifyProof { .. })
        }
        Command::Quarantine(of) => matches!(of, OfQuarantine::Drop { .. }),
        _ => false,
    }
}

/// Something is changed by a write that has a name, or by several.
const fn writes(command: &Command) -> bool {
    changes_one_record(command)
        || matches!(command, Command::Apply(_) | Command::Adopt(_) | Command::Cell(OfCells::Enroll(_)))
}

/// What any node can answer is read.
const fn reads(command: &Command) -> bool {
    match command {
        Command::Get(of) => !matches!(of, Get::Routers { .. }),
        Command::Describe(_) | Command::Store(Store::Backup { .. } | Store::Members { change: None }) => true,
        Command::Move(of) => matches!(of, Move::List { .. } | Move::Describe { .. } | Move::Proof { .. }),
        Command::Audit(of) => matches!(of, Audit::Show { .. } | Audit::Export { .. }),
        _ => false,
    }
}

/// Refuses what would be passed over.
pub(super) fn check(command: &Command, global: &Global) -> Result<(), Failure> {
    if global.expected_revision.is_some() && !changes_one_record(command) {
        let hint = "leave it out: it is for commands that change one tenant, cell, move or the limits";
        return Err(Failure::usage("--expected-revision means nothing to this command", hint));
    }
    if global.request_id.is_some() && !writes(command) {
        let hint = "leave it out: it is for another try of the command whose unknown outcome has printed it";
        return Err(Failure::usage("--request-id means nothing to this command", hint));
    }
    if global.stale && !reads(command) {
        let hint = match command {
            Command::Get(Get::Routers { .. }) => "leave it out: what routers hold, the leader alone knows",
            _ => "leave it out: it is for commands that read records, for `store members` and `store backup`",
        };
        return Err(Failure::usage("--stale means nothing to this command", hint));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::Cli;
    use crate::failure::Exit;

    fn refused(line: &str) -> Option<Failure> {
        let cli = Cli::try_parse_from(line.split(' ')).unwrap();
        check(&cli.command, &cli.global).err()
    }

    #[test]
    fn what_a_command_would_pass_over_is_refused() {
        let id = "000000000000000000000000000000ff";
        let looks = format!("cellctl get cells --request-id {id}");
        for fits in [
            "cellctl cordon cell c1 --expected-revision 7",
            "cellctl tenant set a --tier gold --expected-revision 7",
            "cellctl move limits --total 3 --expected-revision 7",
            "cellctl move cancel m-7 --expected-revision 7",
            &format!("cellctl create tenant a --request-id {id}"),
            &format!("cellctl apply --file plan.json --request-id {id}@77"),
            "cellctl get tenants --stale",
            "cellctl audit show --stale",
            "cellctl store backup --out x --stale",
            "cellctl store members --stale",
        ] {
            assert_eq!(refused(fits), None, "{fits}");
        }
        for (vain, option) in [
            ("cellctl get tenants --expected-revision 7", "--expected-revision"),
            ("cellctl apply --file plan.json --expected-revision 7", "--expected-revision"),
            ("cellctl move tenant a --to c1 --dry-run --expected-revision 7", "--expected-revision"),
            (looks.as_str(), "--request-id"),
            ("cellctl create tenant a --stale", "--stale"),
            ("cellctl get routers --stale", "--stale"),
            ("cellctl store status --stale", "--stale"),
            ("cellctl store members add n:1 --stale", "--stale"),
            ("cellctl plan capacity --stale", "--stale"),
        ] {
            let refused = refused(vain).unwrap_or_else(|| panic!("{vain}"));
            assert_eq!(refused.exit, Exit::Usage);
            assert!(refused.message.starts_with(option) && refused.hint.starts_with("leave it out"), "{refused}");
        }
    }
}
