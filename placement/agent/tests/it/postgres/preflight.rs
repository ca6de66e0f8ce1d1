//! What stands in the way of a move is said, with what mends it.
