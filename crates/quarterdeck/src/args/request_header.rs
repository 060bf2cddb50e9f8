use std::path::PathBuf;

use clap::Args;

/// How front proxies are known, and what they say of users.
#[derive(Clone, Debug, Args)]
pub(crate) struct RequestHeaderFlags {
    /// CAs of front proxies, which name the user in headers (PEM); `server` makes one if not given, and the others then know none.
    #[arg(long)]
    pub requestheader_client_ca_file: Option<PathBuf>,
    /// Common names of front proxies, comma separated; any name of the CA if empty.
    #[arg(long, value_delimiter = ',')]
    pub requestheader_allowed_names: Vec<String>,
    /// Headers in which front proxies name the user, comma separated.
    #[arg(long, value_delimiter = ',', default_value = "X-Remote-User")]
    pub requestheader_username_headers: Vec<String>,
    /// Headers in which front proxies name the user's uid, comma separated.
    #[arg(long, value_delimiter = ',', default_value = "X-Remote-Uid")]
    pub requestheader_uid_headers: Vec<String>,
    /// Headers in which front proxies name the user's groups, comma separated.
    #[arg(long, value_delimiter = ',', default_value = "X-Remote-Group")]
    pub requestheader_group_headers: Vec<String>,
    /// Prefixes of headers in which front proxies send more about the user, comma separated.
    #[arg(long, value_delimiter = ',', default_value = "X-Remote-Extra-")]
    pub requestheader_extra_headers_prefix: Vec<String>,
}
