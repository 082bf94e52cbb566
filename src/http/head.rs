//! The head of a request as bytes, judged strictly before hyper sees it.
//!
//! hyper is lenient where proxies in front of the box may be lenient differently: it drops a
//! Content-Length beside Transfer-Encoding without a word and accepts bare line feeds. Where two
//! parsers disagree on where a request ends, one client can put words into another's mouth (request
//! smuggling), so whatever is ambiguous is refused here.
//!
//! Pure functions over bytes; [`super::strict`] puts them between socket and hyper.

/// Why a head (or the framing of a body) is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// 400: not HTTP/1.1 as the RFC writes it.
    Malformed,
    /// 400: Transfer-Encoding beside Content-Length, or several of either.
    Ambiguous,
    /// 408: the head came too slowly.
    TooSlow,
    /// 431: too many bytes or header lines.
    TooLarge,
}

impl Refusal {
    const ALL: [(Self, &'static str); 4] = [
        (Self::Malformed, "/malformed"),
        (Self::Ambiguous, "/ambiguous"),
        (Self::TooSlow, "/too-slow"),
        (Self::TooLarge, "/too-large"),
    ];

    /// The request that stands in for a refused one, so that it is answered in its turn, counted
    /// and logged like any other. No client can send it: [`judge`] refuses its method.
    #[must_use]
    pub fn stand_in(self) -> String {
        let path = Self::ALL.iter().find(|(refusal, _)| *refusal == self).map_or("/", |(_, p)| p);
        format!("{STAND_IN} {path} HTTP/1.1\r\n\r\n")
    }

    /// The refusal that a request stands in for.
    #[must_use]
    pub fn of(method: &http::Method, path: &str) -> Option<Self> {
        let found = Self::ALL.iter().find(|(_, stand_in)| *stand_in == path);
        (method.as_str() == STAND_IN)
            .then(|| found.map_or(Self::Malformed, |(refusal, _)| *refusal))
    }
}

/// A method that no client may use.
const STAND_IN: &str = "SAM2D-REFUSED";

/// How the body after a head is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// So many bytes; 0 where there is none.
    Length(u64),
    /// Chunks.
    Chunked,
}

/// Where the head at the start of `bytes` ends, once it is there. `searched` bytes were looked at
/// by an earlier call.
///
/// # Errors
/// `Malformed` for a line feed without its carriage return or the other way round.
pub fn end(bytes: &[u8], searched: usize) -> Result<Option<usize>, Refusal> {
    // The last bytes seen may be the first of the end's four.
    let from = searched.saturating_sub(3);
    for (at, window) in bytes.windows(2).enumerate().skip(from) {
        match window {
            b"\r\n" if bytes.get(at + 2..at + 4) == Some(b"\r\n") => return Ok(Some(at + 4)),
            [b'\r', other] if *other != b'\n' => return Err(Refusal::Malformed),
            [other, b'\n'] if *other != b'\r' => return Err(Refusal::Malformed),
            _ => {}
        }
    }
    if bytes.first() == Some(&b'\n') { Err(Refusal::Malformed) } else { Ok(None) }
}

/// Judges a whole head, its empty last line included.
///
/// # Errors
/// Why it is refused.
pub fn judge(head: &[u8], max_headers: usize) -> Result<Framing, Refusal> {
    let mut lines = Lines(head);
    let version = request_line(lines.next().ok_or(Refusal::Malformed)?)?;
    let (mut length, mut chunked, mut count) = (None, false, 0);
    for line in lines.take_while(|line| !line.is_empty()) {
        count += 1;
        if count > max_headers {
            return Err(Refusal::TooLarge);
        }
        let (name, value) = header_line(line)?;
        if name.eq_ignore_ascii_case(b"content-length") {
            let first = length.replace(number(value).ok_or(Refusal::Malformed)?).is_none();
            first.then_some(()).ok_or(Refusal::Ambiguous)?;
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            // RFC 9112 6.1: none in HTTP/1.0; of the codings only chunked is known here.
            if version != Version::Http11 || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(Refusal::Malformed);
            }
            (!std::mem::replace(&mut chunked, true)).then_some(()).ok_or(Refusal::Ambiguous)?;
        }
    }
    match (length, chunked) {
        (Some(_), true) => Err(Refusal::Ambiguous),
        (None, true) => Ok(Framing::Chunked),
        (length, false) => Ok(Framing::Length(length.unwrap_or(0))),
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Version {
    Http10,
    Http11,
}

/// Lines that end in CRLF; [`end`] has seen to it that there are no others.
struct Lines<'a>(&'a [u8]);

impl<'a> Iterator for Lines<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let at = self.0.windows(2).position(|pair| pair == b"\r\n")?;
        let line = self.0.get(..at)?;
        self.0 = self.0.get(at + 2..)?;
        Some(line)
    }
}

fn request_line(line: &[u8]) -> Result<Version, Refusal> {
    let mut words = line.split(|byte| *byte == b' ');
    let (method, target, version) = (words.next(), words.next(), words.next());
    let (Some(method), Some(target), Some(version), None) = (method, target, version, words.next())
    else {
        return Err(Refusal::Malformed);
    };
    let visible = |byte: &u8| byte.is_ascii_graphic();
    let fine = is_token(method)
        && method != STAND_IN.as_bytes()
        && !target.is_empty()
        && target.iter().all(visible);
    match version {
        b"HTTP/1.1" if fine => Ok(Version::Http11),
        // nginx speaks 1.0 to what it proxies unless told otherwise.
        b"HTTP/1.0" if fine => Ok(Version::Http10),
        _ => Err(Refusal::Malformed),
    }
}

/// Name and value; a line that continues the one before (obs-fold) has no name and is refused.
fn header_line(line: &[u8]) -> Result<(&[u8], &[u8]), Refusal> {
    let colon = line.iter().position(|byte| *byte == b':').ok_or(Refusal::Malformed)?;
    let (name, value) = (line.get(..colon), line.get(colon + 1..));
    let (Some(name), Some(value)) = (name, value) else { return Err(Refusal::Malformed) };
    let allowed = |byte: &u8| *byte == b'\t' || (*byte >= 0x20 && *byte != 0x7f);
    if is_token(name) && value.iter().all(allowed) {
        Ok((name, value.trim_ascii()))
    } else {
        Err(Refusal::Malformed)
    }
}

/// RFC 9110 5.6.2.
fn is_token(text: &[u8]) -> bool {
    let token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    !text.is_empty() && text.iter().all(token)
}

/// Digits alone: `u64::from_str` would take a sign too.
fn number(text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?;
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// Where the reader of a chunked body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunks {
    at: ChunkPart,
    /// Bytes of size lines, extensions and trailers since the last data.
    overhead: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ChunkPart {
    /// In the hex digits; how many there were, and their value.
    Size(u8, u64),
    /// Behind a `;`.
    Extension(u64),
    /// After the CR of a size line.
    SizeLf(u64),
    /// In the data.
    Data(u64),
    /// After the data.
    DataCr,
    /// After the data's CR.
    DataLf,
    /// At the start of a trailer line.
    TrailerStart,
    /// In a trailer line.
    Trailer,
    /// After the CR of a trailer line.
    TrailerLf,
    /// After the CR of the last, empty line.
    EndLf,
    /// Behind it all.
    End,
}

impl Chunks {
    /// At the start of a body.
    #[must_use]
    pub fn start() -> Self {
        Self { at: ChunkPart::Size(0, 0), overhead: 0 }
    }

    /// Is the body over?
    #[must_use]
    pub fn is_over(self) -> bool {
        self.at == ChunkPart::End
    }

    /// Reads on; returns how many of the bytes belong to this body.
    ///
    /// # Errors
    /// `Malformed`; `TooLarge` for more than `max_overhead` bytes that are not data in a row.
    pub fn advance(&mut self, bytes: &[u8], max_overhead: usize) -> Result<usize, Refusal> {
        let mut used = 0;
        while let Some(rest) = bytes.get(used..).filter(|rest| !rest.is_empty() && !self.is_over())
        {
            if let ChunkPart::Data(left) = self.at {
                let taken = rest.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                used += taken;
                let left = left - taken as u64;
                self.at = if left == 0 { ChunkPart::DataCr } else { ChunkPart::Data(left) };
                self.overhead = 0;
                continue;
            }
            let Some(&byte) = rest.first() else { break };
            self.at = self.at.step(byte).ok_or(Refusal::Malformed)?;
            used += 1;
            self.overhead += 1;
            if self.overhead > max_overhead {
                return Err(Refusal::TooLarge);
            }
        }
        Ok(used)
    }
}

impl ChunkPart {
    /// One byte on; `None` where it has no business. RFC 9112 7.1.
    fn step(self, byte: u8) -> Option<Self> {
        let visible = byte == b'\t' || (byte >= 0x20 && byte != 0x7f);
        Some(match (self, byte) {
            (Self::Size(digits, size), b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') if digits < 15 => {
                let digit = (byte as char).to_digit(16)?;
                Self::Size(digits + 1, size * 16 + u64::from(digit))
            }
            (Self::Size(1.., size), b';') => Self::Extension(size),
            (Self::Size(1.., size) | Self::Extension(size), b'\r') => Self::SizeLf(size),
            (Self::Extension(size), _) if visible => Self::Extension(size),
            (Self::SizeLf(0), b'\n') => Self::TrailerStart,
            (Self::SizeLf(size), b'\n') => Self::Data(size),
            (Self::DataCr, b'\r') => Self::DataLf,
            (Self::DataLf, b'\n') => Self::Size(0, 0),
            (Self::TrailerStart, b'\r') => Self::EndLf,
            (Self::TrailerStart | Self::Trailer, _) if visible => Self::Trailer,
            (Self::Trailer, b'\r') => Self::TrailerLf,
            (Self::TrailerLf, b'\n') => Self::TrailerStart,
            (Self::EndLf, b'\n') => Self::End,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(head: &str) -> Result<Framing, Refusal> {
        match end(head.as_bytes(), 0)? {
            Some(length) => judge(&head.as_bytes()[..length], 4),
            None => panic!("the head has no end"),
        }
    }

    #[test]
    fn a_plain_head_tells_how_its_body_is_delimited() {
        let get = "GET /livez HTTP/1.1\r\nHost: a\r\n\r\n";
        assert_eq!(verdict(get), Ok(Framing::Length(0)));
        let post = "POST /x?a=%20b HTTP/1.0\r\nhost:a\r\nCONTENT-length: \t17 \r\nX:\r\n\r\n";
        assert_eq!(verdict(post), Ok(Framing::Length(17)));
        let chunked = "POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n";
        assert_eq!(verdict(chunked), Ok(Framing::Chunked));
    }

    #[test]
    fn whatever_two_parsers_could_read_differently_is_refused() {
        for ambiguous in [
            "Content-Length: 5\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: chunked\r\nContent-Length: 5",
            "Content-Length: 5\r\nContent-Length: 5",
            "Content-Length: 5\r\ncontent-length: 6",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        ] {
            let head = format!("POST / HTTP/1.1\r\n{ambiguous}\r\n\r\n");
            assert_eq!(verdict(&head), Err(Refusal::Ambiguous), "{ambiguous}");
        }
        for malformed in [
            "Content-Length: +5",
            "Content-Length: -5",
            "Content-Length: 5, 5",
            "Content-Length:",
            "Content-Length: 0x5",
            "Content-Length: 99999999999999999999",
            "Content-Length : 5",
            " Host: a",
            "Host: a\r\n b",
            "Host: a\r\n\tb",
            "Host",
            ": a",
            "Ho st: a",
            "Host: a\0",
            "X: \u{7f}",
            "Host: a\r\n\u{b}X: y",
            "Transfer-Encoding: gzip, chunked",
            "Transfer-Encoding: chunked, identity",
            "Transfer-Encoding: xchunked",
            "Transfer-Encoding: \u{b}chunked",
            "Transfer-Encoding:",
        ] {
            let head = format!("POST / HTTP/1.1\r\n{malformed}\r\n\r\n");
            assert_eq!(verdict(&head), Err(Refusal::Malformed), "{malformed:?}");
        }
        let old = "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert_eq!(verdict(old), Err(Refusal::Malformed));
    }

    #[test]
    fn request_lines_are_read_to_the_letter() {
        for line in [
            "",
            "GET",
            "GET /",
            "GET  / HTTP/1.1",
            "GET / HTTP/1.1 ",
            " GET / HTTP/1.1",
            "GET / HTTP/2.0",
            "PRI * HTTP/2.0",
            "GET / HTTP/0.9",
            "GET / http/1.1",
            "GET / HTTP/1.2",
            "GET / HTTP/1.1x",
            "G(T / HTTP/1.1",
            "GET /\u{e9} HTTP/1.1",
            "GET /\t HTTP/1.1",
            "SAM2D-REFUSED / HTTP/1.1",
        ] {
            let head = format!("{line}\r\nHost: a\r\n\r\n");
            assert_eq!(verdict(&head), Err(Refusal::Malformed), "{line:?}");
        }
    }

    #[test]
    fn lines_end_in_both_characters() {
        for bare in
            ["GET / HTTP/1.1\nHost: a\n\n", "GET / HTTP/1.1\r\nHost: a\n\r\n", "\nGET", "GET\r/"]
        {
            assert_eq!(end(bare.as_bytes(), 0), Err(Refusal::Malformed), "{bare:?}");
        }
        let head = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nnext";
        for cut in 0..head.len() {
            let whole = (cut >= head.len() - 4).then_some(head.len() - 4);
            for searched in 0..=cut.min(head.len() - 5) {
                assert_eq!(end(&head[..cut], searched), Ok(whole), "{cut} {searched}");
            }
        }
    }

    #[test]
    fn too_many_headers_are_too_large() {
        let head = format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(5));
        assert_eq!(verdict(&head), Err(Refusal::TooLarge));
    }

    #[test]
    fn a_refused_request_is_stood_in_for_by_one_nobody_can_send() {
        for (refusal, _) in Refusal::ALL {
            let stand_in = refusal.stand_in();
            let mut words = stand_in.split(' ');
            let method: http::Method = words.next().unwrap().parse().unwrap();
            assert_eq!(Refusal::of(&method, words.next().unwrap()), Some(refusal));
            assert_eq!(verdict(&stand_in), Err(Refusal::Malformed));
        }
        assert_eq!(Refusal::of(&http::Method::GET, "/malformed"), None);
    }

    /// Bytes of the body that were used, reading `step` bytes at a time.
    fn chunks(body: &[u8], step: usize) -> Result<Option<usize>, Refusal> {
        let mut chunks = Chunks::start();
        let mut used = 0;
        for piece in body.chunks(step) {
            used += chunks.advance(piece, 64)?;
            if chunks.is_over() {
                return Ok(Some(used));
            }
        }
        Ok(None)
    }

    #[test]
    fn chunked_bodies_end_where_they_end_however_they_arrive() {
        for (body, rest) in [
            (&b"0\r\n\r\n"[..], &b""[..]),
            (b"5\r\nhello\r\n0\r\n\r\n", b"GET"),
            (b"5;a=b\r\nhel\r\n\r\n00A\r\n0123456789\r\n0\r\nX: y\r\nZ: w\r\n\r\n", b"GET /"),
        ] {
            let whole = [body, rest].concat();
            for step in 1..=whole.len() {
                assert_eq!(chunks(&whole, step), Ok(Some(body.len())), "{step}");
            }
            assert_eq!(chunks(&body[..body.len() - 1], 3), Ok(None));
        }
    }

    #[test]
    fn bad_chunks_are_refused() {
        for bad in [
            "\r\n",
            ";\r\n",
            " 5\r\nhello",
            "5 \r\nhello",
            "+5\r\n",
            "-1\r\n",
            "0x5\r\n",
            "g\r\n",
            "5\nhello",
            "5\rhello",
            "5\r\nhello!",
            "5\r\nhelloX\r\n",
            "5\r\nhello\n0\r\n\r\n",
            "5;\n\r\nhello",
            "0\r\nX\n\r\n",
            "0\r\n\r\r",
            "1000000000000000\r\n",
            "5;a\0\r\n",
        ] {
            assert_eq!(chunks(bad.as_bytes(), 1), Err(Refusal::Malformed), "{bad:?}");
        }
        let extension = format!("5;{}", "a".repeat(64));
        assert_eq!(chunks(extension.as_bytes(), 7), Err(Refusal::TooLarge));
    }
}
