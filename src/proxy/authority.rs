use std::collections::HashMap;
use std::io::{ErrorKind, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, Datelike, Days, NaiveDate, Utc};
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CidrSubnet, DnType, ExtendedKeyUsagePurpose,
    GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose, NameConstraints,
};
use rustls::ServerConfig;
use rustls_pki_types::PrivateKeyDer;

/// The certificate authority of this installation: issues certificates for the hosts that Remora stands in for.
///
/// Whoever has its key can pose as these hosts before the apps that trust it, and as no others: the certificate is
/// constrained to their names ([RFC 5280 §4.2.1.10](https://www.rfc-editor.org/rfc/rfc5280#section-4.2.1.10)).
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: PathBuf,
    /// One for all certificates issued here; never leaves the memory.
    key: KeyPair,
    issued: Mutex<HashMap<String, Issued>>,
}

struct Issued {
    /// The day on which it was issued; on the next, a new one is.
    day: NaiveDate,
    config: Arc<ServerConfig>,
}

/// The authority cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    #[error("{path}: {reason}", path = path.display())]
    File { path: PathBuf, reason: String },
    #[error("no certificate can be issued for {host}: {reason}")]
    Issue { host: String, reason: String },
}

/// Certificates are valid from the day before they are issued, as clocks differ, up to this many days after it.
const DAYS: u64 = 7;
/// The authority itself, in years: to be trusted anew in between would be a nuisance.
const YEARS: u64 = 10;

impl Authority {
    /// The authority kept in `folder`: `ca.key`, readable by the owner only, and `ca.pem`, what apps are to trust. Both
    /// are made on first use. The certificate stays as it is as long as it covers `hosts`; for others, a new one is
    /// issued with the same key.
    ///
    /// # Errors
    /// When the files can be neither read nor made, or others may read the key.
    pub fn open(folder: &Path, hosts: &[String]) -> Result<Self, AuthorityError> {
        let path = folder.join("ca.key");
        let failed = |reason: String| AuthorityError::File { path: path.clone(), reason };
        let key = read_or_make_key(folder, &path).map_err(|e| failed(e.to_string()))?;
        let key = KeyPair::from_pem(&key).map_err(|e| failed(format!("is no private key: {e}")))?;

        let certificate = Self::certificate_in(folder);
        let mut hosts: Vec<String> = hosts.iter().map(|h| h.to_ascii_lowercase()).collect();
        hosts.sort();
        hosts.dedup();
        let params = params(&key, &hosts, Utc::now());
        if !covers(&std::fs::read_to_string(&certificate).unwrap_or_default(), &key, &hosts) {
            let failed = |reason: String| AuthorityError::File { path: certificate.clone(), reason };
            let pem = params.self_signed(&key).map_err(|e| failed(e.to_string()))?.pem();
            let text = format!("{}{}\n{pem}", about(&key), hosts.join(" "));
            replace(folder, &certificate, &text).map_err(|e| failed(e.to_string()))?;
            tracing::warn!(
                certificate = %certificate.display(),
                hosts = hosts.join(" "),
                "a new certificate of the local authority: apps have to trust it"
            );
        }
        let own = KeyPair::generate().map_err(|e| failed(e.to_string()))?;
        Ok(Self { issuer: Issuer::new(params, key), certificate, key: own, issued: Mutex::default() })
    }

    /// The file that apps are to trust, of the authority kept in `folder`.
    #[must_use]
    pub fn certificate_in(folder: &Path) -> PathBuf {
        folder.join("ca.pem")
    }

    /// The file that apps are to trust.
    #[must_use]
    pub fn certificate(&self) -> &Path {
        &self.certificate
    }

    /// What it takes to stand in for a host, HTTP/2 and HTTP/1.1 offered.
    ///
    /// # Errors
    /// When no certificate can be issued for such a name.
    pub(super) fn server(&self, host: &str) -> Result<Arc<ServerConfig>, AuthorityError> {
        let now = Utc::now();
        let mut issued = self.issued.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = issued.get(host).filter(|known| known.day == now.date_naive()) {
            return Ok(known.config.clone());
        }
        let config = Arc::new(self.config(host, now)?);
        issued.insert(host.to_owned(), Issued { day: now.date_naive(), config: config.clone() });
        Ok(config)
    }

    fn leaf(&self, host: &str, now: DateTime<Utc>) -> Result<Certificate, AuthorityError> {
        let failed = |reason: String| AuthorityError::Issue { host: host.to_owned(), reason };
        let mut params =
            CertificateParams::new(vec![bare(host).to_owned()]).map_err(|e| failed(e.to_string()))?;
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, bare(host));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let today = now.date_naive();
        set_validity(&mut params, today - Days::new(1), today + Days::new(DAYS));
        params.signed_by(&self.key, &self.issuer).map_err(|e| failed(e.to_string()))
    }

    fn config(&self, host: &str, now: DateTime<Utc>) -> Result<ServerConfig, AuthorityError> {
        let failed = |reason: String| AuthorityError::Issue { host: host.to_owned(), reason };
        let certificate = self.leaf(host, now)?;
        let key = PrivateKeyDer::try_from(self.key.serialize_der()).map_err(|e| failed(e.to_owned()))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| failed(e.to_string()))?
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .map_err(|e| failed(e.to_string()))?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }
}

/// The authority's certificate. The name depends on the key: two installations must not be taken for one.
fn params(key: &KeyPair, hosts: &[String], now: DateTime<Utc>) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, format!("Remora local CA {}", name(key)));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let (ips, names): (Vec<_>, Vec<_>) =
        hosts.iter().map(|h| bare(h)).partition(|h| h.parse::<IpAddr>().is_ok());
    let mut permitted: Vec<GeneralSubtree> =
        names.iter().map(|name| GeneralSubtree::DnsName((*name).to_owned())).collect();
    let mut excluded = Vec::new();
    // A kind of name that is not mentioned would be free.
    if permitted.is_empty() {
        permitted.push(GeneralSubtree::DnsName("invalid".into()));
    }
    for ip in ips.iter().filter_map(|ip| ip.parse::<IpAddr>().ok()) {
        let all = if ip.is_ipv4() { 32 } else { 128 };
        permitted.push(GeneralSubtree::IpAddress(CidrSubnet::from_addr_prefix(ip, all)));
    }
    if ips.is_empty() {
        excluded.push(GeneralSubtree::IpAddress(CidrSubnet::V4([0; 4], [0; 4])));
        excluded.push(GeneralSubtree::IpAddress(CidrSubnet::V6([0; 16], [0; 16])));
    }
    params.name_constraints =
        Some(NameConstraints { permitted_subtrees: permitted, excluded_subtrees: excluded });
    let today = now.date_naive();
    set_validity(&mut params, today - Days::new(1), today + Days::new(365 * YEARS));
    params
}

/// The first 8 digits of the key's hash.
fn name(key: &KeyPair) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, key.public_key_raw());
    hex::encode(&digest.as_ref()[..4])
}

/// What stands before the certificate in its file, up to the hosts: readers of PEM skip it.
fn about(key: &KeyPair) -> String {
    format!("Remora's local certificate authority {}. Only for these hosts: ", name(key))
}

fn covers(file: &str, key: &KeyPair, hosts: &[String]) -> bool {
    let covered = file.lines().next().and_then(|line| line.strip_prefix(about(key).as_str()));
    covered.is_some_and(|covered| hosts.iter().all(|host| covered.split(' ').any(|c| c == host)))
        && file.contains("END CERTIFICATE")
}

/// An IPv6 address without its brackets.
fn bare(host: &str) -> &str {
    host.trim_start_matches('[').trim_end_matches(']')
}

/// The beginning of a day, and the end of another. Whole days are enough, and rcgen takes them without the library that
/// its times come from.
fn set_validity(params: &mut CertificateParams, from: NaiveDate, until: NaiveDate) {
    let small = |n: u32| u8::try_from(n).expect("months and days are small numbers");
    params.not_before = rcgen::date_time_ymd(from.year(), small(from.month()), small(from.day()));
    params.not_after = rcgen::date_time_ymd(until.year(), small(until.month()), small(until.day()));
}

fn read_or_make_key(folder: &Path, path: &Path) -> std::io::Result<String> {
    match std::fs::read_to_string(path) {
        Ok(key) => {
            check_private(path)?;
            return Ok(key);
        }
        Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
        Err(_) => {}
    }
    let mut private = std::fs::DirBuilder::new();
    private.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut private, 0o700);
    private.create(folder)?;
    let key = KeyPair::generate().map_err(std::io::Error::other)?.serialize_pem();
    // Whole or not at all, and private from the start.
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(key.as_bytes())?;
    file.as_file().sync_all()?;
    match file.persist_noclobber(path) {
        Ok(_) => Ok(key),
        // Another process made it in the meantime.
        Err(e) if e.error.kind() == ErrorKind::AlreadyExists => std::fs::read_to_string(path),
        Err(e) => Err(e.error),
    }
}

#[cfg(unix)]
fn check_private(path: &Path) -> std::io::Result<()> {
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(path)?.permissions());
    if mode & 0o077 == 0 {
        return Ok(());
    }
    Err(std::io::Error::other(
        "others may read this key: chmod 600 it, or delete it if they may have done so",
    ))
}

#[cfg(not(unix))]
fn check_private(_: &Path) -> std::io::Result<()> {
    Ok(())
}

fn replace(folder: &Path, path: &Path, text: &str) -> std::io::Result<()> {
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(text.as_bytes())?;
    // Nothing secret in it.
    #[cfg(unix)]
    file.as_file().set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|e| e.error)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use rustls::client::WebPkiServerVerifier;
    use rustls::client::danger::ServerCertVerifier;
    use rustls_pki_types::pem::PemObject;
    use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

    use super::*;

    fn open(folder: &Path, hosts: &[&str]) -> Authority {
        let hosts: Vec<String> = hosts.iter().map(|h| (*h).to_owned()).collect();
        Authority::open(folder, &hosts).expect("it opens")
    }

    /// Whether one who trusts the authority takes a certificate of it for `host`, `days` from now.
    fn accepted(authority: &Authority, host: &str, days: i64) -> Result<(), String> {
        let mut roots = rustls::RootCertStore::empty();
        let root = CertificateDer::from_pem_file(authority.certificate()).expect("a certificate");
        roots.add(root).expect("it can be trusted");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().expect("built");
        let leaf = authority.leaf(host, Utc::now()).expect("issued");
        let at = UnixTime::since_unix_epoch(std::time::Duration::from_secs(
            u64::try_from(Utc::now().timestamp() + days * 86_400).expect("after 1970"),
        ));
        let name = ServerName::try_from(bare(host).to_owned()).expect("a name");
        verifier.verify_server_cert(leaf.der(), &[], &name, &[], at).map(|_| ()).map_err(|e| e.to_string())
    }

    #[test]
    fn certificates_hold_for_listed_hosts_and_a_week_only() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let authority = open(dir.path(), &["api.openai.com", "localhost"]);
        assert_eq!(accepted(&authority, "api.openai.com", 0), Ok(()));
        assert_eq!(accepted(&authority, "localhost", 5), Ok(()));
        assert!(accepted(&authority, "localhost", 8).is_err_and(|e| e.contains("xpired")));
        for other in ["example.org", "notapi.openai.com", "127.0.0.1", "::1"] {
            assert!(accepted(&authority, other, 0).is_err(), "{other}");
        }
        let dir = tempfile::tempdir().expect("a temporary directory");
        let authority = open(dir.path(), &["127.0.0.1", "[::1]"]);
        assert_eq!(accepted(&authority, "127.0.0.1", 0), Ok(()));
        assert_eq!(accepted(&authority, "[::1]", 0), Ok(()));
        for other in ["example.org", "127.0.0.2", "::2"] {
            assert!(accepted(&authority, other, 0).is_err(), "{other}");
        }
    }

    #[test]
    fn key_and_certificate_stay_as_they_are_until_a_host_is_added() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).expect("it is there");
        open(dir.path(), &["a.example", "b.example"]);
        let (key, certificate) = (read("ca.key"), read("ca.pem"));
        let again = open(dir.path(), &["B.example"]);
        assert_eq!((read("ca.key"), read("ca.pem")), (key.clone(), certificate.clone()));
        assert_eq!(accepted(&again, "b.example", 0), Ok(()));
        let more = open(dir.path(), &["b.example", "c.example"]);
        assert_eq!(read("ca.key"), key);
        assert_ne!(read("ca.pem"), certificate);
        assert_eq!(accepted(&more, "c.example", 0), Ok(()));
        // Another key: what was trusted before must not be offered any longer.
        std::fs::remove_file(dir.path().join("ca.key")).expect("deleted");
        let other = open(dir.path(), &["b.example"]);
        assert_eq!(accepted(&other, "b.example", 0), Ok(()));
    }

    #[cfg(unix)]
    #[test]
    fn the_key_is_private_or_refused() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().expect("a temporary directory");
        let folder = dir.path().join("ca");
        open(&folder, &["a.example"]);
        let mode = |path: &Path| path.metadata().expect("it is there").permissions().mode() & 0o777;
        assert_eq!((mode(&folder), mode(&folder.join("ca.key"))), (0o700, 0o600));
        std::fs::set_permissions(folder.join("ca.key"), PermissionsExt::from_mode(0o640)).expect("set");
        let said = Authority::open(&folder, &[]).err().expect("refused").to_string();
        assert!(said.contains("ca.key") && said.contains("chmod 600"), "{said}");
    }
}
