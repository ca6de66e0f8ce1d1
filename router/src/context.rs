//! What the stages of the pipeline know of one request, and what the thread that serves it has at hand.

use std::cell::Cell;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use cell_gate::wire;
use cell_model::TenantId;
use cell_trust::TrustedKeys;
use http::{HeaderValue, Method};
use tokio::time::Instant;

use crate::body::UploadLimits;
use crate::directory::Directory;
use crate::flow::Flow;
use crate::headers;
use crate::identify::Domains;
use crate::live::Live;
use crate::metrics::WorkerMetrics;
use crate::observe::log::Log;
use crate::observe::recent::Ring;
use crate::policy::Admitted;
use crate::pool::Pool;
use crate::table::Entry;

/// What one thread has at hand. Nothing in it is shared but the directory.
pub(crate) struct Worker {
    pub(crate) directory: Arc<Directory>,
    pub(crate) flow: Arc<Flow>,
    pub(crate) ring: Arc<Ring>,
    pub(crate) log: Log,
    pub(crate) pool: Rc<Pool>,
    pub(crate) domains: Domains,
    pub(crate) trusted: TrustedKeys,
    pub(crate) upload: UploadLimits,
    pub(crate) metrics: WorkerMetrics,
    pub(crate) dice: Dice,
}

impl Worker {
    /// The options of now. Not to be kept over an await.
    pub(crate) fn live(&self) -> arc_swap::Guard<Arc<Live>> {
        self.flow.live.load()
    }
}

/// One request on its way.
pub(crate) struct RequestCtx {
    pub(crate) began: Instant,
    /// The end of all waiting and replaying.
    pub(crate) deadline: Instant,
    pub(crate) request_id: HeaderValue,
    pub(crate) method: Method,
    pub(crate) is_write: bool,
    /// May be sent again although it may have run: it changes nothing, or the cell runs it once.
    pub(crate) may_repeat: bool,
    pub(crate) peer: IpAddr,
    /// Whose it is, once that is known.
    pub(crate) tenant: Option<TenantId>,
    /// By what it was routed last.
    pub(crate) entry: Option<Arc<Entry>>,
    /// How often it was sent.
    pub(crate) attempts: u32,
    /// What it has taken of its tenant's allowance.
    pub(crate) admitted: Option<Admitted>,
    /// How long it has waited for its turn.
    pub(crate) queued: Duration,
    /// How long it has waited for a move.
    pub(crate) held: Duration,
    /// Requests that its cell got at once when it was sent.
    pub(crate) cell_limit: u32,
    /// Where it was sent last.
    pub(crate) instance: Option<Arc<str>>,
}

impl RequestCtx {
    pub(crate) fn new<B>(worker: &Worker, request: &http::Request<B>, peer: IpAddr) -> Self {
        let began = Instant::now();
        let request_id = headers::request_id_of(request.headers()).unwrap_or_else(|| worker.dice.request_id());
        let is_write = wire::is_write(request.method());
        Self {
            began,
            deadline: began + worker.live().timeouts.hold,
            request_id,
            method: request.method().clone(),
            is_write,
            may_repeat: !is_write || request.headers().contains_key("idempotency-key"),
            peer,
            tenant: None,
            entry: None,
            attempts: 0,
            admitted: None,
            queued: Duration::ZERO,
            held: Duration::ZERO,
            cell_limit: 0,
            instance: None,
        }
    }

    pub(crate) fn request_id(&self) -> &str {
        self.request_id.to_str().unwrap_or_default()
    }
}

/// Random numbers for names and jitter (SplitMix64), not for secrets.
pub(crate) struct Dice(Cell<u64>);

impl Dice {
    pub(crate) fn new() -> Self {
        Self(Cell::new(RandomState::new().hash_one(0)))
    }

    fn roll(&self) -> u64 {
        let state = self.0.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.0.set(state);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn request_id(&self) -> HeaderValue {
        let text = format!("{:016x}{:016x}", self.roll(), self.roll());
        HeaderValue::from_str(&text).expect("hexadecimal digits are a header value")
    }

    /// Between 0 and 1.
    pub(crate) fn part(&self) -> f64 {
        f64::from(u32::try_from(self.roll() >> 32).unwrap_or(u32::MAX)) / f64::from(u32::MAX)
    }

    /// Between half of it and all of it.
    pub(crate) fn jittered(&self, duration: Duration) -> Duration {
        duration.mul_f64(0.5 + 0.5 * self.part())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_stays_between_half_and_all() {
        let dice = Dice::new();
        let whole = Duration::from_millis(20);
        for _ in 0..1_000 {
            let jittered = dice.jittered(whole);
            assert!(jittered >= whole / 2 && jittered <= whole, "{jittered:?}");
        }
    }

    #[test]
    fn request_ids_differ() {
        let dice = Dice::new();
        let ids: std::collections::HashSet<_> = (0..1_000).map(|_| dice.request_id()).collect();
        assert_eq!(ids.len(), 1_000);
    }
}
