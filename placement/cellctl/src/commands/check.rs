//! `check`: looks over the whole fleet and says what is wrong with it, with a mark, a hint and a page each.
//!
//! ```text
//! √ holds    ‼ will not hold for long, or cannot be told    × does not hold
//! ```
//! Exit code 0: all marks are √; 3: some are ‼; 1: some are ×.

mod findings;
mod kept;
mod members;
mod survey;

use std::time::Duration;

use tokio::time::Instant;

use super::{Control, client_options};
use crate::cli::{Category, Check, Global, Output};
use crate::endpoints;
use crate::failure::{Exit, Failure};
use crate::{console, render};

use findings::{FindingView, Mark};

const PAUSE: Duration = Duration::from_millis(500);

pub(super) async fn run(global: Global, said: Check) -> Result<Exit, Failure> {
    let target = endpoints::resolve(&global)?;
    let options = client_options(&global, &target.link);
    let client = cell_client::ControlClient::new(target.endpoints.clone(), options);
    let control = Control { client, target, global };
    let give_up = said.wait.map(|wait| Instant::now() + wait);
    let found = loop {
        let surveyed = survey::survey(&control).await;
        let mut found = findings::of(&surveyed);
        found.retain(|finding| said.only.is_empty() || said.only.contains(&finding.category));
        let fails = found.iter().any(|finding| finding.mark == Mark::Fails);
        if !fails || give_up.is_none_or(|give_up| Instant::now() >= give_up) {
            break found;
        }
        tokio::time::sleep(PAUSE).await;
    };
    let exit = match found.iter().map(|finding| finding.mark).max() {
        Some(Mark::Fails) => Exit::Failed,
        Some(Mark::Warns) => Exit::Warned,
        Some(Mark::Holds) | None => Exit::Done,
    };
    match control.global.output {
        Output::Table => print(&found),
        Output::Json | Output::Name | Output::Html => {
            console::data(&render::list(&found, control.global.output, false))
        }
    }
    Ok(exit)
}

fn print(found: &[FindingView]) {
    let mut last: Option<Category> = None;
    for finding in found {
        if last != Some(finding.category) {
            let gap = if last.is_some() { "\n" } else { "" };
            console::data(&format!("{gap}{}\n", finding.title()));
            last = Some(finding.category);
        }
        console::data(&finding.lines());
    }
}
