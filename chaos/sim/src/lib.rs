//! Deterministic simulation of the control plane
