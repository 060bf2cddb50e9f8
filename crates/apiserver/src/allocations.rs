//! Addresses and node ports of Services on the write path: decided from what is in use, reserved by IPAddress objects before
//! the Service is written, given back after it is gone.

use std::net::IpAddr;
use std::sync::Arc;

use api::{ErrorList, Kind, Path, Status, Value, meta};
use rand::Rng as _;
use store::Revision;
use tokio::sync::{Mutex, OwnedMutexGuard};

use crate::allocate::{self, Allocation, Allocator, UsageCache, ip_address_object, service_ranges};
use crate::error::from_store;
use crate::gateway::Gateway;
use crate::source::ObjectSource as _;
use crate::storage::{ObjectKey, WriteOutcome};
use crate::verbs::Request;
use crate::write::{Moment, encode_for_storage, set_metadata};

/// The ranges and what is known of their use. One writer of Services at a time: the next must see what this one took.
#[derive(Debug)]
pub(crate) struct Allocations {
    /// Of the server's flags.
    configured: Allocator,
    /// With what ServiceCIDR objects add, as of a change of theirs.
    current: parking_lot::Mutex<(Revision, Arc<Allocator>)>,
    usage: UsageCache,
    serial: Arc<Mutex<()>>,
}

/// What a write is about to take and to give back; nothing for kinds other than Service.
#[derive(Debug, Default)]
pub(crate) struct Allocated {
    allocation: Allocation,
    namespace: String,
    name: String,
}

impl Allocations {
    pub(crate) fn new(allocator: Allocator) -> Self {
        let current = parking_lot::Mutex::new((Revision(0), Arc::new(allocator.clone())));
        Self { configured: allocator, current, usage: UsageCache::default(), serial: Arc::default() }
    }

    pub(crate) fn configured(&self) -> &Allocator {
        &self.configured
    }

    /// Takes addresses from the ranges that hold now.
    fn allocator(&self, gateway: &Gateway) -> Arc<Allocator> {
        let source = gateway.cache.as_ref();
        let changed = source.last_change("networking.k8s.io", "servicecidrs");
        let mut current = self.current.lock();
        if current.0 != changed {
            let ranges = service_ranges(source, self.configured.ranges());
            *current = (changed, Arc::new(self.configured.with_ranges(ranges)));
        }
        Arc::clone(&current.1)
    }

    /// Reserves again what Services have, and gives back what they do not have.
    pub(crate) async fn repair(&self, gateway: &Gateway) {
        let _serial = self.serial.lock().await;
        let repair = allocate::repair(gateway.cache.as_ref(), jiff::Timestamp::now());
        release(gateway, &repair.delete).await;
        for object in repair.create {
            if let Err(status) = store_address(gateway, object).await {
                tracing::warn!(%status, "cannot reserve the address of a service again");
            }
        }
    }

    /// Held by a write of a Service from the decision until it is stored and visible.
    pub(crate) async fn lock(&self, kind: &Kind) -> Option<OwnedMutexGuard<()>> {
        if !is_service(kind) {
            return None;
        }
        Some(Arc::clone(&self.serial).lock_owned().await)
    }

    /// Fills in what a new Service lacks.
    pub(crate) async fn on_create(
        &self,
        gateway: &Gateway,
        request: &Request,
        object: &mut Value,
    ) -> Result<Allocated, Status> {
        if !is_service(&request.kind) || !request.subresource.is_empty() {
            return Ok(Allocated::default());
        }
        self.see_last_write(gateway, request).await?;
        let in_use = self.usage.in_use(gateway.cache.as_ref());
        let allocation = self.allocator(gateway).create(object, &in_use, request.is_dry_run(), &mut random)?;
        if let Some(ip) = allocation.taken.first()
            && meta::name(object).is_empty()
            && !request.is_dry_run()
        {
            return Err(nameless(*ip));
        }
        Ok(Allocated::new(allocation, object))
    }

    /// Fills in what an updated Service lacks, and keeps what it had.
    pub(crate) async fn on_update(
        &self,
        gateway: &Gateway,
        request: &Request,
        object: &mut Value,
        old: &Value,
    ) -> Result<Allocated, Status> {
        if !is_service(&request.kind) || !request.subresource.is_empty() {
            return Ok(Allocated::default());
        }
        self.see_last_write(gateway, request).await?;
        let in_use = self.usage.in_use(gateway.cache.as_ref());
        let allocation = self.allocator(gateway).update(object, old, &in_use, request.is_dry_run(), &mut random)?;
        Ok(Allocated::new(allocation, object))
    }

    /// The cache must show what the write before this one took.
    async fn see_last_write(&self, gateway: &Gateway, request: &Request) -> Result<(), Status> {
        gateway.catch_up(&request.kind, "create").await.map(drop)
    }

    /// Gives back what a deleted Service held.
    pub(crate) async fn after_delete(&self, gateway: &Gateway, kind: &Kind, object: &Value) {
        if is_service(kind) {
            release(gateway, &Allocator::delete(object).released).await;
        }
    }
}

impl Allocated {
    fn new(allocation: Allocation, service: &Value) -> Self {
        Self { allocation, namespace: meta::namespace(service).to_owned(), name: meta::name(service).to_owned() }
    }

    /// Creates the IPAddress objects; an address that somebody else got first ends the write.
    pub(crate) async fn reserve(&self, gateway: &Gateway) -> Result<(), Status> {
        for (index, ip) in self.allocation.taken.iter().enumerate() {
            if let Err(status) = reserve_one(gateway, *ip, &self.namespace, &self.name).await {
                release(gateway, &self.allocation.taken[..index]).await;
                return Err(status);
            }
        }
        Ok(())
    }

    /// The Service was not written after all.
    pub(crate) async fn release(&self, gateway: &Gateway) {
        release(gateway, &self.allocation.taken).await;
    }

    /// The Service was written: what it held before is free.
    pub(crate) async fn release_replaced(&self, gateway: &Gateway) {
        release(gateway, &self.allocation.released).await;
    }
}

/// An address is reserved by an object that names the Service, before anybody asks whether that has a name.
fn nameless(ip: IpAddr) -> Status {
    let text = format!(
        "failed to allocate IP: IPAddress.networking.k8s.io \"{ip}\" is invalid: spec.parentRef.name: Required value"
    );
    let mut errors = ErrorList::new();
    errors.invalid(Path::new("spec.clusterIPs"), vec![""], text);
    Status::invalid("", "Service", "", &errors)
}

fn is_service(kind: &Kind) -> bool {
    kind.storage_prefix == "services/specs"
}

fn random(bound: u128) -> u128 {
    rand::rng().random_range(0..bound.max(1))
}

async fn reserve_one(gateway: &Gateway, ip: IpAddr, namespace: &str, name: &str) -> Result<(), Status> {
    store_address(gateway, ip_address_object(ip, namespace, name)).await
}

async fn store_address(gateway: &Gateway, mut object: Value) -> Result<(), Status> {
    let kind = gateway.kind("networking.k8s.io", "v1", "ipaddresses")?;
    let moment = Moment::now();
    let ip = meta::name(&object).to_owned();
    set_metadata(&mut object, "uid", moment.uid.into());
    set_metadata(&mut object, "creationTimestamp", moment.now.into());
    let key = ObjectKey::new(&kind, "", &ip);
    let stored = encode_for_storage(&kind, object);
    match gateway.objects.create(&key, stored, false).await.map_err(|e| from_store(&kind, "create", e))? {
        WriteOutcome::Written(_) => Ok(()),
        WriteOutcome::Conflict(_) => Err(Status::internal(format!("failed to allocate a serviceIP: {ip} is taken"))),
    }
}

/// Best effort: an address that stays behind is found by the next repair.
async fn release(gateway: &Gateway, addresses: &[IpAddr]) {
    let Ok(kind) = gateway.kind("networking.k8s.io", "v1", "ipaddresses") else { return };
    for ip in addresses {
        let key = ObjectKey::new(&kind, "", &ip.to_string());
        let current = gateway.objects.get(&key).await;
        if let Ok(Some(current)) = current
            && let Err(error) = gateway.objects.delete(&key, current.mod_revision).await
        {
            tracing::warn!(%error, %ip, "cannot give back a service address");
        }
    }
}
