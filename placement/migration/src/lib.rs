//! The coordinator: runs pending effects, proposes the resulting events
