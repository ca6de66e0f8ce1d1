//! The embedded driver, as the application sees it: a tenant's rows, read and written under a request's stamp.
//!
//! A write runs its closure once, under the tenant's lock, and everything that it put becomes one atomic batch whose
//! preconditions are the grant and the last sequence number. It answers when the batch is durable here and, while the
//! move of the tenant is in Sync, at the copying cell too.

use std::sync::Arc;

use cell_gate::RequestStamp;
use cell_model::Seq;

use crate::rows::{RowError, Transaction, View};
use crate::tenants::Tenants;

/// Why a write has not answered with its result.
#[derive(Debug, thiserror::Error)]
pub enum WriteError<E> {
    /// The write surely has not run: this cell may not serve the tenant under this stamp now. Safe to send again.
    #[error("the write has not run: {reason}")]
    Refused {
        /// Stable code: `NOT_OWNER`, `NOT_YET`, `HOLD`, `FENCED`, `IMPORTING`, `STALE`, `UNCONFIRMED` or `TENANT_DELETED`.
        code: &'static str,
        /// Why.
        reason: String,
    },
    /// The application's own closure refused; nothing was written.
    #[error("the application refused the write")]
    App(E),
    /// The store failed before anything was written.
    #[error("the store failed, nothing was written: {0}")]
    Store(#[from] RowError),
    /// The write is in this cell's store, but nobody knows whether it will last: it was not synced, or the copying
    /// cell has not confirmed it in time. It may or may not be seen later.
    #[error("the outcome of the write is unknown: {reason}")]
    Unknown {
        /// Why.
        reason: String,
    },
}

/// Why a read has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// This cell may not serve the tenant under this stamp now.
    #[error("the read has not run: {reason}")]
    Refused {
        /// Stable code, as in [`WriteError::Refused`].
        code: &'static str,
        /// Why.
        reason: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] RowError),
}

/// A handle to the tenants' rows in this cell. Cheap to clone.
#[derive(Clone)]
pub struct TenantData {
    tenants: Arc<Tenants>,
}

impl TenantData {
    pub(crate) const fn new(tenants: Arc<Tenants>) -> Self {
        Self { tenants }
    }

    /// Runs `work` once on the tenant's rows and makes what it wrote durable, in one atomic step with one sequence
    /// number. `work` sees its own writes. Where it returns an error, nothing is written. A `work` that writes
    /// nothing gets the last sequence number. Where it returns an error, that is answered when everything that it may
    /// have seen is durable.
    ///
    /// # Errors
    /// [`WriteError`]; only [`WriteError::Unknown`] may have changed anything.
    pub async fn write<T, E, F>(&self, stamp: &RequestStamp, work: F) -> Result<(T, Seq), WriteError<E>>
    where
        F: FnOnce(&mut Transaction<'_>) -> Result<T, E> + Send,
        T: Send,
        E: Send,
    {
        self.tenants.write(stamp, work).await
    }

    /// Runs `work` on the tenant's rows, all at one moment, and answers when everything that it may have seen is
    /// durable.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn read<T, F>(&self, stamp: &RequestStamp, work: F) -> Result<T, ReadError>
    where
        F: FnOnce(&View<'_>) -> Result<T, RowError> + Send,
        T: Send,
    {
        self.tenants.read(stamp, work).await
    }
}

impl std::fmt::Debug for TenantData {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TenantData").finish_non_exhaustive()
    }
}
