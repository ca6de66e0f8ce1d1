//! Cellway's wire contract: the services and messages of `cellway.v1`, and conversions from and to the model.

/// Generated from `proto/cellway/v1/*.proto`.
#[expect(missing_docs, clippy::pedantic, unreachable_pub, reason = "generated; the documentation is in the .proto files")]
pub mod v1 {
    tonic::include_proto!("cellway.v1");
}

/// The compiled descriptors, for gRPC reflection.
pub const DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/cellway.v1.bin"));
