//! Where the agent learns of Services from.

use crate::source::SourceConfig;
use crate::source::kubernetes::{Access, Options, api_server, state_file};
use clap::Args;
use hyper::Uri;
use std::path::{Path, PathBuf};

/// Where the agent learns of Services from.
#[derive(Clone, Debug, Args)]
pub struct SourceArgs {
    /// Which source.
    #[command(flatten)]
    which: WhichSource,
    /// URL of the API server, in place of the one of the kubeconfig or of the cluster
    ///
    /// Where this agent is what serves the cluster address of the API, it can't reach it there
    /// before it has begun to serve; name an address that works by itself.
    #[arg(long, value_name = "URL", value_parser = api_server, conflicts_with = "manifests",
        alias = "master")]
    api_server: Option<Uri>,
    /// Directory in which the last known addresses of the API servers are kept
    #[arg(long, value_name = "DIR", default_value = "/var/lib/lb", conflicts_with = "manifests")]
    state_dir: PathBuf,
}

/// One of the sources.
#[derive(Clone, Debug, Args)]
#[group(required = true, multiple = false)]
struct WhichSource {
    /// Directory with the manifests
    #[arg(long, value_name = "DIR")]
    manifests: Option<PathBuf>,
    /// Follow the Kubernetes API, as this file says
    #[arg(long, value_name = "FILE", requires = "node_name")]
    kubeconfig: Option<PathBuf>,
    /// Follow the Kubernetes API, as a pod of the cluster
    #[arg(long, requires = "node_name")]
    in_cluster: bool,
}

impl SourceArgs {
    /// The source that was named.
    pub fn source(self, node_name: Option<&str>, pin_dir: &Path) -> SourceConfig {
        let WhichSource { manifests, kubeconfig, in_cluster: _ } = self.which;
        if let Some(manifests) = manifests {
            return SourceConfig::Manifests(manifests);
        }
        SourceConfig::Kubernetes(Options {
            access: kubeconfig.map_or(Access::InCluster, Access::Kubeconfig),
            api_server: self.api_server,
            node_name: node_name.unwrap_or_default().to_owned(),
            state_file: state_file(&self.state_dir, pin_dir),
        })
    }
}
