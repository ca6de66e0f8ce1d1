//! A whole move under writers, forth and back.
