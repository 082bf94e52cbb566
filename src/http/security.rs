//! What guards the doors beside the rules of [`super::guard`]: tokens, TLS, the audit trail.
//!
//! Their files may change while the daemon serves. [`Security::watch`] looks at them every second
//! and takes the new ones in; [`Security::reload`] does so at once, for whoever got a signal.

use super::tls::Tls;
use crate::access::Options as AccessOptions;
use crate::access::keeper::{Changed, Keeper};
use crate::audit::{Audit, Event, Kind};
use std::time::{Duration, Instant, SystemTime};
use tokio::time::MissedTickBehavior;

/// How often the files are looked at: a revoked token is worth nothing a second later.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often a certificate that ends soon is logged.
const REMIND_EVERY: Duration = Duration::from_secs(86_400);

/// What a server is secured with. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Security {
    /// Tokens, where they may be asked for.
    pub tokens: Option<(Keeper, AccessOptions)>,
    /// TLS, where there are addresses for it.
    pub tls: Option<Tls>,
    /// The trail of who did what.
    pub audit: Option<Audit>,
}

/// What the files brought.
#[derive(Debug, Default)]
struct News {
    tokens: Changed,
    certificate: bool,
    failures: Vec<String>,
}

impl Security {
    /// What the operator should hear.
    #[must_use]
    pub fn warnings(&self, now: SystemTime) -> Vec<String> {
        let mut warnings: Vec<_> = self.tls.iter().filter_map(|tls| tls.warning(now)).collect();
        warnings.extend(self.audit.iter().flat_map(Audit::warnings));
        warnings
    }

    /// Takes changed files in at once. Blocking. What can't be read stays as it was and is logged.
    pub fn reload(&self) {
        if let Some(audit) = &self.audit {
            let news = self.look();
            for event in told(&news) {
                audit.note(event);
            }
        } else {
            drop(told(&self.look()));
        }
    }

    /// Takes changed files in, for ever.
    pub(super) async fn watch(self) {
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut reminded: Option<Instant> = None;
        loop {
            ticks.tick().await;
            let security = self.clone();
            if tokio::task::spawn_blocking(move || security.reload()).await.is_err() {
                return;
            }
            if reminded.is_none_or(|at| at.elapsed() >= REMIND_EVERY) {
                reminded = Some(Instant::now());
                if let Some(warning) = self.tls.as_ref().and_then(|t| t.warning(SystemTime::now()))
                {
                    tracing::warn!("{warning}");
                }
            }
        }
    }

    fn look(&self) -> News {
        let mut news = News::default();
        if let Some((keeper, _)) = &self.tokens {
            match keeper.refresh() {
                Ok(changed) => news.tokens = changed,
                Err(error) => news.failures.push(format!("the tokens stay as they were: {error}")),
            }
        }
        if let Some(tls) = &self.tls {
            match tls.refresh() {
                Ok(changed) => news.certificate = changed,
                Err(error) => {
                    news.failures.push(format!("the certificate stays as it was: {error}"));
                }
            }
        }
        news
    }
}

/// Logs what the files brought, and gives what is to be recorded of it.
fn told(news: &News) -> Vec<Event> {
    let mut events = Vec::new();
    for failure in &news.failures {
        tracing::error!("{failure}");
    }
    let Changed { created, revoked } = &news.tokens;
    if news.tokens != Changed::default() {
        tracing::info!(?created, ?revoked, "the tokens changed");
        let text = format!("created [{}], revoked [{}]", created.join(" "), revoked.join(" "));
        events.push(Event::own(Kind::Tokens, text));
    }
    if news.certificate {
        tracing::info!("a new TLS certificate is served");
        events.push(Event::own(Kind::Certificate, "a new certificate is served"));
    }
    events
}
