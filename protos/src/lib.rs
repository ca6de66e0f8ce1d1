//! Cellway's wire contract: the services and messages of `cellway.v1`, and conversions from and to the model.
//!
//! Conversions out of the model always succeed and are `From`. Conversions into the model are `TryFrom` and name the
//! field that is wrong: see [`Malformed`]. A number that stands for nothing known is refused, never guessed.
//!
//! * `audit`: entries of the audit trail;
//! * `encoded`: a codec for answers that were encoded before;
//! * `enums`: one table for each enumeration;
//! * `records`: mappings, cells, digests, limits;
//! * `movement`: tenants and their moves, as clients see them;
//! * `requests`: what is asked for, as commands of the model.

mod audit;
mod encoded;
mod enums;
mod malformed;
mod movement;
mod records;
mod requests;

pub use audit::audit_hash;
pub use encoded::Encoded;
pub use malformed::Malformed;
pub use requests::request_id_bytes;

/// Generated from `proto/cellway/v1/*.proto`.
#[expect(
    missing_docs,
    clippy::pedantic,
    clippy::large_enum_variant,
    clippy::allow_attributes_without_reason,
    reason = "generated; the documentation is in the .proto files"
)]
pub mod v1 {
    tonic::include_proto!("cellway.v1");
}

/// The compiled descriptors, for gRPC reflection.
pub const DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/cellway.v1.bin"));
