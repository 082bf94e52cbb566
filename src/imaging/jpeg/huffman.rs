//! Huffman tables and decoding. ISO 10918-1 annex C, F.2.2.3.

use super::bits::Bits;
use super::{JpegError, Result};

/// Codes up to this length are found by one look.
const LOOK_BITS: u32 = 9;

/// A decoding table.
#[derive(Clone, Debug)]
pub(super) struct Huffman {
    /// By the next [`LOOK_BITS`] bits: length << 8 | symbol; 0 where the code is longer.
    look: Box<[u16; 1 << LOOK_BITS]>,
    /// By length: first code past the last of that length, left-aligned to 16 bits.
    ends: [u32; 17],
    /// By length: what to add to a code to find its symbol.
    offsets: [i32; 17],
    symbols: Vec<u8>,
}

impl Huffman {
    /// From counts of codes by length (1..=16) and the symbols in order.
    pub(super) fn new(counts: &[u8; 16], symbols: &[u8]) -> Result<Self> {
        let mut table = Self {
            look: Box::new([0; 1 << LOOK_BITS]),
            ends: [0; 17],
            offsets: [0; 17],
            symbols: symbols.to_vec(),
        };
        let mut code: u32 = 0;
        let mut index: usize = 0;
        let places = table.ends.iter_mut().zip(&mut table.offsets).skip(1);
        for ((length, &count), (end, offset)) in (1u32..).zip(counts).zip(places) {
            let first = i32::try_from(code).unwrap_or(i32::MAX);
            *offset = i32::try_from(index).unwrap_or(i32::MAX) - first;
            for _ in 0..count {
                if code >= 1 << length {
                    return Err(JpegError::new("a Huffman table has too many codes"));
                }
                let symbol = symbols.get(index).copied().unwrap_or(0);
                if length <= LOOK_BITS {
                    let entry = u16::try_from(length << 8).unwrap_or(0) | u16::from(symbol);
                    let shift = LOOK_BITS - length;
                    let from = (code << shift) as usize;
                    let to = ((code + 1) << shift) as usize;
                    table.look.get_mut(from..to).unwrap_or_default().fill(entry);
                }
                code += 1;
                index += 1;
            }
            *end = code << (16 - length);
            code <<= 1;
        }
        Ok(table)
    }

    /// The next symbol.
    #[inline]
    pub(super) fn decode(&self, bits: &mut Bits<'_>) -> Result<u8> {
        bits.refill();
        let entry = self.look.get(bits.peek(LOOK_BITS) as usize).copied().unwrap_or(0);
        if entry != 0 {
            let [length, symbol] = entry.to_be_bytes();
            bits.consume(u32::from(length));
            return Ok(symbol);
        }
        self.decode_long(bits)
    }

    fn decode_long(&self, bits: &mut Bits<'_>) -> Result<u8> {
        let code = bits.peek(16);
        let lengths = (1u32..).zip(self.ends.iter().zip(&self.offsets).skip(1));
        for (length, (&end, &offset)) in lengths {
            if code < end {
                let index = (code >> (16 - length)).cast_signed() + offset;
                bits.consume(length);
                let index = usize::try_from(index).unwrap_or(usize::MAX);
                return self.symbols.get(index).copied().ok_or_else(JpegError::cut_off);
            }
        }
        Err(JpegError::new("a code is in no table"))
    }
}
