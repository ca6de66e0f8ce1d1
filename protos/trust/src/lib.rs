//! Canonical bytes, signatures and their verification
