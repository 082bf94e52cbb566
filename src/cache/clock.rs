//! What time it is, for entries that must not outlive their day on a box whose clock may be wrong.
//!
//! Edge boxes boot with the clock of their last shutdown, or of 1970, until the network tells them
//! better; an operator may set it to anything. So the wall clock alone is believed only once it is
//! *settled*: it reads later than this program was written, the machine has been up for
//! [`SETTLE`], and wall and monotonic clock have agreed for as long.
//!
//! Invariants:
//! 1. Settled: now is the wall clock.
//! 2. Not settled: now is the later of the wall clock and the last time believed plus what the
//!    monotonic clock says has passed since. A clock in the past makes nothing younger.
//! 3. The last time believed is never raised by a clock that isn't settled: a clock in the future
//!    does no harm that outlasts it.
//! 4. While it isn't settled, entries may be refused for their age but none is removed for it.

use super::locked;
use rustix::time::{ClockId, clock_gettime};
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

/// How long a clock must run steadily to be believed. Time synchronisation takes seconds to minutes
/// once the network is there.
pub(super) const SETTLE: Duration = Duration::from_secs(15 * 60);
/// Wall and monotonic clock drift apart by less than this unless somebody sets one; and an entry
/// may seem this much from the future.
pub(super) const SLACK: Duration = Duration::from_secs(120);
/// 2026-01-01: no clock that reads less is right.
const PLAUSIBLE_MS: u64 = 1_767_225_600_000;

/// What the two clocks say at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Wall clock: can be wrong and can jump.
    pub wall: SystemTime,
    /// Since the machine was started: can't.
    pub uptime: Duration,
}

/// Tells the time. Tests bring their own.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Reading + Send + Sync>);

impl Clock {
    /// The machine's.
    #[must_use]
    pub fn system() -> Self {
        Self::new(|| {
            // Boottime: it also counts while the machine sleeps.
            let up = clock_gettime(ClockId::Boottime);
            let seconds = Duration::from_secs(u64::try_from(up.tv_sec).unwrap_or(0));
            let uptime = seconds + Duration::from_nanos(u64::try_from(up.tv_nsec).unwrap_or(0));
            Reading { wall: SystemTime::now(), uptime }
        })
    }

    /// Any other.
    pub fn new(read: impl Fn() -> Reading + Send + Sync + 'static) -> Self {
        Self(Arc::new(read))
    }

    fn read(&self) -> Reading {
        (self.0)()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Clock").field(&self.read()).finish()
    }
}

/// A moment as the cache sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Guarded time, milliseconds since 1970.
    pub ms: u64,
    /// What the wall clock says, right or wrong.
    pub wall: SystemTime,
    /// See the module's head.
    pub settled: bool,
}

impl Now {
    /// What was made then is too old, or from a future that no right clock can have been in.
    #[must_use]
    pub fn is_over(&self, created_ms: u64, lifetime: Duration) -> bool {
        let slack_ms = u64::try_from(SLACK.as_millis()).unwrap_or(0);
        if created_ms > self.ms.saturating_add(slack_ms) {
            return self.settled;
        }
        self.age(created_ms) >= lifetime
    }

    /// How old what was made then is.
    #[must_use]
    pub fn age(&self, created_ms: u64) -> Duration {
        Duration::from_millis(self.ms.saturating_sub(created_ms))
    }

    /// When what was made then is over: on the wall clock, since that is what others compare with.
    #[must_use]
    pub fn expiry(&self, created_ms: u64, lifetime: Duration) -> SystemTime {
        let left = lifetime.saturating_sub(self.age(created_ms));
        self.wall.checked_add(left).unwrap_or(self.wall)
    }
}

/// The guarded clock; clones are the same one.
#[derive(Clone, Debug)]
pub struct Guard {
    clock: Clock,
    state: Arc<Mutex<State>>,
}

#[derive(Clone, Copy, Debug)]
struct State {
    /// The last time believed, and when that was.
    believed_ms: u64,
    believed_at: Duration,
    /// The reading before.
    last: Reading,
    /// When the wall clock was last seen to jump; the start of the machine at first.
    jumped_at: Duration,
}

impl Guard {
    /// A clock that is settled when the machine has been up for long enough.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        let last = clock.read();
        let state =
            State { believed_ms: 0, believed_at: last.uptime, last, jumped_at: Duration::ZERO };
        Self { clock, state: Arc::new(Mutex::new(state)) }
    }

    /// Some time known to have passed: kept by an earlier run, or an entry's creation. Believed only
    /// as long as the wall clock isn't.
    pub(super) fn at_least(&self, ms: u64) {
        let now = self.now();
        let mut state = locked(&self.state);
        if !now.settled && ms > state.believed_now() {
            state.believed_ms = ms;
            state.believed_at = state.last.uptime;
        }
    }

    /// The time as far as it can be believed.
    #[must_use]
    pub fn now(&self) -> Now {
        let mut state = locked(&self.state);
        // Read under the lock: readings must not overtake each other.
        let read = self.clock.read();
        state.advance(read);
        let wall_ms = millis(read.wall);
        let settled =
            wall_ms >= PLAUSIBLE_MS && read.uptime.saturating_sub(state.jumped_at) >= SETTLE;
        if settled {
            state.believed_ms = wall_ms;
            state.believed_at = read.uptime;
        }
        Now { ms: wall_ms.max(state.believed_now()), wall: read.wall, settled }
    }

    /// What to keep for the next run.
    pub(super) fn believed_ms(&self) -> u64 {
        let _ = self.now();
        locked(&self.state).believed_now()
    }
}

impl State {
    fn advance(&mut self, read: Reading) {
        let passed = read.uptime.saturating_sub(self.last.uptime);
        let expected = self.last.wall.checked_add(passed).unwrap_or(read.wall);
        let drift = match read.wall.duration_since(expected) {
            Ok(ahead) => ahead,
            Err(behind) => behind.duration(),
        };
        if drift > SLACK {
            self.jumped_at = read.uptime;
        }
        self.last = read;
    }

    fn believed_now(&self) -> u64 {
        let passed = self.last.uptime.saturating_sub(self.believed_at);
        self.believed_ms.saturating_add(u64::try_from(passed.as_millis()).unwrap_or(u64::MAX))
    }
}

/// Milliseconds since 1970; 0 for a clock before that.
pub(super) fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);
    const MINUTE: Duration = Duration::from_secs(60);

    #[derive(Clone)]
    struct Hands(Arc<Mutex<Reading>>);

    impl Hands {
        fn new(wall_ms: u64, uptime: Duration) -> Self {
            let wall = SystemTime::UNIX_EPOCH + Duration::from_millis(wall_ms);
            Self(Arc::new(Mutex::new(Reading { wall, uptime })))
        }

        fn clock(&self) -> Clock {
            let hands = self.clone();
            Clock::new(move || *locked(&hands.0))
        }

        fn pass(&self, time: Duration) {
            let mut reading = locked(&self.0);
            reading.wall += time;
            reading.uptime += time;
        }

        fn set_ahead(&self, by: Duration) {
            locked(&self.0).wall += by;
        }

        fn set_back(&self, by: Duration) {
            locked(&self.0).wall -= by;
        }
    }

    fn in_ms(time: Duration) -> u64 {
        u64::try_from(time.as_millis()).unwrap()
    }

    const TODAY_MS: u64 = PLAUSIBLE_MS + 86_400_000;

    #[test]
    fn a_steady_clock_is_the_time_and_settles_a_quarter_of_an_hour_after_boot() {
        let hands = Hands::new(TODAY_MS, Duration::ZERO);
        let guard = Guard::new(hands.clock());
        assert_eq!((guard.now().ms, guard.now().settled), (TODAY_MS, false));
        hands.pass(SETTLE);
        assert_eq!((guard.now().ms, guard.now().settled), (TODAY_MS + in_ms(SETTLE), true));
        let up_for_days = Guard::new(Hands::new(TODAY_MS, 3 * DAY).clock());
        assert!(up_for_days.now().settled);
    }

    #[test]
    fn a_boot_in_the_past_goes_on_from_what_was_known() {
        let hands = Hands::new(0, Duration::ZERO);
        let guard = Guard::new(hands.clock());
        guard.at_least(TODAY_MS);
        hands.pass(DAY);
        let now = guard.now();
        assert_eq!((now.ms, now.settled), (TODAY_MS + in_ms(DAY), false), "1970 never settles");
        hands.set_ahead(Duration::from_millis(TODAY_MS) + MINUTE);
        assert_eq!(guard.now().ms, TODAY_MS + in_ms(DAY + MINUTE));
        hands.pass(SETTLE);
        assert!(guard.now().settled);
    }

    #[test]
    fn a_jump_ahead_that_is_corrected_leaves_no_trace() {
        let hands = Hands::new(TODAY_MS, DAY);
        let guard = Guard::new(hands.clock());
        assert!(guard.now().settled);
        hands.set_ahead(300 * DAY);
        let jumped = guard.now();
        assert_eq!((jumped.ms, jumped.settled), (TODAY_MS + in_ms(300 * DAY), false));
        hands.pass(MINUTE);
        hands.set_back(300 * DAY);
        assert_eq!(guard.now().ms, TODAY_MS + in_ms(MINUTE));
        assert!(!guard.now().settled);
        hands.pass(SETTLE);
        assert!(guard.now().settled);
    }

    #[test]
    fn a_jump_back_doesn_t_turn_time_back_until_it_has_lasted() {
        let hands = Hands::new(TODAY_MS, DAY);
        let guard = Guard::new(hands.clock());
        let _ = guard.now();
        hands.set_back(DAY);
        hands.pass(MINUTE);
        assert_eq!(guard.now().ms, TODAY_MS + in_ms(MINUTE));
        hands.pass(SETTLE);
        let now = guard.now();
        assert_eq!((now.ms, now.settled), (TODAY_MS - in_ms(DAY) + in_ms(MINUTE + SETTLE), true));
    }

    #[test]
    fn what_an_earlier_run_believed_of_the_future_is_forgotten_once_settled() {
        let hands = Hands::new(TODAY_MS, Duration::ZERO);
        let guard = Guard::new(hands.clock());
        guard.at_least(TODAY_MS + in_ms(9000 * DAY));
        assert_eq!(guard.now().ms, TODAY_MS + in_ms(9000 * DAY));
        hands.pass(SETTLE);
        assert_eq!(guard.believed_ms(), TODAY_MS + in_ms(SETTLE));
        guard.at_least(TODAY_MS + in_ms(9000 * DAY));
        assert_eq!(guard.now().ms, TODAY_MS + in_ms(SETTLE));
    }

    #[test]
    fn small_corrections_are_not_jumps() {
        let hands = Hands::new(TODAY_MS, DAY);
        let guard = Guard::new(hands.clock());
        for _ in 0..100 {
            hands.pass(MINUTE);
            hands.set_back(Duration::from_secs(1));
            assert!(guard.now().settled);
        }
    }
}
