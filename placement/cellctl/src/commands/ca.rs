//! `ca`: an authority, and certificates for nodes, routers, cells and people.

use cell_control::{Authority, AuthorityError};
use cell_trust::Principal;

use crate::cli::Ca;
use crate::console;
use crate::failure::{Exit, Failure};

fn failed(error: AuthorityError) -> Failure {
    let (code, hint) = (error.code(), error.hint());
    Failure::new(code, format!("{:#}", anyhow::Error::from(error)), hint)
}

pub(super) fn run(command: Ca) -> Result<Exit, Failure> {
    match command {
        Ca::Init { dir } => {
            Authority::create(&dir).map_err(failed)?;
            let dir = dir.display();
            console::note(&format!("an authority is in {dir}; keep {dir}/ca.key away from the fleet"));
            console::note(&format!(
                "`cellctl ca issue control NAME --ca {dir} --out DIR` makes a node's certificate"
            ));
        }
        Ca::Issue { role, name, ca, out, valid } => {
            let principal = Principal::new(role, name);
            let principal = principal.map_err(|error| Failure::usage(error.to_string(), "choose another name"))?;
            let authority = Authority::open(&ca).map_err(failed)?;
            authority.issue(&principal, valid, &out).map_err(failed)?;
            console::note(&format!("{principal} is in {}; name it with --identity", out.display()));
        }
    }
    Ok(Exit::Done)
}
