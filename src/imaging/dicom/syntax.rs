//! Transfer syntaxes: how a data set is laid out and how its pixels are coded. PS3.5 section 10 and
//! annex A.

use crate::imaging::decode::DecodeError;
use dicom_transfer_syntax_registry::TransferSyntaxIndex;
use dicom_transfer_syntax_registry::TransferSyntaxRegistry;

/// How pixels are coded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::imaging) enum Coding {
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
pub(in crate::imaging) struct Syntax {
    pub(super) implicit_vr: bool,
    pub(super) big_endian: bool,
    /// The data set after the meta information is a raw deflate stream.
    pub(super) deflated: bool,
    pub(super) coding: Coding,
}

const fn explicit(coding: Coding) -> Syntax {
    Syntax { implicit_vr: false, big_endian: false, deflated: false, coding }
}

/// Every transfer syntax that is read: its UID, its name as in PS3.6 table A-1, and what it means.
pub(in crate::imaging) const READ: [(&str, &str, Syntax); 20] = [
    (
        "1.2.840.10008.1.2",
        "Implicit VR Little Endian",
        Syntax { implicit_vr: true, ..explicit(Coding::Native) },
    ),
    ("1.2.840.10008.1.2.1", "Explicit VR Little Endian", explicit(Coding::Native)),
    (
        "1.2.840.10008.1.2.1.98",
        "Encapsulated Uncompressed Explicit VR Little Endian",
        explicit(Coding::Native),
    ),
    (
        "1.2.840.10008.1.2.1.99",
        "Deflated Explicit VR Little Endian",
        Syntax { deflated: true, ..explicit(Coding::Native) },
    ),
    (
        "1.2.840.10008.1.2.2",
        "Explicit VR Big Endian (retired)",
        Syntax { big_endian: true, ..explicit(Coding::Native) },
    ),
    ("1.2.840.10008.1.2.8.1", "Deflated Image Frame Compression", explicit(Coding::DeflatedFrames)),
    ("1.2.840.10008.1.2.5", "RLE Lossless", explicit(Coding::Rle)),
    // Any process of JPEG is told by the codestream, those of the retired syntaxes too.
    ("1.2.840.10008.1.2.4.50", "JPEG Baseline (Process 1)", explicit(Coding::Jpeg)),
    ("1.2.840.10008.1.2.4.51", "JPEG Extended (Processes 2 and 4)", explicit(Coding::Jpeg)),
    (
        "1.2.840.10008.1.2.4.53",
        "JPEG Spectral Selection, Non-Hierarchical (Processes 6 and 8, retired)",
        explicit(Coding::Jpeg),
    ),
    (
        "1.2.840.10008.1.2.4.55",
        "JPEG Full Progression, Non-Hierarchical (Processes 10 and 12, retired)",
        explicit(Coding::Jpeg),
    ),
    (
        "1.2.840.10008.1.2.4.57",
        "JPEG Lossless, Non-Hierarchical (Process 14)",
        explicit(Coding::Jpeg),
    ),
    (
        "1.2.840.10008.1.2.4.70",
        "JPEG Lossless, Non-Hierarchical, First-Order Prediction (Process 14, Selection Value 1)",
        explicit(Coding::Jpeg),
    ),
    ("1.2.840.10008.1.2.4.80", "JPEG-LS Lossless", explicit(Coding::JpegLs)),
    ("1.2.840.10008.1.2.4.81", "JPEG-LS Lossy (Near-Lossless)", explicit(Coding::JpegLs)),
    ("1.2.840.10008.1.2.4.90", "JPEG 2000 (Lossless Only)", explicit(Coding::Jpeg2000)),
    ("1.2.840.10008.1.2.4.91", "JPEG 2000", explicit(Coding::Jpeg2000)),
    (
        "1.2.840.10008.1.2.4.201",
        "High-Throughput JPEG 2000 (Lossless Only)",
        explicit(Coding::Jpeg2000),
    ),
    (
        "1.2.840.10008.1.2.4.202",
        "High-Throughput JPEG 2000 with RPCL Options (Lossless Only)",
        explicit(Coding::Jpeg2000),
    ),
    ("1.2.840.10008.1.2.4.203", "High-Throughput JPEG 2000", explicit(Coding::Jpeg2000)),
];

impl Syntax {
    /// # Errors
    /// [`DecodeError::UnsupportedTransferSyntax`] with UID and name.
    pub(super) fn of(uid: &str) -> Result<Self, DecodeError> {
        let known = READ.iter().find(|(known, ..)| *known == uid);
        known.map(|(.., syntax)| *syntax).ok_or_else(|| unsupported(uid))
    }
}

/// The refusal of a syntax, by UID and name.
pub(super) fn unsupported(uid: &str) -> DecodeError {
    let name = TransferSyntaxRegistry.get(uid).map_or("unknown", |syntax| syntax.name());
    DecodeError::UnsupportedTransferSyntax { uid: uid.to_owned(), name: name.to_owned() }
}
