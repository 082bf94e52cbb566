//! The watchdog's probe of an engine that fails when it is told to.

use crate::support::{disc_png, obedient, one_click};
use sam2d::ops::systemd::Notifier;
use sam2d::ops::watchdog::{Limits, earn};
use sd_notify::NotifyState;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

#[derive(Clone, Default)]
struct Fed(Arc<AtomicUsize>);

impl Notifier for Fed {
    fn tell(&self, words: &[NotifyState<'_>]) {
        assert!(matches!(words, [NotifyState::Watchdog]), "{words:?}");
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_failure_systemd_is_fed_only_once_the_engine_is_seen_to_work_again() {
    let (service, orders) = obedient().await;
    let limits = Limits { call: Duration::from_secs(60), load: Duration::from_secs(60) };
    let (fed, engine) = (Fed::default(), service.engine());
    let (watched, every) = (engine.clone(), Duration::from_secs(1));
    let earning = tokio::spawn(earn(move || watched.clone(), limits, every, fed.clone()));
    let count = || fed.0.load(Ordering::SeqCst);
    let until = async |is: &dyn Fn() -> bool| {
        let end = Instant::now() + Duration::from_secs(20);
        while !is() {
            assert!(Instant::now() < end, "fed {}; {:?}", count(), engine.vitals());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    until(&|| count() == 1).await;
    orders.fail.store(true, Ordering::SeqCst);
    assert!(service.segment(one_click(&disc_png(96, 80), 48.0, 40.0)).await.is_err());
    let before = count();
    // The probe's failure counts. A third one would be manual-only mode, which earns it.
    until(&|| engine.vitals().failures_in_a_row == 2).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(count(), before, "it was fed though the probe failed");
    orders.fail.store(false, Ordering::SeqCst);
    until(&|| count() > before).await;
    earning.abort();
}
