//! What snapshots do to applying: the leader of real nodes takes one after the other while clients write, and says for how
//! long something was committed and nothing was applied meanwhile.

use std::time::Duration;

use anyhow::ensure;
use cell_client::{ClientOptions, ControlClient};
use cell_figures::{Figure, Figures, median};
use cell_protos::v1::DiskStatusResponse;
use cell_protos::v1::control_service_client::ControlServiceClient;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::cold::{create, tenant_of};
use crate::load::Keys;
use crate::nodes::connect;
use crate::{number, say};

const CLIENTS: usize = 16;
/// Between two snapshots.
const PAUSE: Duration = Duration::from_millis(200);

/// Has the leader take so many snapshots beside clients that make tenants.
pub(crate) async fn measure(
    address: &str,
    snapshots: u32,
    keys: &Keys,
    floor: Option<f64>,
    figures: &mut Figures,
) -> anyhow::Result<()> {
    let (end, mut writing) = (CancellationToken::new(), JoinSet::new());
    let channel = connect(address)?;
    for _ in 0..CLIENTS {
        let (mut service, keys) = (ControlServiceClient::new(channel.clone()), keys.clone());
        let end = end.clone();
        writing.spawn(async move {
            let mut made = 0_u64;
            while !end.is_cancelled() {
                create(&mut service, tenant_of(&keys.next())).await?;
                made += 1;
            }
            anyhow::Ok(made)
        });
    }
    let taken = take(address, snapshots).await;
    end.cancel();
    let mut made = 0;
    while let Some(client) = writing.join_next().await {
        made += client??;
    }
    let stalls = taken?;
    say(&format!(
        "beside {snapshots} snapshots applying stood still for {stalls:.2?} ms; {made} tenants were made\n"
    ));
    let measure = |what: &str| format!("apply stall while a snapshot of {} mappings is taken, {what}", keys.used());
    figures.add(Figure::at_most(measure("median"), "ms", median(stalls.iter().copied()), floor, None));
    figures.add(Figure::free(measure("worst"), "ms", stalls.into_iter().fold(0.0, f64::max)));
    figures.add(Figure::at_least(measure("tenants made meanwhile"), "", number(made), Some(1.0)));
    Ok(())
}

/// The longest stall while each of them was taken, in milliseconds.
async fn take(address: &str, snapshots: u32) -> anyhow::Result<Vec<f64>> {
    let client = ControlClient::new(vec![address.to_owned()], ClientOptions::default());
    let mut stalls = Vec::new();
    for _ in 0..snapshots {
        tokio::time::sleep(PAUSE).await;
        let before = client.disk_status(address).await?;
        client.take_snapshot(address, false).await?;
        let after = client.disk_status(address).await?;
        ensure!(after.snapshots > before.snapshots, "the node was asked for a snapshot and has taken none");
        stalls.push(stall(&before, &after));
    }
    Ok(stalls)
}

/// In milliseconds; no number where nothing was applied meanwhile that could have stood still.
fn stall(before: &DiskStatusResponse, after: &DiskStatusResponse) -> f64 {
    if after.applied_index > before.applied_index {
        number(after.last_snapshot_stall_us) / 1_000.0
    } else {
        f64::NAN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_beside_which_nothing_was_written_does_not_hold() {
        let disk = |applied_index, last_snapshot_stall_us| DiskStatusResponse {
            applied_index,
            last_snapshot_stall_us,
            ..DiskStatusResponse::default()
        };
        assert!((stall(&disk(7, 0), &disk(8, 2_500)) - 2.5).abs() < f64::EPSILON);
        let idle = stall(&disk(7, 0), &disk(7, 0));
        assert!(!Figure::at_most("stall", "ms", idle, Some(5.0), None).holds());
    }
}
