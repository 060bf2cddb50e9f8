//! The audit log's flags, checked and read.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use apiserver::audit::{
    AuditConfig, AuditWebhookConfig, BackendConfig, BatchConfig, Format, LogConfig, Mode, Policy, TruncateConfig,
};
use apiserver::outbound::RemoteEndpoint;

use super::tls;
use crate::args::{AuditFlags, AuditLogFlags, AuditWebhookFlags};

/// `None`: there is no policy, or nowhere to write to.
pub(super) fn config(flags: &AuditFlags) -> Result<Option<AuditConfig>> {
    let log = flags.log.audit_log_path.as_deref().map(|path| log(path, &flags.log)).transpose()?;
    let webhook = match &flags.webhook.audit_webhook_config_file {
        None => None,
        Some(path) => Some(AuditWebhookConfig {
            endpoint: endpoint(path).context("initializing audit webhook")?,
            initial_backoff: flags.webhook.audit_webhook_initial_backoff,
            backend: webhook_backend(&flags.webhook)?,
        }),
    };
    let Some(path) = &flags.audit_policy_file else {
        if log.is_some() || webhook.is_some() {
            tracing::warn!("no audit policy file provided, no events will be recorded");
        }
        return Ok(None);
    };
    let policy = Policy::parse(&tls::read(path)?).map_err(|error| anyhow!(error));
    let policy = policy.with_context(|| format!("loading audit policy file {}", path.display()))?;
    let has_backend = log.is_some() || webhook.is_some();
    Ok(has_backend.then_some(AuditConfig { policy, log, webhook }))
}

/// The server that a kubeconfig file names.
pub(super) fn endpoint(path: &Path) -> Result<RemoteEndpoint> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let endpoint = RemoteEndpoint::from_kubeconfig(&tls::read(path)?, dir);
    endpoint.map_err(|error| anyhow!(error)).with_context(|| path.display().to_string())
}

fn log(path: &Path, flags: &AuditLogFlags) -> Result<LogConfig> {
    let (age, backups, size) = (flags.audit_log_maxage, flags.audit_log_maxbackup, flags.audit_log_maxsize);
    Ok(LogConfig {
        path: path.to_owned(),
        format: if flags.audit_log_format == "json" { Format::Json } else { Format::Legacy },
        max_age_days: age.try_into().map_err(|_| anyhow!("--audit-log-maxage {age} can't be a negative number"))?,
        max_backups: backups
            .try_into()
            .map_err(|_| anyhow!("--audit-log-maxbackup {backups} can't be a negative number"))?,
        max_size_mb: size.try_into().map_err(|_| anyhow!("--audit-log-maxsize {size} can't be a negative number"))?,
        compress: flags.audit_log_compress,
        backend: log_backend(flags)?,
    })
}

/// The flags that both backends have.
struct Backend<'f> {
    name: &'static str,
    mode: &'f str,
    buffer_size: i64,
    max_size: i64,
    max_wait: Duration,
    throttle: Option<(f32, i64)>,
    truncates: bool,
    max_batch_bytes: i64,
    max_event_bytes: i64,
}

fn backend(flags: &Backend<'_>) -> Result<BackendConfig> {
    let name = flags.name;
    let mode = match flags.mode {
        "batch" => Mode::Batch,
        "blocking" => Mode::Blocking,
        _ => Mode::BlockingStrict,
    };
    let positive = |what: &str, value: i64| {
        let size = usize::try_from(value).ok().filter(|size| *size > 0 || mode != Mode::Batch);
        size.ok_or_else(|| anyhow!("invalid audit batch {name} {what} {value}, must be a positive number"))
    };
    let throttle = match flags.throttle.filter(|_| mode == Mode::Batch) {
        None => None,
        Some((qps, burst)) => {
            ensure!(qps > 0.0, "invalid audit batch {name} throttle QPS {qps}, must be a positive number");
            Some((qps, positive("throttle burst", burst)?))
        }
    };
    let (event, batch) = (flags.max_event_bytes, flags.max_batch_bytes);
    ensure!(event > 0, "invalid audit truncate {name} max event size {event}, must be a positive number");
    ensure!(
        batch >= event,
        "invalid audit truncate {name} max batch size {batch}, must be greater than max event size ({event})"
    );
    let truncate = TruncateConfig { max_event_size: event.try_into()?, max_batch_size: batch.try_into()? };
    Ok(BackendConfig {
        mode,
        batch: BatchConfig {
            buffer_size: positive("buffer size", flags.buffer_size)?,
            max_size: positive("max batch size", flags.max_size)?,
            max_wait: flags.max_wait,
            throttle,
        },
        truncate: flags.truncates.then_some(truncate),
    })
}

fn log_backend(flags: &AuditLogFlags) -> Result<BackendConfig> {
    backend(&Backend {
        name: "log",
        mode: &flags.audit_log_mode,
        buffer_size: flags.audit_log_batch_buffer_size,
        max_size: flags.audit_log_batch_max_size,
        max_wait: flags.audit_log_batch_max_wait,
        throttle: flags
            .audit_log_batch_throttle_enable
            .then_some((flags.audit_log_batch_throttle_qps, flags.audit_log_batch_throttle_burst)),
        truncates: flags.audit_log_truncate_enabled,
        max_batch_bytes: flags.audit_log_truncate_max_batch_size,
        max_event_bytes: flags.audit_log_truncate_max_event_size,
    })
}

fn webhook_backend(flags: &AuditWebhookFlags) -> Result<BackendConfig> {
    backend(&Backend {
        name: "webhook",
        mode: &flags.audit_webhook_mode,
        buffer_size: flags.audit_webhook_batch_buffer_size,
        max_size: flags.audit_webhook_batch_max_size,
        max_wait: flags.audit_webhook_batch_max_wait,
        throttle: flags
            .audit_webhook_batch_throttle_enable
            .then_some((flags.audit_webhook_batch_throttle_qps, flags.audit_webhook_batch_throttle_burst)),
        truncates: flags.audit_webhook_truncate_enabled,
        max_batch_bytes: flags.audit_webhook_truncate_max_batch_size,
        max_event_bytes: flags.audit_webhook_truncate_max_event_size,
    })
}
