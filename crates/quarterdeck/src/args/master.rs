use clap::Args;

/// Where the API servers are.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct MasterFlags {
    /// URLs of the API servers, comma separated, instead of the kubeconfig's; each must have a certificate of the kubeconfig's CA. When one
    /// is lost the others are used, and those that the cluster names as far as the kubeconfig's user may read them.
    #[arg(long, value_name = "https://HOST:PORT", value_delimiter = ',')]
    pub master: Vec<String>,
}
