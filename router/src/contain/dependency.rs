//! What requests depend on beside their cell, as the operator has declared it: which paths need which dependency. Each has
//! a breaker in each cell, so that a payment service that is down closes the way to payments and to nothing else.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use super::breaker::Breaker;

/// The declared dependencies, as requests ask for them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Dependencies {
    /// Path and dependency, the longest path first.
    paths: Vec<(String, Arc<str>)>,
}

impl Dependencies {
    pub(crate) fn new<'d>(declared: impl IntoIterator<Item = (&'d String, &'d Vec<String>)>) -> Self {
        let mut paths = Vec::new();
        for (name, of) in declared {
            let name: Arc<str> = Arc::from(name.as_str());
            paths.extend(of.iter().map(|path| (path.trim_end_matches('/').to_owned(), Arc::clone(&name))));
        }
        paths.sort_by(|a: &(String, _), b| b.0.len().cmp(&a.0.len()).then_with(|| a.cmp(b)));
        Self { paths }
    }

    /// What a request for `path` depends on. A declared path stands for itself and all below it.
    pub(crate) fn of(&self, path: &str) -> Option<Arc<str>> {
        let below = |rest: &str| rest.is_empty() || rest.starts_with('/');
        let found = self.paths.iter().find(|(prefix, _)| path.strip_prefix(prefix.as_str()).is_some_and(below));
        found.map(|(_, name)| Arc::clone(name))
    }
}

/// The breakers of one cell's dependencies, made when they are first asked for; as many as are declared.
#[derive(Debug, Default)]
pub(crate) struct DependencyBreakers(Mutex<HashMap<Arc<str>, Arc<Breaker>>>);

impl DependencyBreakers {
    pub(crate) fn of(&self, name: &Arc<str>) -> Arc<Breaker> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match known.get(name) {
            Some(breaker) => Arc::clone(breaker),
            None => Arc::clone(known.entry(Arc::clone(name)).or_default()),
        }
    }

    /// All of them, by name.
    pub(crate) fn all(&self) -> BTreeMap<Arc<str>, Arc<Breaker>> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.iter().map(|(name, breaker)| (Arc::clone(name), Arc::clone(breaker))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_declared_path_says_what_a_request_depends_on() {
        let declared = BTreeMap::from([
            ("payments".to_owned(), vec!["/pay".to_owned(), "/shop.Payments".to_owned()]),
            ("cards".to_owned(), vec!["/pay/cards/".to_owned()]),
        ]);
        let dependencies = Dependencies::new(&declared);
        let of = |path: &str| dependencies.of(path).map(|name| name.to_string());
        assert_eq!(of("/pay").as_deref(), Some("payments"));
        assert_eq!(of("/pay/1").as_deref(), Some("payments"));
        assert_eq!(of("/shop.Payments/Charge").as_deref(), Some("payments"));
        assert_eq!(of("/pay/cards/7").as_deref(), Some("cards"));
        assert_eq!(of("/payroll"), None, "another word");
        assert_eq!(of("/"), None);
        assert_eq!(Dependencies::default().of("/pay"), None);
    }

    #[test]
    fn a_dependency_has_one_breaker_in_a_cell() {
        let breakers = DependencyBreakers::default();
        let name: Arc<str> = Arc::from("payments");
        assert!(Arc::ptr_eq(&breakers.of(&name), &breakers.of(&name)));
        assert_eq!(breakers.all().len(), 1);
    }
}
