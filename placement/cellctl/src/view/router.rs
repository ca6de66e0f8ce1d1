//! A router as the control plane's leader knows it.

use cell_client::wire;
use serde::Serialize;

use super::View;

/// A router.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RouterView {
    /// Its name.
    pub router: String,
    /// Of this start, in hex.
    pub instance: String,
    /// seen, fenced or waiting: how it stands to the store, or to the tenant's last change.
    pub state: String,
    /// What its table holds.
    pub revision: u64,
    /// How many revisions the store is ahead of it.
    pub behind: u64,
    /// Incarnation of the control plane's history in its table.
    pub lineage: u64,
    /// The tenant's epoch that it holds; none where it is older than the tenant's last change, or no tenant was named.
    pub epoch: Option<u64>,
    /// How old its table may be.
    pub staleness_ms: Option<u64>,
    /// Since it was last heard of.
    pub silent_ms: u64,
    /// What is left of its lease.
    pub lease_ms: u64,
    /// Of its program.
    pub version: String,
}

impl RouterView {
    /// All that are known.
    #[must_use]
    pub fn of(known: wire::ListRoutersResponse, of_tenant: bool) -> Vec<Self> {
        let view = |router: wire::Router| {
            let state = match router.state() {
                wire::RouterState::Seen => "seen",
                wire::RouterState::Fenced => "fenced",
                wire::RouterState::Waiting => "waiting",
                wire::RouterState::Unspecified => "unknown",
            };
            let same = router.lineage == known.lineage;
            Self {
                state: state.into(),
                revision: router.revision,
                behind: known.revision.saturating_sub(if same { router.revision } else { 0 }),
                lineage: router.lineage,
                epoch: (of_tenant && router.epoch > 0).then_some(router.epoch),
                staleness_ms: router.staleness_ms,
                silent_ms: router.silent_ms,
                lease_ms: router.lease_ms,
                router: router.name,
                instance: format!("{:016x}", router.instance),
                version: router.version,
            }
        };
        known.routers.into_iter().map(view).collect()
    }
}

impl View for RouterView {
    const KIND: &'static str = "Router";
    const COLUMNS: &'static [&'static str] =
        &["ROUTER", "STATE", "REVISION", "BEHIND", "EPOCH", "STALENESS", "SILENT", "LEASE", "VERSION"];

    fn row(&self) -> Vec<String> {
        let or_dash = |value: Option<String>| value.unwrap_or_else(|| "-".into());
        vec![
            self.router.clone(),
            self.state.clone(),
            self.revision.to_string(),
            self.behind.to_string(),
            or_dash(self.epoch.map(|epoch| epoch.to_string())),
            or_dash(self.staleness_ms.map(|ms| format!("{ms} ms"))),
            format!("{} ms", self.silent_ms),
            format!("{} ms", self.lease_ms),
            self.version.clone(),
        ]
    }

    fn name(&self) -> String {
        format!("router/{}", self.router)
    }
}

/// How a hold of an owner without a gate found the routers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RoutersHeldView {
    /// They had seen it, and had no write of the tenant on its way.
    pub seen: u32,
    /// Their lease had run out.
    pub fenced: u32,
}

impl From<wire::RoutersHeld> for RoutersHeldView {
    fn from(held: wire::RoutersHeld) -> Self {
        let wire::RoutersHeld { seen, fenced } = held;
        Self { seen, fenced }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_lags_is_seen_at_a_glance_and_another_history_counts_for_nothing() {
        let router = |name: &str, lineage, revision, state: wire::RouterState| wire::Router {
            name: name.into(),
            lineage,
            revision,
            state: state.into(),
            epoch: u64::from(state == wire::RouterState::Seen) * 4,
            ..wire::Router::default()
        };
        let known = wire::ListRoutersResponse {
            routers: vec![
                router("r1", 1, 40, wire::RouterState::Seen),
                router("r2", 1, 31, wire::RouterState::Waiting),
                router("r3", 9, 90, wire::RouterState::Fenced),
            ],
            revision: 40,
            lineage: 1,
            ..wire::ListRoutersResponse::default()
        };
        let views = RouterView::of(known, true);
        let seen: Vec<_> = views.iter().map(|view| (view.state.as_str(), view.behind, view.epoch)).collect();
        assert_eq!(seen, [("seen", 0, Some(4)), ("waiting", 9, None), ("fenced", 40, None)]);
    }
}
