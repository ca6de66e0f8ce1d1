//! What writers pay: for the fence in their transactions while nothing moves, and for the capture while a copy follows.

use std::time::Duration;

use anyhow::Result;
use cell_client::wire;
use cell_figures::{Figure, Figures, median};
use cell_model::{MoveOptions, Phase};

use crate::Cost;
use crate::figures::say;
use crate::fleet::{Fleet, entered};
use crate::load::{Entry, Writers};

const WRITERS: u32 = 4;

pub(crate) async fn run(fleet: &Fleet, wanted: &Cost, figures: &mut Figures) -> Result<()> {
    let tenant = fleet.tenant("busy").await?;
    let mapping = fleet.control.get_tenant(&tenant).await?.mapping.unwrap_or_default();
    let enter = Entry::Enter { uid: mapping.uid.cast_signed(), epoch: mapping.epoch.cast_signed() };
    let url = fleet.servers[0].url();
    let window = Duration::from_secs(wanted.seconds.into());
    let measure = async |entry: &Entry| -> Result<f64> {
        let writers = Writers::start(&url, "busy", (WRITERS, Duration::ZERO), entry).await?;
        // The first moments are those of caches.
        tokio::time::sleep(window / 4).await;
        let rate = writers.rate(window).await;
        writers.end().await?;
        Ok(rate)
    };
    let (mut bare, mut fenced) = (Vec::new(), Vec::new());
    for number in 1..=wanted.windows {
        bare.push(measure(&Entry::Bare).await?);
        fenced.push(measure(&enter).await?);
        let (bare, fenced) = (bare.last().copied(), fenced.last().copied());
        say(&format!("fence, window {number}: {fenced:.0?} beside {bare:.0?} transactions a second"));
    }
    let name = "the same transactions without Cellway";
    figures.add(Figure::beside("transactions with the fence", "/s", (median(fenced), median(bare)), name, 0.95));

    let (mut still, mut followed) = (Vec::new(), Vec::new());
    for number in 1..=wanted.windows {
        still.push(measure(&enter).await?);
        // Captured and followed, not yet waited for: the copy stays where Verify would begin.
        let options = MoveOptions { until: Some(Phase::CatchUp), ..MoveOptions::default() };
        let writers = Writers::start(&url, "busy", (WRITERS, Duration::ZERO), &enter).await?;
        let follows = |movement: &wire::Move| entered(movement, wire::Phase::CatchUp).is_ok();
        let (id, _) = fleet.moved(&tenant, options, follows).await?;
        followed.push(writers.rate(window).await);
        writers.end().await?;
        fleet.cancel(id).await?;
        let (still, followed) = (still.last().copied(), followed.last().copied());
        say(&format!("capture, window {number}: {followed:.0?} beside {still:.0?} transactions a second"));
    }
    let name = "no move of the tenant";
    let rates = (median(followed), median(still));
    figures.add(Figure::beside("transactions while captured and followed", "/s", rates, name, 0.95));
    Ok(())
}
