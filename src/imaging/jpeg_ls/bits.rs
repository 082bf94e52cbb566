//! Bits of a scan up to the next marker; after a byte FF comes one of seven bits. T.87 A.1.

use super::{CUT_OFF, Result};

pub(super) struct Bits<'a> {
    data: &'a [u8],
    position: usize,
    /// Left-aligned.
    buffer: u64,
    count: u32,
    after_ff: bool,
}

impl<'a> Bits<'a> {
    pub(super) fn new(data: &'a [u8]) -> Self {
        Self { data, position: 0, buffer: 0, count: 0, after_ff: false }
    }

    fn refill(&mut self) {
        while self.count <= 56 {
            let Some(&byte) = self.data.get(self.position) else { return };
            let bits = if self.after_ff { 7 } else { 8 };
            if self.after_ff && byte >= 0x80 {
                return;
            }
            if byte == 0xFF && self.data.get(self.position + 1).is_none_or(|&next| next >= 0x80) {
                return;
            }
            self.position += 1;
            self.after_ff = byte == 0xFF;
            self.buffer |= u64::from(byte) << (64 - bits) >> self.count;
            self.count += bits;
        }
    }

    /// Takes bits, at most 32.
    #[inline]
    pub(super) fn take(&mut self, bits: u32) -> Result<u32> {
        if self.count < bits {
            self.refill();
            if self.count < bits {
                return Err(CUT_OFF);
            }
        }
        let value = u32::try_from(self.buffer >> 1 >> (63 - bits)).unwrap_or(0);
        self.buffer <<= bits;
        self.count -= bits;
        Ok(value)
    }

    /// Takes zeros up to and with the next one; how many zeros. More than `limit` is an error.
    #[inline]
    pub(super) fn zeros(&mut self, limit: u32) -> Result<u32> {
        let mut zeros = 0;
        loop {
            if self.count == 0 {
                self.refill();
                if self.count == 0 {
                    return Err(CUT_OFF);
                }
            }
            let here = self.buffer.leading_zeros().min(self.count);
            zeros += here;
            if zeros > limit {
                return Err(super::JpegLsError("a code is too long"));
            }
            if here < self.count {
                // Two shifts: by 64 in one is undefined.
                self.buffer = self.buffer << here << 1;
                self.count -= here + 1;
                return Ok(zeros);
            }
            self.buffer = 0;
            self.count = 0;
        }
    }

    /// Bytes read; the next marker lies at or after them.
    pub(super) fn used(&self) -> usize {
        self.position
    }
}
