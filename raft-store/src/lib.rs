//! The mapping store: openraft on sled, watch hub
