//! The agent in each cell: snapshot, change stream, apply, digest, fence
