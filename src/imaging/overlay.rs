//! A picture for people: the slice with the mask on it, the prompt it came from, and what it is not
//! for, written into the pixels as well as into the file.
//!
//! It is never an input of anything: colours, line widths and lettering may change.

use super::Levels;
use super::png;
use crate::domain::mask::Mask;
use crate::domain::prompt::{ClickLabel, Prompt};
use crate::domain::slice::Size;

type Colour = [u8; 3];

/// Orange: told apart from grey, from red and green marks, and by people who can't tell those two.
const MASK: Colour = [255, 150, 0];
const BOX: Colour = [255, 230, 90];
const INSIDE: Colour = [60, 220, 120];
const OUTSIDE: Colour = [255, 60, 60];
const LETTERS: Colour = [255, 230, 90];

/// Of 256: how much of the mask's colour lies over the pixels inside.
const FILL: u16 = 64;

/// Pixels of picture per pixel of line: below 512 lines are one pixel wide.
const PX_PER_LINE: u32 = 512;

/// The overlay as a PNG. `None` when `levels` and `mask` are of different sizes: a bug of the caller.
#[must_use]
pub fn encode(levels: &Levels, mask: &Mask, prompt: &Prompt) -> Option<Vec<u8>> {
    let mut canvas = Canvas::of(levels, mask.size())?;
    canvas.lay_over(mask);
    if let Some(bounds) = prompt.bounds() {
        let corners = bounds.corners();
        canvas.frame(corners, BOX);
    }
    for click in prompt.clicks() {
        let colour = match click.label {
            ClickLabel::Inside => INSIDE,
            ClickLabel::Outside => OUTSIDE,
        };
        canvas.cross((click.x, click.y), click.label == ClickLabel::Inside, colour);
    }
    canvas.write(png::NOTICE, LETTERS);
    Some(png::encode_rgb(&canvas.pixels, canvas.size))
}

struct Canvas {
    size: Size,
    /// Width of a line in pixels.
    line: i64,
    pixels: Vec<u8>,
}

impl Canvas {
    fn of(levels: &Levels, size: Size) -> Option<Self> {
        let pixels = match levels {
            Levels::Grey(grey) => grey.iter().flat_map(|&level| [level; 3]).collect(),
            Levels::Rgb(rgb) => rgb.clone(),
        };
        let line = i64::from((size.width.min(size.height) / PX_PER_LINE).max(1));
        (pixels.len() == 3 * size.pixels()).then_some(Self { size, line, pixels })
    }

    /// Tints what is marked and draws its border, on its inner side, in full colour.
    fn lay_over(&mut self, mask: &Mask) {
        let Some(bounds) = mask.bounding_box() else { return };
        let reach = self.line;
        let inside = |x: i64, y: i64| {
            u32::try_from(x).is_ok_and(|x| u32::try_from(y).is_ok_and(|y| mask.contains(x, y)))
        };
        for y in bounds.y..bounds.y + bounds.height {
            for x in bounds.x..bounds.x + bounds.width {
                if !mask.contains(x, y) {
                    continue;
                }
                let (x, y) = (i64::from(x), i64::from(y));
                let near = [(reach, 0), (-reach, 0), (0, reach), (0, -reach)];
                let border = near.iter().any(|(dx, dy)| !inside(x + dx, y + dy));
                self.blend(x, y, MASK, if border { 256 } else { FILL });
            }
        }
    }

    fn frame(&mut self, [(left, top), (right, bottom)]: [(f64, f64); 2], colour: Colour) {
        let (left, top, right, bottom) = (whole(left), whole(top), whole(right), whole(bottom));
        for x in left..=right {
            self.dot(x, top, colour);
            self.dot(x, bottom, colour);
        }
        for y in top..=bottom {
            self.dot(left, y, colour);
            self.dot(right, y, colour);
        }
    }

    /// A plus, or a minus.
    fn cross(&mut self, (x, y): (f64, f64), plus: bool, colour: Colour) {
        let (x, y) = (whole(x), whole(y));
        for step in -4 * self.line..=4 * self.line {
            self.dot(x + step, y, colour);
            if plus {
                self.dot(x, y + step, colour);
            }
        }
    }

    /// One line of text in the lower left corner; left out where the picture is too narrow for it.
    fn write(&mut self, text: &str, colour: Colour) {
        let advance = 6 * self.line;
        let letters = i64::try_from(text.len()).unwrap_or(i64::MAX);
        let (width, height) = (i64::from(self.size.width), i64::from(self.size.height));
        if letters.saturating_mul(advance) + 4 * self.line > width || height < 12 * self.line {
            return;
        }
        let (mut x, y) = (2 * self.line, height - 10 * self.line);
        for letter in text.chars() {
            for (row, bits) in (0i64..).zip(glyph(letter)) {
                for column in (0i64..5).filter(|column| bits >> (4 - column) & 1 == 1) {
                    self.dot(x + column * self.line, y + row * self.line, colour);
                }
            }
            x += advance;
        }
    }

    /// A square as wide as a line.
    fn dot(&mut self, x: i64, y: i64, colour: Colour) {
        for dy in 0..self.line {
            for dx in 0..self.line {
                self.blend(x + dx, y + dy, colour, 256);
            }
        }
    }

    /// `share` of 256 of the colour; nothing outside the picture.
    fn blend(&mut self, x: i64, y: i64, colour: Colour, share: u16) {
        let (Ok(x), Ok(y)) = (usize::try_from(x), usize::try_from(y)) else { return };
        if x >= self.size.width as usize {
            return;
        }
        let first = 3 * (y * self.size.width as usize + x);
        let Some(pixel) = self.pixels.get_mut(first..first + 3) else { return };
        for (level, colour) in pixel.iter_mut().zip(colour) {
            let mixed = u16::from(*level) * (256 - share).min(255) / 256;
            let added = (u32::from(colour) * u32::from(share)) >> 8;
            *level = u8::try_from(u32::from(mixed) + added).unwrap_or(u8::MAX);
        }
    }
}

/// The pixel a coordinate lies in.
#[expect(clippy::cast_possible_truncation, reason = "prompts are checked against the image's size")]
fn whole(coordinate: f64) -> i64 {
    coordinate.floor() as i64
}

/// 5×7 dots, five bits a row, for the letters of the notice; anything else is blank.
fn glyph(letter: char) -> [u8; 7] {
    match letter {
        'N' => [0b10001, 0b11001, 0b10101, 0b10011, 0b10001, 0b10001, 0b10001],
        'a' => [0b00000, 0b00000, 0b01110, 0b00001, 0b01111, 0b10001, 0b01111],
        'c' => [0b00000, 0b00000, 0b01110, 0b10000, 0b10000, 0b10001, 0b01110],
        'd' => [0b00001, 0b00001, 0b01101, 0b10011, 0b10001, 0b10001, 0b01111],
        'e' => [0b00000, 0b00000, 0b01110, 0b10001, 0b11111, 0b10000, 0b01110],
        'f' => [0b00110, 0b01001, 0b01000, 0b11100, 0b01000, 0b01000, 0b01000],
        'g' => [0b00000, 0b01111, 0b10001, 0b10001, 0b01111, 0b00001, 0b01110],
        'i' => [0b00100, 0b00000, 0b01100, 0b00100, 0b00100, 0b00100, 0b01110],
        'n' => [0b00000, 0b00000, 0b10110, 0b11001, 0b10001, 0b10001, 0b10001],
        'o' => [0b00000, 0b00000, 0b01110, 0b10001, 0b10001, 0b10001, 0b01110],
        'r' => [0b00000, 0b00000, 0b10110, 0b11001, 0b10000, 0b10000, 0b10000],
        's' => [0b00000, 0b00000, 0b01110, 0b10000, 0b01110, 0b00001, 0b11110],
        't' => [0b01000, 0b01000, 0b11100, 0b01000, 0b01000, 0b01001, 0b00110],
        'u' => [0b00000, 0b00000, 0b10001, 0b10001, 0b10001, 0b10011, 0b01101],
        '.' => [0b00000, 0b00000, 0b00000, 0b00000, 0b00000, 0b01100, 0b01100],
        _ => [0; 7],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::prompt::{Click, PromptBox};

    fn decoded(file: &[u8]) -> image::RgbImage {
        image::load_from_memory(file).unwrap().into_rgb8()
    }

    fn square_mask(size: Size) -> Mask {
        Mask::empty(size).painted((20..60).map(|y| (y, 30, 70)), true)
    }

    #[test]
    fn the_mask_is_tinted_bordered_and_the_rest_left_alone() {
        let size = Size { width: 100, height: 90 };
        let levels = Levels::Grey(vec![100; size.pixels()]);
        let file = encode(&levels, &square_mask(size), &Prompt::default()).unwrap();
        let picture = decoded(&file);
        assert_eq!(picture.get_pixel(30, 20).0, MASK, "border");
        assert_eq!(picture.get_pixel(69, 59).0, MASK, "border");
        assert_eq!(picture.get_pixel(50, 40).0, [138, 112, 75], "inside");
        assert_eq!(picture.get_pixel(29, 20).0, [100; 3], "outside");
        assert_eq!(picture.get_pixel(70, 59).0, [100; 3], "outside");
    }

    #[test]
    fn clicks_and_box_are_drawn_within_the_picture() {
        let size = Size { width: 100, height: 90 };
        let levels = Levels::Rgb(vec![0; 3 * size.pixels()]);
        let click = |x, y, label| Click { x, y, label };
        let clicks =
            vec![click(0.0, 0.0, ClickLabel::Inside), click(99.4, 50.0, ClickLabel::Outside)];
        let bounds = PromptBox { x: 10.0, y: 70.0, width: 90.0, height: 20.0 };
        let prompt = Prompt::new(size, clicks, Some(bounds), None, 64).unwrap();
        let picture = decoded(&encode(&levels, &Mask::empty(size), &prompt).unwrap());
        assert_eq!(picture.get_pixel(0, 4).0, INSIDE);
        assert_eq!(picture.get_pixel(4, 0).0, INSIDE);
        assert_eq!(picture.get_pixel(96, 50).0, OUTSIDE);
        assert_eq!(picture.get_pixel(99, 52).0, [0; 3], "a minus has no upright");
        assert_eq!(picture.get_pixel(0, 51).0, [0; 3], "what leaves on the right stays out");
        assert_eq!(picture.get_pixel(10, 89).0, BOX);
        assert_eq!(picture.get_pixel(99, 70).0, BOX);
    }

    #[test]
    fn the_picture_says_what_it_is_not_for_in_pixels_and_in_the_file() {
        let size = Size { width: 200, height: 60 };
        let levels = Levels::Grey(vec![0; size.pixels()]);
        let file = encode(&levels, &Mask::empty(size), &Prompt::default()).unwrap();
        let dots = decoded(&file).pixels().filter(|pixel| pixel.0 == LETTERS).count();
        let expected: u32 = png::NOTICE.chars().flat_map(glyph).map(|bits| bits.count_ones()).sum();
        assert_eq!(dots, expected as usize);
        let letters = png::NOTICE.chars().filter(|letter| *letter != ' ');
        assert!(letters.map(glyph).all(|rows| rows != [0; 7]), "a letter has no glyph");
        assert!(file.windows(png::NOTICE.len()).any(|window| window == png::NOTICE.as_bytes()));
    }

    #[test]
    fn levels_and_mask_of_different_sizes_are_no_picture() {
        let size = Size { width: 10, height: 9 };
        let levels = Levels::Grey(vec![0; 91]);
        assert!(encode(&levels, &Mask::empty(size), &Prompt::default()).is_none());
    }
}
