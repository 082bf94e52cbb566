//! The files of the trail: `trail-000001.jsonl` and on, and `head`, which knows how far they go.
//!
//! Invariants:
//! 1. Files are only appended to. A last line that a power cut left torn is cut off at the next
//!    start, and the line that follows says how many bytes it had.
//! 2. `head` is written after the lines it knows are on the disk. So lines that `head` knows and the
//!    files don't have were taken away: that is found here, at the start, and by `audit verify`.

use super::Options;
use super::chain::{Keys, Seal, split};
use super::record::{Event, Kind, Record};
use chrono::Utc;
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

const HEAD: &str = "head";
/// No line is longer; a tail is read that far back.
pub(super) const MAX_LINE_BYTES: u64 = 64 << 10;

/// How far the trail goes.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(super) struct Head {
    /// The first record that is kept.
    pub(super) oldest: u64,
    /// The seal before it.
    pub(super) before: String,
    /// The last record.
    pub(super) seq: u64,
    /// Its seal.
    pub(super) last: String,
}

/// The trail, open for appending.
pub struct Log {
    folder: PathBuf,
    options: Options,
    keys: Keys,
    file: File,
    number: u32,
    bytes: u64,
    seq: u64,
    seal: Seal,
    head: Head,
    /// The disk refused the last line: the file is opened anew before the next.
    refused: bool,
    /// Held as long as this is.
    _lock: File,
}

impl Log {
    /// Opens the trail in this folder, or begins one. The events are what the start found wrong
    /// with it, to be recorded first.
    ///
    /// # Errors
    /// When the folder can't be used, or another process uses it.
    pub fn open(folder: &Path, options: &Options) -> io::Result<(Self, Vec<Event>)> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let lock = lock(folder)?;
        let mut found = Vec::new();
        let keys = Keys::open(folder)?;
        let numbers = numbers(folder)?;
        let number = numbers.last().copied().unwrap_or(1);
        let mut options_file = OpenOptions::new();
        options_file.read(true).append(true).create(true).mode(0o600);
        let mut file = options_file.open(path(folder, number))?;
        let (tail, torn) = tail(&mut file)?;
        if torn > 0 {
            let length = file.metadata()?.len().saturating_sub(torn);
            file.set_len(length)?;
            found.push(trouble(format!("a torn last line of {torn} bytes was cut off")));
        }
        let mut last = tail.as_deref().and_then(known);
        if last.is_none() && number > 1 {
            // A file that was begun and holds nothing yet continues the one before.
            let mut before = File::open(path(folder, number - 1))?;
            last = self::tail(&mut before)?.0.as_deref().and_then(known);
        }
        let (mut seq, seal) = last.unwrap_or((0, Seal::NONE));
        let head = match read_head(folder, &keys) {
            Some(head) => {
                if head.seq > seq {
                    found.push(trouble(format!("records {} to {} are gone", seq + 1, head.seq)));
                    seq = head.seq;
                }
                head
            }
            None => {
                if seq > 0 {
                    found.push(trouble("the head of the trail is gone".to_owned()));
                }
                Head { oldest: 1, before: Seal::NONE.hex(), seq, last: seal.hex() }
            }
        };
        let bytes = file.metadata()?.len();
        let options = options.clone();
        let folder = folder.to_owned();
        Ok((
            Self {
                folder,
                options,
                keys,
                file,
                number,
                bytes,
                seq,
                seal,
                head,
                refused: false,
                _lock: lock,
            },
            found,
        ))
    }

    /// The box's keys.
    #[must_use]
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// Appends one record, and gives it back as written.
    ///
    /// # Errors
    /// When the disk doesn't take it; the trail is then as it was before.
    pub fn append(&mut self, event: &Event) -> io::Result<Record> {
        if self.refused {
            self.reopen()?;
        }
        if self.bytes >= self.options.max_file_bytes {
            self.rotate()?;
        }
        let patient = event.patient.as_deref().map(|id| self.keys.patient(id));
        let record = Record::new(self.seq + 1, Utc::now(), event, patient);
        let (mut line, seal) = self.keys.line(&self.seal, &record.json());
        line.push('\n');
        if let Err(error) = self.file.write_all(line.as_bytes()) {
            // Half a line would look torn; what can't be taken back is cut off at the next start.
            let _ = self.file.set_len(self.bytes);
            self.refused = true;
            return Err(error);
        }
        self.bytes += line.len() as u64;
        self.seq += 1;
        self.seal = seal;
        Ok(record)
    }

    /// Puts what was appended on the disk, and then `head`.
    ///
    /// # Errors
    /// When the disk doesn't take it.
    pub fn sync(&mut self) -> io::Result<()> {
        if self.head.seq == self.seq && self.head.last == self.seal.hex() {
            return Ok(());
        }
        self.file.sync_data()?;
        self.head.seq = self.seq;
        self.head.last = self.seal.hex();
        self.write_head()
    }

    /// Removes closed files older than `audit.keep_days`; says which records went.
    ///
    /// # Errors
    /// When a file can't be read or removed.
    pub fn prune(&mut self, now: SystemTime) -> io::Result<Option<Event>> {
        let keep = Duration::from_secs(u64::from(self.options.keep_days) * 86_400);
        let mut gone = None;
        for number in numbers(&self.folder)? {
            let closed = path(&self.folder, number);
            let changed = std::fs::metadata(&closed)?.modified()?;
            let old = now.duration_since(changed).is_ok_and(|age| age > keep);
            if number == self.number || !old {
                break;
            }
            let Some((seq, seal)) = tail(&mut File::open(&closed)?)?.0.as_deref().and_then(known)
            else {
                break;
            };
            let first = self.head.oldest;
            self.head.oldest = seq + 1;
            self.head.before = seal.hex();
            // First `head`, then the file: a crash in between leaves a file too many, not too few.
            self.write_head()?;
            std::fs::remove_file(&closed)?;
            let from = gone.map_or(first, |(from, _)| from);
            gone = Some((from, seq));
        }
        Ok(gone.map(|(from, to)| {
            let text = format!("records {from} to {to} are past audit.keep_days and were removed");
            Event::own(Kind::Trail, text)
        }))
    }

    fn rotate(&mut self) -> io::Result<()> {
        self.sync()?;
        let number = self.number + 1;
        let mut options = OpenOptions::new();
        options.read(true).append(true).create_new(true).mode(0o600);
        let file = options.open(path(&self.folder, number))?;
        File::open(&self.folder)?.sync_all()?;
        (self.file, self.number, self.bytes) = (file, number, 0);
        Ok(())
    }

    /// After a failure nothing is taken for granted: the disk may have been mounted anew.
    fn reopen(&mut self) -> io::Result<()> {
        let mut options = OpenOptions::new();
        options.read(true).append(true).create(true).mode(0o600);
        let mut file = options.open(path(&self.folder, self.number))?;
        let (_, torn) = tail(&mut file)?;
        self.bytes = file.metadata()?.len().saturating_sub(torn);
        if torn > 0 {
            file.set_len(self.bytes)?;
        }
        self.file = file;
        self.refused = false;
        Ok(())
    }

    fn write_head(&self) -> io::Result<()> {
        let json = serde_json::to_string(&self.head)?;
        let (line, _) = self.keys.line(&Seal::NONE, &json);
        let beside = self.folder.join("head.new");
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        options.open(&beside)?.write_all(line.as_bytes())?;
        std::fs::rename(&beside, self.folder.join(HEAD))
    }
}

/// Two writers would break the chain.
fn lock(folder: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600);
    let file = options.open(folder.join("lock"))?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| io::Error::other("another process writes this audit trail"))?;
    Ok(file)
}

fn trouble(text: String) -> Event {
    Event { outcome: "damaged".to_owned(), ..Event::own(Kind::Trail, text) }
}

/// The head, if it is there and sealed.
pub(super) fn read_head(folder: &Path, keys: &Keys) -> Option<Head> {
    let text = std::fs::read_to_string(folder.join(HEAD)).ok()?;
    let (json, seal) = split(&text)?;
    (keys.seal(&Seal::NONE, &json) == seal).then(|| serde_json::from_str(&json).ok())?
}

/// The numbers of the files, in order.
pub(super) fn numbers(folder: &Path) -> io::Result<Vec<u32>> {
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix("trail-"));
        let number = number.and_then(|rest| rest.strip_suffix(".jsonl")?.parse::<u32>().ok());
        numbers.extend(number);
    }
    numbers.sort_unstable();
    Ok(numbers)
}

pub(super) fn path(folder: &Path, number: u32) -> PathBuf {
    folder.join(format!("trail-{number:06}.jsonl"))
}

/// The last whole line, and how many bytes follow it.
fn tail(file: &mut File) -> io::Result<(Option<String>, u64)> {
    let length = file.metadata()?.len();
    let start = length.saturating_sub(2 * MAX_LINE_BYTES);
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.take(length - start).read_to_end(&mut bytes)?;
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let torn = (bytes.len() - whole) as u64;
    let lines = bytes.get(..whole).unwrap_or_default();
    let last = lines.split(|byte| *byte == b'\n').rfind(|line| !line.is_empty());
    Ok((last.map(|line| String::from_utf8_lossy(line).into_owned()), torn))
}

/// Number and seal of a line, right or not: the chain goes on from what is there.
fn known(line: &str) -> Option<(u64, Seal)> {
    let (json, seal) = split(line)?;
    let record: Record = serde_json::from_str(&json).ok()?;
    Some((record.seq, seal))
}
