//! A bearer token as text: `sam2d_`, an id of 8 hex digits, `_`, a secret of 48 hex digits.
//!
//! The id is no secret: it finds the token's line in the file, so that a request costs one
//! comparison however many tokens there are. The secret is 192 random bits. The prefix lets
//! scanners of repositories and mail find a leaked one.

use crate::domain::key::hex;
use std::fmt;

const PREFIX: &str = "sam2d_";
const ID_BYTES: usize = 4;
const SECRET_BYTES: usize = 24;

/// The system gave no randomness.
#[derive(Debug, thiserror::Error)]
#[error("the system gives no randomness for a token: {0}")]
pub struct NoRandomness(#[from] getrandom::Error);

/// A token in clear; its `Debug` shows the id only.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    id: String,
    secret: String,
}

impl Token {
    /// A fresh one.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn generate() -> Result<Self, NoRandomness> {
        let (mut id, mut secret) = ([0; ID_BYTES], [0; SECRET_BYTES]);
        getrandom::fill(&mut id)?;
        getrandom::fill(&mut secret)?;
        Ok(Self { id: hex(&id), secret: hex(&secret) })
    }

    /// From what a client shows; `None` where that can be no token of ours.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (id, secret) = text.strip_prefix(PREFIX)?.split_once('_')?;
        let is_hex = |text: &str, bytes: usize| {
            text.len() == 2 * bytes && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        };
        let right = is_hex(id, ID_BYTES) && is_hex(secret, SECRET_BYTES);
        right.then(|| Self { id: id.to_owned(), secret: secret.to_owned() })
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What must be known.
    #[must_use]
    pub(super) fn secret(&self) -> &[u8] {
        self.secret.as_bytes()
    }

    /// The whole token, to be shown once to whoever asked for it.
    #[must_use]
    pub fn reveal(&self) -> String {
        format!("{PREFIX}{}_{}", self.id, self.secret)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("id", &self.id).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_back_and_shown_to_nobody_else() {
        let token = Token::generate().unwrap();
        let text = token.reveal();
        assert_eq!(text.len(), 6 + 8 + 1 + 48);
        assert_eq!(Token::parse(&text), Some(token.clone()));
        assert_ne!(Token::generate().unwrap(), token);
        let shown = format!("{token:?}");
        assert!(shown.contains(token.id()) && !shown.contains(&token.secret), "{shown}");
    }

    #[test]
    fn what_can_be_no_token_is_none() {
        let good = Token::generate().unwrap().reveal();
        for bad in [
            "",
            "sam2d_",
            &good[1..],
            &good[..good.len() - 1],
            &format!("{good}0"),
            &format!(" {good}"),
            &good.to_uppercase(),
            &good.replace("sam2d_", "sam2d-"),
        ] {
            assert_eq!(Token::parse(bad), None, "{bad}");
        }
    }
}
