//! The model checker's view of the migration protocol
