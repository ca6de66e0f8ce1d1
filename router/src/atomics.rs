//! What threads share without waiting for each other is made of these: the standard library's, or, with the feature `loom`,
//! those of loom, under which every order of a small case's steps is tried (`make interleavings`). With that feature the crate serves
//! nothing else: loom's work only inside its models.

#[cfg(feature = "loom")]
pub(crate) use loom::sync::{Mutex, MutexGuard, atomic::AtomicU32, atomic::AtomicU64};
#[cfg(not(feature = "loom"))]
pub(crate) use std::sync::{Mutex, MutexGuard, atomic::AtomicU32, atomic::AtomicU64};
pub(crate) use std::sync::{PoisonError, atomic::Ordering};

/// Where another thread may come between two uses of a structure that is not ours (papaya, arc-swap): each use of it is one
/// step to loom, which does not look into it.
#[cfg(feature = "loom")]
#[derive(Debug, Default)]
pub(crate) struct Steps(AtomicU32);

#[cfg(feature = "loom")]
impl Steps {
    pub(crate) fn between(&self) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }
}

/// Nothing, outside of loom's models.
#[cfg(not(feature = "loom"))]
#[derive(Debug, Default)]
pub(crate) struct Steps;

#[cfg(not(feature = "loom"))]
impl Steps {
    #[inline]
    #[expect(clippy::unused_self, reason = "with loom it is used")]
    pub(crate) fn between(&self) {}
}
