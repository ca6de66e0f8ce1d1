//! The issuer's keys: fetched again and again, once for all who wait, and the last good ones kept where that fails.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::fetch::Origin;
use crate::Error;
use crate::metrics::Metrics;
use crate::options::TokenOptions;
use crate::tls::TlsError;

/// More keys than that no issuer has.
const KEYS_MAX: usize = 100;
/// Of a public key.
const ED25519_BYTES: usize = 32;

/// One key.
pub(crate) struct Key {
    jwk: Jwk,
    decoding: DecodingKey,
    algorithm: Option<Algorithm>,
}

impl Key {
    /// What a JWK says, where it can verify signatures.
    fn new(jwk: Jwk) -> Option<Self> {
        let is_sound = match &jwk.algorithm {
            // A secret: whoever can verify with it can sign with it.
            AlgorithmParameters::OctetKey(_) => false,
            AlgorithmParameters::OctetKeyPair(pair) => {
                URL_SAFE_NO_PAD.decode(&pair.x).is_ok_and(|point| point.len() == ED25519_BYTES)
            }
            _ => true,
        };
        if !is_sound {
            return None;
        }
        let decoding = DecodingKey::from_jwk(&jwk).ok()?;
        let algorithm = match &jwk.common.key_algorithm {
            Some(named) => Some(named.to_string().parse().ok()?),
            None => None,
        };
        Some(Self { jwk, decoding, algorithm })
    }

    pub(super) fn decoding(&self) -> &DecodingKey {
        &self.decoding
    }

    /// Whether it is a key of the kind that the algorithm needs.
    fn is_of(&self, algorithm: Algorithm) -> bool {
        use Algorithm as A;
        match &self.jwk.algorithm {
            AlgorithmParameters::OctetKeyPair(_) => algorithm == A::EdDSA,
            AlgorithmParameters::EllipticCurve(key) => match key.curve {
                EllipticCurve::P256 => algorithm == A::ES256,
                EllipticCurve::P384 => algorithm == A::ES384,
                _ => false,
            },
            AlgorithmParameters::RSA(_) => {
                matches!(algorithm, A::RS256 | A::RS384 | A::RS512 | A::PS256 | A::PS384 | A::PS512)
            }
            _ => false,
        }
    }

    /// Whether the key may verify this algorithm, as far as it says.
    pub(super) fn fits(&self, algorithm: Algorithm) -> bool {
        self.algorithm.is_none_or(|own| own == algorithm)
    }
}

type ById = HashMap<String, Arc<Key>>;

/// The keys that are known now.
pub(crate) struct Keys {
    known: ArcSwap<Option<ById>>,
    wanted: Notify,
    /// When the last look at the origin has ended, and when it had begun.
    looked: watch::Sender<Option<Instant>>,
    min_interval: Duration,
}

impl Keys {
    pub(crate) fn new(options: &TokenOptions) -> Arc<Self> {
        let looked = watch::Sender::new(None);
        let min_interval = options.refresh_min_interval;
        Arc::new(Self { known: ArcSwap::default(), wanted: Notify::new(), looked, min_interval })
    }

    pub(super) fn find(&self, id: &str) -> Option<Arc<Key>> {
        (**self.known.load()).as_ref()?.get(id).cloned()
    }

    /// Whether this very key is still the one of that id.
    pub(super) fn has(&self, id: &str, key: &Arc<Key>) -> bool {
        (**self.known.load()).as_ref().and_then(|keys| keys.get(id)).is_some_and(|known| Arc::ptr_eq(known, key))
    }

    pub(super) fn is_known(&self) -> bool {
        self.known.load().is_some()
    }

    /// Waits for a look at the origin that began after `since`, unless there was one just before.
    pub(super) async fn fetched_since(&self, since: Instant, patience: Duration) {
        let mut looked = self.looked.subscribe();
        let recent = |at: &Option<Instant>| at.is_some_and(|at| at + self.min_interval > since);
        if recent(&looked.borrow()) {
            return;
        }
        self.wanted.notify_one();
        // Time over: the caller looks once more and refuses.
        let _ended = tokio::time::timeout(patience, looked.wait_for(recent)).await;
    }

    /// Takes what was fetched. Keys that are as they were stay the same, and with them what they have verified. None: there is
    /// no key in it that verifies anything, and the last good ones stay.
    fn install(&self, set: JwkSet) -> Option<usize> {
        let before = self.known.load();
        let mut keys = ById::new();
        for jwk in set.keys.into_iter().take(KEYS_MAX) {
            let id = jwk.common.key_id.clone().unwrap_or_default();
            let same = (**before).as_ref().and_then(|known| known.get(&id)).filter(|known| known.jwk == jwk);
            let key = same.cloned().or_else(|| Key::new(jwk).map(Arc::new));
            if let Some(key) = key {
                keys.insert(id, key);
            }
        }
        let count = keys.len();
        if count > 0 {
            self.known.store(Arc::new(Some(keys)));
        }
        (count > 0).then_some(count)
    }
}

/// Whether there is a place to fetch keys from, as far as the options and the files that they name say.
pub(crate) fn check_origin(options: &TokenOptions) -> Result<(), Error> {
    let origin = Origin::new(&options.jwks, options.jwks_ca_file.as_ref());
    origin.map(drop).map_err(|source| Error::Certificate { source })
}

/// Reads the issuer's keys once, where they come from a file: for somebody who wants to know whether it is in order.
pub(crate) fn check(options: &TokenOptions) -> Result<(), Error> {
    let origin = Origin::new(&options.jwks, options.jwks_ca_file.as_ref());
    let origin = origin.map_err(|source| Error::Certificate { source })?;
    let Some(path) = origin.file() else { return Ok(()) };
    let invalid = |reason: String| Error::KeySet { path: path.to_owned(), reason };
    let text = std::fs::read(path).map_err(|error| invalid(format!("cannot read it: {error}")))?;
    // The parser's own sentence ends in line and column.
    let set: JwkSet = serde_json::from_slice(&text).map_err(|error| invalid(error.to_string()))?;
    let algorithms: Vec<Algorithm> = options.algorithms.iter().filter_map(|name| name.parse().ok()).collect();
    let (mut usable, mut fitting) = (0, 0);
    for (at, jwk) in set.keys.into_iter().enumerate() {
        // Issuers publish them beside the others, and kinds that nobody here knows.
        let is_other = matches!(jwk.algorithm, AlgorithmParameters::Other(_));
        if is_other || jwk.common.public_key_use == Some(PublicKeyUse::Encryption) {
            continue;
        }
        let id = jwk.common.key_id.clone().unwrap_or_default();
        let Some(key) = Key::new(jwk) else {
            return Err(invalid(format!("key {} (kid {id:?}) cannot verify signatures", at + 1)));
        };
        usable += 1;
        fitting += usize::from(algorithms.iter().any(|algorithm| key.is_of(*algorithm) && key.fits(*algorithm)));
    }
    match (usable, fitting) {
        (0, _) => Err(invalid("there is no key in it that verifies signatures".into())),
        (_, 0) => {
            let wanted = options.algorithms.join(", ");
            Err(invalid(format!("there is no key in it for what `tenant.token.algorithms` accepts ({wanted})")))
        }
        _ => Ok(()),
    }
}

/// Fetches the keys.
pub(crate) struct Fetcher {
    keys: Arc<Keys>,
    origin: Origin,
    interval: Duration,
    metrics: Metrics,
}

impl Fetcher {
    pub(crate) fn new(keys: Arc<Keys>, options: &TokenOptions, metrics: Metrics) -> Result<Self, TlsError> {
        let origin = Origin::new(&options.jwks, options.jwks_ca_file.as_ref())?;
        Ok(Self { keys, origin, interval: options.refresh_interval, metrics })
    }

    /// Fetches until `shutdown`: at the interval, and when somebody has met a key that is not known.
    pub(crate) async fn run(self, shutdown: CancellationToken) {
        loop {
            let began = Instant::now();
            let fetched = tokio::select! {
                fetched = self.origin.fetch() => fetched,
                () = shutdown.cancelled() => return,
            };
            match fetched {
                Ok(set) => match self.keys.install(set) {
                    Some(keys) => tracing::debug!(keys, "the issuer's keys were fetched"),
                    None => {
                        self.metrics.jwks_failures.inc();
                        tracing::warn!(code = "JWKS_UNAVAILABLE", origin = %self.origin, "the issuer's key set has no key in it that verifies signatures: the last good ones stay");
                    }
                },
                Err(error) => {
                    self.metrics.jwks_failures.inc();
                    tracing::warn!(code = "JWKS_UNAVAILABLE", origin = %self.origin, %error, "the issuer's keys cannot be fetched: the last good ones stay");
                }
            }
            self.keys.looked.send_replace(Some(began));
            // Until there are keys at all, every request waits for them.
            let pause = if self.keys.is_known() {
                self.interval
            } else {
                self.keys.min_interval.min(Duration::from_secs(1))
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.asked_for(began) => {}
                () = shutdown.cancelled() => return,
            }
        }
    }

    async fn asked_for(&self, last: Instant) {
        tokio::time::sleep_until(last + self.keys.min_interval).await;
        self.keys.wanted.notified().await;
    }
}

#[cfg(test)]
pub(super) mod testing {
    use super::{JwkSet, Keys};

    /// As if it had been fetched now.
    pub(crate) fn install(keys: &Keys, set: JwkSet) {
        keys.install(set);
        keys.looked.send_replace(Some(tokio::time::Instant::now()));
    }
}
