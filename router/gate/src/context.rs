//! The router's signed word on whose request it is: verified where the gate is told whom to believe, once for each
//! context and not for each request.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use cell_trust::{PublicKey, TenantContext, TrustedKeys};
use http::{HeaderMap, HeaderValue};

use crate::gate::GateError;
use crate::stamp::RequestStamp;
use crate::wire;
use crate::wire::Code;

/// Contexts that are remembered. Beyond that it begins anew.
const KEPT_MAX: usize = 50_000;

/// Who is believed, and what has been verified.
#[derive(Debug)]
pub(crate) struct Contexts {
    trusted: TrustedKeys,
    verified: papaya::HashMap<HeaderValue, Arc<TenantContext>>,
}

impl Contexts {
    /// None where no keys are given: then no context is asked for.
    pub(crate) fn new(keys: &[String]) -> Result<Option<Self>, GateError> {
        let parse = |key: &String| {
            key.parse::<PublicKey>().map_err(|source| GateError::ContextKey { key: key.clone(), source })
        };
        let keys = keys.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
        let trusted = TrustedKeys::new(keys.iter().copied());
        Ok((!keys.is_empty()).then(|| Self { trusted, verified: papaya::HashMap::new() }))
    }

    /// The context of a request, where it says the same as the stamp.
    pub(crate) fn check(&self, headers: &HeaderMap, stamp: &RequestStamp) -> Result<Arc<TenantContext>, Code> {
        let mut values = headers.get_all(&wire::CONTEXT).iter();
        let header = values.next().ok_or(Code::ContextMissing)?;
        if values.next().is_some() {
            return Err(Code::ContextInvalid);
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let context = self.verify(header, now)?;
        let says_the_same =
            (&context.tenant, context.uid, context.epoch) == (&stamp.tenant, stamp.uid, stamp.epoch);
        if says_the_same { Ok(context) } else { Err(Code::ContextInvalid) }
    }

    fn verify(&self, header: &HeaderValue, now: u64) -> Result<Arc<TenantContext>, Code> {
        let verified = self.verified.pin();
        if let Some(known) = verified.get(header) {
            return known.check_time(now).map(|()| Arc::clone(known)).map_err(|_| {
                verified.remove(header);
                Code::ContextInvalid
            });
        }
        let text = header.to_str().map_err(|_| Code::ContextInvalid)?;
        let context = TenantContext::from_header(text, &self.trusted, now).map_err(|error| {
            tracing::debug!(%error, "a context is not believed");
            Code::ContextInvalid
        })?;
        if verified.len() >= KEPT_MAX {
            verified.clear();
        }
        let context = Arc::new(context);
        verified.insert(header.clone(), Arc::clone(&context));
        Ok(context)
    }
}

#[cfg(test)]
mod tests {
    use cell_model::{Epoch, TenantId, Tier, Uid};
    use cell_trust::SigningKey;

    use super::*;

    fn stamp(epoch: u64) -> RequestStamp {
        RequestStamp { tenant: TenantId::new("t").unwrap(), uid: Uid(1), epoch: Epoch(epoch) }
    }

    fn headers(key: u8, expires_at: u64) -> HeaderMap {
        let stamp = stamp(5);
        let context = TenantContext {
            tenant: stamp.tenant,
            uid: stamp.uid,
            epoch: stamp.epoch,
            tier: Tier::Gold,
            expires_at,
        };
        let mut headers = HeaderMap::new();
        let header = context.to_header(&SigningKey::from_bytes(&[key; 32]));
        headers.insert(&wire::CONTEXT, header.parse().unwrap());
        headers
    }

    #[test]
    fn a_context_is_believed_where_it_fits_the_stamp_and_its_signer_is_known() {
        let key = SigningKey::from_bytes(&[1; 32]).public().to_string();
        let contexts = Contexts::new(&[key]).unwrap().unwrap();
        let good = headers(1, u64::MAX);
        for _ in 0..2 {
            assert_eq!(contexts.check(&good, &stamp(5)).unwrap().tier, Tier::Gold);
        }
        assert_eq!(contexts.check(&good, &stamp(6)).unwrap_err(), Code::ContextInvalid, "another epoch");
        assert_eq!(contexts.check(&HeaderMap::new(), &stamp(5)).unwrap_err(), Code::ContextMissing);
        assert_eq!(
            contexts.check(&headers(2, u64::MAX), &stamp(5)).unwrap_err(),
            Code::ContextInvalid,
            "a stranger"
        );
        assert_eq!(contexts.check(&headers(1, 1), &stamp(5)).unwrap_err(), Code::ContextInvalid, "expired");
        let mut twice = good.clone();
        twice.append(&wire::CONTEXT, good[&wire::CONTEXT].clone());
        assert_eq!(contexts.check(&twice, &stamp(5)).unwrap_err(), Code::ContextInvalid, "two of them");
    }

    #[test]
    fn a_remembered_context_expires_too() {
        let key = SigningKey::from_bytes(&[1; 32]).public().to_string();
        let contexts = Contexts::new(&[key]).unwrap().unwrap();
        let headers = headers(1, 1_000);
        let header = &headers[&wire::CONTEXT];
        assert!(contexts.verify(header, 999).is_ok());
        assert_eq!(contexts.verify(header, 1_000).unwrap_err(), Code::ContextInvalid);
    }

    #[test]
    fn without_keys_nothing_is_asked_for_and_a_key_that_is_none_is_named() {
        assert!(Contexts::new(&[]).unwrap().is_none());
        assert!(Contexts::new(&["xyz".into()]).unwrap_err().to_string().contains("xyz"));
    }
}
