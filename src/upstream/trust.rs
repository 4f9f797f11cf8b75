//! Whom we trust, and who we are.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::SetupError;
use crate::config;

/// The system's certificate authorities, read when they are first asked for.
#[derive(Debug, Default)]
pub(super) struct SystemRoots(OnceLock<Arc<RootCertStore>>);

impl SystemRoots {
    fn get(&self) -> Arc<RootCertStore> {
        let read = || {
            let mut roots = RootCertStore::empty();
            let found = rustls_native_certs::load_native_certs();
            for error in &found.errors {
                tracing::warn!(%error, "a system certificate cannot be read");
            }
            roots.add_parsable_certificates(found.certs);
            Arc::new(roots)
        };
        self.0.get_or_init(read).clone()
    }
}

/// TLS as `config` asks for it; `needed`: whether it will be spoken at all. ALPN is left to the connector.
pub(super) fn tls(
    config: &config::Upstream,
    at: &str,
    needed: bool,
    system: &SystemRoots,
) -> Result<ClientConfig, SetupError> {
    let failed = |reason: String| SetupError::Tls { at: at.to_owned(), reason };
    let roots = match &config.ca {
        Some(path) => Arc::new(authorities(path, &format!("{at}.ca"))?),
        None if needed => {
            let roots = system.get();
            if roots.is_empty() {
                return Err(failed(
                    "the system has no certificate authorities; install ca-certificates or set `ca`".into(),
                ));
            }
            roots
        }
        None => Arc::new(RootCertStore::empty()),
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| failed(e.to_string()))?
        .with_root_certificates(roots);
    let (Some(chain), Some(key)) = (&config.client_certificate, &config.client_key) else {
        return Ok(builder.with_no_client_auth());
    };
    let certificates = certificates(chain, &format!("{at}.client_certificate"))?;
    let key_at = format!("{at}.client_key");
    let unusable = |reason: String| SetupError::File { at: key_at.clone(), path: key.clone(), reason };
    let private = PrivateKeyDer::from_pem_file(key).map_err(|e| unusable(pem_reason(&e, "private key")))?;
    builder
        .with_client_auth_cert(certificates, private)
        .map_err(|e| unusable(format!("does not fit the certificate {}: {e}", chain.display())))
}

fn authorities(path: &Path, at: &str) -> Result<RootCertStore, SetupError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path, at)? {
        roots.add(certificate).map_err(|e| SetupError::File {
            at: at.to_owned(),
            path: path.to_owned(),
            reason: e.to_string(),
        })?;
    }
    Ok(roots)
}

/// The certificates of a PEM file: at least one.
fn certificates(path: &Path, at: &str) -> Result<Vec<CertificateDer<'static>>, SetupError> {
    let failed = |reason: String| SetupError::File { at: at.to_owned(), path: path.to_owned(), reason };
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let found = read.map_err(|e| failed(pem_reason(&e, "certificate")))?;
    if found.is_empty() {
        return Err(failed("holds no certificate in PEM form".into()));
    }
    Ok(found)
}

fn pem_reason(error: &rustls_pki_types::pem::Error, what: &str) -> String {
    match error {
        rustls_pki_types::pem::Error::NoItemsFound => format!("holds no {what} in PEM form"),
        other => other.to_string(),
    }
}
