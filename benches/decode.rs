//! What the decoder child costs over decoding in-process: `cargo bench --bench decode [FILE…]`.
//!
//! Without files, a 512 × 512 16-bit CT made here. Times are medians; children are ready ahead of time,
//! as in the daemon, and each round waits until all are again.

use sam2d::domain::slice::Slice;
use sam2d::imaging::decode::{Limits, decode};
use sam2d::imaging::decoder::{Decoder, Options};
use std::time::{Duration, Instant};

const ROUNDS: usize = 100;

fn main() {
    let files: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let decoder = Decoder::start(Options {
        executable: Some(env!("CARGO_BIN_EXE_sam2d").into()),
        ..Options::default()
    })
    .expect("children start");
    println!("{:>10} {:>10} {:>10}  file", "here ms", "child ms", "cost ms");
    if files.is_empty() {
        compare("512x512 CT, 16 bits, made here", &ct(), &decoder);
    }
    for file in files {
        let bytes = std::fs::read(&file).expect("a file that can be read");
        compare(&file, &bytes, &decoder);
    }
}

fn compare(name: &str, bytes: &[u8], decoder: &Decoder) {
    let limits = Limits::default();
    let here = median(|| {
        let start = Instant::now();
        look_at(&decode(bytes, None, &limits).expect("an image"));
        start.elapsed()
    });
    let child = median(|| {
        while decoder.vitals().ready < Options::default().workers {
            std::thread::sleep(Duration::from_millis(1));
        }
        let start = Instant::now();
        look_at(&decoder.decode(bytes, None).expect("an image"));
        start.elapsed()
    });
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    println!("{:10.3} {:10.3} {:10.3}  {name}", ms(here), ms(child), ms(child) - ms(here));
}

/// Touches every page of the samples: a mapping that nobody has looked at costs nothing yet.
fn look_at(slice: &Slice) {
    let bytes = slice.samples().bytes();
    std::hint::black_box(bytes.iter().step_by(4096).fold(0u8, |sum, &byte| sum ^ byte));
}

fn median(mut round: impl FnMut() -> Duration) -> Duration {
    let mut times: Vec<Duration> = (0..ROUNDS).map(|_| round()).collect();
    times.sort();
    times.get(ROUNDS / 2).copied().unwrap_or_default()
}

/// Explicit little endian, signed 12 bits stored of 16, rescaled.
fn ct() -> Vec<u8> {
    let mut file = vec![0; 128];
    file.extend_from_slice(b"DICM");
    let mut put = |group: u16, element: u16, vr: &[u8; 2], value: &[u8]| {
        file.extend_from_slice(&group.to_le_bytes());
        file.extend_from_slice(&element.to_le_bytes());
        file.extend_from_slice(vr);
        let length = u32::try_from(value.len()).expect("short values").to_le_bytes();
        file.extend_from_slice(if vr == b"OW" { &[0, 0] } else { &[] });
        file.extend_from_slice(if vr == b"OW" { &length } else { &length[..2] });
        file.extend_from_slice(value);
    };
    put(2, 0x10, b"UI", b"1.2.840.10008.1.2.1\0");
    put(0x0008, 0x0060, b"CS", b"CT");
    put(0x0028, 0x0002, b"US", &1u16.to_le_bytes());
    put(0x0028, 0x0004, b"CS", b"MONOCHROME2 ");
    for (element, value) in
        [(0x10, 512u16), (0x11, 512), (0x100, 16), (0x101, 12), (0x102, 11), (0x103, 1)]
    {
        put(0x0028, element, b"US", &value.to_le_bytes());
    }
    put(0x0028, 0x1052, b"DS", b"-1024 ");
    put(0x0028, 0x1053, b"DS", b"1 ");
    let pixels: Vec<u8> = (0..512u32 * 512)
        .flat_map(|at| u16::try_from(2_654_435_761u32.wrapping_mul(at) >> 20 & 0x7FF))
        .flat_map(u16::to_le_bytes)
        .collect();
    put(0x7FE0, 0x0010, b"OW", &pixels);
    file
}
