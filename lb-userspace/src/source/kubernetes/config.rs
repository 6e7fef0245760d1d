//! Where the API is and how the agent proves who it is: a kubeconfig, or what the
//! cluster gives to its pods.

use std::path::{Path, PathBuf};

use hyper::Uri;
use kube::Config;
use kube::config::{KubeConfigOptions, Kubeconfig};

use super::{Access, KubernetesError, Options};

/// Reads it.
pub(super) async fn config(options: &Options) -> Result<Config, KubernetesError> {
    let mut config = match &options.access {
        Access::Kubeconfig(path) => kubeconfig(path).await?,
        Access::InCluster => Config::incluster().map_err(KubernetesError::InCluster)?,
    };
    if let Some(url) = &options.api_server {
        config.cluster_url = url.clone();
    }
    // Whoever follows tries again by itself, and must know that it has to.
    config.default_retry = false;
    Ok(config)
}

async fn kubeconfig(path: &Path) -> Result<Config, KubernetesError> {
    let fail = |source| KubernetesError::Kubeconfig { path: path.into(), source: Box::new(source) };
    let file = Kubeconfig::read_from(path).map_err(fail)?;
    let config =
        Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.map_err(fail)?;
    let unfit = |reason| KubernetesError::Unfit { path: path.into(), reason };
    let auth = &config.auth_info;
    if auth.exec.is_some() || auth.auth_provider.is_some() {
        return Err(unfit(
            "the user of its current context gets credentials from a program, which the agent \
             has no right to start: use a token, tokenFile or client certificate",
        ));
    }
    if config.proxy_url.is_some() {
        return Err(unfit("proxy-url is not supported"));
    }
    Ok(config)
}

/// The URL of an API server, as people may write it.
pub fn api_server(text: &str) -> Result<Uri, String> {
    let expected = || format!("{text:?} is no URL as in https://192.0.2.1:6443");
    let url: Uri = text.parse().map_err(|_not_a_url| expected())?;
    let known = matches!(url.scheme_str(), Some("https" | "http"));
    if known && url.host().is_some() && url.query().is_none() { Ok(url) } else { Err(expected()) }
}

/// Where the addresses of API servers are kept for a pin directory.
pub fn state_file(directory: &Path, pin_dir: &Path) -> PathBuf {
    let mut file = pin_dir.file_name().unwrap_or("lb".as_ref()).to_os_string();
    file.push(".api-servers");
    directory.join(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_told_from_addresses() {
        for good in ["https://192.0.2.1:6443", "https://[2001:db8::1]:6443/", "http://api"] {
            assert!(api_server(good).is_ok(), "{good}");
        }
        for bad in ["192.0.2.1:6443", "api", "ftp://api", "https://", "https://api?x=y", ""] {
            assert!(api_server(bad).is_err(), "{bad}");
        }
    }

    fn read(user: &str) -> Result<Config, String> {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("config");
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: a\n\
             contexts: [{{name: a, context: {{cluster: c, user: u}}}}]\n\
             clusters: [{{name: c, cluster: {{server: 'https://192.0.2.1:6443'}}}}]\n\
             users: [{{name: u, user: {user}}}]\n"
        );
        std::fs::write(&path, text).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let result = runtime.block_on(kubeconfig(&path));
        result.map_err(|error| error.to_string().replace(path.to_str().unwrap(), "FILE"))
    }

    #[test]
    fn credentials_that_a_program_makes_are_refused_in_one_sentence() {
        assert!(read("{token: secret}").is_ok());
        let refused = read("{exec: {command: login, apiVersion: client.authentication.k8s.io/v1}}");
        let refused = refused.unwrap_err();
        assert!(refused.starts_with("the kubeconfig FILE can't be used: the user of"), "{refused}");
    }
}
