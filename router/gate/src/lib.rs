//! The gate that a cell puts before its application
