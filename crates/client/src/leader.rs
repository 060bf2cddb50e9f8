//! Leader election on a coordination.k8s.io Lease, with upstream's algorithm and times.
//!
//! [`decide`] is the rule: who holds the lease, and when was it last seen to move *by our own clock* (clocks of masters are never
//! compared). A candidate follows the lease by a watch, so that it knows when the last renewal came even while nothing can be read;
//! without a watch it looks from time to time, as upstream does. The shell keeps the work running only between the beginning of
//! a successful renewal and its deadline: losing the lease, or the server, pauses the work and never ends the process. A graceful stop
//! gives the lease up, so that another takes over at once.

use std::future::Future;
use std::time::Duration;

use futures::StreamExt as _;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Api, PostParams, WatchEvent, WatchParams};
use rand::Rng;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::{Connection, Metrics, Shutdown};

/// Which lease, who we are, and upstream's three times.
#[derive(Clone, Debug)]
pub struct LeaderConfig {
    pub namespace: String,
    pub name: String,
    /// `<hostname>_<uuid>`: unique to this process, or to what only one process at a time can own.
    pub identity: String,
    /// The times in force; a change is followed at the next renewal.
    pub times: watch::Receiver<LeaseTimes>,
    /// Where it is counted who leads.
    pub metrics: Metrics,
}

/// Upstream's three times of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseTimes {
    /// How long others wait after the last renewal that they saw. Whole seconds, at least one.
    pub duration: Duration,
    /// How long a leader tries to renew before it stops acting.
    pub renew_deadline: Duration,
    /// Between two tries.
    pub retry_period: Duration,
}

impl Default for LeaseTimes {
    fn default() -> Self {
        Self {
            duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry_period: Duration::from_secs(2),
        }
    }
}

impl LeaseTimes {
    /// Times that never change.
    pub fn fixed(self) -> watch::Receiver<Self> {
        watch::channel(self).1
    }
}

impl LeaderConfig {
    /// The lease `kube-system/<name>` for this process, with 15, 10 and 2 seconds.
    pub fn new(name: &str) -> Self {
        Self {
            namespace: "kube-system".into(),
            name: name.into(),
            identity: format!("{}_{}", crate::host_name(), uuid::Uuid::new_v4()),
            times: LeaseTimes::default().fixed(),
            metrics: Metrics::default(),
        }
    }

    fn times(&self) -> LeaseTimes {
        *self.times.borrow()
    }
}

/// What a candidate remembers: the last lease it saw, and when it saw it change.
#[derive(Clone, Debug)]
struct Observed {
    spec: LeaseSpec,
    at: Instant,
}

impl Observed {
    /// When the holder has been silent for the duration that it named.
    fn ends(&self) -> Instant {
        let seconds = self.spec.lease_duration_seconds.unwrap_or(0);
        self.at + Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Decision {
    /// It is ours: move the renew time.
    Renew,
    /// It was given up, or has not moved for its whole duration.
    Take,
    /// Somebody else holds it.
    Wait,
}

fn decide(identity: &str, observed: &Observed, now: Instant) -> Decision {
    match observed.spec.holder_identity.as_deref().unwrap_or("") {
        holder if holder == identity => Decision::Renew,
        "" => Decision::Take,
        _ if observed.ends() < now => Decision::Take,
        _ => Decision::Wait,
    }
}

fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409)
}

/// The lease as a watch shows it, from the moment on when it came. The watch ends with this.
struct Sight {
    seen: watch::Receiver<Option<Observed>>,
    task: AbortHandle,
}

impl Sight {
    fn open(connection: &Connection, config: &LeaderConfig) -> Self {
        let (sender, seen) = watch::channel(None);
        let leases: Api<Lease> = connection.namespaced(&config.namespace);
        let (name, times) = (config.name.clone(), config.times.clone());
        let watching = tokio::spawn(async move {
            loop {
                let ended = follow(&leases, &name, &sender).await;
                debug!(lease = name, error = ended.err().map(|error| error.to_string()), "the lease is not watched");
                // Without a watch the lease is looked at; what was seen says nothing about what comes.
                sender.send_replace(None);
                let pause = times.borrow().retry_period;
                tokio::time::sleep(pause).await;
            }
        });
        Self { seen, task: watching.abort_handle() }
    }

    fn is_clear(&self) -> bool {
        self.seen.borrow().is_some()
    }

    /// What came last, if anything is seen.
    fn look(&mut self) -> Option<Observed> {
        self.seen.borrow_and_update().clone()
    }

    async fn changed(&mut self) {
        if self.seen.changed().await.is_err() {
            // The task ended with the process's runtime.
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Sight {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Returns when the watch ends.
async fn follow(leases: &Api<Lease>, name: &str, sender: &watch::Sender<Option<Observed>>) -> Result<(), kube::Error> {
    let params = WatchParams::default().fields(&format!("metadata.name={name}")).disable_bookmarks();
    let mut events = std::pin::pin!(leases.watch(&params, "0").await?);
    while let Some(event) = events.next().await {
        let spec = match event? {
            WatchEvent::Added(lease) | WatchEvent::Modified(lease) => lease.spec.unwrap_or_default(),
            WatchEvent::Deleted(_) => LeaseSpec::default(),
            WatchEvent::Bookmark(_) => continue,
            WatchEvent::Error(status) => return Err(kube::Error::Api(status)),
        };
        sender.send_replace(Some(Observed { spec, at: Instant::now() }));
    }
    Ok(())
}

/// Runs work on one of several candidates at a time.
pub struct LeaderElection {
    connection: Connection,
    config: LeaderConfig,
    observed: Option<Observed>,
    /// The lease as we last wrote it: a renewal on top of it needs no read.
    written: Option<Lease>,
}

impl LeaderElection {
    pub fn new(connection: Connection, config: LeaderConfig) -> Self {
        Self { connection, config, observed: None, written: None }
    }

    /// Until `shutdown`: waits for the lease, runs `lead`, and stops it (through its token) when the lease is lost. `lead` must
    /// return soon after its token is cancelled; the lease is given up only then.
    pub async fn run<F, Work>(mut self, shutdown: Shutdown, lead: F)
    where
        F: Fn(Shutdown) -> Work,
        Work: Future<Output = ()>,
    {
        self.count(false);
        while let Some(acquired) = self.acquire(&shutdown).await {
            info!(lease = self.config.name, identity = self.config.identity, "became leader");
            self.count(true);
            let term = shutdown.child_token();
            let work = lead(term.clone());
            tokio::pin!(work);
            tokio::select! {
                () = &mut work => term.cancel(),
                () = self.renew(acquired, &shutdown) => {
                    term.cancel();
                    work.await;
                }
            }
            self.count(false);
            if shutdown.is_cancelled() {
                break;
            }
            warn!(lease = self.config.name, "leadership lost, waiting to lead again");
        }
        self.release().await;
    }

    fn count(&self, leads: bool) {
        self.config.metrics.leads(&self.config.name, leads);
    }

    /// When the attempt began that made the lease ours; `None` when asked to stop.
    async fn acquire(&mut self, shutdown: &Shutdown) -> Option<Instant> {
        let mut sight = Sight::open(&self.connection, &self.config);
        let mut told = false;
        while !shutdown.is_cancelled() {
            let begun = Instant::now();
            let tried = self.try_once().await;
            let has_failed = tried.is_err();
            match tried {
                Ok(true) => return Some(begun),
                Ok(false) => told = false,
                // Said once until the server answers again; that another was faster is nothing to tell.
                Err(error) if !told && !is_conflict(&error) => {
                    warn!(lease = self.config.name, %error, "could not try the lease, will go on trying");
                    told = true;
                }
                Err(error) => debug!(lease = self.config.name, %error, "could not try the lease"),
            }
            self.wait(&mut sight, has_failed, shutdown).await;
        }
        None
    }

    /// Until another attempt may succeed: when a lease that we watch has not moved for its duration, or after a while.
    async fn wait(&mut self, sight: &mut Sight, has_failed: bool, shutdown: &Shutdown) {
        let period = self.config.times().retry_period;
        // Candidates that lost together should not try together.
        let jitter = rand::rng().random::<f64>();
        let by_period = Instant::now() + period.mul_f64(1.0 + 1.2 * jitter);
        loop {
            let idle = self.observed.as_ref().filter(|_| sight.is_clear() && !has_failed).map(Observed::ends);
            // Just after the end: a lease is taken only when it has been idle for longer.
            let next = idle.map_or(by_period, |end| end.max(Instant::now()) + period.mul_f64(0.05 + 0.2 * jitter));
            tokio::select! {
                () = tokio::time::sleep_until(next) => return,
                () = sight.changed() => {
                    if let Some(seen) = sight.look()
                        && self.observed.as_ref().is_none_or(|observed| observed.spec != seen.spec)
                    {
                        let is_free = seen.spec.holder_identity.as_deref().unwrap_or("").is_empty();
                        self.observed = Some(seen);
                        if is_free {
                            return;
                        }
                    }
                }
                () = shutdown.cancelled() => return,
            }
        }
    }

    /// Returns when leadership is no longer certain, or asked to stop. `renewed` is when the last successful attempt began: others
    /// may have seen it succeed long before we do.
    async fn renew(&mut self, mut renewed: Instant, shutdown: &Shutdown) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(self.config.times().retry_period) => {}
                () = shutdown.cancelled() => return,
            }
            let begun = Instant::now();
            let deadline = renewed + self.config.times().renew_deadline;
            match tokio::time::timeout_at(deadline, self.try_once()).await {
                Ok(Ok(true)) => renewed = begun,
                Ok(Ok(false)) => debug!(lease = self.config.name, "lease is held by another"),
                Ok(Err(error)) => debug!(lease = self.config.name, %error, "could not renew the lease"),
                Err(_) => {}
            }
            if Instant::now() >= renewed + self.config.times().renew_deadline {
                return;
            }
        }
    }

    /// One attempt to take or renew. Two writers conflict on resourceVersion, so at most one succeeds.
    async fn try_once(&mut self) -> Result<bool, kube::Error> {
        if let Some(lease) = self.written.take() {
            let spec = lease.spec.clone().unwrap_or_default();
            let renewed = self.renewed(&spec);
            match self.write(lease, renewed).await {
                // Somebody has written since: look first.
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
                done => return done.map(|()| true),
            }
        }
        let leases = self.leases();
        let Some(lease) = leases.get_opt(&self.config.name).await? else {
            let now = MicroTime(Timestamp::now());
            let metadata = ObjectMeta { name: Some(self.config.name.clone()), ..ObjectMeta::default() };
            let lease = Lease { metadata, spec: Some(self.held(now.clone(), now, 0)) };
            let lease = leases.create(&PostParams::default(), &lease).await?;
            self.wrote(lease);
            return Ok(true);
        };
        let current = lease.spec.clone().unwrap_or_default();
        if self.observed.as_ref().is_none_or(|observed| observed.spec != current) {
            self.observed = Some(Observed { spec: current.clone(), at: Instant::now() });
        }
        let Some(observed) = &self.observed else { return Ok(false) };
        let spec = match decide(&self.config.identity, observed, Instant::now()) {
            Decision::Wait => return Ok(false),
            Decision::Renew => self.renewed(&current),
            Decision::Take => {
                let now = MicroTime(Timestamp::now());
                self.held(now.clone(), now, current.lease_transitions.unwrap_or(0) + 1)
            }
        };
        self.write(lease, spec).await.map(|()| true)
    }

    fn leases(&self) -> Api<Lease> {
        self.connection.namespaced(&self.config.namespace)
    }

    async fn write(&mut self, mut lease: Lease, spec: LeaseSpec) -> Result<(), kube::Error> {
        lease.spec = Some(spec);
        let lease = self.leases().replace(&self.config.name, &PostParams::default(), &lease).await?;
        self.wrote(lease);
        Ok(())
    }

    fn wrote(&mut self, lease: Lease) {
        self.observed = Some(Observed { spec: lease.spec.clone().unwrap_or_default(), at: Instant::now() });
        self.written = Some(lease);
    }

    /// The same lease, held by us since it was.
    fn renewed(&self, current: &LeaseSpec) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        let acquired = current.acquire_time.clone().unwrap_or_else(|| now.clone());
        self.held(acquired, now, current.lease_transitions.unwrap_or(0))
    }

    fn held(&self, acquired: MicroTime, renewed: MicroTime, transitions: i32) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(self.config.identity.clone()),
            lease_duration_seconds: Some(i32::try_from(self.config.times().duration.as_secs()).unwrap_or(i32::MAX)),
            acquire_time: Some(acquired),
            renew_time: Some(renewed),
            lease_transitions: Some(transitions),
            ..LeaseSpec::default()
        }
    }

    /// Leaves the lease without a holder and with a duration of one second.
    async fn release(&self) {
        let leases = self.leases();
        let released = async {
            let mut lease = leases.get(&self.config.name).await?;
            let spec = lease.spec.get_or_insert_default();
            if spec.holder_identity.as_deref() != Some(&self.config.identity) {
                return Ok(());
            }
            let now = MicroTime(Timestamp::now());
            spec.holder_identity = Some(String::new());
            spec.lease_duration_seconds = Some(1);
            spec.acquire_time = Some(now.clone());
            spec.renew_time = Some(now);
            leases.replace(&self.config.name, &PostParams::default(), &lease).await.map(drop)
        };
        match tokio::time::timeout(self.config.times().retry_period, released).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => debug!(lease = self.config.name, %error, "could not give the lease up"),
            Err(_) => debug!(lease = self.config.name, "giving the lease up took too long"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(holder: &str, idle_seconds: u64, expected: Decision) {
        let now = Instant::now() + Duration::from_secs(1000);
        let spec = LeaseSpec {
            holder_identity: Some(holder.into()),
            lease_duration_seconds: Some(15),
            ..LeaseSpec::default()
        };
        let observed = Observed { spec, at: now - Duration::from_secs(idle_seconds) };
        assert_eq!(decide("me", &observed, now), expected, "holder {holder:?} idle {idle_seconds}");
    }

    #[test]
    fn a_lease_is_taken_only_when_given_up_or_idle_for_its_duration() {
        check("me", 3, Decision::Renew);
        check("me", 300, Decision::Renew);
        check("other", 15, Decision::Wait);
        check("other", 16, Decision::Take);
        check("", 0, Decision::Take);
    }
}
