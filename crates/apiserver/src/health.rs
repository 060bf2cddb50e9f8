//! /healthz, /livez and /readyz: named checks, each also reachable by itself. /metrics/slis tells how they went.

use std::borrow::Cow;
use std::sync::Arc;

use http::Response;

use crate::gateway::{Gateway, not_sniffed, text};
use crate::http::ResponseBody;
use crate::http::query::Query;
use crate::indicators::Indicators;
use crate::storage::Sealing;

/// The three endpoints and which checks they run.
const ENDPOINTS: [&str; 3] = ["healthz", "livez", "readyz"];

/// Is this the path of an endpoint or of one of its checks?
pub(crate) fn is_check(path: &str) -> bool {
    ENDPOINTS.iter().any(|endpoint| path.trim_start_matches('/').split('/').next() == Some(endpoint))
}

/// What stands behind a check. Upstream has a hook for each part that starts; here some parts are the same thing, and
/// those that cannot fail by themselves share the state of what they need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// This server answers.
    Alive,
    Store,
    /// The first complete copy of the registry is in the cache, which everything reads that upstream has informers for.
    Cache,
    /// The plugins that seal values at rest are well. Only where there are some, or may be.
    Plugins,
    /// The configuration of what is sealed is followed. Only where it is.
    Reload,
    /// What the control plane creates for itself exists.
    Bootstrap,
    Shutdown,
}

/// A check by upstream's name, and the endpoints that do without it.
#[derive(Debug)]
struct Check {
    name: &'static str,
    state: State,
    not_in: &'static [&'static str],
}

const fn check(name: &'static str, state: State) -> Check {
    Check { name, state, not_in: &[] }
}

/// All checks, in upstream's order.
const CHECKS: [Check; 40] = [
    check("ping", State::Alive),
    check("log", State::Alive),
    Check { name: "loopback-serving-certificate", state: State::Alive, not_in: &["readyz"] },
    Check { name: "etcd", state: State::Store, not_in: &["readyz"] },
    Check { name: "kms-providers", state: State::Plugins, not_in: &["livez"] },
    Check { name: "informer-sync", state: State::Cache, not_in: &["livez", "healthz"] },
    check("poststarthook/start-apiserver-admission-initializer", State::Alive),
    check("poststarthook/generic-apiserver-start-informers", State::Cache),
    check("poststarthook/priority-and-fairness-config-consumer", State::Cache),
    check("poststarthook/priority-and-fairness-filter", State::Alive),
    check("poststarthook/storage-object-count-tracker-hook", State::Alive),
    check("poststarthook/start-encryption-provider-config-automatic-reload", State::Reload),
    check("poststarthook/start-apiextensions-informers", State::Cache),
    check("poststarthook/start-apiextensions-controllers", State::Cache),
    check("poststarthook/crd-informer-synced", State::Cache),
    check("poststarthook/start-system-namespaces-controller", State::Bootstrap),
    check("poststarthook/peer-endpoint-reconciler-controller", State::Alive),
    check("poststarthook/start-cluster-authentication-info-controller", State::Bootstrap),
    check("poststarthook/start-kube-apiserver-identity-lease-controller", State::Bootstrap),
    check("poststarthook/start-kube-apiserver-identity-lease-garbage-collector", State::Bootstrap),
    check("poststarthook/storage-readiness", State::Store),
    check("poststarthook/start-legacy-token-tracking-controller", State::Bootstrap),
    check("poststarthook/start-service-ip-repair-controllers", State::Bootstrap),
    check("poststarthook/rbac/bootstrap-roles", State::Bootstrap),
    check("poststarthook/scheduling/bootstrap-system-priority-classes", State::Bootstrap),
    check("poststarthook/priority-and-fairness-config-producer", State::Bootstrap),
    check("poststarthook/bootstrap-controller", State::Bootstrap),
    check("poststarthook/start-kubernetes-service-cidr-controller", State::Bootstrap),
    check("poststarthook/aggregator-reload-proxy-client-cert", State::Alive),
    check("poststarthook/start-kube-aggregator-informers", State::Cache),
    check("poststarthook/apiservice-status-local-available-controller", State::Cache),
    check("poststarthook/apiservice-status-remote-available-controller", State::Cache),
    check("poststarthook/apiservice-registration-controller", State::Cache),
    check("poststarthook/apiservice-wait-for-first-sync", State::Cache),
    check("poststarthook/apiservice-discovery-controller", State::Cache),
    check("poststarthook/kube-apiserver-autoregistration", State::Bootstrap),
    check("autoregister-completion", State::Bootstrap),
    check("poststarthook/apiservice-openapi-controller", State::Alive),
    check("poststarthook/apiservice-openapiv3-controller", State::Alive),
    Check { name: "shutdown", state: State::Shutdown, not_in: &["livez", "healthz"] },
];

/// The checks of an endpoint, among those that there are.
fn checks_of(endpoint: &str, exists: impl Fn(State) -> bool) -> Vec<&'static Check> {
    CHECKS.iter().filter(|check| !check.not_in.contains(&endpoint) && exists(check.state)).collect()
}

/// Knows how far start-up has come.
#[derive(Debug)]
pub(crate) struct Health {
    pub(crate) started: jiff::Timestamp,
    bootstrapped: tokio::sync::watch::Sender<bool>,
    /// What seals values, and whether its configuration is followed.
    sealing: Option<(Arc<Sealing>, bool)>,
    indicators: Indicators,
}

impl Default for Health {
    fn default() -> Self {
        let started = jiff::Timestamp::now();
        let indicators = Indicators::new(started);
        Self { started, bootstrapped: tokio::sync::watch::Sender::default(), sealing: None, indicators }
    }
}

impl Health {
    pub(crate) fn with_sealing(self, sealing: Arc<Sealing>, is_followed: bool) -> Self {
        Self { sealing: Some((sealing, is_followed)), ..self }
    }

    /// What `/metrics/slis` shows.
    pub(crate) fn indicators(&self) -> &Indicators {
        &self.indicators
    }

    /// Every path that is answered here.
    pub(crate) fn paths(&self) -> impl Iterator<Item = String> {
        ENDPOINTS.iter().flat_map(|endpoint| {
            let checks = checks_of(endpoint, |state| self.exists(state)).into_iter();
            let checks = checks.map(move |check| format!("/{endpoint}/{}", check.name));
            std::iter::once(format!("/{endpoint}")).chain(checks)
        })
    }

    fn exists(&self, state: State) -> bool {
        match state {
            State::Plugins => {
                self.sealing.as_ref().is_some_and(|(sealing, is_followed)| *is_followed || sealing.has_plugins())
            }
            State::Reload => self.sealing.as_ref().is_some_and(|(_, is_followed)| *is_followed),
            State::Alive | State::Store | State::Cache | State::Bootstrap | State::Shutdown => true,
        }
    }

    /// The objects of the control plane exist.
    pub(crate) fn set_bootstrapped(&self) {
        self.bootstrapped.send_replace(true);
    }

    /// Waits until they do.
    pub(crate) async fn bootstrapped(&self) {
        let mut bootstrapped = self.bootstrapped.subscribe();
        let _sender_lives_in_self = bootstrapped.wait_for(|done| *done).await.is_ok();
    }

    /// The answer for a health path; `None` for any other path.
    pub(crate) async fn respond(&self, gateway: &Gateway, path: &str, query: &Query) -> Option<Response<ResponseBody>> {
        let path = path.strip_prefix('/').filter(|path| !path.ends_with('/'))?;
        let (endpoint, name) = path.split_once('/').unwrap_or((path, ""));
        let endpoint = ENDPOINTS.into_iter().find(|known| *known == endpoint)?;
        let checks = checks_of(endpoint, |state| self.exists(state));
        if !name.is_empty() {
            let check = checks.iter().find(|check| check.name == name)?;
            return Some(match self.run(gateway, check.state).await {
                Ok(()) => text(200, "ok"),
                Err(reason) => text(500, format!("internal server error: {reason}\n")),
            });
        }
        let excluded: Vec<&str> = query.all("exclude").collect();
        let mut lines = String::new();
        let mut failed = Vec::new();
        for check in &checks {
            if excluded.contains(&check.name) {
                lines.push_str(&format!("[+]{} excluded: ok\n", check.name));
                continue;
            }
            let result = self.run(gateway, check.state).await;
            self.indicators.observe(check.name, endpoint, result.is_ok());
            match result {
                Ok(()) => lines.push_str(&format!("[+]{} ok\n", check.name)),
                Err(reason) => {
                    tracing::info!(endpoint, check = check.name, %reason, "health check failed");
                    lines.push_str(&format!("[-]{} failed: reason withheld\n", check.name));
                    failed.push(check.name);
                }
            }
        }
        let unknown: Vec<&str> =
            excluded.iter().filter(|name| !checks.iter().any(|check| check.name == **name)).copied().collect();
        if !unknown.is_empty() {
            let list: Vec<String> = unknown.iter().map(|name| format!("\"{name}\"")).collect();
            lines
                .push_str(&format!("warn: some health checks cannot be excluded: no matches for {}\n", list.join(",")));
        }
        Some(match (failed.is_empty(), query.get("verbose").is_some()) {
            (true, false) => not_sniffed(text(200, "ok")),
            (true, true) => not_sniffed(text(200, format!("{lines}{endpoint} check passed\n"))),
            (false, _) => text(500, format!("{lines}{endpoint} check failed\n")),
        })
    }

    async fn run(&self, gateway: &Gateway, state: State) -> Result<(), Cow<'static, str>> {
        let reason = match state {
            State::Alive | State::Reload => return Ok(()),
            State::Store => match gateway.objects.store().current_revision().await {
                Ok(_) => return Ok(()),
                Err(_) => "the store does not answer",
            },
            State::Plugins => {
                let Some((sealing, _)) = &self.sealing else { return Ok(()) };
                return sealing.check_plugins().await.map_err(Cow::Owned);
            }
            State::Cache if gateway.cache.is_ready() => return Ok(()),
            State::Cache => "the cache has no complete copy yet",
            State::Bootstrap if *self.bootstrapped.borrow() => return Ok(()),
            State::Bootstrap => "not finished",
            State::Shutdown if *gateway.shutdown.borrow() => "process is shutting down",
            State::Shutdown => return Ok(()),
        };
        Err(Cow::Borrowed(reason))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_endpoint_has_upstreams_checks() {
        let health = Health::default();
        let of = |endpoint, exists: &dyn Fn(State) -> bool| {
            checks_of(endpoint, exists).into_iter().map(|check| check.name).collect::<Vec<_>>()
        };
        let names = |endpoint| of(endpoint, &|state| health.exists(state));
        let (ready, live) = (names("readyz"), names("livez"));
        assert_eq!(ready[..3], ["ping", "log", "informer-sync"]);
        assert_eq!(ready.last(), Some(&"shutdown"));
        assert_eq!(live[..4], ["ping", "log", "loopback-serving-certificate", "etcd"]);
        assert_eq!(live, names("healthz"));
        assert_eq!((ready.len(), live.len()), (36, 36));
        // With plugins, upstream's live endpoint does without them.
        let has_plugins = |endpoint| of(endpoint, &|_| true).contains(&"kms-providers");
        assert_eq!(["healthz", "livez", "readyz"].map(has_plugins), [true, false, true]);
    }
}
