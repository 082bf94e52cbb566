//! What a Segmentation takes over from a file; runs inside the decoder child, and only where a
//! Segmentation was asked for.

use super::dataset::DataSet;
use super::header::Header;
use crate::domain::identity::SegmentationSource;
use crate::domain::slice::Size;
use crate::imaging::seg::source::{LOSSY, Place, TAKEN, Taken, acceptable};
use dicom_core::Tag;

const SHARED_GROUPS: Tag = Tag(0x5200, 0x9229);
const PER_FRAME_GROUPS: Tag = Tag(0x5200, 0x9230);

/// The attributes of one frame. `lossy`: its transfer syntax is a lossy one, whatever the file says.
pub(super) fn read(
    set: &DataSet<'_>,
    header: &Header,
    frame: u32,
    lossy: bool,
) -> SegmentationSource {
    let of = |taken: &Taken| {
        let value = place(set, header, frame, taken.place)?.bytes(Tag(taken.tag.0, taken.tag.1))?;
        Some((taken.tag, acceptable(taken, value)?))
    };
    let mut values: Vec<_> = TAKEN.iter().filter_map(of).collect();
    if lossy && !values.iter().any(|(tag, _)| *tag == LOSSY) {
        values.push((LOSSY, b"01".to_vec()));
    }
    let size = Size { width: header.columns, height: header.rows };
    SegmentationSource::new(size, frame, header.frames, values)
}

/// The data set an attribute stands in. What the top level says of place and spacing holds for the
/// only frame there is, not for one of several.
fn place<'s, 'a>(
    set: &'s DataSet<'a>,
    header: &Header,
    frame: u32,
    place: Place,
) -> Option<&'s DataSet<'a>> {
    let Place::Group(group) = place else { return Some(set) };
    let group = Tag(group.0, group.1);
    let item = |groups: Option<&'s DataSet<'a>>| groups?.items(group).first();
    item(set.items(PER_FRAME_GROUPS).get(frame as usize))
        .or_else(|| item(set.items(SHARED_GROUPS).first()))
        .or_else(|| (header.frames == 1).then_some(set))
}
