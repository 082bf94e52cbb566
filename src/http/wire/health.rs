//! What the health routes say.

use super::answer::{WireModel, json};
use super::reply::Reply;
use crate::service::health::Health;
use http::{Response, StatusCode};
use serde::Serialize;
use std::time::{Duration, SystemTime};

/// `GET /api/segmentation/sam2/health`: 200 while the process lives.
#[must_use]
pub fn full(health: &Health, lifetime: Duration) -> Response<Reply> {
    #[derive(Serialize)]
    struct Wire<'a> {
        enabled: bool,
        available: bool,
        mode: &'a str,
        reason: Option<&'a str>,
        warnings: &'a [String],
        model: Option<WireModel<'a>>,
        cache_stats: CacheStats,
    }
    #[derive(Serialize)]
    struct CacheStats {
        cache_size: u64,
        cache_bytes: u64,
        cache_expire_hours: f64,
        is_healthy: bool,
        last_health_check: String,
    }
    let kinds = health.cache.iter().flat_map(|cache| &cache.kinds);
    send(&Wire {
        enabled: true,
        available: health.available,
        mode: health.mode,
        reason: health.reason.as_deref(),
        warnings: &health.warnings,
        model: health.model.as_ref().map(WireModel::from),
        cache_stats: CacheStats {
            cache_size: kinds.clone().map(|kind| kind.entries).sum(),
            cache_bytes: kinds.map(|kind| kind.bytes).sum(),
            cache_expire_hours: lifetime.as_secs_f64() / 3600.0,
            is_healthy: health.cache.as_ref().is_some_and(|cache| cache.trouble.is_none()),
            last_health_check: rfc3339(health.checked),
        },
    })
}

/// The same for those who may not ask anything else.
#[must_use]
pub fn reduced(health: &Health) -> Response<Reply> {
    #[derive(Serialize)]
    struct Wire<'a> {
        enabled: bool,
        available: bool,
        mode: &'a str,
    }
    send(&Wire { enabled: true, available: health.available, mode: health.mode })
}

/// `GET /health` of the old inference service: 200 only when loaded.
#[must_use]
pub fn old(health: &Health) -> Response<Reply> {
    #[derive(Serialize)]
    struct Wire<'a> {
        status: &'a str,
        model_loaded: bool,
        service: &'a str,
        version: &'a str,
    }
    let status = if health.available { "healthy" } else { "unhealthy" };
    let mut response = send(&Wire {
        status,
        model_loaded: health.available,
        service: "sam2_segmentation",
        version: env!("CARGO_PKG_VERSION"),
    });
    *response.status_mut() = status_of(health.available);
    response
}

/// `GET /livez`: who answers lives.
#[must_use]
pub fn live() -> Response<Reply> {
    #[derive(Serialize)]
    struct Wire {
        live: bool,
    }
    send(&Wire { live: true })
}

/// `GET /readyz`: about the engine; and a daemon that stops is not ready for more, which is what
/// balancers ask.
#[must_use]
pub fn ready(health: &Health) -> Response<Reply> {
    #[derive(Serialize)]
    struct Wire<'a> {
        ready: bool,
        reasons: Vec<&'a str>,
    }
    let stopping = health.stopping.then_some("the service is stopping");
    let reasons = health.reason.as_deref().into_iter().chain(stopping).collect();
    let ready = health.available && !health.stopping;
    let mut response = send(&Wire { ready, reasons });
    *response.status_mut() = status_of(ready);
    response
}

fn status_of(available: bool) -> StatusCode {
    if available { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

fn send(wire: &impl Serialize) -> Response<Reply> {
    json(Reply::from(serde_json::to_string(wire).unwrap_or_default()))
}

/// In UTC, to the second. Days to a date: the proleptic Gregorian calendar in eras of 400 years.
fn rfc3339(time: SystemTime) -> String {
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    // Days since 0000-03-01: years that start in March end with the leap day.
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::{KindStats, Stats};

    fn health(available: bool) -> Health {
        let kind = KindStats { entries: 2, bytes: 1000, ..KindStats::default() };
        Health {
            available,
            stopping: false,
            mode: if available { "sam2" } else { "manual-only" },
            reason: (!available).then(|| "the engine is being loaded".to_owned()),
            warnings: vec!["look here".to_owned()],
            model: None,
            cache: Some(Stats {
                kinds: [kind.clone(), kind, KindStats::default()],
                ..Stats::default()
            }),
            checked: SystemTime::UNIX_EPOCH + Duration::from_secs(951_827_696),
        }
    }

    fn text(response: Response<Reply>) -> (u16, String) {
        let status = response.status().as_u16();
        let pieces = response.into_body().into_pieces();
        (status, String::from_utf8(pieces.concat()).unwrap())
    }

    #[test]
    fn the_editors_health_is_always_200_and_says_it_all() {
        let (status, full) = text(full(&health(false), Duration::from_secs(86_400)));
        assert_eq!(status, 200);
        insta::assert_snapshot!(full, @r#"{"enabled":true,"available":false,"mode":"manual-only","reason":"the engine is being loaded","warnings":["look here"],"model":null,"cache_stats":{"cache_size":4,"cache_bytes":2000,"cache_expire_hours":24.0,"is_healthy":true,"last_health_check":"2000-02-29T12:34:56Z"}}"#);
        let (status, reduced) = text(reduced(&health(true)));
        assert_eq!(
            (status, &*reduced),
            (200, r#"{"enabled":true,"available":true,"mode":"sam2"}"#)
        );
    }

    #[test]
    fn the_old_service_s_health_is_503_unless_loaded() {
        let (status, body) = text(old(&health(true)));
        assert_eq!(status, 200);
        insta::assert_snapshot!(body.replace(env!("CARGO_PKG_VERSION"), "X"), @r#"{"status":"healthy","model_loaded":true,"service":"sam2_segmentation","version":"X"}"#);
        let (status, body) = text(old(&health(false)));
        assert_eq!(status, 503);
        assert!(body.contains(r#""status":"unhealthy","model_loaded":false"#), "{body}");
    }

    #[test]
    fn ready_is_about_the_engine_and_live_is_not() {
        assert_eq!(text(live()), (200, r#"{"live":true}"#.to_owned()));
        assert_eq!(text(ready(&health(true))), (200, r#"{"ready":true,"reasons":[]}"#.to_owned()));
        let (status, body) = text(ready(&health(false)));
        assert_eq!(status, 503);
        assert_eq!(body, r#"{"ready":false,"reasons":["the engine is being loaded"]}"#);
        let (status, body) = text(ready(&Health { stopping: true, ..health(true) }));
        assert_eq!(status, 503);
        assert_eq!(body, r#"{"ready":false,"reasons":["the service is stopping"]}"#);
    }

    #[test]
    fn times_are_written_as_dates() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (4_107_542_399, "2100-02-28T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            assert_eq!(rfc3339(time), text, "{seconds}");
        }
    }
}
