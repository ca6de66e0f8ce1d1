//! What the edge has read from files: certificates and keys, and what reads them again.

use std::sync::Arc;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::Error;
use crate::metrics::Metrics;
use crate::options::Options;
use crate::signing::Signer;
use crate::tls::{self, TlsBack, TlsFront};
use crate::token::{Fetcher, Keys};

/// What the edge has read from files, shared by all threads.
pub(crate) struct Edge {
    pub(super) tls: Option<TlsFront>,
    pub(super) upstream_tls: Option<TlsBack>,
    pub(super) signer: Option<Arc<Signer>>,
    pub(super) keys: Option<Arc<Keys>>,
}

impl Edge {
    pub(crate) fn load(options: &Options) -> Result<Self, Error> {
        let certificate = |source| Error::Certificate { source };
        let key = |fault| Error::ContextKey { fault };
        let edge = Self {
            tls: options.tls.as_ref().map(TlsFront::load).transpose().map_err(certificate)?,
            upstream_tls: options.upstream.tls.as_ref().map(TlsBack::load).transpose().map_err(certificate)?,
            signer: options.context.as_ref().map(Signer::load).transpose().map_err(key)?,
            keys: options.tenant.token.as_ref().map(Keys::new),
        };
        tls::worries::exposed(options.tls.as_ref(), options.upstream.tls.as_ref()).map_err(certificate)?;
        Ok(edge)
    }

    /// Starts what reads certificates and keys again while the router runs.
    pub(super) fn keep_up(
        &self,
        background: &mut JoinSet<()>,
        options: &Options,
        metrics: &Metrics,
        shutdown: &CancellationToken,
    ) -> Result<(), Error> {
        let front = self.tls.clone().zip(options.tls.clone());
        let back = self.upstream_tls.clone().zip(options.upstream.tls.clone());
        if front.is_some() || back.is_some() {
            background.spawn(tls::watch(front, back, metrics.clone(), shutdown.clone()));
        }
        if let (Some(keys), Some(token)) = (&self.keys, &options.tenant.token) {
            let fetcher = Fetcher::new(Arc::clone(keys), token, metrics.clone());
            let fetcher = fetcher.map_err(|source| Error::Certificate { source })?;
            background.spawn(fetcher.run(shutdown.clone()));
        }
        Ok(())
    }
}
