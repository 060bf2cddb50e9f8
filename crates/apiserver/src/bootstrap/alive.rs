//! Which API servers are alive: each keeps a key below `masterleases` under a lease of the store, as upstream's lease reconciler
//! does, so that the endpoints of the `kubernetes` Service name all of them and lose one that dies.

use std::collections::BTreeSet;
use std::net::IpAddr;

use api::json;
use bytes::Bytes;
use store::{KeyRange, LeaseId, Op, Put, RangeRequest, Store, StoreError, Txn};
use tokio::sync::Mutex;

const PREFIX: &str = "/registry/masterleases/";
/// A server that does not come back within this is not alive; upstream's `DefaultEndpointReconcilerTTL`.
const TTL_SECONDS: i64 = 15;

/// This server's sign of life.
#[derive(Debug, Default)]
pub(crate) struct Alive {
    lease: Mutex<Option<LeaseId>>,
}

impl Alive {
    /// Says that the server at `own` is alive; returns the addresses of all that are.
    pub(crate) async fn say(&self, store: &dyn Store, own: IpAddr) -> Result<BTreeSet<IpAddr>, StoreError> {
        let mut lease = self.lease.lock().await;
        let is_kept = match *lease {
            None => false,
            Some(id) => match store.lease_keep_alive(id).await {
                Ok(_seconds) => true,
                Err(StoreError::LeaseNotFound) => false,
                Err(error) => return Err(error),
            },
        };
        if !is_kept {
            let (id, _seconds) = store.lease_grant(LeaseId(0), TTL_SECONDS).await?;
            let put = Put { key: key(own), value: value(own), lease: id, ..Put::default() };
            store.txn(Txn { success: vec![Op::Put(put)], ..Txn::default() }).await?;
            *lease = Some(id);
        }
        drop(lease);
        let range = KeyRange::prefix(PREFIX.as_bytes());
        let found = store.range(RangeRequest { range, keys_only: true, ..RangeRequest::default() }).await?;
        let address = |key: &Bytes| std::str::from_utf8(key).ok()?.strip_prefix(PREFIX)?.parse().ok();
        Ok(found.kvs.iter().filter_map(|kv| address(&kv.key)).chain([own]).collect())
    }

    /// Says that the server stops.
    pub(crate) async fn stop(&self, store: &dyn Store) {
        if let Some(id) = self.lease.lock().await.take() {
            // Otherwise it ends by itself.
            let _best_effort = store.lease_revoke(id).await;
        }
    }
}

fn key(own: IpAddr) -> Bytes {
    format!("{PREFIX}{own}").into()
}

/// What upstream's servers read there.
fn value(own: IpAddr) -> Bytes {
    let endpoints = json!({
        "kind": "Endpoints",
        "apiVersion": "v1",
        "metadata": {},
        "subsets": [{ "addresses": [{ "ip": own.to_string() }] }],
    });
    endpoints.to_string().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use store::{EmbeddedConfig, EmbeddedStore};

    #[tokio::test]
    async fn servers_see_each_other_until_one_stops() {
        let opened = tokio::task::spawn_blocking(|| EmbeddedStore::open(EmbeddedConfig::default())).await.unwrap();
        let store = opened.unwrap();
        let (first, second): (IpAddr, IpAddr) = ("10.0.0.1".parse().unwrap(), "fd00::2".parse().unwrap());
        let (one, two) = (Alive::default(), Alive::default());
        assert_eq!(one.say(&store, first).await.unwrap(), BTreeSet::from([first]));
        assert_eq!(two.say(&store, second).await.unwrap(), BTreeSet::from([first, second]));
        assert_eq!(one.say(&store, first).await.unwrap(), BTreeSet::from([first, second]));
        two.stop(&store).await;
        assert_eq!(one.say(&store, first).await.unwrap(), BTreeSet::from([first]));
        tokio::task::spawn_blocking(move || store.shutdown()).await.unwrap();
    }
}
