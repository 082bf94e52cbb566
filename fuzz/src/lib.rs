//! What targets share: panics of openjp2 are no findings. There are known ones, the decoder child answers them
//! with a refusal, and fuzzing would end at the first. Ours are.

use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

/// Runs `work`; a panic of openjp2 ends it alone, any other the process.
pub fn forgiving(work: impl FnOnce()) {
    static HOOKED: Once = Once::new();
    HOOKED.call_once(|| {
        let aborting = take_hook();
        set_hook(Box::new(move |panic| {
            let theirs = ["openjp2", "jpeg2k"];
            let known = panic
                .location()
                .is_some_and(|at| theirs.iter().any(|name| at.file().contains(name)));
            if !known {
                aborting(panic);
            }
        }));
    });
    let _ = catch_unwind(AssertUnwindSafe(work));
}
