//! The two objects that TensorRT calls: its logger, which speaks to `tracing`, and its error
//! recorder, which keeps the words of a failure for whoever asked.
//!
//! Invariants:
//! 1. They may be called from any thread and never unwind into C++.
//! 2. The logger lives as long as the process; a recorder outlives the runtime that was given it.
//! 3. An error is kept here and logged where it is handled; the logger adds only what no call
//!    reports: warnings, and at `debug` the rest.
#![expect(unsafe_code, reason = "C++ calls these objects through tables made here")]

use super::sys::{CODE_ALLOCATION, Layout, Pointer};
use std::ffi::{CStr, c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Mutex, PoisonError};

/// A C++ table: offset to top and type information, which no one asks for, then the slots.
#[repr(C)]
struct Table<const N: usize> {
    before: [*const c_void; 2],
    slots: [*const c_void; N],
}

// SAFETY: never written after it was made at compile time; it holds addresses of functions.
unsafe impl<const N: usize> Sync for Table<N> {}

impl<const N: usize> Table<N> {
    const fn new(slots: [*const c_void; N]) -> Self {
        Self { before: [std::ptr::null(); 2], slots }
    }

    fn start(&'static self) -> *const c_void {
        self.slots.as_ptr().cast()
    }
}

/// `InterfaceInfo`.
#[repr(C)]
struct InterfaceInfo {
    kind: *const c_char,
    major: i32,
    minor: i32,
}

/// `ILogger`: nothing but its table.
#[repr(C)]
struct Logger {
    table: *const c_void,
}

static LOGGER_TEN: Table<3> = Table::new([
    log as *const c_void,
    nothing as *const c_void, // complete destructor: it is never destroyed
    nothing as *const c_void, // deleting destructor
]);

static LOGGER_ELEVEN: Table<5> = Table::new([
    language as *const c_void,
    logger_info as *const c_void,
    nothing as *const c_void,
    nothing as *const c_void,
    log as *const c_void,
]);

/// The process's logger for a layout.
pub(super) fn logger(layout: Layout) -> Pointer {
    let table = match layout {
        Layout::Ten => LOGGER_TEN.start(),
        Layout::Eleven => LOGGER_ELEVEN.start(),
    };
    // TensorRT keeps it for good, even after the last runtime is gone: one word a call.
    std::ptr::from_mut(Box::leak(Box::new(Logger { table }))).cast()
}

unsafe extern "C" fn nothing(_: Pointer) {}

unsafe extern "C" fn language(_: Pointer) -> c_int {
    0 // APILanguage::kCPP
}

unsafe extern "C" fn logger_info(_: Pointer) -> InterfaceInfo {
    InterfaceInfo { kind: c"ILogger".as_ptr(), major: 1, minor: 0 }
}

/// `ILogger::log(severity, text)`.
unsafe extern "C" fn log(_: Pointer, severity: c_int, text: *const c_char) {
    let _ = catch_unwind(|| {
        // SAFETY: TensorRT gives a C string that lives during the call, or null.
        let text = unsafe { words(text) };
        match severity {
            // Internal errors and errors also reach the recorder, and through it the log.
            0 | 1 => tracing::debug!(target: "sam2d::tensorrt", severity, "{text}"),
            2 => tracing::warn!(target: "sam2d::tensorrt", "{text}"),
            3 => tracing::debug!(target: "sam2d::tensorrt", "{text}"),
            _ => tracing::trace!(target: "sam2d::tensorrt", "{text}"),
        }
    });
}

/// What TensorRT reported during a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reported {
    code: c_int,
    text: String,
}

impl Reported {
    /// Did an allocation fail?
    pub(super) fn is_allocation(&self) -> bool {
        self.code == CODE_ALLOCATION
    }
}

/// `IErrorRecorder`. Boxed, so that its address stays.
#[repr(C)]
pub(super) struct Recorder {
    table: *const c_void,
    reported: Mutex<Vec<Reported>>,
    references: AtomicI32,
}

// SAFETY: the table is a static; all else is synchronised.
unsafe impl Send for Recorder {}
// SAFETY: as above.
unsafe impl Sync for Recorder {}

static RECORDER: Table<12> = Table::new([
    language as *const c_void,
    recorder_info as *const c_void,
    nothing as *const c_void,
    nothing as *const c_void,
    count as *const c_void,
    code_at as *const c_void,
    text_at as *const c_void,
    overflowed as *const c_void,
    clear as *const c_void,
    report as *const c_void,
    retain as *const c_void,
    release as *const c_void,
]);

/// One failure rarely reports more than three errors; a storm is told by its beginning.
const MAX_REPORTED: usize = 16;

impl Recorder {
    pub(super) fn new() -> Box<Self> {
        let (reported, references) = (Mutex::default(), AtomicI32::new(1));
        Box::new(Self { table: RECORDER.start(), reported, references })
    }

    /// As C++ knows it; valid as long as the box.
    pub(super) fn pointer(&self) -> Pointer {
        std::ptr::from_ref(self).cast_mut().cast()
    }

    /// What was reported since the last time, and forgets it.
    pub(super) fn take(&self) -> Vec<Reported> {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Reported>> {
        self.reported.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The texts of a failure in one line.
pub(super) fn sentence(reported: &[Reported]) -> String {
    if reported.is_empty() {
        return "without words".to_owned();
    }
    let texts: Vec<_> = reported.iter().map(|one| one.text.trim()).collect();
    texts.join("; ")
}

/// Runs a callback on the recorder behind `this`; `otherwise` where it panics.
///
/// # Safety
/// `this` is what [`Recorder::pointer`] gave, and its box still lives.
unsafe fn guarded<T>(this: Pointer, otherwise: T, call: impl FnOnce(&Recorder) -> T) -> T {
    // SAFETY: the caller; only shared references to a recorder exist.
    let recorder = unsafe { &*this.cast::<Recorder>() };
    catch_unwind(AssertUnwindSafe(|| call(recorder))).unwrap_or(otherwise)
}

unsafe extern "C" fn recorder_info(_: Pointer) -> InterfaceInfo {
    InterfaceInfo { kind: c"IErrorRecorder".as_ptr(), major: 1, minor: 0 }
}

unsafe extern "C" fn count(this: Pointer) -> c_int {
    // SAFETY: TensorRT calls with the recorder that it was given, which outlives its runtime.
    unsafe { guarded(this, 0, |recorder| c_int::try_from(recorder.lock().len()).unwrap_or(0)) }
}

unsafe extern "C" fn code_at(this: Pointer, index: c_int) -> c_int {
    let code = |recorder: &Recorder| {
        let index = usize::try_from(index).ok()?;
        recorder.lock().get(index).map(|one| one.code)
    };
    // SAFETY: as in `count`.
    unsafe { guarded(this, None, code) }.unwrap_or(0)
}

/// The texts are for us; a pointer into them could not be kept valid without copying them for good.
unsafe extern "C" fn text_at(_: Pointer, _: c_int) -> *const c_char {
    c"see the log".as_ptr()
}

unsafe extern "C" fn overflowed(this: Pointer) -> bool {
    // SAFETY: as in `count`.
    unsafe { guarded(this, false, |recorder| recorder.lock().len() >= MAX_REPORTED) }
}

unsafe extern "C" fn clear(this: Pointer) {
    // SAFETY: as in `count`.
    unsafe { guarded(this, (), |recorder| recorder.lock().clear()) }
}

/// `reportError(code, text)`; true would mean that the error is fatal for the engine, which is for
/// the CUDA driver to say.
unsafe extern "C" fn report(this: Pointer, code: c_int, text: *const c_char) -> bool {
    let keep = |recorder: &Recorder| {
        // SAFETY: TensorRT gives a C string that lives during the call, or null.
        let text = unsafe { words(text) };
        let mut reported = recorder.lock();
        if reported.len() < MAX_REPORTED {
            reported.push(Reported { code, text });
        }
        false
    };
    // SAFETY: as in `count`.
    unsafe { guarded(this, false, keep) }
}

unsafe extern "C" fn retain(this: Pointer) -> c_int {
    let one_more = |recorder: &Recorder| recorder.references.fetch_add(1, Ordering::Relaxed) + 1;
    // SAFETY: as in `count`.
    unsafe { guarded(this, 1, one_more) }
}

/// Counts, and frees nothing: the box does.
unsafe extern "C" fn release(this: Pointer) -> c_int {
    let one_less = |recorder: &Recorder| recorder.references.fetch_sub(1, Ordering::Relaxed) - 1;
    // SAFETY: as in `count`.
    unsafe { guarded(this, 1, one_less) }
}

/// # Safety
/// A C string that lives during the call, or null.
unsafe fn words(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: the caller.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing::Level;
    use tracing_subscriber::layer::SubscriberExt as _;

    #[test]
    fn a_recorder_keeps_codes_and_words_until_they_are_taken() {
        let recorder = Recorder::new();
        let this = recorder.pointer();
        // SAFETY: the recorder lives; the texts are C strings.
        unsafe {
            assert!(!report(this, CODE_ALLOCATION, c"out of memory".as_ptr()));
            assert!(!report(this, 7, std::ptr::null()));
            assert_eq!((count(this), code_at(this, 1), code_at(this, 9)), (2, 7, 0));
            assert_eq!((retain(this), release(this)), (2, 1));
        }
        let taken = recorder.take();
        assert!(taken[0].is_allocation() && !taken[1].is_allocation());
        assert_eq!(sentence(&taken[..1]), "out of memory");
        assert_eq!(recorder.take(), []);
        assert_eq!(sentence(&[]), "without words");
    }

    #[test]
    fn a_storm_of_errors_is_told_by_its_beginning() {
        let recorder = Recorder::new();
        for code in 0..1000 {
            // SAFETY: the recorder lives; the text is a C string.
            unsafe { report(recorder.pointer(), code, c"again".as_ptr()) };
        }
        // SAFETY: the recorder lives.
        assert!(unsafe { overflowed(recorder.pointer()) });
        assert_eq!(recorder.take().len(), MAX_REPORTED);
    }

    /// A subscriber that panics at every record.
    struct Panics;

    impl tracing::Subscriber for Panics {
        fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
            true
        }
        fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
            tracing::span::Id::from_u64(1)
        }
        fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
        fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
        fn event(&self, _: &tracing::Event<'_>) {
            panic!("no room for a record");
        }
        fn enter(&self, _: &tracing::span::Id) {}
        fn exit(&self, _: &tracing::span::Id) {}
    }

    // Unwinding out of a C function ends the process: without the guards these two end the test run.

    #[test]
    fn a_panic_in_the_log_does_not_reach_the_library() {
        tracing::subscriber::with_default(Panics, || {
            for severity in 0..5 {
                // SAFETY: a C string; the logger itself is never looked at.
                unsafe { log(std::ptr::null_mut(), severity, c"words".as_ptr()) };
            }
        });
    }

    #[test]
    fn a_panic_in_the_recorder_does_not_reach_the_library() {
        unsafe extern "C" fn called(this: Pointer) -> c_int {
            // SAFETY: the caller's recorder lives.
            unsafe { guarded(this, 7, |_| panic!("no room for an error")) }
        }
        let recorder = Recorder::new();
        // SAFETY: the recorder lives.
        assert_eq!(unsafe { called(recorder.pointer()) }, 7);
    }

    #[test]
    fn what_no_call_reports_reaches_the_log_at_its_level() {
        #[derive(Clone, Default)]
        struct Seen(std::sync::Arc<Mutex<Vec<Level>>>);
        impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Seen {
            fn on_event(
                &self,
                event: &tracing::Event<'_>,
                _: tracing_subscriber::layer::Context<'_, S>,
            ) {
                assert_eq!(event.metadata().target(), "sam2d::tensorrt");
                self.0.lock().unwrap().push(*event.metadata().level());
            }
        }
        let seen = Seen::default();
        tracing::subscriber::with_default(
            tracing_subscriber::registry().with(seen.clone()),
            || {
                for severity in 0..5 {
                    // SAFETY: a C string, or null; the logger itself is never looked at.
                    unsafe { log(std::ptr::null_mut(), severity, c"words".as_ptr()) };
                }
            },
        );
        let expected = [Level::DEBUG, Level::DEBUG, Level::WARN, Level::DEBUG, Level::TRACE];
        assert_eq!(*seen.0.lock().unwrap(), expected);
    }
}
