//! One scan: context modelling, regular and run mode. T.87 annex A; names as there.

use super::bits::Bits;
use super::{JpegLsError, Preset, Result};

/// How components of a scan follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Interleave {
    None,
    Line,
    Sample,
}

/// A.2.1: run lengths by index.
const J: [u32; 32] = [
    0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 9, 10, 11, 12, 13,
    14, 15,
];

/// Parameters of a scan.
#[derive(Clone, Copy, Debug)]
pub(super) struct Coding {
    near: i32,
    max_value: i32,
    t1: i32,
    t2: i32,
    t3: i32,
    reset: i32,
    range: i32,
    /// Bits of a mapped error.
    qbpp: u32,
    limit: u32,
}

impl Coding {
    /// C.2.4.1.1: defaults where the preset is zero.
    pub(super) fn new(precision: u8, near: i32, preset: Preset) -> Result<Self> {
        let full = (1i32 << precision) - 1;
        let max_value = if preset.max_value == 0 { full } else { preset.max_value };
        if max_value > full || near > 255.min(max_value / 2) {
            return Err(JpegLsError("its parameters are invalid"));
        }
        let clamp = |value: i32, least: i32| {
            if value > max_value || value < least { least } else { value }
        };
        let (defaults, factor) = if max_value >= 128 {
            let factor = (max_value.min(4095) + 128) / 256;
            ([factor + 2, factor * 4 + 3, factor * 17 + 4], None)
        } else {
            let factor = 256 / (max_value + 1);
            ([(3 / factor).max(0), (7 / factor).max(0), (21 / factor).max(0)], Some([2, 3, 4]))
        };
        let near_steps = [3 * near, 5 * near, 7 * near];
        let mut thresholds = [0; 3];
        let mut least = near + 1;
        for (index, threshold) in thresholds.iter_mut().enumerate() {
            let given = preset.thresholds.get(index).copied().unwrap_or(0);
            let default = defaults.get(index).copied().unwrap_or(0)
                + near_steps.get(index).copied().unwrap_or(0);
            let floor = factor.and_then(|f| f.get(index).copied()).unwrap_or(0);
            *threshold = if given != 0 { given } else { clamp(default.max(floor), least) };
            if *threshold < least || *threshold > max_value.max(least) {
                return Err(JpegLsError("its parameters are invalid"));
            }
            least = *threshold;
        }
        let [t1, t2, t3] = thresholds;
        let reset = if preset.reset == 0 { 64 } else { preset.reset };
        if reset < 3 {
            return Err(JpegLsError("its parameters are invalid"));
        }
        let range = (max_value + 2 * near) / (2 * near + 1) + 1;
        let bits = |count: i32| 32 - (count - 1).leading_zeros();
        let bpp = bits(max_value + 1).max(2);
        let (qbpp, limit) = (bits(range), 2 * (bpp + bpp.max(8)));
        Ok(Self { near, max_value, t1, t2, t3, reset, range, qbpp, limit })
    }

    /// A.3.3.
    #[inline]
    fn quantise(&self, difference: i32) -> i32 {
        let level = match difference.abs() {
            d if d <= self.near => 0,
            d if d < self.t1 => 1,
            d if d < self.t2 => 2,
            d if d < self.t3 => 3,
            _ => 4,
        };
        if difference < 0 { -level } else { level }
    }

    /// A.4.5, A.5.3: the sample that a prediction and an error make.
    #[inline]
    fn reconstruct(&self, prediction: i32, error: i32) -> i32 {
        let step = 2 * self.near + 1;
        let mut value = prediction + error * step;
        if value < -self.near {
            value += self.range * step;
        } else if value > self.max_value + self.near {
            value -= self.range * step;
        }
        value.clamp(0, self.max_value)
    }
}

#[derive(Clone, Copy)]
struct Context {
    a: i32,
    b: i32,
    c: i32,
    n: i32,
}

#[derive(Clone, Copy)]
struct RunContext {
    a: i32,
    n: i32,
    negative: i32,
}

struct Model<'a> {
    coding: Coding,
    bits: Bits<'a>,
    contexts: Vec<Context>,
    runs: [RunContext; 2],
}

/// Reads a scan of `(parts, height)` components and lines; `put` gets y, x, part and value. Returns
/// the bytes used.
pub(super) fn read(
    coding: Coding,
    interleave: Interleave,
    data: &[u8],
    width: usize,
    put: &mut impl FnMut(usize, usize, usize, u16),
    (parts, height): (usize, usize),
) -> Result<usize> {
    let a = ((coding.range + 32) / 64).max(2);
    let mut model = Model {
        coding,
        bits: Bits::new(data),
        contexts: vec![Context { a, b: 0, c: 0, n: 1 }; 365],
        runs: [RunContext { a, n: 1, negative: 0 }; 2],
    };
    // One sample more at each side: what lies beyond the edges.
    let mut above = vec![vec![0i32; width + 2]; parts];
    let mut current = above.clone();
    let mut run_indices = vec![0usize; parts];
    for y in 0..height {
        for (current, above) in current.iter_mut().zip(&mut above) {
            if let Some(last) = above.get(width).copied()
                && let Some(beyond) = above.get_mut(width + 1)
            {
                *beyond = last;
            }
            if let (Some(edge), Some(first)) = (current.first_mut(), above.get(1)) {
                *edge = *first;
            }
        }
        if interleave == Interleave::Sample {
            let run_index = run_indices.first_mut().ok_or(super::CUT_OFF)?;
            model.line_of_pixels(&above, &mut current, run_index)?;
        } else {
            for ((above, current), run_index) in
                above.iter().zip(&mut current).zip(&mut run_indices)
            {
                model.line(above, current, run_index)?;
            }
        }
        for (part, line) in current.iter().enumerate() {
            for (x, &value) in line.iter().skip(1).take(width).enumerate() {
                put(y, x, part, u16::try_from(value).unwrap_or(0));
            }
        }
        std::mem::swap(&mut above, &mut current);
    }
    Ok(model.bits.used())
}

/// Ra, Rb, Rc, Rd: left, above, above left, above right. `x` counts from 1.
#[inline]
fn neighbours(above: &[i32], current: &[i32], x: usize) -> [i32; 4] {
    let [rc, rb, rd] = match above.get(x - 1..x + 2) {
        Some(&[c, b, d]) => [c, b, d],
        _ => [0; 3],
    };
    [current.get(x - 1).copied().unwrap_or(0), rb, rc, rd]
}

impl Model<'_> {
    /// One line of one component.
    fn line(&mut self, above: &[i32], current: &mut [i32], run_index: &mut usize) -> Result<()> {
        let width = current.len() - 2;
        let mut x = 1;
        while x <= width {
            let [ra, rb, rc, rd] = neighbours(above, current, x);
            let context = self.context(ra, rb, rc, rd);
            if context != 0 {
                let value = self.regular(context, ra, rb, rc)?;
                if let Some(place) = current.get_mut(x) {
                    *place = value;
                }
                x += 1;
                continue;
            }
            let length = self.run_length(width + 1 - x, run_index)?;
            current.get_mut(x..x + length).unwrap_or_default().fill(ra);
            x += length;
            if x <= width {
                let rb = above.get(x).copied().unwrap_or(0);
                let alike = (ra - rb).abs() <= self.coding.near;
                let value = self.interruption(ra, rb, alike, *run_index)?;
                if let Some(place) = current.get_mut(x) {
                    *place = value;
                }
                *run_index = run_index.saturating_sub(1);
                x += 1;
            }
        }
        Ok(())
    }

    /// One line of all components, sample by sample: runs are of whole pixels.
    fn line_of_pixels(
        &mut self,
        above: &[Vec<i32>],
        current: &mut [Vec<i32>],
        run_index: &mut usize,
    ) -> Result<()> {
        let width = current.first().map_or(0, |line| line.len() - 2);
        let mut x = 1;
        while x <= width {
            let mut flat = true;
            let mut contexts = [0i32; 4];
            for ((above, current), context) in above.iter().zip(current.iter()).zip(&mut contexts) {
                let [ra, rb, rc, rd] = neighbours(above, current, x);
                *context = self.context(ra, rb, rc, rd);
                flat &= *context == 0;
            }
            if !flat {
                for ((above, current), &context) in
                    above.iter().zip(current.iter_mut()).zip(&contexts)
                {
                    let [ra, rb, rc, _] = neighbours(above, current, x);
                    let value = self.regular(context, ra, rb, rc)?;
                    if let Some(place) = current.get_mut(x) {
                        *place = value;
                    }
                }
                x += 1;
                continue;
            }
            let length = self.run_length(width + 1 - x, run_index)?;
            for line in current.iter_mut() {
                let ra = line.get(x - 1).copied().unwrap_or(0);
                line.get_mut(x..x + length).unwrap_or_default().fill(ra);
            }
            x += length;
            if x <= width {
                for (above, line) in above.iter().zip(current.iter_mut()) {
                    let ra = line.get(x - 1).copied().unwrap_or(0);
                    let rb = above.get(x).copied().unwrap_or(0);
                    let value = self.interruption(ra, rb, false, *run_index)?;
                    if let Some(place) = line.get_mut(x) {
                        *place = value;
                    }
                }
                *run_index = run_index.saturating_sub(1);
                x += 1;
            }
        }
        Ok(())
    }

    /// A.3: −364..=364; 0 begins a run.
    #[inline]
    fn context(&self, ra: i32, rb: i32, rc: i32, rd: i32) -> i32 {
        let coding = &self.coding;
        81 * coding.quantise(rd - rb) + 9 * coding.quantise(rb - rc) + coding.quantise(rc - ra)
    }

    /// A.4 to A.6: one sample of regular mode.
    #[inline]
    fn regular(&mut self, signed_context: i32, ra: i32, rb: i32, rc: i32) -> Result<i32> {
        let coding = self.coding;
        let sign = if signed_context < 0 { -1 } else { 1 };
        let index = signed_context.unsigned_abs() as usize;
        let context = self.contexts.get_mut(index).ok_or(super::CUT_OFF)?;
        let predicted = if rc >= ra.max(rb) {
            ra.min(rb)
        } else if rc <= ra.min(rb) {
            ra.max(rb)
        } else {
            ra + rb - rc
        };
        let predicted = (predicted + sign * context.c).clamp(0, coding.max_value);
        let k = golomb_parameter(context.n, context.a)?;
        let mapped = golomb(&mut self.bits, k, coding.limit, coding.qbpp)?;
        // A.5.2: errors are mapped so that the likelier sign comes first.
        let flipped = coding.near == 0 && k == 0 && 2 * context.b <= -context.n;
        let error = match (mapped & 1 == 1, flipped) {
            (false, false) => mapped / 2,
            (true, false) => -(mapped + 1) / 2,
            (true, true) => (mapped - 1) / 2,
            (false, true) => -(mapped / 2) - 1,
        };
        context.update(error, &coding)?;
        Ok(coding.reconstruct(predicted, sign * error))
    }

    /// A.7.1: samples of a run, at most `left`.
    fn run_length(&mut self, left: usize, run_index: &mut usize) -> Result<usize> {
        let mut length = 0;
        loop {
            let bits = J.get(*run_index).copied().unwrap_or(15);
            if self.bits.take(1)? == 1 {
                let whole = 1usize << bits;
                if whole <= left - length {
                    length += whole;
                    *run_index = (*run_index + 1).min(31);
                } else {
                    length = left;
                }
                if length == left {
                    return Ok(length);
                }
            } else {
                length += self.bits.take(bits)? as usize;
                if length >= left {
                    return Err(JpegLsError("a run is longer than its line"));
                }
                return Ok(length);
            }
        }
    }

    /// A.7.2: the sample that ends a run. `alike`: left and above are the same.
    fn interruption(&mut self, ra: i32, rb: i32, alike: bool, run_index: usize) -> Result<i32> {
        let coding = self.coding;
        let kind = i32::from(alike);
        let [unlike, like] = &mut self.runs;
        let context = if alike { like } else { unlike };
        let (predicted, sign) = match (alike, ra > rb) {
            (true, _) => (ra, 1),
            (false, true) => (rb, -1),
            (false, false) => (rb, 1),
        };
        let k = golomb_parameter(context.n, context.a + if alike { context.n >> 1 } else { 0 })?;
        let limit = coding.limit - J.get(run_index).copied().unwrap_or(15) - 1;
        let mapped = golomb(&mut self.bits, k, limit, coding.qbpp)?;
        let doubled = mapped + kind;
        let odd = doubled & 1 == 1;
        let size = (doubled + 1) / 2;
        let negative = (k != 0 || 2 * context.negative >= context.n) == odd;
        let error = if negative { -size } else { size };
        context.negative += i32::from(error < 0);
        context.a += (mapped + 1 - kind) >> 1;
        if context.n == coding.reset {
            context.a >>= 1;
            context.n >>= 1;
            context.negative >>= 1;
        }
        context.n += 1;
        Ok(coding.reconstruct(predicted, sign * error))
    }
}

impl Context {
    /// A.6.
    #[inline]
    fn update(&mut self, error: i32, coding: &Coding) -> Result<()> {
        self.b += error * (2 * coding.near + 1);
        self.a += error.abs();
        // Far above anything that valid data can give (CharLS refuses there too).
        if self.a >= 1 << 24 || self.b.abs() >= 1 << 24 {
            return Err(JpegLsError("its errors are out of range"));
        }
        if self.n == coding.reset {
            self.a >>= 1;
            self.b >>= 1;
            self.n >>= 1;
        }
        self.n += 1;
        if self.b <= -self.n {
            self.b = (self.b + self.n).max(1 - self.n);
            self.c = (self.c - 1).max(-128);
        } else if self.b > 0 {
            self.b = (self.b - self.n).min(0);
            self.c = (self.c + 1).min(127);
        }
        Ok(())
    }
}

/// A.5.1.
#[inline]
fn golomb_parameter(n: i32, a: i32) -> Result<u32> {
    let mut k = 0;
    while n << k < a {
        k += 1;
        if k > 24 {
            return Err(JpegLsError("its errors are out of range"));
        }
    }
    Ok(k)
}

/// A.5.3: a limited-length Golomb code.
#[inline]
fn golomb(bits: &mut Bits<'_>, k: u32, limit: u32, qbpp: u32) -> Result<i32> {
    let escape = limit - qbpp - 1;
    let high = bits.zeros(escape)?;
    let value = if high < escape { (high << k) | bits.take(k)? } else { bits.take(qbpp)? + 1 };
    i32::try_from(value).map_err(|_| JpegLsError("a code is out of range"))
}
