//! Transfer syntaxes: how a data set is laid out and how its pixels are coded. PS3.5 section 10 and
//! annex A.

use crate::imaging::decode::DecodeError;
use dicom_transfer_syntax_registry::TransferSyntaxIndex;
use dicom_transfer_syntax_registry::TransferSyntaxRegistry;

/// How pixels are coded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coding {
    /// Not at all; in one value, or (encapsulated uncompressed) one fragment a frame.
    Native,
    /// PS3.5 A.4.13: each frame is a raw deflate stream.
    DeflatedFrames,
    /// PS3.5 annex G.
    Rle,
    /// Any process of ISO 10918-1, told by the codestream.
    Jpeg,
    /// ISO 14495-1.
    JpegLs,
    /// ISO 15444-1 and -15, told by the codestream.
    Jpeg2000,
}

/// How a file is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Syntax {
    pub(super) implicit_vr: bool,
    pub(super) big_endian: bool,
    /// The data set after the meta information is a raw deflate stream.
    pub(super) deflated: bool,
    pub(super) coding: Coding,
}

impl Syntax {
    /// # Errors
    /// [`DecodeError::UnsupportedTransferSyntax`] with UID and name.
    pub(super) fn of(uid: &str) -> Result<Self, DecodeError> {
        let explicit =
            |coding| Ok(Self { implicit_vr: false, big_endian: false, deflated: false, coding });
        let Some(suffix) = uid.strip_prefix("1.2.840.10008.1.2") else {
            return Err(unsupported(uid));
        };
        match suffix {
            "" => explicit(Coding::Native).map(|syntax| Self { implicit_vr: true, ..syntax }),
            ".1" | ".1.98" => explicit(Coding::Native),
            ".1.99" => explicit(Coding::Native).map(|syntax| Self { deflated: true, ..syntax }),
            ".2" => explicit(Coding::Native).map(|syntax| Self { big_endian: true, ..syntax }),
            ".8.1" => explicit(Coding::DeflatedFrames),
            ".5" => explicit(Coding::Rle),
            // Processes 6, 8, 10 and 12 are retired, and told by the codestream like the others.
            ".4.50" | ".4.51" | ".4.53" | ".4.55" | ".4.57" | ".4.70" => explicit(Coding::Jpeg),
            ".4.80" | ".4.81" => explicit(Coding::JpegLs),
            ".4.90" | ".4.91" | ".4.201" | ".4.202" | ".4.203" => explicit(Coding::Jpeg2000),
            _ => Err(unsupported(uid)),
        }
    }
}

/// The refusal of a syntax, by UID and name.
pub(super) fn unsupported(uid: &str) -> DecodeError {
    let name = TransferSyntaxRegistry.get(uid).map_or("unknown", |syntax| syntax.name());
    DecodeError::UnsupportedTransferSyntax { uid: uid.to_owned(), name: name.to_owned() }
}
