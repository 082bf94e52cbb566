//! Bits of entropy-coded data, up to the next marker. ISO 10918-1 F.2.2.5.
//!
//! Past the data's end there are zeros, so that reading needs no check a bit; who read of them is
//! told by [`Bits::overran`], which is asked often enough to bound the work.

use super::{JpegError, Result};

/// Reads most significant bits first; byte stuffing removed.
pub(super) struct Bits<'a> {
    data: &'a [u8],
    position: usize,
    /// Left-aligned.
    buffer: u64,
    count: u32,
    /// Zero bits at the buffer's end that the data doesn't have.
    padding: u32,
}

impl<'a> Bits<'a> {
    pub(super) fn new(data: &'a [u8]) -> Self {
        Self { data, position: 0, buffer: 0, count: 0, padding: 0 }
    }

    /// At least 32 bits to peek at.
    #[inline]
    pub(super) fn refill(&mut self) {
        if self.count < 32 {
            self.refill_slow();
        }
    }

    fn refill_slow(&mut self) {
        // The common case: four bytes without a marker or stuffing.
        if self.padding == 0
            && let Some(word) = self.data.get(self.position..).and_then(<[u8]>::first_chunk::<4>)
            && !word.contains(&0xFF)
        {
            let word = u64::from(u32::from_be_bytes(*word));
            self.buffer |= word << (32 - self.count);
            self.count += 32;
            self.position += 4;
            return;
        }
        while self.count <= 56 {
            let byte = match self.data.get(self.position..) {
                Some([0xFF, 0x00, ..]) => {
                    self.position += 2;
                    0xFF
                }
                Some([byte, ..]) if *byte != 0xFF && self.padding == 0 => {
                    self.position += 1;
                    *byte
                }
                _ => {
                    self.padding += 8;
                    0
                }
            };
            self.buffer |= u64::from(byte) << (56 - self.count);
            self.count += 8;
        }
    }

    /// The next bits, at most 32 after a refill, without taking them.
    #[inline]
    pub(super) fn peek(&self, bits: u32) -> u32 {
        debug_assert!(bits <= 32);
        // Two shifts: by 64 in one is undefined for 0 bits.
        u32::try_from(self.buffer >> 1 >> (63 - bits)).unwrap_or(0)
    }

    /// Takes bits that were peeked at.
    #[inline]
    pub(super) fn consume(&mut self, bits: u32) {
        self.buffer <<= bits;
        self.count -= bits;
    }

    /// Takes bits, at most 16.
    #[inline]
    pub(super) fn take(&mut self, bits: u32) -> u32 {
        self.refill();
        let value = self.peek(bits);
        self.consume(bits);
        value
    }

    /// Takes one bit.
    #[inline]
    pub(super) fn flag(&mut self) -> bool {
        self.take(1) == 1
    }

    /// A number of `size` bits in JPEG's way: F.2.2.1 EXTEND. `size` ≤ 16.
    #[inline]
    pub(super) fn extended(&mut self, size: u32) -> i32 {
        if size == 0 {
            return 0;
        }
        let value = self.take(size).cast_signed();
        if value < 1 << (size - 1) { value - (1 << size) + 1 } else { value }
    }

    /// Were bits taken that the data doesn't have?
    pub(super) fn overran(&self) -> bool {
        self.count < self.padding
    }

    /// Goes past the restart marker of that number (0..=7).
    pub(super) fn restart(&mut self, number: usize) -> Result<()> {
        let at = self.marker_at()?;
        let expected = 0xD0 + (number % 8);
        if self.data.get(at + 1).copied().map(usize::from) != Some(expected) {
            return Err(JpegError::new("a restart marker is missing"));
        }
        self.position = at + 2;
        (self.buffer, self.count, self.padding) = (0, 0, 0);
        Ok(())
    }

    /// Bytes up to the next marker: where the scan ends.
    pub(super) fn end(&self) -> usize {
        self.marker_at().unwrap_or(self.data.len())
    }

    fn marker_at(&self) -> Result<usize> {
        let rest = self.data.get(self.position..).unwrap_or_default();
        let found = rest.windows(2).position(|pair| matches!(pair, [0xFF, 0x01..=0xFE]));
        found.map(|at| self.position + at).ok_or_else(JpegError::cut_off)
    }
}
