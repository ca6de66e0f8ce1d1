//! A client that writes: its own registers, posted documents, shared counters.

use std::collections::HashMap;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::session::Session;
use super::{Load, Pace};

/// Registers that one writer keeps in one tenant.
const SLOTS: u64 = 4;
/// Counters that all writers of one tenant share.
const COUNTERS: u64 = 3;

pub(super) struct Writer {
    session: Session,
    tenants: Arc<[Arc<str>]>,
    versions: HashMap<(usize, u64), u64>,
    load: Load,
}

impl Writer {
    pub(super) fn new(session: Session, tenants: Arc<[Arc<str>]>, load: Load) -> Self {
        Self { session, tenants, versions: HashMap::new(), load }
    }

    /// The registers that it writes in a tenant.
    pub(super) fn keys_of(&self, _tenant: &Arc<str>) -> Vec<Arc<str>> {
        (0..SLOTS).map(|slot| self.key(slot)).collect()
    }

    pub(super) async fn run(mut self, mut pace: Pace, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = pace.wait() => {}
            }
            self.write().await;
        }
    }

    fn key(&self, slot: u64) -> Arc<str> {
        format!("r-{}-{slot}", self.session.id).into()
    }

    /// One write of some kind; where it carries an idempotency key it may be sent a second time on purpose.
    async fn write(&mut self) {
        let index = self.session.choices.index(self.tenants.len());
        let Some(tenant) = self.tenants.get(index).cloned() else { return };
        let nonce = self.load.nonce();
        let choices = &mut self.session.choices;
        let kind = choices.below(100);
        let bytes = usize::try_from(choices.between(120, 900)).unwrap_or(120);
        let idempotency_key = choices.percent(30).then(|| format!("i-{nonce}"));
        let again = idempotency_key.is_some() && choices.percent(25);
        let idem = idempotency_key.as_deref();
        match kind {
            0..45 => {
                let (key, version) = self.next_version(&tenant, index);
                self.session.put(&tenant, &key, version, bytes, idem).await;
                if again {
                    self.session.put(&tenant, &key, version, bytes, idem).await;
                }
            }
            45..52 => {
                let (key, version) = self.next_version(&tenant, index);
                self.session.delete(&tenant, &key, version, idem).await;
                if again {
                    self.session.delete(&tenant, &key, version, idem).await;
                }
            }
            52..78 => {
                self.session.post(&tenant, nonce, bytes, idem).await;
                if again {
                    self.session.post(&tenant, nonce, bytes, idem).await;
                }
            }
            _ => {
                let counter: Arc<str> = format!("c-{}", self.session.choices.below(COUNTERS)).into();
                self.session.increment(&tenant, &counter, nonce, idem).await;
                if again {
                    self.session.increment(&tenant, &counter, nonce, idem).await;
                }
            }
        }
    }

    fn next_version(&mut self, tenant: &Arc<str>, index: usize) -> (Arc<str>, u64) {
        let slot = self.session.choices.below(SLOTS);
        let key = self.key(slot);
        let version = self.versions.entry((index, slot)).or_insert(0);
        *version += 1;
        if *version == 1 {
            self.load.known_keys().add(tenant, &key, &mut self.session.choices);
        }
        (key, *version)
    }
}
