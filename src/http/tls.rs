//! TLS on the addresses of `tls.listen`: 1.2 and 1.3 by rustls with ring, HTTP/2 by ALPN, client
//! certificates where they are asked for.
//!
//! A new certificate is taken while the daemon serves: every connection takes the configuration
//! that is current when it is accepted and keeps it, so nothing under way is dropped.
//!
//! Invariants:
//! 1. A pair of certificate and key that doesn't fit is never served: the one before stays, loudly.
//! 2. A certificate that ends within `tls.warn_days` is said in the log, in health and in metrics.

use crate::access::certificate::{self, Facts};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

const DAY: Duration = Duration::from_secs(86_400);

/// `[tls]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Addresses to listen on with TLS, beside the clear ones of `http.listen`.
    pub listen: Vec<SocketAddr>,
    /// The certificate and those between it and its authority, PEM. Default: `tls/cert.pem` in the
    /// state folder, where `sam2d cert init` puts it.
    pub certificate: Option<PathBuf>,
    /// Its key, PEM. Default: `tls/key.pem` in the state folder.
    pub key: Option<PathBuf>,
    /// Authorities whose clients are let in without a token, PEM.
    pub client_ca: Option<PathBuf>,
    /// Are client certificates asked for? `off`; `optional`: who shows one needs no token;
    /// `required`: nobody else gets as far as a request.
    pub client_certificates: ClientCertificates,
    /// Time for a handshake: a silent client holds a connection no longer than this.
    pub handshake_timeout_s: u64,
    /// Requests at a time on one HTTP/2 connection; a browser's page needs about 20 small ones.
    pub max_streams: u32,
    /// Streams that one HTTP/2 connection may open and reset before they were taken up; more end
    /// it (rapid reset, CVE-2023-44487).
    pub max_resets: usize,
    /// Days before a certificate's end from which on it is said.
    pub warn_days: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            listen: Vec::new(),
            certificate: None,
            key: None,
            client_ca: None,
            client_certificates: ClientCertificates::Off,
            handshake_timeout_s: 10,
            max_streams: 64,
            max_resets: 20,
            warn_days: 30,
        }
    }
}

/// Are client certificates asked for?
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientCertificates {
    /// No.
    Off,
    /// Yes, and who has none may show a token.
    Optional,
    /// Yes, and nobody else is served.
    Required,
}

impl Options {
    /// What is wrong with these keys; empty when nothing is.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if self.client_certificates != ClientCertificates::Off && self.client_ca.is_none() {
            faults.push(
                "tls.client_ca must name the authority whose client certificates count".to_owned(),
            );
        }
        for (name, value) in [
            ("handshake_timeout_s", self.handshake_timeout_s),
            ("max_streams", self.max_streams.into()),
            ("max_resets", self.max_resets as u64),
        ] {
            if value == 0 {
                faults.push(format!("tls.{name} must not be 0"));
            }
        }
        faults
    }
}

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file that can't be read.
    #[error("{}: {text}; `sam2d cert init` makes a certificate", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        text: String,
    },
    /// They don't fit together, or rustls can't use them.
    #[error("{} and {}: {source}", certificate.display(), key.display())]
    Pair {
        /// The certificate.
        certificate: PathBuf,
        /// The key.
        key: PathBuf,
        /// Why.
        source: rustls::Error,
    },
    /// The authorities for clients can't be used.
    #[error("{}: {text}", path.display())]
    ClientCa {
        /// The file.
        path: PathBuf,
        /// Why.
        text: String,
    },
}

/// What connections are secured with. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Tls(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    options: Options,
    certificate: PathBuf,
    key: PathBuf,
    current: RwLock<Current>,
    seen: Mutex<Stamps>,
}

#[derive(Clone, Debug)]
struct Current {
    config: Arc<ServerConfig>,
    expires: SystemTime,
}

/// Inode, size and time of certificate, key and client authorities.
type Stamps = [Option<(u64, u64, i64, i64)>; 3];

impl Tls {
    /// Loads certificate and key. `state` is the folder below which the defaults are.
    ///
    /// # Errors
    /// Any [`TlsError`].
    pub fn open(options: &Options, state: &Path) -> Result<Self, TlsError> {
        let own = |name: &str| state.join(certificate::FOLDER).join(name);
        let certificate = options.certificate.clone();
        let certificate = certificate.unwrap_or_else(|| own(certificate::CERTIFICATE));
        let key = options.key.clone().unwrap_or_else(|| own(certificate::KEY));
        let seen = stamps(options, &certificate, &key);
        let current = load(options, &certificate, &key)?;
        Ok(Self(Arc::new(Inner {
            options: options.clone(),
            certificate,
            key,
            current: RwLock::new(current),
            seen: Mutex::new(seen),
        })))
    }

    /// The keys under `[tls]`.
    #[must_use]
    pub fn options(&self) -> &Options {
        &self.0.options
    }

    /// What a new connection is secured with.
    #[must_use]
    pub fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.0.current.read().unwrap_or_else(PoisonError::into_inner).config)
    }

    /// When the certificate ends.
    #[must_use]
    pub fn expires(&self) -> SystemTime {
        self.0.current.read().unwrap_or_else(PoisonError::into_inner).expires
    }

    /// What the operator should hear of the certificate at that time.
    #[must_use]
    pub fn warning(&self, now: SystemTime) -> Option<String> {
        let renew = "renew it with `sam2d cert init --renew`, or at the hospital's authority";
        match self.expires().duration_since(now) {
            Err(_) => Some(format!("the TLS certificate has ended; {renew}")),
            Ok(left) if left <= DAY * self.0.options.warn_days => Some(format!(
                "the TLS certificate ends in {} days; {renew}",
                left.as_secs() / 86_400
            )),
            Ok(_) => None,
        }
    }

    /// Loads the files again if they are others than before; true when they were. Blocking.
    ///
    /// # Errors
    /// Any [`TlsError`]; what was served before still is.
    pub fn refresh(&self) -> Result<bool, TlsError> {
        let now = stamps(&self.0.options, &self.0.certificate, &self.0.key);
        let seen = *self.0.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if now == seen { Ok(false) } else { self.reload().map(|()| true) }
    }

    /// Loads the files again. Blocking.
    ///
    /// # Errors
    /// Any [`TlsError`]; what was served before still is.
    pub fn reload(&self) -> Result<(), TlsError> {
        let inner = &self.0;
        let now = stamps(&inner.options, &inner.certificate, &inner.key);
        *inner.seen.lock().unwrap_or_else(PoisonError::into_inner) = now;
        let fresh = load(&inner.options, &inner.certificate, &inner.key)?;
        *inner.current.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
    }
}

fn load(options: &Options, certificate: &Path, key: &Path) -> Result<Current, TlsError> {
    let chain = certificates(certificate)
        .map_err(|text| TlsError::File { path: certificate.to_owned(), text })?;
    let facts = chain.first().and_then(|first| Facts::of(first)).ok_or_else(|| TlsError::File {
        path: certificate.to_owned(),
        text: "no certificate in it".to_owned(),
    })?;
    let secret = PrivateKeyDer::from_pem_file(key)
        .map_err(|error| TlsError::File { path: key.to_owned(), text: error.to_string() })?;
    let pair = |source| TlsError::Pair {
        certificate: certificate.to_owned(),
        key: key.to_owned(),
        source,
    };
    // Named, so that no other crate's choice of a provider can change it.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(pair)?;
    let builder = match (options.client_certificates, &options.client_ca) {
        (ClientCertificates::Off, _) | (_, None) => builder.with_no_client_auth(),
        (asked, Some(path)) => {
            let refused = |text: String| TlsError::ClientCa { path: path.clone(), text };
            let mut roots = RootCertStore::empty();
            for root in certificates(path).map_err(refused)? {
                roots.add(root).map_err(|error| refused(error.to_string()))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            let verifier = match asked {
                ClientCertificates::Required => verifier,
                _ => verifier.allow_unauthenticated(),
            };
            builder.with_client_cert_verifier(
                verifier.build().map_err(|error| refused(error.to_string()))?,
            )
        }
    };
    let mut config = builder.with_single_cert(chain, secret).map_err(pair)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Current { config: Arc::new(config), expires: facts.expires })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| error.to_string())
}

fn stamps(options: &Options, certificate: &Path, key: &Path) -> Stamps {
    let stamp = |path: &Path| {
        let meta = std::fs::metadata(path).ok()?;
        Some((meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec()))
    };
    [stamp(certificate), stamp(key), options.client_ca.as_deref().and_then(stamp)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::certificate::{KEY, Wanted, issue};

    fn made(home: &Path, days: u32, renew: bool) {
        let names = vec!["localhost".to_owned()];
        let wanted = Wanted { names, days, renew, new_authority: false };
        issue(&home.join(certificate::FOLDER), &wanted).unwrap();
    }

    #[test]
    fn a_certificate_that_ends_soon_is_said_thirty_days_ahead() {
        let home = tempfile::tempdir().unwrap();
        made(home.path(), 100, false);
        let tls = Tls::open(&Options::default(), home.path()).unwrap();
        let now = SystemTime::now();
        assert_eq!(tls.warning(now), None);
        assert_eq!(tls.warning(now + DAY * 69), None);
        let soon = tls.warning(now + DAY * 71).unwrap();
        assert!(soon.contains("ends in 28 days") && soon.contains("--renew"), "{soon}");
        assert!(tls.warning(now + DAY * 101).unwrap().contains("has ended"));
    }

    #[test]
    fn a_pair_that_does_not_fit_is_never_served() {
        let home = tempfile::tempdir().unwrap();
        made(home.path(), 100, false);
        let tls = Tls::open(&Options::default(), home.path()).unwrap();
        let before = tls.config();
        assert!(!tls.refresh().unwrap());
        let key = home.path().join(certificate::FOLDER).join(KEY);
        std::fs::write(&key, rcgen::KeyPair::generate().unwrap().serialize_pem()).unwrap();
        assert!(matches!(tls.refresh(), Err(TlsError::Pair { .. })));
        assert!(Arc::ptr_eq(&before, &tls.config()));
        made(home.path(), 200, true);
        assert!(tls.refresh().unwrap());
        assert!(!Arc::ptr_eq(&before, &tls.config()));
        std::fs::remove_file(&key).unwrap();
        let error = Tls::open(&Options::default(), home.path()).unwrap_err();
        assert!(error.to_string().contains("key.pem") && error.to_string().contains("cert init"));
    }

    #[test]
    fn client_certificates_need_an_authority() {
        let options =
            Options { client_certificates: ClientCertificates::Required, ..Options::default() };
        assert!(options.faults()[0].contains("tls.client_ca"));
        assert_eq!(Options::default().faults(), Vec::<String>::new());
    }
}
