//! The inverse DCT of libjpeg's default ("islow": Loeffler, Ligtenberg and Moschytz, 1989, with 13-bit
//! constants), exactly: another one gives other levels.

/// A decoded sample: u8 of 8 bits or u16 of 12.
pub(super) trait Sample: Copy + Default + 'static {
    /// Extra bits that the first pass keeps; fewer for 12-bit samples, as libjpeg.
    const PASS_BITS: u32;
    /// Half of the range, added after the transform.
    const CENTER: i64;

    /// Cut to the range.
    fn clamp(value: i64) -> Self;
    /// As it is; of a lossless frame, whose samples have any precision up to the type's.
    fn exact(value: u16) -> Option<Self>;
    fn value(self) -> i32;
}

impl Sample for u8 {
    const PASS_BITS: u32 = 2;
    const CENTER: i64 = 128;

    #[inline]
    fn clamp(value: i64) -> Self {
        Self::try_from(value.clamp(0, 255)).unwrap_or(Self::MAX)
    }

    fn exact(value: u16) -> Option<Self> {
        Self::try_from(value).ok()
    }

    #[inline]
    fn value(self) -> i32 {
        i32::from(self)
    }
}

impl Sample for u16 {
    const PASS_BITS: u32 = 1;
    const CENTER: i64 = 2048;

    #[inline]
    fn clamp(value: i64) -> Self {
        Self::try_from(value.clamp(0, 4095)).unwrap_or(4095)
    }

    fn exact(value: u16) -> Option<Self> {
        Some(value)
    }

    #[inline]
    fn value(self) -> i32 {
        i32::from(self)
    }
}

const CONST_BITS: u32 = 13;

/// Largest coefficient taken: far above any that 12-bit samples give, far below overflow.
const MAX_COEFFICIENT: i64 = 1 << 24;

/// Dequantised coefficients, row-major, into 8 rows of 8 samples. False when a sample comes out so far
/// beyond the range (four times its half) that no encoder can have meant it: libjpeg wraps there, its
/// SIMD forms saturate, and the data is damaged.
pub(super) fn block<S: Sample>(coefficients: &[i32; 64], rows: &mut [S], stride: usize) -> bool {
    let plausible = -4 * S::CENTER..4 * S::CENTER;
    let bound = |value: i32| i64::from(value).clamp(-MAX_COEFFICIENT, MAX_COEFFICIENT);
    let dc_only = coefficients.iter().skip(1).all(|&c| c == 0);
    if dc_only {
        let dc = bound(coefficients.first().copied().unwrap_or(0)) << S::PASS_BITS;
        let flat = descale(dc, S::PASS_BITS + 3);
        let level = S::clamp(flat + S::CENTER);
        for row in rows.chunks_mut(stride).take(8) {
            row.iter_mut().take(8).for_each(|sample| *sample = level);
        }
        return plausible.contains(&flat);
    }
    let mut work = [[0i64; 8]; 8];
    for (column, line) in work.iter_mut().enumerate() {
        let input: [i64; 8] = std::array::from_fn(|row| {
            bound(coefficients.get(row * 8 + column).copied().unwrap_or(0))
        });
        *line = transform(input).map(|value| descale(value, CONST_BITS - S::PASS_BITS));
    }
    let mut all_plausible = true;
    for (row, output) in rows.chunks_mut(stride).take(8).enumerate() {
        let input: [i64; 8] = work.map(|line| line.get(row).copied().unwrap_or(0));
        let levels = transform(input);
        for (sample, level) in output.iter_mut().zip(levels) {
            let level = descale(level, CONST_BITS + S::PASS_BITS + 3);
            all_plausible &= plausible.contains(&level);
            *sample = S::clamp(level + S::CENTER);
        }
    }
    all_plausible
}

#[inline]
fn descale(value: i64, bits: u32) -> i64 {
    (value + (1 << (bits - 1))) >> bits
}

/// One dimension; the result is scaled up by 2^13. Constants are cosines times 2^13, rounded.
#[inline]
fn transform(x: [i64; 8]) -> [i64; 8] {
    let z1 = (x[2] + x[6]) * 4433;
    let even2 = z1 - x[6] * 15_137;
    let even3 = z1 + x[2] * 6270;
    let even0 = (x[0] + x[4]) << CONST_BITS;
    let even1 = (x[0] - x[4]) << CONST_BITS;
    let (e0, e3) = (even0 + even3, even0 - even3);
    let (e1, e2) = (even1 + even2, even1 - even2);

    let z5 = (x[7] + x[3] + x[5] + x[1]) * 9633;
    let z1 = (x[7] + x[1]) * -7373;
    let z2 = (x[5] + x[3]) * -20_995;
    let z3 = (x[7] + x[3]) * -16_069 + z5;
    let z4 = (x[5] + x[1]) * -3196 + z5;
    let o0 = x[7] * 2446 + z1 + z3;
    let o1 = x[5] * 16_819 + z2 + z4;
    let o2 = x[3] * 25_172 + z2 + z3;
    let o3 = x[1] * 12_299 + z1 + z4;

    [e0 + o3, e1 + o2, e2 + o1, e3 + o0, e3 - o0, e2 - o1, e1 - o2, e0 - o3]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A.3.3, in floating point.
    fn ideal(coefficients: &[i32; 64]) -> Vec<f64> {
        let c = |u: usize| if u == 0 { 0.5f64.sqrt() } else { 1.0 };
        let angle = |x: usize, u: usize| {
            f64::cos((2 * x + 1) as f64 * u as f64 * std::f64::consts::PI / 16.0)
        };
        let mut samples = Vec::new();
        for y in 0..8 {
            for x in 0..8 {
                let mut sum = 0.0;
                for v in 0..8 {
                    for u in 0..8 {
                        let s = f64::from(coefficients[v * 8 + u]);
                        sum += c(u) * c(v) * s * angle(x, u) * angle(y, v);
                    }
                }
                samples.push(sum / 4.0 + 128.0);
            }
        }
        samples
    }

    #[test]
    fn the_transform_is_the_inverse_dct_within_one_level() {
        let mut seed = 12_345i32;
        for _ in 0..200 {
            let mut range = 800;
            let coefficients: [i32; 64] = std::array::from_fn(|_| {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                range = (range * 7 / 8).max(1);
                (seed >> 16) % range
            });
            let mut samples = [0u8; 64];
            assert!(block(&coefficients, &mut samples, 8));
            for (sample, ideal) in samples.iter().zip(ideal(&coefficients)) {
                let ideal = ideal.clamp(0.0, 255.0);
                assert!((f64::from(*sample) - ideal).abs() <= 1.0, "{sample} {ideal}");
            }
        }
    }

    #[test]
    fn samples_far_beyond_the_range_are_told() {
        for (dc, plausible) in [(4_000, true), (4_200, false), (-4_000, true), (-4_200, false)] {
            let mut samples = [0u8; 64];
            let mut coefficients = [0; 64];
            coefficients[0] = dc;
            assert_eq!(block(&coefficients, &mut samples, 8), plausible, "{dc}");
            coefficients[9] = 1;
            assert_eq!(block(&coefficients, &mut samples, 8), plausible, "{dc}, not flat");
        }
    }

    #[test]
    fn a_flat_block_is_flat_however_it_is_computed() {
        for dc in [-1024, -8, -3, 0, 5, 700] {
            let mut flat = [0i32; 64];
            flat[0] = dc;
            let mut short = [0u8; 64];
            assert!(block(&flat, &mut short, 8));
            let full = transform([i64::from(dc), 0, 0, 0, 0, 0, 0, 0]);
            let first = descale(full[0], CONST_BITS - 2);
            let second = transform([first, 0, 0, 0, 0, 0, 0, 0]);
            let level = <u8 as Sample>::clamp(descale(second[3], CONST_BITS + 2 + 3) + 128);
            assert!(short.iter().all(|&sample| sample == level));
        }
    }
}
