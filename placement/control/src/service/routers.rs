//! What is asked about routers: who lags, and whether all have seen a revision.

use std::time::Duration;

use cell_model::{FleetView, Lineage, Revision, Sight, TenantId};
use cell_protos::{Malformed, v1};
use tokio::time::Instant;
use tonic::{Code, Status};

use super::Ground;
use crate::refusal::{malformed, refusal, rejected};
use crate::routers::{Holds, Known, Report};

const NAME_BYTES_MAX: usize = 63;
const AWAIT_DEFAULT: Duration = Duration::from_secs(5);
const AWAIT_MAX: Duration = Duration::from_secs(30);

/// A router's report about itself.
fn report(wire: v1::RouterReport) -> Result<Report, Status> {
    let is_word = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
    for (field, text) in [("router.name", &wire.name), ("router.version", &wire.version)] {
        if text.len() > NAME_BYTES_MAX || !is_word(text) {
            let reason = format!("at most {NAME_BYTES_MAX} characters of a-z, A-Z, 0-9, '.', '-' and '_'");
            return Err(malformed(&Malformed::new(field, reason)));
        }
    }
    if wire.name.is_empty() {
        return Err(malformed(&Malformed::new("router.name", "it is missing")));
    }
    let holds = holds(wire.holds_back, wire.all_sending, &wire.sending)?;
    Ok(Report {
        name: wire.name,
        instance: wire.instance,
        lineage: Lineage(wire.lineage),
        revision: Revision(wire.revision),
        staleness: wire.staleness_ms.map(Duration::from_millis),
        version: wire.version,
        certificate_not_after_s: wire.certificate_not_after_unix_s,
        holds,
    })
}

/// Tenants that a router may name as sending.
const SENDING_MAX: usize = 1_024;

fn holds(holds_back: bool, all_sending: bool, sending: &[String]) -> Result<Holds, Status> {
    if !holds_back {
        return Ok(Holds::Nothing);
    }
    if all_sending || sending.len() > SENDING_MAX {
        return Ok(Holds::Unknown);
    }
    let tenants = sending.iter().map(TenantId::new).collect::<Result<_, _>>();
    let tenants = tenants.map_err(|invalid| malformed(&Malformed::new("router.sending", invalid.to_string())))?;
    Ok(Holds::AllBut(tenants))
}

/// A ping: the confirmed revision, and a lease where a router asks.
pub(super) async fn confirm(
    ground: &Ground,
    wire: v1::ConfirmRevisionRequest,
) -> Result<v1::ConfirmRevisionResponse, Status> {
    let received = Instant::now();
    let report = wire.router.map(report).transpose()?;
    // Behind it this node was the leader at some moment after the ping came: only then a lease is granted.
    ground.readable(false).await?;
    let lease = report.and_then(|report| ground.routers.report(report, received));
    let (revision, lineage) = ground.view(|fleet| (fleet.head().revision, fleet.head().lineage));
    let lease_ms = lease.and_then(|lease| u32::try_from(lease.as_millis()).ok()).unwrap_or(0);
    Ok(v1::ConfirmRevisionResponse {
        nonce: wire.nonce,
        revision: revision.get(),
        lineage: lineage.get(),
        lease_ms,
    })
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn router(known: Known, (lineage, revision): (Lineage, Revision), epoch: u64) -> v1::Router {
    let sight = known.sight(lineage, revision);
    let state = match sight {
        Sight::Seen => v1::RouterState::Seen,
        Sight::Fenced => v1::RouterState::Fenced,
        Sight::Waiting => v1::RouterState::Waiting,
    };
    v1::Router {
        name: known.report.name,
        instance: known.report.instance,
        lineage: known.report.lineage.get(),
        revision: known.report.revision.get(),
        staleness_ms: known.report.staleness.map(millis),
        silent_ms: millis(known.silence),
        lease_ms: millis(known.lease),
        state: state.into(),
        version: known.report.version,
        epoch: if sight == Sight::Seen { epoch } else { 0 },
        certificate_not_after_unix_s: known.report.certificate_not_after_s,
    }
}

/// Every router, and how it stands to the store or to one tenant's last change.
pub(super) async fn list(ground: &Ground, wire: v1::ListRoutersRequest) -> Result<v1::ListRoutersResponse, Status> {
    ground.readable(false).await?;
    let (head, lineage) = ground.view(|fleet| (fleet.head().revision, fleet.lineage()));
    let (revision, epoch) = if wire.tenant.is_empty() {
        (head, 0)
    } else {
        let tenant = TenantId::new(&wire.tenant)
            .map_err(|invalid| malformed(&Malformed::new("tenant", invalid.to_string())))?;
        let found = ground.view(|fleet| fleet.tenant(&tenant).map(|record| (record.revision, record.epoch.get())));
        found.ok_or_else(|| rejected(&cell_model::Rejected::TenantUnknown { tenant }))?
    };
    let routers = ground.routers.known().into_iter();
    let of_tenant = !wire.tenant.is_empty();
    Ok(v1::ListRoutersResponse {
        routers: routers.map(|known| router(known, (lineage, revision), epoch)).collect(),
        revision: head.get(),
        lineage: lineage.get(),
        tenant_epoch: epoch,
        tenant_revision: if of_tenant { revision.get() } else { 0 },
    })
}

/// Waits until every router has seen a revision or is fenced.
pub(super) async fn await_seen(
    ground: &Ground,
    wire: v1::AwaitSeenRequest,
) -> Result<v1::AwaitSeenResponse, Status> {
    let patience = match wire.timeout_ms {
        0 => AWAIT_DEFAULT,
        asked => Duration::from_millis(u64::from(asked)),
    };
    if patience > AWAIT_MAX {
        let reason = format!("at most {} ms", AWAIT_MAX.as_millis());
        return Err(malformed(&Malformed::new("timeout_ms", reason)));
    }
    let deadline = Instant::now() + patience;
    ground.readable(false).await?;
    let leading_for = ground.leading()?;
    let (head, lineage) = ground.view(|fleet| (fleet.head().revision, fleet.lineage()));
    let revision = Revision(wire.revision);
    if revision > head {
        let message = format!("revision {revision} is not reached yet: the store is at {head}");
        return Err(refusal(
            Code::OutOfRange,
            "REVISION_UNKNOWN",
            message,
            "wait for a revision that was answered",
        ));
    }
    let began = Instant::now();
    let since = began.checked_sub(leading_for).unwrap_or(began);
    let (complete, known) = ground.routers.await_seen((lineage, revision), since, deadline).await;
    // Whoever leads now may have granted leases that this node knows nothing of.
    ground.leading()?;
    let routers = known.into_iter().map(|known| router(known, (lineage, revision), 0)).collect();
    Ok(v1::AwaitSeenResponse { complete, routers })
}
