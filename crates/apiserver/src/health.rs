//! /healthz, /livez and /readyz: named checks, each also reachable by itself.

use http::Response;

use crate::gateway::{Gateway, text};
use crate::http::ResponseBody;
use crate::http::query::Query;

/// The three endpoints and which checks they run.
const ENDPOINTS: [&str; 3] = ["healthz", "livez", "readyz"];

/// A check by upstream's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Check {
    Ping,
    Log,
    Etcd,
    /// The first complete copy of the registry is in the cache.
    InformerSync,
    /// What the control plane creates for itself exists.
    BootstrapRoles,
    SystemNamespaces,
    PriorityClasses,
    Shutdown,
}

impl Check {
    fn name(self) -> &'static str {
        match self {
            Self::Ping => "ping",
            Self::Log => "log",
            Self::Etcd => "etcd",
            Self::InformerSync => "informer-sync",
            Self::SystemNamespaces => "poststarthook/start-system-namespaces-controller",
            Self::BootstrapRoles => "poststarthook/rbac/bootstrap-roles",
            Self::PriorityClasses => "poststarthook/scheduling/bootstrap-system-priority-classes",
            Self::Shutdown => "shutdown",
        }
    }

    fn of(endpoint: &str) -> &'static [Check] {
        use Check::*;
        match endpoint {
            "readyz" => &[Ping, Log, Etcd, InformerSync, SystemNamespaces, BootstrapRoles, PriorityClasses, Shutdown],
            _ => &[Ping, Log, Etcd, SystemNamespaces, BootstrapRoles, PriorityClasses],
        }
    }
}

/// Knows how far start-up has come.
#[derive(Debug, Default)]
pub(crate) struct Health {
    bootstrapped: tokio::sync::watch::Sender<bool>,
}

impl Health {
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
        let path = path.trim_start_matches('/').trim_end_matches('/');
        let (endpoint, name) = path.split_once('/').unwrap_or((path, ""));
        if !ENDPOINTS.contains(&endpoint) {
            return None;
        }
        let checks = Check::of(endpoint);
        if !name.is_empty() {
            let check = checks.iter().find(|check| check.name() == name)?;
            return Some(match self.run(gateway, *check).await {
                Ok(()) => text(200, "ok"),
                Err(reason) => text(500, format!("internal server error: {reason}\n")),
            });
        }
        let excluded: Vec<&str> = query.all("exclude").collect();
        let mut lines = String::new();
        let mut failed = Vec::new();
        for check in checks {
            if excluded.contains(&check.name()) {
                lines.push_str(&format!("[+]{} excluded: ok\n", check.name()));
                continue;
            }
            match self.run(gateway, *check).await {
                Ok(()) => lines.push_str(&format!("[+]{} ok\n", check.name())),
                Err(reason) => {
                    tracing::info!(endpoint, check = check.name(), reason, "health check failed");
                    lines.push_str(&format!("[-]{} failed: reason withheld\n", check.name()));
                    failed.push(check.name());
                }
            }
        }
        let unknown: Vec<&str> =
            excluded.iter().filter(|name| !checks.iter().any(|check| check.name() == **name)).copied().collect();
        if !unknown.is_empty() {
            let list: Vec<String> = unknown.iter().map(|name| format!("\"{name}\"")).collect();
            lines
                .push_str(&format!("warn: some health checks cannot be excluded: no matches for {}\n", list.join(",")));
        }
        Some(match (failed.is_empty(), query.get("verbose").is_some()) {
            (true, false) => text(200, "ok"),
            (true, true) => text(200, format!("{lines}{endpoint} check passed\n")),
            (false, _) => text(500, format!("{lines}{endpoint} check failed\n")),
        })
    }

    async fn run(&self, gateway: &Gateway, check: Check) -> Result<(), &'static str> {
        let bootstrapped = *self.bootstrapped.borrow();
        match check {
            Check::Ping | Check::Log => Ok(()),
            Check::Etcd => match gateway.objects.store().current_revision().await {
                Ok(_) => Ok(()),
                Err(_) => Err("the store does not answer"),
            },
            Check::InformerSync if gateway.cache.is_ready() => Ok(()),
            Check::InformerSync => Err("the cache has no complete copy yet"),
            Check::BootstrapRoles | Check::SystemNamespaces | Check::PriorityClasses if bootstrapped => Ok(()),
            Check::BootstrapRoles | Check::SystemNamespaces | Check::PriorityClasses => Err("not finished"),
            Check::Shutdown if *gateway.shutdown.borrow() => Err("process is shutting down"),
            Check::Shutdown => Ok(()),
        }
    }
}
