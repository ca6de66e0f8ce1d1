//! The newest signed mapping of a tenant: what a stale router is told.
//!
//! A cell that does not own any more holds one in its grant. A cell that owns under a higher epoch asks for one: once
//! for all requests that wait for it.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cell_model::{Epoch, TenantId, Uid};
use cell_trust::SignedMapping;
use futures::future::BoxFuture;
use http::HeaderValue;
use tokio::time::Instant;

/// Where the newest mapping of a tenant is asked for: the control plane, or an agent's cache of it.
pub trait MappingSource: Send + Sync + 'static {
    /// The newest signed mapping, or nothing where none can be had now. The caller sets the deadline.
    fn newest(&self, tenant: TenantId) -> BoxFuture<'static, Option<SignedMapping>>;
}

/// A source that never has one: stale requests are refused.
#[derive(Debug, Clone, Copy)]
pub struct NoMappings;

impl MappingSource for NoMappings {
    fn newest(&self, _tenant: TenantId) -> BoxFuture<'static, Option<SignedMapping>> {
        Box::pin(async { None })
    }
}

impl MappingSource for cell_client::ControlClient {
    fn newest(&self, tenant: TenantId) -> BoxFuture<'static, Option<SignedMapping>> {
        let client = self.clone();
        Box::pin(async move {
            match client.get_signed_mapping(&tenant).await {
                Ok(signed) => Some(signed),
                Err(error) => {
                    tracing::debug!(%tenant, %error, "no newer mapping to be had");
                    None
                }
            }
        })
    }
}

/// A signed mapping, ready to be handed out.
#[derive(Debug, Clone)]
pub struct Redirect {
    header: HeaderValue,
    says: (Uid, Epoch),
}

impl Redirect {
    /// Prepares a signed mapping of `tenant`. Nothing where it cannot be handed out: it is no mapping, names another
    /// tenant, or does not fit into a header. The gate has it from its own agent or from the control plane and does
    /// not verify the signature: the router that it is handed to does.
    #[must_use]
    pub fn new(tenant: &TenantId, signed: &SignedMapping) -> Option<Self> {
        let mapping = match signed.decode() {
            Ok(routed) => routed.mapping,
            Err(error) => {
                tracing::warn!(%tenant, %error, "a signed mapping cannot be read");
                return None;
            }
        };
        if mapping.tenant != *tenant {
            tracing::warn!(%tenant, other = %mapping.tenant, "a signed mapping names another tenant");
            return None;
        }
        let header = HeaderValue::from_str(&signed.to_header()).ok()?;
        Some(Self { header, says: (mapping.uid, mapping.epoch) })
    }

    /// The value of `cell-mapping`.
    #[must_use]
    pub const fn header(&self) -> &HeaderValue {
        &self.header
    }

    /// Whether the router already knows something newer.
    #[must_use]
    pub fn is_older_than(&self, stamp: (Uid, Epoch)) -> bool {
        self.says < stamp
    }

    /// Whether it tells something to a router that believes `stamp`.
    fn is_news_to(&self, stamp: (Uid, Epoch)) -> bool {
        self.says > stamp
    }

    fn is_at_least(&self, granted: (Uid, Epoch)) -> bool {
        self.says >= granted
    }

    #[cfg(test)]
    pub(crate) fn for_test(says: (u64, u64)) -> Arc<Self> {
        Arc::new(Self { header: HeaderValue::from_static("test"), says: (Uid(says.0), Epoch(says.1)) })
    }
}

#[derive(Debug, Default)]
struct Asked {
    at: Option<Instant>,
    answer: Option<Arc<Redirect>>,
}

/// What one tenant's stale requests share: at most one question is on its way.
#[derive(Debug, Default)]
pub(crate) struct Shared(tokio::sync::Mutex<Asked>);

/// Asks for newest mappings, with a deadline.
pub(crate) struct Asker {
    /// Gone once the gate is closed, so that a handle to it does not keep the source's store open.
    source: Mutex<Option<Arc<dyn MappingSource>>>,
    deadline: Duration,
}

impl fmt::Debug for Asker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Asker").field("deadline", &self.deadline).finish_non_exhaustive()
    }
}

impl Asker {
    /// Asks `source`, each time for at most `deadline`.
    pub(crate) fn new(source: Arc<dyn MappingSource>, deadline: Duration) -> Self {
        Self { source: Mutex::new(Some(source)), deadline }
    }

    /// Asks nobody any more.
    pub(crate) fn close(&self) {
        *self.source.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn source(&self) -> Option<Arc<dyn MappingSource>> {
        self.source.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A mapping that is news to a router with this stamp. An answer is shared by all that were waiting when it was
    /// asked for, and used again as long as it is not older than the cell's own grant.
    pub(crate) async fn news(
        &self,
        tenant: &TenantId,
        shared: &Shared,
        stamp: (Uid, Epoch),
        granted: Option<(Uid, Epoch)>,
    ) -> Option<Arc<Redirect>> {
        let arrived = Instant::now();
        let mut asked = shared.0.lock().await;
        let kept = asked
            .answer
            .as_ref()
            .filter(|kept| kept.is_news_to(stamp) && granted.is_some_and(|granted| kept.is_at_least(granted)));
        if let Some(kept) = kept {
            return Some(Arc::clone(kept));
        }
        if asked.at.is_none_or(|at| at < arrived) {
            let at = Instant::now();
            let signed = match self.source() {
                Some(source) => {
                    tokio::time::timeout(self.deadline, source.newest(tenant.clone())).await.ok().flatten()
                }
                None => None,
            };
            asked.answer = signed.and_then(|signed| Redirect::new(tenant, &signed)).map(Arc::new);
            asked.at = Some(at);
        }
        asked.answer.clone().filter(|answer| answer.is_news_to(stamp))
    }
}
