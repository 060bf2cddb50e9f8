//! Where log lines go and what they look like: people read the server's, etcd's tools read the store's.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, IsTerminal as _};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::args::StoreFlags;

/// The HTTP client's own lines name neither server nor purpose; whoever asked logs what failed.
const QUIET_CLIENT: &str = "kube_client=off";
/// The log engine tells about its files what only its authors need.
const QUIET: &str = "raft_engine=warn";

/// Lines for people, on standard error. `RUST_LOG` chooses them; without it `--v` does, by klog's habits.
pub(crate) fn init(verbosity: u8) {
    let level = match verbosity {
        0..=3 => "info",
        4..=5 => "debug",
        6.. => "trace",
    };
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(format!("{level},{QUIET_CLIENT}")));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_target(false);
    log.with_ansi(io::stderr().is_terminal()).init();
}

/// Lines as etcd writes them, where its flags send them.
pub(crate) fn init_as_etcd(flags: &StoreFlags) -> Result<()> {
    match flags.logger.as_str() {
        "zap" => {}
        "capnslog" => bail!("--logger=capnslog is removed in v3.5"),
        other => bail!("unknown logger option {other:?}"),
    }
    let level = match flags.log_level.as_str() {
        "debug" => "debug",
        "info" => "info",
        "warn" => "warn",
        "error" | "dpanic" | "panic" | "fatal" => "error",
        other => bail!("unknown level {other:?}"),
    };
    let form = match flags.log_format.as_str() {
        "json" => Form::Json,
        "console" => Form::Console,
        other => bail!("unknown log format: {other}, supported values json, console"),
    };
    let mut outputs = Outputs::default();
    if flags.log_outputs.len() > 1 && flags.log_outputs.iter().any(|output| output == "default") {
        bail!("multi logoutput for \"default\" is not supported yet");
    }
    for output in &flags.log_outputs {
        match output.as_str() {
            "default" | "stderr" | "systemd/journal" => outputs.stderr = true,
            "stdout" => outputs.stdout = true,
            path => {
                let file = File::options().create(true).append(true).open(path);
                outputs.files.push(file.with_context(|| format!("open sink {path:?}"))?);
            }
        }
    }
    let filter = EnvFilter::new(format!("{level},{QUIET}"));
    let outputs = Arc::new(outputs);
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).event_format(form);
    log.with_writer(move || Tee(Arc::clone(&outputs))).init();
    Ok(())
}

#[derive(Debug, Default)]
struct Outputs {
    stderr: bool,
    stdout: bool,
    files: Vec<File>,
}

/// Writes every line to all outputs.
struct Tee(Arc<Outputs>);

impl io::Write for Tee {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        // An output that cannot be written to must not keep the others from being written.
        if self.0.stderr {
            let _closed = io::stderr().lock().write_all(line);
        }
        if self.0.stdout {
            let _closed = io::stdout().lock().write_all(line);
        }
        for mut file in &self.0.files {
            let _full = file.write_all(line);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The forms of etcd's log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Json,
    Console,
}

impl<S, N> FormatEvent<S, N> for Form
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> std::fmt::Result {
        let metadata = event.metadata();
        let mut fields = Fields::default();
        event.record(&mut fields);
        let line = Line {
            level: *metadata.level(),
            time: jiff::Timestamp::now(),
            caller: caller(metadata.file().unwrap_or_default(), metadata.line().unwrap_or_default()),
            message: fields.message,
            fields: fields.others,
        };
        writer.write_str(&line.text(*self))
    }
}

struct Line {
    level: Level,
    time: jiff::Timestamp,
    caller: String,
    message: String,
    fields: Map<String, Value>,
}

impl Line {
    fn text(self, form: Form) -> String {
        let level = match self.level {
            Level::ERROR => "error",
            Level::WARN => "warn",
            Level::INFO => "info",
            Level::DEBUG | Level::TRACE => "debug",
        };
        match form {
            Form::Json => {
                let mut line = Map::new();
                line.insert("level".into(), level.into());
                line.insert("ts".into(), self.time.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string().into());
                line.insert("caller".into(), self.caller.into());
                line.insert("msg".into(), self.message.into());
                line.extend(self.fields);
                Value::from(line).to_string() + "\n"
            }
            Form::Console => {
                let time = self.time.strftime("%Y-%m-%dT%H:%M:%S.%3fZ");
                let mut line = format!("{time}\t{level}\t{}\t{}", self.caller, self.message);
                if !self.fields.is_empty() {
                    line += &format!("\t{}", Value::from(self.fields));
                }
                line + "\n"
            }
        }
    }
}

/// The last directory and the file, as zap shows them.
fn caller(file: &str, line: u32) -> String {
    let start = file.rmatch_indices('/').nth(1).map_or(0, |(at, _)| at + 1);
    format!("{}:{line}", &file[start..])
}

#[derive(Debug, Default)]
struct Fields {
    message: String,
    others: Map<String, Value>,
}

impl Fields {
    fn add(&mut self, field: &Field, value: Value) {
        self.others.insert(field.name().replace('_', "-"), value);
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let mut text = String::new();
        let _writing_to_a_string = write!(text, "{value:?}");
        if field.name() == "message" {
            self.message = text;
        } else {
            self.add(field, text.into());
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, value.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_have_etcds_form() {
        let line = || Line {
            level: Level::INFO,
            time: "2026-11-28T03:04:05.123456Z".parse().unwrap(),
            caller: caller("crates/quarterdeck/src/run/store.rs", 7),
            message: "ready to serve client requests".into(),
            fields: Map::from_iter([("n".to_owned(), Value::from(1))]),
        };
        assert_eq!(
            line().text(Form::Json),
            "{\"level\":\"info\",\"ts\":\"2026-11-28T03:04:05.123456Z\",\"caller\":\"run/store.rs:7\",\
             \"msg\":\"ready to serve client requests\",\"n\":1}\n"
        );
        assert_eq!(
            line().text(Form::Console),
            "2026-11-28T03:04:05.123Z\tinfo\trun/store.rs:7\tready to serve client requests\t{\"n\":1}\n"
        );
    }
}
