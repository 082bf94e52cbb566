//! The contract's words: requests in, answers and problems out. No I/O; bodies come in through
//! [`super::intake`].

pub mod accept;
pub mod answer;
pub mod fields;
pub mod form;
pub mod health;
pub mod image_data;
pub mod json;
pub mod numbers;
pub mod object;
pub mod problem;
pub mod reply;
pub mod stored;
