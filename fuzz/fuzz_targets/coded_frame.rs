//! One coded frame inside a well-formed file: the first bytes choose syntax, size and depth.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sam2d::imaging::decode::{Limits, decode};
use sam2d_fuzz::forgiving;

const SYNTAXES: [&str; 7] = [
    "1.2.840.10008.1.2.4.50",
    "1.2.840.10008.1.2.4.51",
    "1.2.840.10008.1.2.4.57",
    "1.2.840.10008.1.2.4.80",
    "1.2.840.10008.1.2.4.90",
    "1.2.840.10008.1.2.5",
    "1.2.840.10008.1.2.8.1",
];

fn put(file: &mut Vec<u8>, group: u16, element: u16, vr: &[u8; 2], value: &[u8]) {
    file.extend_from_slice(&group.to_le_bytes());
    file.extend_from_slice(&element.to_le_bytes());
    file.extend_from_slice(vr);
    file.extend_from_slice(&u16::try_from(value.len()).unwrap_or(0).to_le_bytes());
    file.extend_from_slice(value);
}

fuzz_target!(|bytes: &[u8]| {
    let [syntax, columns, rows, shape, coded @ ..] = bytes else { return };
    let uid = SYNTAXES[usize::from(*syntax) % SYNTAXES.len()];
    let colour = shape & 1 == 1;
    let wide = shape & 2 == 2;
    let mut file = vec![0; 128];
    file.extend_from_slice(b"DICM");
    put(&mut file, 2, 0x10, b"UI", uid.as_bytes());
    let photometric: &[u8] = if colour { b"RGB " } else { b"MONOCHROME2 " };
    let bits: u16 = if wide { 16 } else { 8 };
    put(&mut file, 0x28, 0x02, b"US", &u16::to_le_bytes(if colour { 3 } else { 1 }));
    put(&mut file, 0x28, 0x04, b"CS", photometric);
    put(&mut file, 0x28, 0x10, b"US", &u16::from(*rows).to_le_bytes());
    put(&mut file, 0x28, 0x11, b"US", &u16::from(*columns).to_le_bytes());
    put(&mut file, 0x28, 0x100, b"US", &bits.to_le_bytes());
    put(&mut file, 0x28, 0x101, b"US", &bits.to_le_bytes());
    put(&mut file, 0x28, 0x102, b"US", &(bits - 1).to_le_bytes());
    put(&mut file, 0x28, 0x103, b"US", &u16::from(shape >> 2 & 1).to_le_bytes());
    file.extend_from_slice(b"\xe0\x7f\x10\x00OB\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\0\0\0\0");
    file.extend_from_slice(b"\xfe\xff\x00\xe0");
    file.extend_from_slice(&u32::try_from(coded.len()).unwrap_or(0).to_le_bytes());
    file.extend_from_slice(coded);
    file.extend_from_slice(b"\xfe\xff\xdd\xe0\0\0\0\0");
    forgiving(|| {
        let _ = decode(&file, None, &Limits::default());
    });
});
