//! The cache's two threads. `cache-write` is [`super::writer`]; `cache` scans the folder once at
//! start and then, every minute, gives back the space of what is too old, and every few notes down
//! what was used and what time it is.

use super::shared::Shared;
use super::{Kind, scan, writer};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Entries are refused by age when asked for; this is about giving the space back.
const SWEEP_EVERY: Duration = Duration::from_secs(60);
/// Sweeps between two notes of use: a crash forgets five minutes of it, and flash is spared.
const SWEEPS_A_NOTE: u32 = 5;

/// Stops and joins the threads when dropped.
#[derive(Debug)]
pub(super) struct Threads {
    shared: Arc<Shared>,
    stop: Option<mpsc::SyncSender<()>>,
    keeper: Option<JoinHandle<()>>,
    writer: Option<JoinHandle<()>>,
}

impl Threads {
    pub(super) fn start(shared: &Arc<Shared>) -> Self {
        let (stop, stopped) = mpsc::sync_channel(1);
        let (keeps, writes) = (Arc::clone(shared), Arc::clone(shared));
        let keeper = spawn("cache", move || run(&keeps, &stopped));
        let writer = spawn("cache-write", move || writer::run(&writes));
        if writer.is_none() {
            shared.queue.stop();
        }
        Self { shared: Arc::clone(shared), stop: Some(stop), keeper, writer }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.shared.queue.stop();
        self.stop.take();
        for thread in [self.writer.take(), self.keeper.take()].into_iter().flatten() {
            let _ = thread.join();
        }
    }
}

fn spawn(name: &str, life: impl FnOnce() + Send + 'static) -> Option<JoinHandle<()>> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(life)
        .inspect_err(|error| tracing::error!("thread {name} can't be started: {error}"))
        .ok()
}

fn run(shared: &Shared, stopped: &mpsc::Receiver<()>) {
    let gone = || matches!(stopped.try_recv(), Err(mpsc::TryRecvError::Disconnected));
    let mut sweeps = 0;
    loop {
        if !shared.scanned.load(Ordering::Acquire) {
            scan_all(shared, &gone);
        }
        match stopped.recv_timeout(SWEEP_EVERY) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(()) | Err(RecvTimeoutError::Disconnected) => break,
        }
        sweep(shared);
        sweeps += 1;
        if sweeps % SWEEPS_A_NOTE == 0 {
            note(shared);
        }
    }
    note(shared);
}

pub(super) fn scan_all(shared: &Shared, gone: &impl Fn() -> bool) {
    let store = shared.store();
    for kind in Kind::ALL {
        if let Err(error) = scan::scan(shared, kind, gone) {
            shared.trouble.fault(&format!("the {} folder can't be listed: {error}", kind.name()));
        }
        shared.make_room(kind, 0);
    }
    shared.scanned.store(true, Ordering::Release);
    // Made anew meanwhile, the folder is to be scanned once more.
    if !shared.is_current(store.as_ref()) {
        shared.scanned.store(false, Ordering::Release);
    }
}

/// Removes what is older than its lifetime; tries the folder again where there was none.
pub(super) fn sweep(shared: &Shared) {
    if shared.store().is_none()
        && let Err(error) = shared.attach()
    {
        shared.trouble.fault(&error.to_string());
    }
    let now = shared.clock.now();
    if !now.settled {
        return;
    }
    for kind in Kind::ALL {
        let dead = shared.index(kind).created(|created_s| shared.is_past(created_s, now));
        for key in dead {
            shared.expire(kind, &key, now);
        }
    }
}

/// Writes down what the next run should know: what was used last, and what time it was.
pub(super) fn note(shared: &Shared) {
    let Some(store) = shared.store() else { return };
    for ((kind, key), used_ms) in shared.take_used() {
        if store.note_use(kind, &key, used_ms).is_err() {
            break;
        }
    }
    if let Err(error) = store.note_time(shared.clock.believed_ms()) {
        tracing::debug!("the time can't be noted in the cache folder: {error}");
    }
}
