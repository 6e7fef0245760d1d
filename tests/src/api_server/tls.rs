//! Who the server is.

use anyhow::{Context as _, Result};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use std::sync::Arc;

/// Names and addresses that the certificate is for: as those of API servers, for
/// the cluster address of the Service, too.
const NAMES: [&str; 7] = [
    "localhost",
    "kubernetes",
    "kubernetes.default",
    "10.96.0.1",
    "127.0.0.1",
    "192.0.2.1",
    "192.0.2.2",
];

/// A certificate with its key.
#[derive(Debug)]
pub(super) struct Identity {
    pem: String,
    config: Arc<ServerConfig>,
}

impl Identity {
    /// Makes one.
    pub(super) fn new() -> Result<Self> {
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(NAMES.map(str::to_owned).to_vec())
                .context("make a certificate")?;
        let key = PrivateKeyDer::try_from(signing_key.serialize_der());
        let key = key.map_err(|error| anyhow::anyhow!("read its key: {error}"))?;
        let config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)
            .context("use a certificate")?;
        Ok(Self { pem: cert.pem(), config: Arc::new(config) })
    }

    /// The certificate.
    pub(super) fn pem(&self) -> &str {
        &self.pem
    }

    /// How to serve with it.
    pub(super) fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config)
    }
}
