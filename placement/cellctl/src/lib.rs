//! The command line of Cellway
