//! How old an answer may be: a stale one says so in its headers.

use std::time::Duration;

use cell_client::trailer;
use cell_model::Revision;
use cell_store::Store;
use tonic::Response;

use crate::node::UNCONFIRMED_MAX;

/// What a read is as of.
#[derive(Debug, Clone, Copy)]
pub(super) struct AsOf(Option<Stale>);

#[derive(Debug, Clone, Copy)]
struct Stale {
    /// Nothing in the answer is missing up to here.
    revision: Revision,
    /// Nor what was acknowledged so long before, as far as this node can know.
    age: Option<Duration>,
}

impl AsOf {
    /// Everything that was acknowledged before the question.
    pub(super) const NOW: Self = Self(None);

    /// What this node has that leads: as of now as long as a majority has confirmed it lately.
    pub(super) fn of_leader(store: &Store) -> Self {
        if store.age().is_some_and(|age| age <= UNCONFIRMED_MAX) { Self::NOW } else { Self::of(store) }
    }

    /// What this node has.
    pub(super) fn of(store: &Store) -> Self {
        Self(Some(Stale { revision: store.view(|fleet| fleet.head().revision), age: store.age() }))
    }

    /// The answer, with what it is as of.
    pub(super) fn answer<T>(self, body: T) -> Response<T> {
        let mut response = Response::new(body);
        if let Some(Stale { revision, age }) = self.0 {
            let headers = response.metadata_mut();
            headers.insert(trailer::AS_OF, revision.get().into());
            if let Some(age) = age {
                let ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
                headers.insert(trailer::AGE, ms.into());
            }
        }
        response
    }
}
