//! Ages, wrong clocks, and what a restart remembers.

use super::*;
use crate::cache::keeper;

impl Bench {
    /// Wall clock and uptime apart, for clocks that jump and boots.
    fn hands(&self) -> (Arc<Millis>, Arc<Millis>, Clock) {
        let (wall, up) = (Arc::new(Millis::new(NOW_MS)), Arc::new(Millis::new(0)));
        let (read_wall, read_up) = (Arc::clone(&wall), Arc::clone(&up));
        let clock = Clock::new(move || Reading {
            wall: SystemTime::UNIX_EPOCH + Duration::from_millis(read_wall.load(Ordering::Relaxed)),
            uptime: Duration::from_millis(read_up.load(Ordering::Relaxed)),
        });
        (wall, up, clock)
    }

    fn open_with(&self, clock: &Clock) -> Cache {
        let cache = Cache::open(self.options.clone(), clock.clone()).unwrap();
        wait_for_scan(&cache);
        cache
    }
}

fn pass(wall: &Millis, up: &Millis, ms: u64) {
    wall.fetch_add(ms, Ordering::Relaxed);
    up.fetch_add(ms, Ordering::Relaxed);
}

const QUARTER_MS: u64 = HOUR_MS / 4;

#[test]
fn an_entry_ends_a_day_after_its_creation_however_often_it_was_hit() {
    for kind in Kind::ALL {
        let bench = Bench::new();
        let cache = bench.open();
        put(&cache, kind, 1, 10);
        bench.later(23 * HOUR_MS);
        assert!(holds(&cache, kind, 1));
        let expires = cache.get(kind, &key(1)).unwrap().expires();
        assert_eq!(expires, SystemTime::UNIX_EPOCH + Duration::from_millis(NOW_MS + 24 * HOUR_MS));
        bench.later(HOUR_MS - 1);
        assert!(holds(&cache, kind, 1));
        bench.later(1);
        assert!(!holds(&cache, kind, 1), "{kind:?}");
        assert!(!holds(&bench.reopened(cache), kind, 1));
        assert!(files_under(&bench.root().join("v1")).is_empty());
    }
}

#[test]
fn a_sweep_gives_the_space_of_old_entries_back_unasked() {
    let bench = Bench::new();
    let cache = bench.open();
    put(&cache, Kind::Answer, 1, 10);
    bench.later(12 * HOUR_MS);
    put(&cache, Kind::Answer, 2, 10);
    bench.later(12 * HOUR_MS + 1000);
    keeper::sweep(&cache.shared);
    assert!(!bench.file(Kind::Answer, &key(1)).exists());
    assert!(bench.file(Kind::Answer, &key(2)).exists());
    let stats = &cache.stats().kinds[0];
    assert_eq!((stats.entries, stats.expired), (1, 1));
}

/// The index knows seconds only.
#[test]
fn a_sweep_leaves_an_entry_the_last_second_of_its_life() {
    let bench = Bench::on_disk_only();
    let cache = bench.open();
    bench.later(999);
    put(&cache, Kind::Answer, 1, 10);
    bench.later(24 * HOUR_MS - 999);
    keeper::sweep(&cache.shared);
    assert!(holds(&cache, Kind::Answer, 1));
}

#[test]
fn a_boot_with_the_clock_of_1970_keeps_the_cache_and_its_ages() {
    let bench = Bench::on_disk_only();
    let (wall, up, clock) = bench.hands();
    pass(&wall, &up, HOUR_MS);
    let cache = bench.open_with(&clock);
    put(&cache, Kind::Answer, 1, 10);
    pass(&wall, &up, 20 * HOUR_MS);
    drop(cache); // notes the time
    wall.store(0, Ordering::Relaxed);
    up.store(0, Ordering::Relaxed);
    let cache = bench.open_with(&clock);
    assert!(holds(&cache, Kind::Answer, 1));
    put(&cache, Kind::Answer, 2, 10);
    pass(&wall, &up, 3 * HOUR_MS);
    assert!(holds(&cache, Kind::Answer, 1));
    pass(&wall, &up, HOUR_MS);
    assert!(!holds(&cache, Kind::Answer, 1), "24 hours of running time are over");
    assert!(holds(&cache, Kind::Answer, 2));
    wall.store(NOW_MS + 26 * HOUR_MS, Ordering::Relaxed); // the network tells the time
    assert!(holds(&cache, Kind::Answer, 2), "made at 21 hours by the right clock");
}

#[test]
fn a_boot_in_the_future_serves_nothing_old_and_removes_nothing() {
    let bench = Bench::on_disk_only();
    let (wall, up, clock) = bench.hands();
    pass(&wall, &up, HOUR_MS);
    let cache = bench.open_with(&clock);
    put(&cache, Kind::Answer, 1, 10);
    drop(cache);
    wall.fetch_add(9000 * HOUR_MS, Ordering::Relaxed);
    up.store(0, Ordering::Relaxed);
    let cache = bench.open_with(&clock);
    assert!(!holds(&cache, Kind::Answer, 1));
    keeper::sweep(&cache.shared);
    pass(&wall, &up, QUARTER_MS / 2);
    wall.fetch_sub(9000 * HOUR_MS, Ordering::Relaxed);
    assert!(holds(&cache, Kind::Answer, 1), "the clock was put right in time");
}

#[test]
fn an_entry_from_the_future_goes_once_the_clock_is_believed() {
    let bench = Bench::on_disk_only();
    let (wall, up, clock) = bench.hands();
    pass(&wall, &up, HOUR_MS);
    let cache = bench.open_with(&clock);
    wall.fetch_add(9000 * HOUR_MS, Ordering::Relaxed);
    put(&cache, Kind::Answer, 1, 10);
    wall.fetch_sub(9000 * HOUR_MS, Ordering::Relaxed);
    assert!(holds(&cache, Kind::Answer, 1));
    pass(&wall, &up, QUARTER_MS);
    assert!(!holds(&cache, Kind::Answer, 1), "else it would live for years");
    keeper::sweep(&cache.shared);
    assert!(!bench.file(Kind::Answer, &key(1)).exists());
}

#[test]
fn expiry_is_told_on_the_clock_that_others_read() {
    let bench = Bench::new();
    let (wall, up, clock) = bench.hands();
    let cache = bench.open_with(&clock);
    cache.shared.clock.at_least(NOW_MS + 5 * HOUR_MS); // we know better than this clock
    put(&cache, Kind::Answer, 1, 10);
    pass(&wall, &up, 60_000);
    let left = cache.get(Kind::Answer, &key(1)).unwrap().expires().duration_since(
        SystemTime::UNIX_EPOCH + Duration::from_millis(wall.load(Ordering::Relaxed)),
    );
    assert_eq!(left.unwrap(), Duration::from_millis(24 * HOUR_MS - 60_000));
}

#[test]
fn the_order_of_use_survives_a_restart() {
    let mut bench = Bench::new();
    let cache = bench.open();
    for n in 0..6 {
        put(&cache, Kind::Answer, n, 10);
        bench.later(2);
    }
    for n in [3, 0, 5] {
        bench.later(2);
        assert!(holds(&cache, Kind::Answer, n));
    }
    bench.options.answers_bytes = 3 * 8192;
    let cache = bench.reopened(cache);
    let there: Vec<_> = (0..6).filter(|n| holds(&cache, Kind::Answer, *n)).collect();
    assert_eq!(there, [0, 3, 5]);
}

#[test]
fn a_daemon_that_was_killed_forgets_only_the_latest_uses() {
    let mut bench = Bench::new();
    let cache = bench.open();
    for n in 0..3 {
        put(&cache, Kind::Answer, n, 10);
        bench.later(2);
    }
    assert!(holds(&cache, Kind::Answer, 0));
    keeper::note(&cache.shared);
    let file = bench.file(Kind::Answer, &key(0));
    let used = fs::metadata(&file).unwrap().accessed().unwrap();
    assert_eq!(used, SystemTime::UNIX_EPOCH + Duration::from_millis(NOW_MS + 6));
    let made = fs::metadata(&file).unwrap().modified().unwrap();
    assert_eq!(made, SystemTime::UNIX_EPOCH + Duration::from_millis(NOW_MS));
    bench.options.answers_bytes = 8192;
    let cache = bench.reopened(cache);
    assert!(holds(&cache, Kind::Answer, 0));
}

#[test]
fn reading_an_entry_is_not_a_use_by_itself() {
    let bench = Bench::on_disk_only();
    let cache = bench.open();
    put(&cache, Kind::Slice, 1, 10);
    cache.verify(&|| ControlFlow::Continue(())).unwrap();
    let used = fs::metadata(bench.file(Kind::Slice, &key(1))).unwrap().accessed().unwrap();
    assert_eq!(used, SystemTime::UNIX_EPOCH + Duration::from_millis(NOW_MS));
}
