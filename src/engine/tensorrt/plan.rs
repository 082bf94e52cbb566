//! The first bytes of a plan: what it is and which library wrote it, before any library reads it.
//!
//! A plan of TensorRT starts with `ftrt`; bytes 24 to 27 are major, minor, patch and build of its
//! library (seen in plans of 10.x and 11.x; it is documented nowhere, so the library has the last
//! word). One of TensorRT-RTX starts with `vtrt`, and its version is the library's business alone.

use super::library::{Flavour, Version};

const MAGIC: &[u8] = b"ftrt";
const MAGIC_RTX: &[u8] = b"vtrt";
/// Magic, sizes, and the version at the end.
const HEADER_BYTES: usize = 28;

/// What a plan's first bytes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Written by TensorRT-RTX?
    pub rtx: bool,
    /// The library that wrote it; none where the header doesn't tell.
    pub version: Option<Version>,
}

/// Why bytes are no plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Too short to be anything.
    #[error("it has {bytes} bytes, less than a plan's header")]
    Truncated {
        /// Its length.
        bytes: usize,
    },
    /// Something else.
    #[error("it starts with {found:02x?} instead of \"ftrt\" or \"vtrt\"")]
    Magic {
        /// The first four bytes.
        found: [u8; 4],
    },
}

impl Header {
    /// Reads the header.
    ///
    /// # Errors
    /// Any [`HeaderError`].
    pub fn read(plan: &[u8]) -> Result<Self, HeaderError> {
        let Some(header) = plan.first_chunk::<HEADER_BYTES>() else {
            return Err(HeaderError::Truncated { bytes: plan.len() });
        };
        let [a, b, c, d, .., major, minor, patch, build] = *header;
        let found = [a, b, c, d];
        if found == MAGIC_RTX {
            return Ok(Self { rtx: true, version: None });
        }
        if found != MAGIC {
            return Err(HeaderError::Magic { found });
        }
        let [major, minor, patch, build] = [major, minor, patch, build].map(u32::from);
        Ok(Self { rtx: false, version: Some(Version { major, minor, patch, build }) })
    }

    /// Can a library of this flavour and version read it? The lean runtime also reads older plans of
    /// its major that were built for that; whether this one was, only it can say.
    #[must_use]
    pub fn fits(&self, flavour: Flavour, library: Version) -> bool {
        let Some(plan) = self.version else { return flavour == Flavour::Rtx && self.rtx };
        match flavour {
            Flavour::Rtx => false,
            Flavour::Full => plan == library.in_a_header(),
            Flavour::Lean => plan.major == library.major && plan <= library.in_a_header(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(magic: &[u8; 4], version: [u8; 4]) -> Vec<u8> {
        let mut bytes = magic.to_vec();
        bytes.resize(24, 0);
        bytes.extend(version);
        bytes.extend(b"the rest");
        bytes
    }

    const LIBRARY: Version = Version { major: 10, minor: 3, patch: 0, build: 30 };

    #[test]
    fn magic_and_version_are_read_before_anything_else() {
        let header = Header::read(&plan(b"ftrt", [10, 3, 0, 30])).unwrap();
        assert_eq!(header, Header { rtx: false, version: Some(LIBRARY) });
        assert!(Header::read(&plan(b"vtrt", [0; 4])).unwrap().rtx);
        for (bytes, words) in [
            (b"".to_vec(), "it has 0 bytes"),
            (b"ftrt".to_vec(), "it has 4 bytes"),
            (plan(b"ONNX", [0; 4]), "it starts with [4f, 4e, 4e, 58]"),
        ] {
            let error = Header::read(&bytes).unwrap_err().to_string();
            assert!(error.starts_with(words), "{error}");
        }
    }

    #[test]
    fn only_the_library_that_wrote_a_plan_reads_it() {
        let header = Header::read(&plan(b"ftrt", [10, 3, 0, 30])).unwrap();
        assert!(header.fits(Flavour::Full, LIBRARY));
        for other in [
            Version { major: 11, ..LIBRARY },
            Version { minor: 4, ..LIBRARY },
            Version { patch: 1, ..LIBRARY },
            Version { build: 26, ..LIBRARY },
        ] {
            assert!(!header.fits(Flavour::Full, other), "{other}");
        }
        assert!(!header.fits(Flavour::Rtx, LIBRARY));
        assert!(header.fits(Flavour::Lean, Version { minor: 16, ..LIBRARY }));
        assert!(!header.fits(Flavour::Lean, Version { minor: 2, ..LIBRARY }));
        assert!(!header.fits(Flavour::Lean, Version { major: 11, ..LIBRARY }));
        let rtx = Header::read(&plan(b"vtrt", [0; 4])).unwrap();
        assert!(rtx.fits(Flavour::Rtx, LIBRARY) && !rtx.fits(Flavour::Full, LIBRARY));
    }

    #[test]
    fn a_build_number_beyond_a_byte_is_compared_by_its_byte() {
        let header = Header::read(&plan(b"ftrt", [10, 3, 0, 1])).unwrap();
        assert!(header.fits(Flavour::Full, Version { build: 257, ..LIBRARY }));
    }
}
