//! The control-plane daemon
