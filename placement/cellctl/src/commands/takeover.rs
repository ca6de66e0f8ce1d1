//! `move takeover`: the other cell of a move is made the owner, because the owner is out of reach.

use cell_client::TakeoverWanted;

use super::Control;
use crate::cli::TakeOver;
use crate::console;
use crate::failure::{Exit, Failure};
use crate::view::TakeoverView;

pub(super) async fn run(control: Control, asked: TakeOver) -> Result<Exit, Failure> {
    let TakeOver { tenant, to, stopped, accept_data_loss, dry_run } = asked;
    let wanted = TakeoverWanted {
        target: to.clone(),
        evidence: stopped.unwrap_or_default(),
        accept_data_loss,
        look_only: dry_run,
    };
    let told = control.client.take_over(&tenant, wanted, control.write()).await?;
    let view = TakeoverView::new(tenant.to_string(), told);
    control.print_list(std::slice::from_ref(&view));
    if view.decided {
        console::note(&format!("{tenant} belongs to cell {to} from epoch {} on", view.epoch));
        console::note(&format!(
            "`cellctl describe tenant {tenant}` shows when it is served, `cellctl quarantine list` what the old owner has put \
             aside once it is back"
        ));
    } else if view.lossless {
        console::note(&format!(
            "nothing that was acknowledged would be missing: writes have waited for cell {to} since it held everything"
        ));
    } else {
        if view.ungated {
            console::note(&format!(
                "in the database of cell {} writers may have come that no gate has let in, and nobody has waited for what they wrote",
                view.from
            ));
        }
        console::note(&format!(
            "acknowledged writes may be missing: the copy goes up to change {}, the last one heard of is {}, and there may be \
             later ones; that needs --accept-data-loss",
            view.applied, view.heard
        ));
    }
    Ok(Exit::Done)
}
