//! The form of one entry on disk, and the reader that trusts none of it.
//!
//! `docs/cache-format.md` gives it byte by byte. In short: a head (magic, checksum, version, kind,
//! key, creation time, lengths, metadata), padded to a page, then the sections, each padded to 64
//! bytes so that a section of f16 or f32 can be used where it lies.
//!
//! Invariants:
//! 1. Every byte of an entry is covered: by the magic, by the head's checksum, or by exactly one
//!    section's checksum (padding included). A flipped bit anywhere is found.
//! 2. Offsets are not stored but follow from the lengths, so that no file can make two sections
//!    overlap or point outside.
//! 3. The key and the kind are inside: a file under another entry's name is refused.
//! 4. An [`Entry`] exists only for bytes that passed all of it, once; using it checks nothing again.
//!
//! The checksum is XXH3-128: it guards against disks, not against an enemy who can write the folder
//! (that is the daemon's own user alone, who could as well forge a SHA-256).

use super::Kind;
use crate::domain::key::Sum;
use bytemuck::Zeroable as _;
use bytes::Bytes;
use std::ops::Range;
use std::sync::Arc;
use std::time::SystemTime;
use twox_hash::xxhash3_128::Hasher as Xxh3;

/// First bytes of every entry. The high bit, CR LF and ^Z give away a transfer that mangles text.
const MAGIC: [u8; 8] = *b"\x89S2DC\r\n\x1a";
/// Of the format on this page.
const VERSION: u16 = 1;
/// Most sections in an entry.
pub const MAX_SECTIONS: usize = 8;
/// Longest metadata.
pub const MAX_METADATA: usize = 1 << 24;
/// Where the payload starts is a multiple of this: the usual page.
const PAGE: usize = 4096;
/// Where each section starts is a multiple of this: a cache line, and more than any element needs.
pub const ALIGN: usize = 64;

const FIXED: usize = 80;
const TABLE_ROW: usize = 24;
const CHECKED_FROM: usize = 24;

/// What an entry holds, as [`super::Cache::put`] takes it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Content<'a> {
    /// Small: how to read the sections. The cache doesn't look into it.
    pub metadata: &'a [u8],
    /// Up to [`MAX_SECTIONS`]; each comes back as it is.
    pub sections: &'a [&'a [u8]],
}

/// An entry whose every byte has been checked. Cheap to clone; the bytes are shared.
#[derive(Clone, Debug)]
pub struct Entry {
    checked: Arc<Checked>,
    created: SystemTime,
    expires: SystemTime,
}

impl Entry {
    pub(super) fn new(checked: Arc<Checked>, created: SystemTime, expires: SystemTime) -> Self {
        Self { checked, created, expires }
    }

    /// What was put beside the sections.
    #[must_use]
    pub fn metadata(&self) -> Bytes {
        self.checked.image.slice(self.checked.metadata.clone())
    }

    /// A section: shares the entry's memory, starts at a multiple of [`ALIGN`]. `None` when there
    /// are fewer.
    #[must_use]
    pub fn section(&self, index: usize) -> Option<Bytes> {
        let range = self.checked.sections.get(index)?;
        Some(self.checked.image.slice(range.clone()))
    }

    /// Number of sections.
    #[must_use]
    pub fn sections(&self) -> usize {
        self.checked.sections.len()
    }

    /// When it was made.
    #[must_use]
    pub fn created(&self) -> SystemTime {
        self.created
    }

    /// When it was made, by the guarded clock: milliseconds since 1970.
    #[must_use]
    pub fn created_ms(&self) -> u64 {
        self.checked.created_ms
    }

    /// When it stops being an answer; a hit doesn't move it.
    #[must_use]
    pub fn expires(&self) -> SystemTime {
        self.expires
    }

    /// Bytes in memory or mapped.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.checked.image.len()
    }
}

/// The bytes of a whole entry file, checked, and where its parts lie.
#[derive(Debug)]
pub(super) struct Checked {
    pub(super) image: Bytes,
    pub(super) created_ms: u64,
    metadata: Range<usize>,
    sections: Vec<Range<usize>>,
}

/// Why bytes are not the entry that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Bad {
    /// Shorter than its head or longer or shorter than its lengths say: half-made or cut off.
    #[error("is cut off or has bytes to spare")]
    Length,
    /// No magic: not written by this program.
    #[error("is not a cache entry")]
    Foreign,
    /// Another version's layout.
    #[error("has format version {0}, not {VERSION}")]
    Version(u16),
    /// The head's checksum, or a length that no writer makes.
    #[error("has a damaged head")]
    Head,
    /// A sound entry under another entry's name or kind.
    #[error("is another key's entry")]
    Swapped,
    /// A section's checksum.
    #[error("has a damaged section")]
    Section,
}

/// Builds the bytes of an entry file. `None` when the content is beyond the format's limits.
pub(super) fn build(
    kind: Kind,
    key: &Sum,
    created_ms: u64,
    content: Content<'_>,
) -> Option<Checked> {
    let lengths: Vec<usize> = content.sections.iter().map(|section| section.len()).collect();
    let layout = Layout::new(content.metadata.len(), &lengths)?;
    let mut image = Aligned::zeroed(layout.file_bytes);
    {
        let file = image.bytes_mut().get_mut(..layout.file_bytes)?;
        for (section, range) in content.sections.iter().zip(&layout.sections) {
            file.get_mut(range.clone())?.copy_from_slice(section);
        }
        let mut head = Vec::with_capacity(layout.head_bytes);
        head.extend_from_slice(&MAGIC);
        head.extend_from_slice(&[0; 16]);
        head.extend_from_slice(&VERSION.to_le_bytes());
        head.push(kind.code());
        head.push(u8::try_from(lengths.len()).ok()?);
        head.extend_from_slice(&u32::try_from(content.metadata.len()).ok()?.to_le_bytes());
        head.extend_from_slice(&key.0);
        head.extend_from_slice(&created_ms.to_le_bytes());
        head.extend_from_slice(&(layout.file_bytes as u64).to_le_bytes());
        for (length, padded) in lengths.iter().zip(&layout.padded) {
            head.extend_from_slice(&(*length as u64).to_le_bytes());
            head.extend_from_slice(&checksum(file.get(padded.clone())?));
        }
        head.extend_from_slice(content.metadata);
        head.resize(layout.head_bytes, 0);
        let sum = checksum(head.get(CHECKED_FROM..)?);
        head.get_mut(MAGIC.len()..CHECKED_FROM)?.copy_from_slice(&sum);
        file.get_mut(..layout.head_bytes)?.copy_from_slice(&head);
    }
    let image = Bytes::from_owner(image).slice(..layout.file_bytes);
    let start = FIXED + lengths.len() * TABLE_ROW;
    let metadata = start..start + content.metadata.len();
    Some(Checked { image, created_ms, metadata, sections: layout.sections })
}

/// Checks the bytes of an entry file, all of them.
pub(super) fn check(image: Bytes, kind: Kind, key: &Sum) -> Result<Checked, Bad> {
    let fixed: &[u8; FIXED] = image.first_chunk().ok_or(Bad::Length)?;
    let head = Head::read(fixed)?;
    let table = image.get(FIXED..FIXED + head.sections * TABLE_ROW).ok_or(Bad::Length)?;
    let mut lengths = Vec::with_capacity(head.sections);
    for row in table.chunks_exact(TABLE_ROW) {
        lengths.push(usize::try_from(number(row)).map_err(|_| Bad::Head)?);
    }
    let layout = Layout::new(head.metadata, &lengths).ok_or(Bad::Head)?;
    let covered = image.get(CHECKED_FROM..layout.head_bytes).ok_or(Bad::Length)?;
    if checksum(covered) != head.checksum {
        return Err(Bad::Head);
    }
    if head.file_bytes != layout.file_bytes as u64 {
        return Err(Bad::Head);
    }
    if image.len() != layout.file_bytes {
        return Err(Bad::Length);
    }
    if head.kind != kind.code() || head.key != key.0 {
        return Err(Bad::Swapped);
    }
    for (row, padded) in table.chunks_exact(TABLE_ROW).zip(&layout.padded) {
        let section = image.get(padded.clone()).ok_or(Bad::Length)?;
        if row.get(8..) != Some(&checksum(section)[..]) {
            return Err(Bad::Section);
        }
    }
    let start = FIXED + head.sections * TABLE_ROW;
    let metadata = start..start + head.metadata;
    Ok(Checked { image, created_ms: head.created_ms, metadata, sections: layout.sections })
}

/// The first 80 bytes, read but not yet believed.
struct Head {
    checksum: [u8; 16],
    kind: u8,
    sections: usize,
    metadata: usize,
    key: [u8; 32],
    created_ms: u64,
    file_bytes: u64,
}

impl Head {
    fn read(fixed: &[u8; FIXED]) -> Result<Self, Bad> {
        let (magic, rest) = fixed.split_first_chunk::<8>().ok_or(Bad::Length)?;
        if *magic != MAGIC {
            return Err(Bad::Foreign);
        }
        let (checksum, rest) = rest.split_first_chunk::<16>().ok_or(Bad::Length)?;
        let (version, rest) = rest.split_first_chunk::<2>().ok_or(Bad::Length)?;
        let version = u16::from_le_bytes(*version);
        if version != VERSION {
            return Err(Bad::Version(version));
        }
        let (&[kind, sections], rest) = rest.split_first_chunk::<2>().ok_or(Bad::Length)?;
        let (metadata, rest) = rest.split_first_chunk::<4>().ok_or(Bad::Length)?;
        let (key, rest) = rest.split_first_chunk::<32>().ok_or(Bad::Length)?;
        let (created, rest) = rest.split_first_chunk::<8>().ok_or(Bad::Length)?;
        let (file, _) = rest.split_first_chunk::<8>().ok_or(Bad::Length)?;
        Ok(Self {
            checksum: *checksum,
            kind,
            sections: usize::from(sections),
            metadata: usize::try_from(u32::from_le_bytes(*metadata)).map_err(|_| Bad::Head)?,
            key: *key,
            created_ms: u64::from_le_bytes(*created),
            file_bytes: u64::from_le_bytes(*file),
        })
    }
}

/// Where the parts lie: follows from the lengths alone.
struct Layout {
    head_bytes: usize,
    sections: Vec<Range<usize>>,
    padded: Vec<Range<usize>>,
    file_bytes: usize,
}

impl Layout {
    /// `None` when a length is beyond the format's limits or the address space.
    fn new(metadata: usize, lengths: &[usize]) -> Option<Self> {
        if metadata > MAX_METADATA || lengths.len() > MAX_SECTIONS {
            return None;
        }
        let head = FIXED + lengths.len() * TABLE_ROW + metadata;
        let head_bytes = if lengths.is_empty() { head } else { head.next_multiple_of(PAGE) };
        let (mut sections, mut padded, mut end) = (vec![], vec![], head_bytes);
        for length in lengths {
            let stop = end.checked_add(*length)?;
            let next = stop.checked_next_multiple_of(ALIGN)?;
            sections.push(end..stop);
            padded.push(end..next);
            end = next;
        }
        Some(Self { head_bytes, sections, padded, file_bytes: end })
    }
}

fn number(row: &[u8]) -> u64 {
    row.first_chunk().map_or(u64::MAX, |bytes| u64::from_le_bytes(*bytes))
}

fn checksum(bytes: &[u8]) -> [u8; 16] {
    Xxh3::oneshot(bytes).to_le_bytes()
}

/// Heap memory that starts at a multiple of [`ALIGN`], so that a section read into it is as well
/// aligned as one in a mapping.
pub(super) struct Aligned(Vec<Block>);

#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct Block([u8; ALIGN]);

impl Aligned {
    /// Zeroed, at least `bytes` long.
    pub(super) fn zeroed(bytes: usize) -> Self {
        Self(vec![Block::zeroed(); bytes.div_ceil(ALIGN)])
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        bytemuck::cast_slice_mut(&mut self.0)
    }
}

impl AsRef<[u8]> for Aligned {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEY: Sum = Sum([7; 32]);

    fn small() -> Bytes {
        let sections: [&[u8]; 3] = [b"one", &[], &[9; 130]];
        let content = Content { metadata: b"meta", sections: &sections };
        build(Kind::Answer, &KEY, 1234, content).unwrap().image
    }

    #[test]
    fn what_is_built_is_what_is_read_and_sections_are_aligned() {
        let image = small();
        assert_eq!(image.as_ptr() as usize % ALIGN, 0);
        let checked = check(image, Kind::Answer, &KEY).unwrap();
        assert_eq!(checked.created_ms, 1234);
        let now = SystemTime::now();
        let entry = Entry::new(Arc::new(checked), now, now);
        assert_eq!(entry.metadata(), &b"meta"[..]);
        assert_eq!(entry.sections(), 3);
        assert_eq!(entry.section(0).unwrap(), &b"one"[..]);
        assert_eq!(entry.section(1).unwrap().len(), 0);
        assert_eq!(entry.section(2).unwrap(), vec![9; 130]);
        assert_eq!(entry.section(0).unwrap().as_ptr() as usize % ALIGN, 0);
        assert_eq!(entry.section(2).unwrap().as_ptr() as usize % ALIGN, 0);
        assert!(entry.section(3).is_none());
    }

    #[test]
    fn an_entry_without_sections_is_as_short_as_its_metadata() {
        let content = Content { metadata: b"abc", sections: &[] };
        let image = build(Kind::Slice, &KEY, 1, content).unwrap().image;
        assert_eq!(image.len(), FIXED + 3);
        assert!(check(image, Kind::Slice, &KEY).is_ok());
    }

    #[test]
    fn every_flipped_bit_of_every_byte_is_found() {
        let image = small();
        for at in 0..image.len() {
            for bit in 0..8 {
                let mut flipped = image.to_vec();
                flipped[at] ^= 1 << bit;
                assert!(
                    check(flipped.into(), Kind::Answer, &KEY).is_err(),
                    "bit {bit} of byte {at} went unnoticed"
                );
            }
        }
    }

    #[test]
    fn every_truncation_and_every_extension_is_found() {
        let image = small();
        for length in 0..image.len() {
            assert!(check(image.slice(..length), Kind::Answer, &KEY).is_err(), "cut at {length}");
        }
        for more in [1, 63, 64, 4096] {
            let mut longer = image.to_vec();
            longer.resize(image.len() + more, 0);
            assert_eq!(check(longer.into(), Kind::Answer, &KEY).unwrap_err(), Bad::Length);
        }
    }

    #[test]
    fn another_kind_and_another_key_are_swaps() {
        assert_eq!(check(small(), Kind::Slice, &KEY).unwrap_err(), Bad::Swapped);
        assert_eq!(check(small(), Kind::Answer, &Sum([8; 32])).unwrap_err(), Bad::Swapped);
    }

    #[test]
    fn another_version_is_named_before_its_checksum_is_judged() {
        let mut old = small().to_vec();
        old[24..26].copy_from_slice(&0_u16.to_le_bytes());
        assert_eq!(check(old.into(), Kind::Answer, &KEY).unwrap_err(), Bad::Version(0));
    }

    /// A head that is sound by its checksum and still claims what no writer writes.
    #[test]
    fn lengths_that_overflow_are_refused_without_allocating() {
        for length in [u64::MAX, u64::MAX - 4096, 1 << 60] {
            let mut image = small().to_vec();
            image[80..88].copy_from_slice(&length.to_le_bytes());
            let head = image[..PAGE].to_vec();
            let sum = checksum(&head[CHECKED_FROM..]);
            image[8..24].copy_from_slice(&sum);
            assert!(check(image.into(), Kind::Answer, &KEY).is_err());
        }
    }

    #[test]
    fn too_many_sections_are_refused_on_both_sides() {
        let sections = [&[][..]; MAX_SECTIONS + 1];
        let content = Content { metadata: &[], sections: &sections };
        assert!(build(Kind::Answer, &KEY, 1, content).is_none());
        let mut image = small().to_vec();
        image[27] = 200;
        assert!(check(image.into(), Kind::Answer, &KEY).is_err());
    }

    proptest! {
        #[test]
        fn any_content_round_trips(
            metadata in proptest::collection::vec(any::<u8>(), 0..9000),
            sections in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..=8),
        ) {
            let parts: Vec<&[u8]> = sections.iter().map(Vec::as_slice).collect();
            let content = Content { metadata: &metadata, sections: &parts };
            let image = build(Kind::Embedding, &KEY, 5, content).unwrap().image;
            let entry = Entry::new(
                Arc::new(check(image, Kind::Embedding, &KEY).unwrap()),
                SystemTime::UNIX_EPOCH,
                SystemTime::UNIX_EPOCH,
            );
            prop_assert_eq!(entry.metadata(), metadata);
            for (index, section) in sections.iter().enumerate() {
                prop_assert_eq!(&entry.section(index).unwrap()[..], &section[..]);
            }
        }

        #[test]
        fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400), sound in any::<bool>()) {
            let mut bytes = bytes;
            if sound && bytes.len() >= 26 {
                bytes[..8].copy_from_slice(&MAGIC);
                bytes[24..26].copy_from_slice(&VERSION.to_le_bytes());
            }
            prop_assert!(check(bytes.into(), Kind::Answer, &KEY).is_err());
        }
    }
}
