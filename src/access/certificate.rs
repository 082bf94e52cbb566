//! Certificates of the box itself: a small authority of its own, or a request for the hospital's.
//!
//! The authority's key stays on the box, and whoever installs the authority trusts it. So it is
//! bound to the box's names (X.509 name constraints): stolen, it can pass for this box and for
//! nothing else. More names need another authority, and clients must be told.
//!
//! Invariants:
//! 1. Keys are written with mode 0600 before their certificate, and never printed.
//! 2. Nothing is overwritten unasked; a renewal replaces certificate and key, never the authority.

use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    NameConstraints,
};
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// The folder in the state folder.
pub const FOLDER: &str = "tls";
/// The certificate that is shown, and those between it and its authority.
pub const CERTIFICATE: &str = "cert.pem";
/// Its key.
pub const KEY: &str = "key.pem";
/// The box's own authority, which clients are to trust.
pub const AUTHORITY: &str = "ca.pem";
/// Its key.
pub const AUTHORITY_KEY: &str = "ca-key.pem";
/// A request to the hospital's authority.
pub const REQUEST: &str = "request.csr";

const DAY: Duration = Duration::from_secs(86_400);
/// Clocks of clients may be behind.
const BACKDATED: Duration = Duration::from_secs(3600);
/// Longer than the box lives: a new authority means a walk to every client.
const AUTHORITY_DAYS: u32 = 3650;

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// The system's word.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It would be overwritten.
    #[error("{} exists; --renew makes a new one under the same authority", .0.display())]
    Exists(PathBuf),
    /// The authority does not speak for these names.
    #[error(
        "the authority in {} is bound to the names it was made for, and \"{name}\" is none; --new-ca makes another one, which clients must then trust instead", path.display()
    )]
    NewName {
        /// The authority.
        path: PathBuf,
        /// The first name that it does not know.
        name: String,
    },
    /// Not a certificate.
    #[error("{}: not a certificate in PEM", .0.display())]
    NoCertificate(PathBuf),
    /// Names that no certificate can carry, or a failure of the library.
    #[error("no certificate could be made: {0}")]
    Make(#[from] rcgen::Error),
}

/// What to make.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Host names and addresses; with none, those of the certificate that is renewed.
    pub names: Vec<String>,
    /// Validity of the certificate.
    pub days: u32,
    /// Replace certificate and key.
    pub renew: bool,
    /// Make another authority too.
    pub new_authority: bool,
}

/// A certificate's end and names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// When it ends.
    pub expires: SystemTime,
    /// Its host names and addresses.
    pub names: Vec<String>,
}

impl Facts {
    /// Of a certificate in DER.
    #[must_use]
    pub fn of(der: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let end = u64::try_from(certificate.validity().not_after.timestamp()).ok()?;
        let names = match certificate.subject_alternative_name() {
            Ok(Some(extension)) => &*extension.value.general_names,
            _ => &[],
        };
        let name = |name: &GeneralName<'_>| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            GeneralName::IPAddress(bytes) => match bytes.len() {
                4 => <[u8; 4]>::try_from(*bytes).ok().map(|b| IpAddr::from(b).to_string()),
                _ => <[u8; 16]>::try_from(*bytes).ok().map(|b| IpAddr::from(b).to_string()),
            },
            _ => None,
        };
        let names = names.iter().filter_map(name).collect();
        Some(Self { expires: SystemTime::UNIX_EPOCH + Duration::from_secs(end), names })
    }

    fn read(path: &Path) -> Result<Self, CertificateError> {
        let bytes = std::fs::read(path).map_err(failed(path))?;
        let none = || CertificateError::NoCertificate(path.to_owned());
        let (_, pem) = x509_parser::pem::parse_x509_pem(&bytes).map_err(|_| none())?;
        Self::of(&pem.contents).ok_or_else(none)
    }
}

/// Makes a certificate under the box's own authority, and that authority where there is none.
///
/// # Errors
/// Any [`CertificateError`].
pub fn issue(folder: &Path, wanted: &Wanted) -> Result<Facts, CertificateError> {
    let at = |name: &str| folder.join(name);
    if at(CERTIFICATE).exists() && !wanted.renew && !wanted.new_authority {
        return Err(CertificateError::Exists(at(CERTIFICATE)));
    }
    std::fs::create_dir_all(folder).map_err(failed(folder))?;
    let mut names = wanted.names.clone();
    if names.is_empty() {
        names = Facts::read(&at(CERTIFICATE))?.names;
    }
    if wanted.new_authority || !at(AUTHORITY).exists() {
        let key = KeyPair::generate()?;
        let certificate = authority(&names)?.self_signed(&key)?;
        write(&at(AUTHORITY_KEY), &key.serialize_pem(), 0o600)?;
        write(&at(AUTHORITY), &certificate.pem(), 0o644)?;
    }
    let read = |name: &str| std::fs::read_to_string(at(name)).map_err(failed(&at(name)));
    let authority_pem = read(AUTHORITY)?;
    let known = bound_to(&at(AUTHORITY), authority_pem.as_bytes())?;
    let folded = |name: &str| name.to_ascii_lowercase();
    if let Some(name) = names.iter().find(|name| !known.contains(&folded(name))) {
        return Err(CertificateError::NewName { path: at(AUTHORITY), name: name.clone() });
    }
    let issuer =
        Issuer::from_ca_cert_pem(&authority_pem, KeyPair::from_pem(&read(AUTHORITY_KEY)?)?)?;
    let key = KeyPair::generate()?;
    let mut params = server(&names)?;
    let now = SystemTime::now();
    params.not_before = (now - BACKDATED).into();
    params.not_after = (now + DAY * wanted.days).into();
    params.use_authority_key_identifier_extension = true;
    let certificate = params.signed_by(&key, &issuer)?;
    write(&at(KEY), &key.serialize_pem(), 0o600)?;
    write(&at(CERTIFICATE), &(certificate.pem() + &authority_pem), 0o644)?;
    Facts::read(&at(CERTIFICATE))
}

/// Makes a key and a request that the hospital's authority can sign.
///
/// # Errors
/// Any [`CertificateError`].
pub fn request(folder: &Path, wanted: &Wanted) -> Result<(), CertificateError> {
    let at = |name: &str| folder.join(name);
    if at(KEY).exists() && !wanted.renew {
        return Err(CertificateError::Exists(at(KEY)));
    }
    std::fs::create_dir_all(folder).map_err(failed(folder))?;
    let key = KeyPair::generate()?;
    let request = server(&wanted.names)?.serialize_request(&key)?;
    write(&at(KEY), &key.serialize_pem(), 0o600)?;
    write(&at(REQUEST), &request.pem()?, 0o644)
}

fn server(names: &[String]) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(names.to_vec())?;
    params.distinguished_name = distinguished(names.first().map_or("sam2d", |name| name));
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    Ok(params)
}

fn authority(names: &[String]) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    let first = names.first().map_or("sam2d", |name| name);
    params.distinguished_name = distinguished(&format!("sam2d box authority of {first}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let now = SystemTime::now();
    params.not_before = (now - BACKDATED).into();
    params.not_after = (now + DAY * AUTHORITY_DAYS).into();
    let subtree = |name: &String| match name.parse::<IpAddr>() {
        Ok(IpAddr::V4(v4)) => {
            GeneralSubtree::IpAddress(CidrSubnet::from_v4_prefix(v4.octets(), 32))
        }
        Ok(IpAddr::V6(v6)) => {
            GeneralSubtree::IpAddress(CidrSubnet::from_v6_prefix(v6.octets(), 128))
        }
        Err(_) => GeneralSubtree::DnsName(name.to_ascii_lowercase()),
    };
    let permitted_subtrees = names.iter().map(subtree).collect();
    params.name_constraints =
        Some(NameConstraints { permitted_subtrees, excluded_subtrees: Vec::new() });
    Ok(params)
}

fn distinguished(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    // X.520 bounds a common name to 64 characters.
    distinguished.push(DnType::CommonName, name.chars().take(64).collect::<String>());
    distinguished
}

/// The names that an authority may speak for.
fn bound_to(path: &Path, pem: &[u8]) -> Result<Vec<String>, CertificateError> {
    let none = || CertificateError::NoCertificate(path.to_owned());
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem).map_err(|_| none())?;
    let (_, certificate) = X509Certificate::from_der(&pem.contents).map_err(|_| none())?;
    let constraints = certificate.name_constraints().map_err(|_| none())?;
    let subtrees = constraints.and_then(|found| found.value.permitted_subtrees.as_deref());
    let name = |base: &GeneralName<'_>| match base {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            8 => bytes.first_chunk::<4>().map(|b| IpAddr::from(*b).to_string()),
            _ => bytes.first_chunk::<16>().map(|b| IpAddr::from(*b).to_string()),
        },
        _ => None,
    };
    Ok(subtrees.unwrap_or_default().iter().filter_map(|subtree| name(&subtree.base)).collect())
}

/// Whole or not at all; owned by whom the folder above belongs to, as the daemon must read it.
fn write(path: &Path, text: &str, mode: u32) -> Result<(), CertificateError> {
    let beside = path.with_extension("new");
    let put = || -> io::Result<()> {
        match std::fs::remove_file(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
        file.write_all(text.as_bytes())?;
        if let Some(owner) = path.parent().and_then(Path::parent).map(std::fs::metadata) {
            let owner = owner?;
            if rustix::process::geteuid().is_root() {
                let (user, group) = (Some(owner.uid()), Some(owner.gid()));
                std::os::unix::fs::fchown(&file, user, group)?;
                std::os::unix::fs::chown(path.parent().unwrap_or(path), user, group)?;
            }
        }
        file.sync_all()?;
        std::fs::rename(&beside, path)
    };
    put().map_err(failed(path))
}

fn failed(path: &Path) -> impl Fn(io::Error) -> CertificateError + '_ {
    move |source| CertificateError::Io { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn wanted(names: &[&str]) -> Wanted {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        Wanted { names, days: 397, renew: false, new_authority: false }
    }

    #[test]
    fn a_certificate_has_its_names_its_end_and_a_key_for_the_owner_alone() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join(FOLDER);
        let facts = issue(&folder, &wanted(&["box7.example", "10.0.0.5", "::1"])).unwrap();
        assert_eq!(facts.names, ["box7.example", "10.0.0.5", "::1"]);
        let left = facts.expires.duration_since(SystemTime::now()).unwrap();
        assert!(left > DAY * 396 && left <= DAY * 397, "{left:?}");
        for name in [KEY, AUTHORITY_KEY] {
            let mode = std::fs::metadata(folder.join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
        assert!(matches!(
            issue(&folder, &wanted(&["box7.example"])),
            Err(CertificateError::Exists(_))
        ));
    }

    #[test]
    fn a_renewal_keeps_authority_and_names_and_new_names_need_another_authority() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join(FOLDER);
        issue(&folder, &wanted(&["box7.example"])).unwrap();
        let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
        let (authority, key) = (read(AUTHORITY), read(KEY));
        let renewal = Wanted { renew: true, ..wanted(&[]) };
        assert_eq!(issue(&folder, &renewal).unwrap().names, ["box7.example"]);
        assert_eq!(read(AUTHORITY), authority);
        assert_ne!(read(KEY), key);
        let other = Wanted { renew: true, ..wanted(&["box8.example"]) };
        assert!(matches!(issue(&folder, &other), Err(CertificateError::NewName { .. })));
        let anew = Wanted { new_authority: true, ..other };
        assert_eq!(issue(&folder, &anew).unwrap().names, ["box8.example"]);
        assert_ne!(read(AUTHORITY), authority);
    }

    #[test]
    fn a_request_carries_the_names_and_leaves_the_key_here() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join(FOLDER);
        request(&folder, &wanted(&["box7.example"])).unwrap();
        let text = std::fs::read_to_string(folder.join(REQUEST)).unwrap();
        assert!(text.starts_with("-----BEGIN CERTIFICATE REQUEST-----"), "{text}");
        assert!(folder.join(KEY).exists() && !folder.join(CERTIFICATE).exists());
        assert!(matches!(
            request(&folder, &wanted(&["box7.example"])),
            Err(CertificateError::Exists(_))
        ));
    }
}
