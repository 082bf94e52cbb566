//! What binds the lines: every line ends with an HMAC-SHA256, under a secret of this box, over the
//! seal of the line before and its own text. Whoever changes, removes, adds or reorders a line
//! without the secret breaks the chain from there on.
//!
//! The secret lies beside the trail, readable by the daemon's user and root: against those two only
//! a copy elsewhere helps, which is what `audit.syslog` is for.

use crate::domain::key::hex;
use ring::hmac;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

/// Name of the secret's file in the trail's folder.
pub const SECRET: &str = "secret";
const SECRET_BYTES: usize = 32;
const SEAL_BEFORE: &str = ",\"seal\":\"";
const SEAL_AFTER: &str = "\"}";
const HEX: usize = 64;

/// The seal of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seal([u8; 32]);

impl Seal {
    /// Before the first line.
    pub const NONE: Self = Self([0; 32]);

    /// As 64 hex digits.
    #[must_use]
    pub fn hex(&self) -> String {
        hex(&self.0)
    }

    /// From 64 hex digits.
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        if text.len() != HEX || !text.is_ascii() {
            return None;
        }
        for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
        }
        Some(Self(bytes))
    }
}

/// The box's secret, in two keys that tell nothing of each other.
pub struct Keys {
    chain: hmac::Key,
    patient: hmac::Key,
}

impl Keys {
    /// Reads the secret in this folder, or draws one.
    ///
    /// # Errors
    /// When it can't be read or written.
    pub fn open(folder: &Path) -> io::Result<Self> {
        let path = folder.join(SECRET);
        match File::open(&path) {
            Ok(file) => Self::read(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let mut secret = [0; SECRET_BYTES];
                getrandom::fill(&mut secret)?;
                let mut options = OpenOptions::new();
                options.write(true).create_new(true).mode(0o600);
                let mut file = options.open(&path)?;
                file.write_all(&secret)?;
                file.sync_all()?;
                Ok(Self::from(&secret))
            }
            Err(error) => Err(error),
        }
    }

    /// Reads the secret in this folder.
    ///
    /// # Errors
    /// When there is none.
    pub fn existing(folder: &Path) -> io::Result<Self> {
        Self::read(File::open(folder.join(SECRET))?)
    }

    fn read(file: File) -> io::Result<Self> {
        if file.metadata()?.mode() & 0o077 != 0 {
            return Err(io::Error::other("the audit secret can be read by others; chmod 600 it"));
        }
        let mut secret = Vec::new();
        file.take(1024).read_to_end(&mut secret)?;
        match <[u8; SECRET_BYTES]>::try_from(secret) {
            Ok(secret) => Ok(Self::from(&secret)),
            Err(_) => Err(io::Error::other("the audit secret is damaged")),
        }
    }

    fn from(secret: &[u8; SECRET_BYTES]) -> Self {
        let master = hmac::Key::new(hmac::HMAC_SHA256, secret);
        let derived =
            |label: &[u8]| hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&master, label).as_ref());
        Self { chain: derived(b"sam2d audit chain 1"), patient: derived(b"sam2d audit patient 1") }
    }

    /// What is written of a `patient_id`: 32 hex digits. The same patient has the same ones on this
    /// box; without the secret they can be neither read nor looked for.
    #[must_use]
    pub fn patient(&self, id: &str) -> String {
        let mut text = hex(hmac::sign(&self.patient, id.as_bytes()).as_ref());
        text.truncate(32);
        text
    }

    /// The seal of a text after a seal.
    #[must_use]
    pub fn seal(&self, before: &Seal, text: &str) -> Seal {
        let mut context = hmac::Context::with_key(&self.chain);
        context.update(&before.0);
        context.update(text.as_bytes());
        Seal(context.sign().as_ref().try_into().unwrap_or(Seal::NONE.0))
    }

    /// A JSON object as a sealed line, without a line feed.
    #[must_use]
    pub fn line(&self, before: &Seal, json: &str) -> (String, Seal) {
        let seal = self.seal(before, json);
        let open = json.strip_suffix('}').unwrap_or(json);
        (format!("{open}{SEAL_BEFORE}{}{SEAL_AFTER}", seal.hex()), seal)
    }
}

/// A line's text as it was sealed, and its seal; `None` where it has none.
#[must_use]
pub fn split(line: &str) -> Option<(String, Seal)> {
    let rest = line.strip_suffix(SEAL_AFTER)?;
    let (open, seal) = rest.split_at_checked(rest.len().checked_sub(HEX)?)?;
    Some((open.strip_suffix(SEAL_BEFORE)?.to_owned() + "}", Seal::from_hex(seal)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_sealed_line_is_json_and_gives_its_text_back() {
        let folder = tempfile::tempdir().unwrap();
        let keys = Keys::open(folder.path()).unwrap();
        let (line, seal) = keys.line(&Seal::NONE, r#"{"seq":1}"#);
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["seal"], seal.hex());
        assert_eq!(split(&line), Some((r#"{"seq":1}"#.to_owned(), seal)));
        assert_ne!(keys.seal(&seal, r#"{"seq":1}"#), seal, "the place counts");
        for bad in
            ["", "{}", "x", &line[1..], &line[..line.len() - 1], &line.replace("seal", "sael")]
        {
            let again =
                split(bad).is_some_and(|(text, seal)| keys.seal(&Seal::NONE, &text) == seal);
            assert!(!again, "{bad}");
        }
    }

    #[test]
    fn the_secret_is_the_box_s_own_and_stays_its_owner_s() {
        let [one, two] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let keys = Keys::open(one.path()).unwrap();
        let hash = keys.patient("Kanarienvogel^Hans");
        assert_eq!(hash.len(), 32);
        assert_eq!(Keys::existing(one.path()).unwrap().patient("Kanarienvogel^Hans"), hash);
        assert_ne!(Keys::open(two.path()).unwrap().patient("Kanarienvogel^Hans"), hash);
        let path = one.path().join(SECRET);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(Keys::open(one.path()).is_err());
    }
}
