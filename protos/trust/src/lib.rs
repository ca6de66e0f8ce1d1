//! What is believed because it is signed: canonical bytes, Ed25519 signatures, and their verification.
//!
//! A router may be cut off from the control plane and still learn where a tenant has gone: the cell that lost it hands
//! out the newest mapping as the control plane signed it, a [`SignedMapping`]. The router believes it if a
//! [`TrustedKeys`] entry made the signature, and for no other reason.
//!
//! * [`SigningKey`] stands in a file of each control node and never enters log, snapshot or logs;
//! * [`PublicKey`] is named by its [`PublicKey::key_id`];
//! * [`Rpc::callers`] says which [`Role`] may call what, for the [`Principal`] of a certificate;
//! * [`Checkpoint`] is the end of the audit trail, signed: what an export is held against later;
//! * [`WatchFrame`] is what a router reads of the whole fleet, under one signature for many mappings;
//! * [`HookCall`] is what a cell tells what lives beside its database, signed with a key of its own;
//! * [`TenantContext`] is what a router signs about a request, for seconds;
//! * [`RoutedMapping`] is what the control plane signs: the mapping, the cluster, and where the owner is to be found.

mod checkpoint;
mod context;
mod frame;
mod hook;
mod keys;
mod mapping;
mod role;

pub use checkpoint::{CHECKPOINT_DOMAIN, Checkpoint};
pub use context::{CONTEXT_DOMAIN, ContextError, TenantContext};
pub use frame::{FRAME_DOMAIN, WatchFrame};
pub use hook::{HookCall, HookError};
pub use keys::{InvalidKey, PublicKey, SigningKey, TrustedKeys};
pub use mapping::{MAPPING_DOMAIN, RoutedMapping, SignedMapping, TrustError};
pub use role::{InvalidPrincipal, Principal, Role, Rpc};
