//! What is left of a slice once a window was applied: 8-bit levels, row by row, as a person would
//! see it on a screen. The engine, the preview and the overlay all start here.

/// 8-bit levels of one image; the size travels beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Levels {
    /// [H, W] u8.
    Grey(Vec<u8>),
    /// [H, W, 3] u8, RGB.
    Rgb(Vec<u8>),
}
