//! `sam2d audit verify`: reads the whole trail and says what is not as it was written.

use super::chain::{Keys, Seal, split};
use super::log::{MAX_LINE_BYTES, numbers, path, read_head};
use super::record::{Kind, Record};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Records read.
    pub records: u64,
    /// Files read.
    pub files: usize,
    /// Time of the first record and of the last.
    pub span: Option<(String, String)>,
    /// What is wrong, in words.
    pub faults: Vec<String>,
    /// What the daemon itself wrote about its trail: torn lines, removals, gaps.
    pub notes: Vec<String>,
}

/// At most so many faults are listed: one cut breaks what follows it.
const MAX_FAULTS: usize = 20;

/// Reads the trail in this folder.
///
/// # Errors
/// When it can't be read at all.
pub fn verify(folder: &Path) -> io::Result<Report> {
    let keys = Keys::existing(folder)?;
    let head = read_head(folder, &keys);
    let mut report = Report::default();
    let (mut next, mut seal) = match &head {
        Some(head) => (head.oldest, Seal::from_hex(&head.before).unwrap_or(Seal::NONE)),
        None => {
            report
                .faults
                .push("the head is gone or was changed: the end can't be known".to_owned());
            (1, Seal::NONE)
        }
    };
    for number in numbers(folder)? {
        report.files += 1;
        let name = path(folder, number);
        let mut lines = BufReader::new(File::open(&name)?);
        for line_number in 1.. {
            let mut line = Vec::new();
            lines.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut line)?;
            if line.is_empty() {
                break;
            }
            let place = || format!("{}:{line_number}", name.display());
            let mut fault = |text: String| {
                if report.faults.len() < MAX_FAULTS {
                    report.faults.push(format!("{}: {text}", place()));
                }
            };
            let text = String::from_utf8_lossy(&line);
            let parts = text.strip_suffix('\n').and_then(split);
            let record =
                parts.as_ref().and_then(|(json, _)| serde_json::from_str::<Record>(json).ok());
            let (Some((json, found)), Some(record)) = (parts, record) else {
                fault("not a record".to_owned());
                continue;
            };
            // A file of records that are past keeping may outlive a crash of the removal.
            if record.seq < next && report.records == 0 {
                continue;
            }
            if record.seq != next {
                fault(format!("record {} stands where {next} belongs", record.seq));
            } else if keys.seal(&seal, &json) != found {
                fault(format!("record {} was changed, or what was before it", record.seq));
            }
            if record.event == Kind::Trail {
                report.notes.push(record.detail.clone().unwrap_or_default());
            }
            next = record.seq + 1;
            seal = found;
            report.records += 1;
            let first = report.span.take().map_or_else(|| record.time.clone(), |(first, _)| first);
            report.span = Some((first, record.time));
        }
    }
    if let Some(head) = head.filter(|head| head.seq >= next) {
        report.faults.push(format!("records {next} to {} are gone from the end", head.seq));
    }
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::super::log::Log;
    use super::super::record::Event;
    use super::super::{Options, WhenFull};
    use super::*;
    use std::time::{Duration, SystemTime};

    fn options() -> Options {
        Options { when_full: WhenFull::Stop, max_file_bytes: 1100, ..Options::default() }
    }

    fn event(patient: &str) -> Event {
        Event {
            patient: Some(patient.to_owned()),
            image: Some("ab".repeat(32)),
            ..Event::own(Kind::Segment, "a test")
        }
    }

    /// A trail of 12 records over several files.
    fn trail(folder: &Path) {
        let (mut log, found) = Log::open(folder, &options()).unwrap();
        assert_eq!(found, []);
        for n in 0..12 {
            let record = log.append(&event(&format!("patient {}", n % 3))).unwrap();
            assert_eq!(record.seq, n + 1);
        }
        log.sync().unwrap();
        assert!(numbers(folder).unwrap().len() > 2);
    }

    fn lines(folder: &Path, number: u32) -> Vec<String> {
        let text = std::fs::read_to_string(path(folder, number)).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    fn put(folder: &Path, number: u32, lines: &[String]) {
        std::fs::write(path(folder, number), lines.join("\n") + "\n").unwrap();
    }

    #[test]
    fn an_untouched_trail_is_right_over_files_and_restarts() {
        let folder = tempfile::tempdir().unwrap();
        trail(folder.path());
        let report = verify(folder.path()).unwrap();
        assert_eq!((report.records, &*report.faults), (12, &[][..]));
        let (mut log, found) = Log::open(folder.path(), &options()).unwrap();
        assert_eq!(found, []);
        assert_eq!(log.append(&event("later")).unwrap().seq, 13);
        log.sync().unwrap();
        assert_eq!(verify(folder.path()).unwrap().faults, Vec::<String>::new());
        let all: String = numbers(folder.path())
            .unwrap()
            .into_iter()
            .flat_map(|n| std::fs::read_to_string(path(folder.path(), n)))
            .collect();
        assert!(!all.contains("patient 1"), "{all}");
        let hashes: std::collections::HashSet<_> =
            all.lines().filter_map(|l| serde_json::from_str::<Record>(l).ok()?.patient).collect();
        assert_eq!(hashes.len(), 4, "one a patient");
    }

    #[test]
    fn every_way_to_cut_a_trail_shows() {
        type Cut = fn(&Path);
        let cuts: [(&str, Cut); 7] = [
            ("a line changed", |folder| {
                let mut all = lines(folder, 1);
                all[1] = all[1].replace("\"ok\"", "\"no\"");
                put(folder, 1, &all);
            }),
            ("a line removed", |folder| {
                let mut all = lines(folder, 1);
                all.remove(1);
                put(folder, 1, &all);
            }),
            ("two lines swapped", |folder| {
                let mut all = lines(folder, 2);
                all.swap(0, 1);
                put(folder, 2, &all);
            }),
            ("a file removed", |folder| std::fs::remove_file(path(folder, 2)).unwrap()),
            ("the first file removed", |folder| std::fs::remove_file(path(folder, 1)).unwrap()),
            ("the end cut off", |folder| {
                let last = *numbers(folder).unwrap().last().unwrap();
                let mut all = lines(folder, last);
                all.pop();
                put(folder, last, &all);
            }),
            ("the head removed", |folder| std::fs::remove_file(folder.join("head")).unwrap()),
        ];
        for (what, cut) in cuts {
            let folder = tempfile::tempdir().unwrap();
            trail(folder.path());
            cut(folder.path());
            let report = verify(folder.path()).unwrap();
            assert!(!report.faults.is_empty(), "{what} was not seen");
        }
    }

    #[test]
    fn a_cut_end_is_found_at_the_next_start_and_stays_known() {
        let folder = tempfile::tempdir().unwrap();
        trail(folder.path());
        let last = *numbers(folder.path()).unwrap().last().unwrap();
        let mut all = lines(folder.path(), last);
        all.pop();
        put(folder.path(), last, &all);
        let (mut log, found) = Log::open(folder.path(), &options()).unwrap();
        assert_eq!(found.len(), 1);
        log.append(&found[0]).unwrap();
        log.sync().unwrap();
        let report = verify(folder.path()).unwrap();
        assert!(report.faults[0].contains("record 13 stands where 12 belongs"), "{report:?}");
        assert_eq!(report.notes, ["records 12 to 12 are gone"]);
    }

    #[test]
    fn a_torn_last_line_is_cut_off_and_said() {
        let folder = tempfile::tempdir().unwrap();
        trail(folder.path());
        let last = path(folder.path(), *numbers(folder.path()).unwrap().last().unwrap());
        let mut bytes = std::fs::read(&last).unwrap();
        bytes.extend_from_slice(b"{\"seq\":13,\"ti");
        std::fs::write(&last, bytes).unwrap();
        let (mut log, found) = Log::open(folder.path(), &options()).unwrap();
        assert!(found[0].detail.as_deref().unwrap().contains("13 bytes"), "{found:?}");
        log.append(&found[0]).unwrap();
        log.sync().unwrap();
        assert_eq!(verify(folder.path()).unwrap().faults, Vec::<String>::new());
    }

    #[test]
    fn files_past_their_days_go_and_the_rest_still_verifies() {
        let folder = tempfile::tempdir().unwrap();
        trail(folder.path());
        let (mut log, _) = Log::open(folder.path(), &options()).unwrap();
        assert_eq!(log.prune(SystemTime::now()).unwrap(), None);
        let later = SystemTime::now() + Duration::from_secs(1096 * 86_400);
        let gone = log.prune(later).unwrap().unwrap();
        assert_eq!(numbers(folder.path()).unwrap().len(), 1, "the open file stays");
        log.append(&gone).unwrap();
        log.sync().unwrap();
        let report = verify(folder.path()).unwrap();
        assert_eq!(report.faults, Vec::<String>::new());
        assert!(report.notes[0].contains("audit.keep_days"), "{report:?}");
    }
}
