//! Clients of the control plane and of cell agents
