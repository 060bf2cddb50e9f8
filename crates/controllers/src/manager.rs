//! Runs the controllers: all, or those that `--controllers` selects, while this process leads.

use std::sync::Arc;
use std::time::Duration;

use client::{Connection, EventRecorder, InformerFactory, LeaderConfig, LeaderElection, Shutdown};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::task::JoinSet;
use tracing::{error, info};

use crate::certificates::sign::ClusterSigner;
use crate::registry::CONTROLLERS;
use crate::service_account_token::TokenMaker;
use crate::spec::{ControllerSpec, Ctx, MANAGER_USER};

/// What the controllers are told by the operator.
#[derive(Clone, Debug)]
pub struct ManagerConfig {
    pub selection: Selection,
    /// Published as `kube-root-ca.crt` in every namespace; nothing is published when empty.
    pub root_ca_pem: String,
    /// Where work queues are counted.
    pub metrics: client::Metrics,
    /// The lease to wait for before acting; `None` acts at once (`--leader-elect=false`).
    pub leader_election: Option<LeaderConfig>,
    /// Finished pods kept before the oldest are deleted (`--terminated-pod-gc-threshold`); 0 or less keeps all.
    pub terminated_pod_gc_threshold: i32,
    /// Time between two looks at all nodes (`--node-monitor-period`).
    pub node_monitor_period: Duration,
    /// How long a node may be silent (`--node-monitor-grace-period`), in seconds.
    pub node_monitor_grace_seconds: i64,
    /// How long a new node may be silent (`--node-startup-grace-period`), in seconds.
    pub node_startup_grace_seconds: i64,
    /// Ranges of pod addresses to divide among nodes (`--cluster-cidr` with `--allocate-node-cidrs`); none when empty.
    pub cluster_cidrs: Vec<String>,
    /// Prefix lengths of the pieces (`--node-cidr-mask-size-ipv4`, `-ipv6`).
    pub node_cidr_mask_size_ipv4: u8,
    pub node_cidr_mask_size_ipv6: u8,
    /// Signs CertificateSigningRequests; without it none is signed.
    pub cluster_signer: Option<ClusterSigner>,
    /// Makes the tokens in Secrets; without it none is filled.
    pub token_maker: Option<TokenMaker>,
    /// How long an automatically made token Secret must be unused before it is marked, and marked before it is deleted
    /// (`--legacy-service-account-token-clean-up-period`).
    pub legacy_token_clean_up_period: Duration,
}

impl Default for ManagerConfig {
    fn default() -> Self {
        Self {
            selection: Selection::default(),
            root_ca_pem: String::new(),
            metrics: client::Metrics::default(),
            leader_election: None,
            terminated_pod_gc_threshold: 12_500,
            node_monitor_period: Duration::from_secs(5),
            node_monitor_grace_seconds: 50,
            node_startup_grace_seconds: 60,
            cluster_cidrs: Vec::new(),
            node_cidr_mask_size_ipv4: 24,
            node_cidr_mask_size_ipv6: 64,
            cluster_signer: None,
            token_maker: None,
            legacy_token_clean_up_period: Duration::from_secs(8760 * 3600),
        }
    }
}

/// The value of `--controllers`: names to run, `-name` not to run, `*` for all that are on by default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection(Vec<String>);

/// A name in `--controllers` that no controller has. Fix the flag.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not in the list of known controllers")]
pub struct SelectionError(String);

impl Default for Selection {
    fn default() -> Self {
        Self(vec!["*".to_owned()])
    }
}

impl Selection {
    /// Parses the flag's comma-separated value.
    pub fn parse(flag: &str) -> Result<Self, SelectionError> {
        let names: Vec<String> =
            flag.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect();
        for name in &names {
            let bare = name.strip_prefix('-').unwrap_or(name);
            let known = bare == "*" || CONTROLLERS.iter().any(|controller| controller.is_called(bare));
            if !known {
                return Err(SelectionError(bare.to_owned()));
            }
        }
        Ok(Self(names))
    }

    fn takes(&self, controller: &ControllerSpec) -> bool {
        if self.0.iter().any(|name| controller.is_called(name)) {
            return true;
        }
        let refused = self.0.iter().filter_map(|name| name.strip_prefix('-')).any(|name| controller.is_called(name));
        !refused && controller.on_by_default && self.0.iter().any(|name| name == "*")
    }
}

type Connect = Arc<dyn Fn(&str) -> Connection + Send + Sync>;

/// All controllers of one process.
pub struct ControllerManager {
    connect: Connect,
    informers: InformerFactory,
    config: ManagerConfig,
}

impl ControllerManager {
    /// `connect` gives a connection standing for a user: the manager's own, and each controller's service account. `informers`
    /// read as the manager's own user.
    pub fn new(
        connect: impl Fn(&str) -> Connection + Send + Sync + 'static,
        informers: InformerFactory,
        config: ManagerConfig,
    ) -> Self {
        Self { connect: Arc::new(connect), informers, config }
    }

    /// Runs until `shutdown`; controllers run only while this process leads. Losing the lease stops and later restarts them.
    pub fn run(self, shutdown: Shutdown) -> BoxFuture<'static, ()> {
        let running = async move {
            let config = Arc::new(self.config);
            let own = (self.connect)(MANAGER_USER);
            let lead = |term: Shutdown| {
                let informers = self.informers.for_term(term.clone());
                run_controllers(self.connect.clone(), informers, config.clone(), term)
            };
            match config.leader_election.clone() {
                Some(election) => LeaderElection::new(own, election).run(shutdown, lead).await,
                None => lead(shutdown).await,
            }
        };
        running.boxed()
    }
}

async fn run_controllers(connect: Connect, informers: InformerFactory, config: Arc<ManagerConfig>, shutdown: Shutdown) {
    let mut running = JoinSet::new();
    for controller in CONTROLLERS.iter().filter(|controller| config.selection.takes(controller)) {
        let connection = connect(&controller.user());
        let ctx = Ctx {
            events: EventRecorder::new(connection.clone(), controller.event_source(), shutdown.clone()),
            connection,
            informers: informers.clone(),
            config: config.clone(),
            shutdown: shutdown.clone(),
        };
        let name = controller.name;
        let run = (controller.run)(ctx);
        let stopped = shutdown.clone();
        running.spawn(async move {
            tokio::select! {
                () = run => {}
                // A controller still waiting for its first lists has nothing in hand to finish.
                () = async { stopped.cancelled().await; tokio::time::sleep(STOP_TIMEOUT).await } => {}
            }
            name
        });
    }
    info!(count = running.len(), "controllers started");
    while let Some(ended) = running.join_next().await {
        match ended {
            Ok(name) if !shutdown.is_cancelled() => error!(controller = name, "controller ended by itself"),
            Ok(_) => {}
            Err(error) => error!(%error, "controller ended"),
        }
    }
}

/// How long a controller may finish what it has in hand.
const STOP_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    fn selected(flag: &str) -> Vec<&'static str> {
        let selection = Selection::parse(flag).unwrap();
        CONTROLLERS.iter().filter(|controller| selection.takes(controller)).map(|controller| controller.name).collect()
    }

    #[test]
    fn names_aliases_and_exclusions_select() {
        assert_eq!(selected("deployment,replicaset-controller"), ["deployment-controller", "replicaset-controller"]);
        let without = selected("*,-deployment");
        assert!(!without.contains(&"deployment-controller"));
        assert!(without.contains(&"namespace-controller"));
        assert_eq!(Selection::parse("deploy"), Err(SelectionError("deploy".into())));
    }
}
