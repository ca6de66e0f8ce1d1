//! What snapshots do to applying: the leader of real nodes takes one after the other while clients write, and says for how
//! long something was committed and nothing was applied meanwhile.

use std::time::Duration;

use anyhow::ensure;
use cell_client::{ClientOptions, ControlClient};
use cell_figures::{Figure, Figures, median};
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
    let (mut stalls, mut before) = (Vec::new(), client.disk_status(address).await?.snapshots);
    for _ in 0..snapshots {
        tokio::time::sleep(PAUSE).await;
        client.take_snapshot(address, false).await?;
        let disk = client.disk_status(address).await?;
        ensure!(disk.snapshots > before, "the node was asked for a snapshot and has taken none");
        before = disk.snapshots;
        stalls.push(number(disk.last_snapshot_stall_us) / 1_000.0);
    }
    Ok(stalls)
}
