//! `watch`: what there is, and then each change as it is made.

use std::time::Duration;

use cell_client::{WatchEvent, WatchFilter, WatchItem, WatchOptions};
use cell_model::{Lineage, Revision};
use futures::StreamExt;
use tokio::time::Instant;

use super::Control;
use crate::cli::{Output, Watch};
use crate::console;
use crate::failure::{Exit, Failure};
use crate::view::WatchedView;

pub(super) async fn run(control: Control, asked: Watch) -> Result<Exit, Failure> {
    if asked.after.zip(asked.until).is_some_and(|(after, until)| until < after) {
        return Err(Failure::usage("--until lies before --after", "leave one of them out, or say a later --until"));
    }
    let filter = WatchFilter { tenant: asked.tenant, prefix: asked.prefix.unwrap_or_default(), cell: asked.cell };
    let options = WatchOptions {
        client: "cellctl".into(),
        include_moves: asked.moves,
        filter,
        // Of whatever history the cluster has.
        resume: asked.after.map(|after| (Lineage(0), Revision(after))),
        progress: if asked.until.is_some() { Duration::from_millis(100) } else { Duration::from_secs(1) },
        trusted: None,
    };
    let until = asked.until.map(Revision);
    let output = control.global.output;
    let mut headed = output != Output::Table || control.global.no_headers;
    let mut events = control.client.watch(options);
    let mut lost = Some((Instant::now(), "nothing was heard".to_owned()));
    loop {
        let patience = control.global.timeout;
        let left = lost.as_ref().map_or(patience, |(since, _)| patience.saturating_sub(since.elapsed()));
        // With a connection there is progress to hear, and the client gives up a silent one by itself.
        let event = match tokio::time::timeout(left, events.next()).await {
            Ok(Some(event)) => event,
            Ok(None) | Err(_) if lost.is_none() => continue,
            Ok(None) | Err(_) => return Err(given_up(lost)),
        };
        if let WatchEvent::Disconnected { reason } = event {
            let since = lost.map_or_else(Instant::now, |(since, _)| since);
            lost = Some((since, reason));
            continue;
        }
        lost = None;
        if !std::mem::replace(&mut headed, true) {
            console::data(&WatchedView::header());
        }
        let reached = tell(event, output);
        if until.is_some_and(|until| reached.is_some_and(|reached| reached >= until)) {
            return Ok(Exit::Done);
        }
    }
}

fn given_up(lost: Option<(Instant, String)>) -> Failure {
    let reason = lost.map(|(_, reason)| reason).unwrap_or_default();
    cell_client::ClientError::Unavailable { reason }.into()
}

/// Prints what an event tells. Answers up to where everything has been told.
fn tell(event: WatchEvent, output: Output) -> Option<Revision> {
    let print = |revision, items: Vec<WatchItem>| {
        let lines: String = items.into_iter().map(|item| WatchedView::new(revision, item).line(output)).collect();
        console::data(&lines);
    };
    match event {
        WatchEvent::Reset => {
            console::note("everything there is:");
            None
        }
        WatchEvent::Snapshot(items) => {
            print(None, items);
            None
        }
        WatchEvent::SnapshotEnd { revision, .. } => {
            console::note(&format!("as of revision {revision}; what changes from now on:"));
            Some(revision)
        }
        WatchEvent::Changes { revision, items } => {
            print(Some(revision), items);
            Some(revision)
        }
        WatchEvent::Progress { revision } => Some(revision),
        WatchEvent::Disconnected { .. } => None,
    }
}
