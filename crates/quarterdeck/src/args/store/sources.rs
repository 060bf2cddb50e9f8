//! Where flags come from besides the command line: `ETCD_*` variables, or a configuration file instead of everything else.
//!
//! Either is turned into the arguments that would say the same, so that there is one parser. The command line wins over the
//! environment; a file stands alone, as with etcd.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{ArgMatches, Command};
use serde_json::{Map, Value};

const PREFIX: &str = "ETCD_";
const CONFIG_FILE: &str = "config-file";

/// Flags whose values are durations: a configuration file gives them in nanoseconds.
const DURATIONS: &[&str] = &[
    "backend-batch-interval",
    "compact-hash-check-time",
    "compaction-sleep-interval",
    "corrupt-check-time",
    "downgrade-check-time",
    "grpc-keepalive-interval",
    "grpc-keepalive-min-time",
    "grpc-keepalive-timeout",
    "warning-apply-duration",
    "warning-unary-request-duration",
    "watch-progress-notify-interval",
];

/// Sections of a configuration file: the prefix that turns their keys into flags.
const SECTIONS: &[(&str, &str)] =
    &[("client-transport-security", ""), ("peer-transport-security", "peer-"), ("socket-options", "socket-")];

/// Keys of those sections that are not just the prefix and the flag.
const SECTION_KEYS: &[(&str, &str)] = &[
    ("allowed-cn", "client-cert-allowed-cn"),
    ("allowed-hostname", "client-cert-allowed-hostname"),
    ("peer-allowed-cn", "peer-cert-allowed-cn"),
    ("peer-allowed-hostname", "peer-cert-allowed-hostname"),
];

/// Why the other sources could not be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SourceError {
    #[error("cannot read the configuration file {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("configuration file {}: {detail}", path.display())]
    Malformed { path: PathBuf, detail: String },
}

/// A command line with the other sources' flags added, and what to warn of.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Completed {
    pub args: Vec<OsString>,
    pub warnings: Vec<String>,
}

/// Completes the arguments of `store` (without the program's and the command's name). `command` knows the flags, `matches` what the
/// arguments said so far.
pub(crate) fn complete(
    args: Vec<OsString>,
    command: &Command,
    matches: &ArgMatches,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Completed, SourceError> {
    let environment: Vec<_> =
        environment.into_iter().filter_map(|(name, value)| Some((name.into_string().ok()?, value))).collect();
    let from_environment =
        || environment.iter().find(|(name, _)| *name == variable(CONFIG_FILE)).map(|(_, value)| PathBuf::from(value));
    let file = matches.get_one::<PathBuf>("config_file").cloned().or_else(from_environment);
    match file.filter(|file| !file.as_os_str().is_empty()) {
        Some(file) => from_file(&file),
        None => Ok(with_environment(args, command, matches, &environment)),
    }
}

fn variable(flag: &str) -> String {
    format!("{PREFIX}{}", flag.replace('-', "_").to_uppercase())
}

fn with_environment(
    mut args: Vec<OsString>,
    command: &Command,
    matches: &ArgMatches,
    environment: &[(String, OsString)],
) -> Completed {
    let mut warnings = Vec::new();
    let mut known = BTreeSet::new();
    for arg in command.get_arguments() {
        let is_given = matches.value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine);
        for flag in arg
            .get_long_and_visible_aliases()
            .unwrap_or_default()
            .into_iter()
            .chain(arg.get_all_aliases().unwrap_or_default())
        {
            let name = variable(flag);
            let value = environment.iter().find(|(given, value)| *given == name && !value.is_empty());
            known.insert(name);
            let Some((name, value)) = value else { continue };
            if flag == "version" {
                continue;
            }
            if is_given {
                warnings.push(format!("environment variable {name} is shadowed by the command line flag --{flag}"));
            } else {
                args.push(argument(flag, value));
            }
        }
    }
    let unknown = environment.iter().filter(|(name, _)| name.starts_with(PREFIX) && !known.contains(name));
    warnings.extend(unknown.map(|(name, _)| format!("unrecognized environment variable {name}")));
    Completed { args, warnings }
}

fn argument(flag: &str, value: &OsStr) -> OsString {
    let mut argument = OsString::from(format!("--{flag}="));
    argument.push(value);
    argument
}

fn from_file(path: &Path) -> Result<Completed, SourceError> {
    let text = std::fs::read_to_string(path).map_err(|source| SourceError::Read { path: path.to_owned(), source })?;
    let args = file_args(&text).map_err(|detail| SourceError::Malformed { path: path.to_owned(), detail })?;
    Ok(Completed { args, warnings: Vec::new() })
}

/// The flags that a configuration file stands for.
fn file_args(text: &str) -> Result<Vec<OsString>, String> {
    let settings: Option<Map<String, Value>> = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
    let mut args = Vec::new();
    for (key, value) in settings.unwrap_or_default() {
        let Some((_, prefix)) = SECTIONS.iter().find(|(section, _)| *section == key) else {
            args.extend(file_arg(&key, &value)?);
            continue;
        };
        match value {
            Value::Null => {}
            Value::Object(section) => {
                for (key, value) in section {
                    let flag = format!("{prefix}{key}");
                    let special = SECTION_KEYS.iter().find(|(from, _)| *from == flag);
                    args.extend(file_arg(special.map_or(flag.as_str(), |(_, flag)| flag), &value)?);
                }
            }
            _ => return Err(format!("invalid {key}")),
        }
    }
    Ok(args)
}

fn file_arg(flag: &str, value: &Value) -> Result<Option<OsString>, String> {
    let is_duration = DURATIONS.contains(&flag.strip_prefix("experimental-").unwrap_or(flag));
    let scalar = |value: &Value| match value {
        Value::String(text) => Ok(text.clone()),
        Value::Bool(value) => Ok(value.to_string()),
        Value::Number(number) if is_duration => Ok(format!("{number}ns")),
        Value::Number(number) => Ok(number.to_string()),
        _ => Err(format!("{flag} has a value of the wrong type")),
    };
    let text = match value {
        Value::Null => return Ok(None),
        Value::Array(items) => items.iter().map(scalar).collect::<Result<Vec<_>, _>>()?.join(","),
        value => scalar(value)?,
    };
    Ok(Some(argument(flag, OsStr::new(&text))))
}

#[cfg(test)]
mod tests {
    use clap::{Args as _, FromArgMatches as _};

    use super::super::{StoreArgs, StoreFlags};
    use super::*;

    fn store_command() -> Command {
        StoreArgs::augment_args(Command::new("store").no_binary_name(true))
    }

    fn completed(args: &[&str], environment: &[(&str, &str)]) -> Completed {
        let matches = store_command().try_get_matches_from(args).unwrap();
        let environment = environment.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
        complete(args.iter().map(OsString::from).collect(), &store_command(), &matches, environment).unwrap()
    }

    fn flags(args: &[OsString]) -> StoreFlags {
        StoreArgs::from_arg_matches(&store_command().try_get_matches_from(args).unwrap()).unwrap().flags
    }

    #[test]
    fn the_command_line_wins_over_the_environment() {
        let environment = [
            ("ETCD_NAME", "env"),
            ("ETCD_QUOTA_BACKEND_BYTES", "7"),
            ("ETCD_CLIENT_CERT_AUTH", "true"),
            ("ETCD_DATA_DIR", ""),
            ("ETCD_NONSENSE", "1"),
            ("ETCDCTL_API", "3"),
        ];
        let completed = completed(&["--name=line"], &environment);
        assert_eq!(
            completed.warnings,
            [
                "environment variable ETCD_NAME is shadowed by the command line flag --name",
                "unrecognized environment variable ETCD_NONSENSE",
            ]
        );
        let flags = flags(&completed.args);
        assert_eq!((flags.name.as_str(), flags.quota_backend_bytes, flags.client_cert_auth), ("line", 7, true));
    }

    #[test]
    fn a_configuration_file_stands_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("etcd.yml");
        let text = "name: file\ndata-dir:\nwatch-progress-notify-interval: 5000000000\nlog-outputs: [stderr]\n\
                    client-transport-security:\n  cert-file: c.pem\n  client-cert-auth: true\n  trusted-ca-file:\n";
        std::fs::write(&path, text).unwrap();
        let completed = completed(&["--name=line", "--config-file", path.to_str().unwrap()], &[("ETCD_NAME", "env")]);
        let flags = flags(&completed.args);
        assert_eq!(flags.name, "file");
        assert_eq!(flags.data_dir.get(), None);
        assert_eq!(flags.watch_progress_notify_interval, std::time::Duration::from_secs(5));
        assert_eq!(flags.log_outputs, ["stderr"]);
        assert_eq!(flags.cert_file.get(), Some(&PathBuf::from("c.pem")));
        assert!(flags.client_cert_auth);
    }

    #[test]
    fn an_unknown_key_of_a_file_is_refused_by_name() {
        let args = file_args("name: x\nsnapshot-cuont: 3\n").unwrap();
        let error = store_command().try_get_matches_from(args).unwrap_err().to_string();
        assert!(error.contains("--snapshot-cuont"), "{error}");
        assert_eq!(file_args("name: {a: 1}"), Err("name has a value of the wrong type".to_owned()));
    }
}
