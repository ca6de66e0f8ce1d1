//! Signed mappings between the wire and cell-trust, which do not know each other.

use cell_protos::v1;
use cell_trust::SignedMapping;

/// As it goes over the wire.
#[must_use]
pub fn signed_to_wire(signed: &SignedMapping) -> v1::SignedMapping {
    v1::SignedMapping {
        payload: signed.payload.clone().into(),
        key_id: signed.key_id.clone(),
        signature: signed.signature.clone().into(),
    }
}

/// As it came over the wire: not yet verified.
#[must_use]
pub fn signed_from_wire(wire: v1::SignedMapping) -> SignedMapping {
    SignedMapping { payload: wire.payload.into(), key_id: wire.key_id, signature: wire.signature.into() }
}
