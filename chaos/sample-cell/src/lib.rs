//! The smallest honest tenant application
