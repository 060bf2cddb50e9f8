//! Flags of etcd's that have nothing to act on here: one row each. Some change nothing that could be seen from outside and are
//! taken with a warning; the others are taken only with the value that asks for nothing.

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};

/// What is done about a value that differs from the default.
enum Verdict {
    /// It would change nothing anyway.
    NoEffect,
    /// It cannot be honoured.
    Refused,
}
use Verdict::{NoEffect, Refused};

struct Row {
    name: &'static str,
    /// etcd's default; other values get the verdict.
    default: &'static str,
    verdict: Verdict,
    why: &'static str,
}

const fn row(name: &'static str, default: &'static str, verdict: Verdict, why: &'static str) -> Row {
    Row { name, default, verdict, why }
}

const DISCOVERY: &str = "discovery services are not supported, list the members in --initial-cluster";
const NO_PEER_OPTION: &str = "connections between members do not have this option";
const LOG_SEGMENTS: &str = "log files are recycled by size";
const TRACING: &str = "there is no trace exporter";
const OLD_PROXY: &str = "etcd has no proxy mode of this kind any more";
const SOCKET_OPTION: &str = "listeners are opened with the system's default options";
const NO_CHECK: &str = "members do not compare their hashes by themselves";

/// Bool flags may be given without a value; their defaults say which they are.
const ROWS: &[Row] = &[
    row("backend-batch-interval", "0s", NoEffect, "the state file is written behind the log"),
    row("backend-batch-limit", "0", NoEffect, "the state file is written behind the log"),
    row("backend-bbolt-freelist-type", "map", NoEffect, "the state file has another format"),
    row("compact-hash-check-time", "1m", NoEffect, NO_CHECK),
    row("compaction-batch-limit", "1000", NoEffect, "compaction goes in small steps"),
    row("compaction-sleep-interval", "10ms", NoEffect, "compaction goes in small steps"),
    row("discovery", "", Refused, DISCOVERY),
    row("discovery-cacert", "", Refused, DISCOVERY),
    row("discovery-cert", "", Refused, DISCOVERY),
    row("discovery-dial-timeout", "2s", NoEffect, DISCOVERY),
    row("discovery-endpoints", "", Refused, DISCOVERY),
    row("discovery-fallback", "exit", NoEffect, OLD_PROXY),
    row("discovery-insecure-skip-tls-verify", "false", NoEffect, DISCOVERY),
    row("discovery-insecure-transport", "true", NoEffect, DISCOVERY),
    row("discovery-keepalive-time", "2s", NoEffect, DISCOVERY),
    row("discovery-keepalive-timeout", "6s", NoEffect, DISCOVERY),
    row("discovery-key", "", Refused, DISCOVERY),
    row("discovery-password", "", Refused, DISCOVERY),
    row("discovery-proxy", "", Refused, DISCOVERY),
    row("discovery-request-timeout", "5s", NoEffect, DISCOVERY),
    row("discovery-srv", "", Refused, DISCOVERY),
    row("discovery-srv-name", "", Refused, DISCOVERY),
    row("discovery-token", "", Refused, DISCOVERY),
    row("discovery-user", "", Refused, DISCOVERY),
    row("distributed-tracing-address", "localhost:4317", NoEffect, TRACING),
    row("distributed-tracing-instance-id", "", NoEffect, TRACING),
    row("distributed-tracing-sampling-rate", "0", NoEffect, TRACING),
    row("distributed-tracing-service-name", "etcd", NoEffect, TRACING),
    row("downgrade-check-time", "5s", NoEffect, "the stored data has only one version"),
    row("enable-distributed-tracing", "false", Refused, TRACING),
    row("enable-grpc-gateway", "true", NoEffect, "what HTTP clients may do is the same as with gRPC"),
    row("enable-log-rotation", "false", Refused, "log files are rotated by whoever collects them"),
    row("enable-pprof", "false", NoEffect, "there are no profiles in Go's format"),
    row("experimental-compact-hash-check-enabled", "false", Refused, NO_CHECK),
    row("experimental-compact-hash-check-time", "1m", NoEffect, NO_CHECK),
    row("experimental-compaction-batch-limit", "1000", NoEffect, "compaction goes in small steps"),
    row("experimental-compaction-sleep-interval", "10ms", NoEffect, "compaction goes in small steps"),
    row("experimental-downgrade-check-time", "5s", NoEffect, "the stored data has only one version"),
    row("experimental-enable-distributed-tracing", "false", Refused, TRACING),
    row("experimental-enable-lease-checkpoint", "false", Refused, "leases start over when another member leads"),
    row(
        "experimental-enable-lease-checkpoint-persist",
        "false",
        Refused,
        "leases start over when another member leads",
    ),
    row("experimental-memory-mlock", "false", Refused, "memory is not locked"),
    row("experimental-peer-skip-client-san-verification", "false", Refused, NO_PEER_OPTION),
    row("experimental-stop-grpc-service-on-defrag", "false", NoEffect, "defragmenting holds up nobody"),
    row("experimental-txn-mode-write-with-shared-buffer", "true", NoEffect, "transactions do not buffer"),
    row("experimental-warning-apply-duration", "100ms", NoEffect, "slow requests are not logged one by one"),
    row("experimental-warning-unary-request-duration", "300ms", NoEffect, "slow requests are not logged one by one"),
    row("grpc-keepalive-min-time", "5s", NoEffect, "clients may ask as often as they like"),
    row("initial-election-tick-advance", "true", NoEffect, "a member alone leads at once"),
    row("log-rotation-config-json", "", NoEffect, "log files are rotated by whoever collects them"),
    row("max-learners", "1", NoEffect, "the number of learners is fixed"),
    row("max-snapshots", "5", NoEffect, "there is one state file"),
    row("max-wals", "5", NoEffect, LOG_SEGMENTS),
    row("memory-mlock", "false", Refused, "memory is not locked"),
    row("peer-auto-tls", "false", Refused, NO_PEER_OPTION),
    row("peer-cert-allowed-cn", "", Refused, NO_PEER_OPTION),
    row("peer-cert-allowed-hostname", "", Refused, NO_PEER_OPTION),
    row("peer-client-cert-file", "", Refused, NO_PEER_OPTION),
    row("peer-client-key-file", "", Refused, NO_PEER_OPTION),
    row("peer-crl-file", "", Refused, NO_PEER_OPTION),
    row("peer-skip-client-san-verification", "false", Refused, NO_PEER_OPTION),
    row("client-cert-file", "", NoEffect, "the server makes no connections to itself"),
    row("client-key-file", "", NoEffect, "the server makes no connections to itself"),
    row("pre-vote", "true", Refused, "elections always begin with a pre-vote"),
    row("proxy", "off", Refused, OLD_PROXY),
    row("proxy-dial-timeout", "1000", NoEffect, OLD_PROXY),
    row("proxy-failure-wait", "5000", NoEffect, OLD_PROXY),
    row("proxy-read-timeout", "0", NoEffect, OLD_PROXY),
    row("proxy-refresh-interval", "30000", NoEffect, OLD_PROXY),
    row("proxy-write-timeout", "5000", NoEffect, OLD_PROXY),
    row("raft-read-timeout", "5s", NoEffect, NO_PEER_OPTION),
    row("raft-write-timeout", "5s", NoEffect, NO_PEER_OPTION),
    row("snapshot-count", "10000", NoEffect, "the state file is always written, a moment behind the log"),
    row("socket-reuse-address", "false", NoEffect, SOCKET_OPTION),
    row("socket-reuse-port", "false", Refused, SOCKET_OPTION),
    row("strict-reconfig-check", "true", NoEffect, "a change that would cost the quorum is always refused"),
    row("wal-dir", "", Refused, "the log is in the data directory"),
    row("warning-apply-duration", "100ms", NoEffect, "slow requests are not logged one by one"),
    row("warning-unary-request-duration", "300ms", NoEffect, "slow requests are not logged one by one"),
];

impl Row {
    fn is_bool(&self) -> bool {
        matches!(self.default, "true" | "false")
    }
}

/// The flags of the table that were given with something else than their default.
#[derive(Debug, Default)]
pub(crate) struct ForeignFlags {
    /// Name and reason; for a warning.
    pub without_effect: Vec<(&'static str, &'static str)>,
    pub refused: Vec<(&'static str, &'static str)>,
}

impl Args for ForeignFlags {
    fn augment_args(command: Command) -> Command {
        command.args(ROWS.iter().map(|row| {
            let arg = Arg::new(row.name).long(row.name).action(ArgAction::Set).hide(true);
            if row.is_bool() { arg.num_args(0..=1).require_equals(true).default_missing_value("true") } else { arg }
        }))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for ForeignFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut flags = Self::default();
        flags.update_from_arg_matches(matches)?;
        Ok(flags)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        for row in ROWS {
            let is_given = matches.value_source(row.name) == Some(ValueSource::CommandLine);
            let Some(value) = matches.get_one::<String>(row.name).filter(|_| is_given) else { continue };
            let is_default = if row.is_bool() {
                let value = super::go_bool(value).map_err(|error| {
                    let message = format!("invalid value '{value}' for '--{}': {error}\n", row.name);
                    clap::Error::raw(clap::error::ErrorKind::InvalidValue, message)
                })?;
                value.to_string() == row.default
            } else {
                value == row.default || value.is_empty()
            };
            if is_default {
                continue;
            }
            match row.verdict {
                NoEffect => self.without_effect.push((row.name, row.why)),
                Refused => self.refused.push((row.name, row.why)),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> ForeignFlags {
        let command = ForeignFlags::augment_args(Command::new("store").no_binary_name(true));
        ForeignFlags::from_arg_matches(&command.try_get_matches_from(args).unwrap()).unwrap()
    }

    #[test]
    fn a_flag_that_asks_for_nothing_is_taken_and_others_are_named() {
        let flags = parse(&["--snapshot-count=10000", "--pre-vote", "--wal-dir=", "--enable-pprof", "--memory-mlock"]);
        assert_eq!(flags.without_effect.iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["enable-pprof"]);
        assert_eq!(flags.refused.iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["memory-mlock"]);
    }
}
