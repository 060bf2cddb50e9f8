//! The command line, as typed. Parsing does nothing else; what the values mean is decided in `run`.
//!
//! Flags carry upstream's names and meaning. A flag that is not listed here is refused by name: nothing is swallowed.

mod api_server;
mod audit;
mod backup;
mod certs;
mod controller_manager;
mod feature_gates;
mod guard;
mod leader;
mod master;
mod member;
mod request_header;
mod scheduler;
mod server;
mod serving;
mod snapshot;
mod status;
mod store;
mod token;

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;

use clap::parser::ValueSource;
use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

pub(crate) use api_server::{ApiServerArgs, ApiServerFlags, EtcdFlags};
pub(crate) use audit::{AuditFlags, AuditLogFlags, AuditWebhookFlags};
pub(crate) use backup::BackupFlags;
pub(crate) use certs::{CertsCommand, KubeconfigArgs};
pub(crate) use controller_manager::{ControllerFlags, ControllerManagerArgs};
pub(crate) use guard::GuardFlags;
pub(crate) use leader::{ElectFlags, LeaderFlags};
pub(crate) use master::MasterFlags;
pub(crate) use member::MemberCommand;
pub(crate) use request_header::RequestHeaderFlags;
pub(crate) use scheduler::SchedulerArgs;
pub(crate) use server::ServerArgs;
pub(crate) use serving::ServingFlags;
pub(crate) use snapshot::{AccessFlags, PrintFormat, SnapshotCommand, TargetFlags};
pub(crate) use status::MasterStatusArgs;
pub(crate) use store::{
    ClusterFlags, DataDirArgs, HashKvArgs, InitialClusterState, MigrateArgs, OutputFormat, RestoreArgs, SaveArgs,
    SnapshotTool, StatusArgs, StoreArgs, StoreFlags, StoreTool, VerifyArgs,
};
pub(crate) use token::TokenCommand;

/// Flags of `server` that must be the same for all masters of a cluster.
pub(crate) const SHARED_FLAGS: [&str; 4] =
    ["service_cluster_ip_range", "service_node_port_range", "service_account_issuer", "cluster_cidr"];

/// A Kubernetes master in one binary: API server, controller manager, scheduler and cluster store.
#[derive(Debug, Parser)]
#[command(name = "quarterdeck", version, about, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a whole master: store, API server, controllers and scheduler in one process.
    Server(Box<ServerArgs>),
    /// Run only the API server, against a stand-alone store.
    Apiserver(Box<ApiServerArgs>),
    /// Run only the controllers, against an API server.
    ControllerManager(Box<ControllerManagerArgs>),
    /// Run only the scheduler, against an API server.
    Scheduler(Box<SchedulerArgs>),
    /// Run only the cluster store, with etcd's API, flags and ETCD_* variables.
    Store(Box<StoreArgs>),
    /// Save, list, check, restore and remove backups.
    #[command(subcommand)]
    Snapshot(Box<SnapshotCommand>),
    /// Make, list and remove tokens with which other masters join.
    #[command(subcommand)]
    Token(TokenCommand),
    /// List, remove and replace the members of the store.
    #[command(subcommand)]
    Member(MemberCommand),
    /// Show when certificates expire.
    #[command(subcommand)]
    Certs(CertsCommand),
    /// Print a kubeconfig for an address in front of the masters, with a new client certificate.
    Kubeconfig(KubeconfigArgs),
    /// Show a running master and its cluster.
    Status(MasterStatusArgs),
    /// Register simulated nodes and run their pods as kubelets would, in the processor time that others leave.
    SimulateNodes(SimulateArgs),
    /// Print the version of Quarterdeck and of the Kubernetes API it serves.
    Version,
}

impl Command {
    /// How much is to be told, for the commands that say.
    pub(crate) fn verbosity(&self) -> u8 {
        match self {
            Self::Server(args) => args.component.v,
            Self::Apiserver(args) => args.component.v,
            Self::ControllerManager(args) => args.component.v,
            Self::Scheduler(args) => args.component.v,
            _ => 0,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct SimulateArgs {
    /// How many nodes to register.
    #[arg(long, default_value_t = 1)]
    pub count: usize,
    /// Kubeconfig of the cluster.
    #[arg(long, env = "KUBECONFIG")]
    pub kubeconfig: PathBuf,
    /// Names are this plus a number.
    #[arg(long, default_value = "sim-")]
    pub name_prefix: String,
    /// Address of this machine at which the API server reaches the nodes' kubelet (logs, exec, attach, port-forward).
    #[arg(long, default_value = "127.0.0.1")]
    pub kubelet_address: IpAddr,
}

/// What the command line of every component takes.
#[derive(Clone, Debug, Args)]
pub(crate) struct ComponentFlags {
    /// Verbosity of the log: debugging from 4 on, everything from 6 on. `RUST_LOG` wins.
    #[arg(long, short, default_value_t = 0)]
    pub v: u8,
    /// Serve profiles: there are none.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", value_parser = ["false"])]
    pub profiling: String,
    /// Features as NAME=BOOL, comma separated; every feature is as v1.36 has it by default, and any other setting is refused.
    #[arg(long, value_parser = feature_gates::parse)]
    pub feature_gates: Vec<String>,
}

/// What a command line said, and what its user should be warned of.
#[derive(Debug)]
pub(crate) struct Parsed {
    pub command: Command,
    pub warnings: Vec<String>,
}

/// Parses this process's command line. `store` also takes flags from the environment or a file; etcd's single-dash form of flags
/// is understood there. Ends the process when there is nothing to do or nothing that makes sense.
pub(crate) fn parse() -> Parsed {
    let args: Vec<OsString> = std::env::args_os().collect();
    match parse_from(args, std::env::vars_os()) {
        Ok(parsed) => parsed,
        Err(error) => error.exit(),
    }
}

fn parse_from(
    mut args: Vec<OsString>,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Parsed, clap::Error> {
    let is_flag = |arg: &OsString| arg.as_encoded_bytes().starts_with(b"-");
    if args.get(1).is_some_and(|name| name == STORE) && args.get(2).is_some_and(is_flag) {
        args[2..].iter_mut().for_each(double_dash);
    }
    let matches = Cli::command().try_get_matches_from(&args)?;
    let mut cli = Cli::from_arg_matches(&matches)?;
    if let (Command::Server(args), Some((_, given))) = (&mut cli.command, matches.subcommand()) {
        let is_given = |flag: &&str| given.value_source(flag).is_some_and(|source| source != ValueSource::DefaultValue);
        args.given = SHARED_FLAGS.into_iter().filter(is_given).collect();
    }
    match (&mut cli.command, matches.subcommand()) {
        (Command::Server(args), Some((_, given))) => args.api_server.all = values(given),
        (Command::Apiserver(args), Some((_, given))) => args.flags.all = values(given),
        (Command::ControllerManager(args), Some((_, given))) => args.all = values(given),
        (Command::Scheduler(args), Some((_, given))) => args.all = values(given),
        _ => {}
    }
    let (Command::Store(store), Some((_, matches))) = (&cli.command, matches.subcommand()) else {
        return Ok(Parsed { command: cli.command, warnings: Vec::new() });
    };
    if !store.is_server() {
        return Ok(Parsed { command: cli.command, warnings: Vec::new() });
    }
    let mut command = Cli::command();
    command.build();
    let known = command.find_subcommand(STORE).cloned().unwrap_or_default();
    let completed = store::complete(args.split_off(2), &known, matches, environment)
        .map_err(|error| clap::Error::raw(clap::error::ErrorKind::Io, format!("{:#}\n", anyhow::Error::from(error))))?;
    let again = args.into_iter().take(2).chain(completed.args);
    Ok(Parsed { command: Cli::try_parse_from(again)?.command, warnings: completed.warnings })
}

/// Flags by name, with the values that hold. What lets somebody in is not told.
fn values(matches: &clap::ArgMatches) -> Vec<(String, String)> {
    let is_secret = |name: &str| ["token", "passphrase", "password"].contains(&name);
    let flag = |id: &clap::Id| {
        let raw = matches.try_get_raw(id.as_str()).ok().flatten()?;
        let texts: Vec<String> = raw.map(|text| text.to_string_lossy().into_owned()).collect();
        let name = id.as_str().replace('_', "-");
        let value = if is_secret(&name) { "[redacted]".to_owned() } else { texts.join(",") };
        Some((name, value))
    };
    let mut flags: Vec<(String, String)> = matches.ids().filter_map(flag).collect();
    flags.sort();
    flags
}

const STORE: &str = "store";

/// etcd takes `-name` for `--name`. Short flags have one letter.
fn double_dash(arg: &mut OsString) {
    let is_long = arg.to_str().is_some_and(|text| {
        let name = text.strip_prefix('-').unwrap_or_default();
        name.len() > 1 && name.starts_with(|c: char| c.is_ascii_alphabetic())
    });
    if is_long {
        let mut long = OsString::from("-");
        long.push(&*arg);
        *arg = long;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_store_takes_flags_as_etcd_does() {
        let args = ["quarterdeck", "store", "-name=a", "--client-cert-auth", "--name", "b", "-data-dir", "d"];
        let environment = [("ETCD_MAX_TXN_OPS".into(), "7".into())];
        let parsed = parse_from(args.map(OsString::from).to_vec(), environment).unwrap();
        let Command::Store(store) = parsed.command else { panic!("{parsed:?}") };
        assert_eq!((store.flags.name.as_str(), store.flags.max_txn_ops), ("b", 7));
        assert!(store.flags.client_cert_auth);
        let tool = ["quarterdeck", "store", "snapshot", "status", "file", "-w", "json"];
        let parsed = parse_from(tool.map(OsString::from).to_vec(), []).unwrap();
        let Command::Store(store) = parsed.command else { panic!("{parsed:?}") };
        assert!(matches!(store.tool, Some(StoreTool::Snapshot(SnapshotTool::Status(_)))));
    }
}
