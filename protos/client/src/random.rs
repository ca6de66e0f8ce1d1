//! Where request ids and jitter come from. A simulation passes a seeded source in.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use cell_model::RequestId;

/// A source of random numbers, cheap to clone.
#[derive(Clone)]
pub struct Random(Arc<dyn Fn() -> u64 + Send + Sync>);

impl Random {
    /// Numbers from this function.
    pub fn new(source: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        Self(Arc::new(source))
    }

    /// The next number.
    #[must_use]
    pub fn next(&self) -> u64 {
        (self.0)()
    }

    /// A name for a request.
    #[must_use]
    pub fn request_id(&self) -> RequestId {
        RequestId(u128::from(self.next()) << 64 | u128::from(self.next()))
    }

    /// Between half of `pause` and all of it.
    #[must_use]
    pub fn jitter(&self, pause: Duration) -> Duration {
        let thousandths = u32::try_from(500 + self.next() % 501).unwrap_or(1_000);
        pause * thousandths / 1_000
    }
}

impl Default for Random {
    /// The operating system's.
    fn default() -> Self {
        Self::new(|| getrandom::u64().expect("the operating system gives random bytes"))
    }
}

impl fmt::Debug for Random {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Random")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_stays_between_half_and_all() {
        let random = Random::default();
        for _ in 0..1_000 {
            let pause = random.jitter(Duration::from_millis(100));
            assert!((Duration::from_millis(50)..=Duration::from_millis(100)).contains(&pause), "{pause:?}");
        }
    }

    #[test]
    fn two_request_ids_differ() {
        let random = Random::default();
        assert_ne!(random.request_id(), random.request_id());
    }
}
