//! What is believed because it is signed: canonical bytes, Ed25519 signatures, and their verification.
//!
//! A router may be cut off from the control plane and still learn where a tenant has gone: the cell that lost it hands
//! out the newest mapping as the control plane signed it, a [`SignedMapping`]. The router believes it if a
//! [`TrustedKeys`] entry made the signature, and for no other reason.
//!
//! * [`SigningKey`] stands in a file of each control node and never enters log, snapshot or logs;
//! * [`PublicKey`] is named by its [`PublicKey::key_id`];
//! * [`TenantContext`] is what a router signs about a request, for seconds;
//! * [`RoutedMapping`] is what the control plane signs: the mapping, the cluster, and where the owner is to be found.

mod context;
mod keys;
mod mapping;

pub use context::{CONTEXT_DOMAIN, ContextError, TenantContext};
pub use keys::{InvalidKey, PublicKey, SigningKey, TrustedKeys};
pub use mapping::{MAPPING_DOMAIN, RoutedMapping, SignedMapping, TrustError};
