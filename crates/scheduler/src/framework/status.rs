//! A plugin's verdict when it is not plain success.

use std::borrow::Cow;

/// Why a plugin did not simply agree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Code {
    /// Something is broken; the pod is retried with backoff.
    Error,
    /// Not now; removing pods might help.
    Unschedulable,
    /// Not now, and removing pods would not help.
    UnschedulableAndUnresolvable,
    /// The pod waits for something outside the scheduler.
    Pending,
}

/// The texts that explain a verdict. One fixed text costs nothing to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reasons {
    One(Cow<'static, str>),
    Many(Vec<Cow<'static, str>>),
}

impl Reasons {
    pub fn as_slice(&self) -> &[Cow<'static, str>] {
        match self {
            Reasons::One(reason) => std::slice::from_ref(reason),
            Reasons::Many(reasons) => reasons,
        }
    }
}

/// A verdict other than success.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    pub code: Code,
    pub reasons: Reasons,
    /// The plugin that gave it.
    pub plugin: &'static str,
}

impl Status {
    pub fn new(code: Code, plugin: &'static str, reason: impl Into<Cow<'static, str>>) -> Status {
        Status { code, plugin, reasons: Reasons::One(reason.into()) }
    }

    pub fn unschedulable(plugin: &'static str, reason: impl Into<Cow<'static, str>>) -> Status {
        Status::new(Code::Unschedulable, plugin, reason)
    }

    pub fn unresolvable(plugin: &'static str, reason: impl Into<Cow<'static, str>>) -> Status {
        Status::new(Code::UnschedulableAndUnresolvable, plugin, reason)
    }

    pub fn error(plugin: &'static str, reason: impl Into<Cow<'static, str>>) -> Status {
        Status::new(Code::Error, plugin, reason)
    }

    /// The same verdict, saying what was running: `running Bind plugin "DefaultBinder": …`.
    pub fn while_running(self, point: &str) -> Status {
        let reason = format!("running {point} plugin {:?}: {}", self.plugin, self.message());
        Status::new(self.code, self.plugin, reason)
    }

    /// All reasons in one line.
    pub fn message(&self) -> String {
        self.reasons.as_slice().join(", ")
    }
}

/// What the API server answered, in its own words, or why there is no answer.
pub fn api_text(error: kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message,
        other => other.to_string(),
    }
}
