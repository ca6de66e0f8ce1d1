//! From the control plane to the load: a tenant's writes begin to be held.

use std::collections::BTreeMap;
use std::sync::Arc;

use cell_client::{ControlClient, WatchEvent, WatchItem, WatchOptions};
use cell_model::Hold;
use futures::StreamExt;
use tokio::task::JoinHandle;

use super::Load;

impl Load {
    /// Tells the clients of each focus when the writes of their tenant begin to be held, as soon as the control plane
    /// says so. `client` is the name under which it watches.
    #[must_use]
    pub fn herald_holds(&self, control: &ControlClient, client: &str, names: &[Arc<str>]) -> JoinHandle<()> {
        let mut watch = control.watch(WatchOptions { client: client.into(), ..WatchOptions::default() });
        let names: BTreeMap<String, Arc<str>> = names.iter().map(|name| (name.to_string(), name.clone())).collect();
        let load = self.clone();
        tokio::spawn(async move {
            while let Some(event) = watch.next().await {
                let WatchEvent::Changes { items, .. } = event else { continue };
                for item in items {
                    if let WatchItem::Mapping(routed) = item
                        && routed.mapping.hold == Hold::Writes
                        && let Some(name) = names.get(routed.mapping.tenant.as_str())
                    {
                        load.hurry(name);
                    }
                }
            }
        })
    }
}
