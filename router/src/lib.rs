//! The edge router
