use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

/// The audit log: `--audit-…`.
#[derive(Clone, Debug, Args)]
pub(crate) struct AuditFlags {
    /// What is recorded of which requests (Policy, audit.k8s.io/v1); nothing without it.
    #[arg(long)]
    pub audit_policy_file: Option<PathBuf>,
    #[command(flatten)]
    pub log: AuditLogFlags,
    #[command(flatten)]
    pub webhook: AuditWebhookFlags,
}

/// `--audit-log-…`
#[derive(Clone, Debug, Args)]
#[group(id = "audit_log_flags")]
pub(crate) struct AuditLogFlags {
    /// File for audit events, `-` for standard output.
    #[arg(long)]
    pub audit_log_path: Option<PathBuf>,
    /// Days that full audit files are kept; 0 for ever.
    #[arg(long, default_value_t = 366, allow_negative_numbers = true)]
    pub audit_log_maxage: i64,
    /// Full audit files that are kept; 0 for all.
    #[arg(long, default_value_t = 100, allow_negative_numbers = true)]
    pub audit_log_maxbackup: i64,
    /// Megabytes of an audit file before a new one is begun; 0 for one file.
    #[arg(long, default_value_t = 100, allow_negative_numbers = true)]
    pub audit_log_maxsize: i64,
    /// Form of audit events in the file.
    #[arg(long, default_value = "json", value_parser = ["legacy", "json"])]
    pub audit_log_format: String,
    /// Compress full audit files.
    #[arg(long, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true")]
    pub audit_log_compress: bool,
    /// Version of events.
    #[arg(long, default_value = "audit.k8s.io/v1", value_parser = ["audit.k8s.io/v1"])]
    pub audit_log_version: String,
    /// Whether requests wait until their events are written.
    #[arg(long, default_value = "blocking", value_parser = ["batch", "blocking", "blocking-strict"])]
    pub audit_log_mode: String,
    /// Events kept in batch mode; more are lost.
    #[arg(long, default_value_t = 10000, allow_negative_numbers = true)]
    pub audit_log_batch_buffer_size: i64,
    /// Events of a batch.
    #[arg(long, default_value_t = 1, allow_negative_numbers = true)]
    pub audit_log_batch_max_size: i64,
    /// How long an event waits for others in its batch.
    #[arg(long, default_value = "0s", value_parser = crate::duration::parse)]
    pub audit_log_batch_max_wait: Duration,
    /// Bound the batches per second.
    #[arg(long, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true")]
    pub audit_log_batch_throttle_enable: bool,
    /// Batches per second.
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    pub audit_log_batch_throttle_qps: f32,
    /// Batches at once after a pause.
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    pub audit_log_batch_throttle_burst: i64,
    /// Shorten events and batches that are too large.
    #[arg(long, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true")]
    pub audit_log_truncate_enabled: bool,
    /// Bytes of a batch.
    #[arg(long, default_value_t = 10_485_760, allow_negative_numbers = true)]
    pub audit_log_truncate_max_batch_size: i64,
    /// Bytes of an event, above which its objects are left out.
    #[arg(long, default_value_t = 102_400, allow_negative_numbers = true)]
    pub audit_log_truncate_max_event_size: i64,
}

/// `--audit-webhook-…`
#[derive(Clone, Debug, Args)]
#[group(id = "audit_webhook_flags")]
pub(crate) struct AuditWebhookFlags {
    /// Kubeconfig of the server that audit events are posted to.
    #[arg(long)]
    pub audit_webhook_config_file: Option<PathBuf>,
    /// Wait before a failed post is tried again.
    #[arg(long, alias = "audit-webhook-batch-initial-backoff", default_value = "10s", value_parser = crate::duration::parse)]
    pub audit_webhook_initial_backoff: Duration,
    /// Version of events.
    #[arg(long, default_value = "audit.k8s.io/v1", value_parser = ["audit.k8s.io/v1"])]
    pub audit_webhook_version: String,
    /// Whether requests wait until their events are written.
    #[arg(long, default_value = "batch", value_parser = ["batch", "blocking", "blocking-strict"])]
    pub audit_webhook_mode: String,
    /// Events kept in batch mode; more are lost.
    #[arg(long, default_value_t = 10000, allow_negative_numbers = true)]
    pub audit_webhook_batch_buffer_size: i64,
    /// Events of a batch.
    #[arg(long, default_value_t = 400, allow_negative_numbers = true)]
    pub audit_webhook_batch_max_size: i64,
    /// How long an event waits for others in its batch.
    #[arg(long, default_value = "30s", value_parser = crate::duration::parse)]
    pub audit_webhook_batch_max_wait: Duration,
    /// Bound the batches per second.
    #[arg(long, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_value = "true", default_missing_value = "true")]
    pub audit_webhook_batch_throttle_enable: bool,
    /// Batches per second.
    #[arg(long, default_value_t = 10.0, allow_negative_numbers = true)]
    pub audit_webhook_batch_throttle_qps: f32,
    /// Batches at once after a pause.
    #[arg(long, default_value_t = 15, allow_negative_numbers = true)]
    pub audit_webhook_batch_throttle_burst: i64,
    /// Shorten events and batches that are too large.
    #[arg(long, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true")]
    pub audit_webhook_truncate_enabled: bool,
    /// Bytes of a batch.
    #[arg(long, default_value_t = 10_485_760, allow_negative_numbers = true)]
    pub audit_webhook_truncate_max_batch_size: i64,
    /// Bytes of an event, above which its objects are left out.
    #[arg(long, default_value_t = 102_400, allow_negative_numbers = true)]
    pub audit_webhook_truncate_max_event_size: i64,
}
