//! Can the wall clock be believed, as far as files tell? For people and their monitoring; the cache
//! itself trusts nothing but [`super::Clock`].

use std::path::Path;
use std::time::{Duration, SystemTime};

/// 2026-01-01: no clock that reads less is right.
pub const PLAUSIBLE: Duration = Duration::from_secs(1_767_225_600);

/// Who sets the clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeper {
    /// systemd-timesyncd, and it has set it since the machine started.
    Timesyncd,
    /// chronyd runs.
    Chrony,
    /// Nobody that is known here.
    Nobody,
}

/// Does it read later than this program was written?
#[must_use]
pub fn is_plausible(now: SystemTime) -> bool {
    now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default() >= PLAUSIBLE
}

/// By the files that systemd-timesyncd(8) and chronyd(8) keep while the clock is theirs.
#[must_use]
pub fn keeper(root: &Path) -> Keeper {
    if root.join("run/systemd/timesync/synchronized").exists() {
        Keeper::Timesyncd
    } else if root.join("run/chrony/chronyd.pid").exists() {
        Keeper::Chrony
    } else {
        Keeper::Nobody
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_before_this_program_is_not_plausible() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        assert!(!is_plausible(at(0)) && !is_plausible(at(PLAUSIBLE.as_secs() - 1)));
        assert!(is_plausible(at(PLAUSIBLE.as_secs())));
        assert!(!is_plausible(SystemTime::UNIX_EPOCH - Duration::from_secs(1)));
    }

    #[test]
    fn who_keeps_the_clock_is_known_by_its_files() {
        let root = tempfile::tempdir().unwrap();
        let touch = |path: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        };
        assert_eq!(keeper(root.path()), Keeper::Nobody);
        touch("run/chrony/chronyd.pid");
        assert_eq!(keeper(root.path()), Keeper::Chrony);
        touch("run/systemd/timesync/synchronized");
        assert_eq!(keeper(root.path()), Keeper::Timesyncd);
    }
}
