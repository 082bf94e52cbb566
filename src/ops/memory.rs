//! Memory that holds patients' pixels stays in this process: it is never written to a core file, and
//! no other process of the same user may look into it.
//!
//! Both are needed: a limit of 0 stops core files, but not a handler that the kernel pipes them to
//! (systemd-coredump); that one asks whether the process is dumpable.

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// Forbids dumps for this process. Its children inherit the limit, and forbid the rest themselves.
pub fn keep_private() {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    // Neither can fail: lowering a limit is always allowed, and the call knows the value.
    let _ = setrlimit(Resource::Core, none);
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_pixels_is_not_dumpable() {
        keep_private();
        let behaviour = rustix::process::dumpable_behavior().unwrap();
        assert_eq!(behaviour, DumpableBehavior::NotDumpable);
        assert_eq!(rustix::process::getrlimit(Resource::Core).current, Some(0));
    }
}
