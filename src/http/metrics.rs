//! What `/metrics` says, in OpenMetrics text.
//!
//! HTTP's own figures are counted here; those of the engine, the decoder and the cache are asked of
//! them at every scrape. Labels are few and fixed: route templates, codes, stages. Nothing that a
//! client sent is ever one.

use super::budget::Budget;
use super::routes::Route;
use super::seats::Seats;
use super::security::Security;
use crate::cache::Kind;
use crate::engine::worker::State;
use crate::service::Service;
use crate::service::request::Timings;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use std::fmt;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

/// The media type of [`Metrics::text`].
pub const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Upper bounds in seconds: from a hit (a millisecond) to the deadline.
const BUCKETS_S: [f64; 13] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0];

/// HTTP's figures, and everybody else's on demand.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    request_seconds: Family<RouteLabels, Histogram>,
    stage_seconds: Family<StageLabels, Histogram>,
    hits: Family<KindLabels, Counter>,
    login_failures: Family<KindLabels, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    route: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    route: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StageLabels {
    stage: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabels {
    kind: &'static str,
}

fn seconds() -> Histogram {
    Histogram::new(BUCKETS_S)
}

impl Metrics {
    /// With the figures of these rooms.
    #[must_use]
    pub fn new(service: Service, budget: Budget, seats: Seats, security: Security) -> Self {
        let mut registry = Registry::with_prefix("sam2d");
        let requests = Family::default();
        let request_seconds = Family::new_with_constructor(seconds as fn() -> Histogram);
        let stage_seconds = Family::new_with_constructor(seconds as fn() -> Histogram);
        let hits: Family<KindLabels, Counter> = Family::default();
        // A figure that is there from the start, at 0, can be told from one that is missing.
        for kind in ["answer", "embedding"] {
            drop(hits.get_or_create(&KindLabels { kind }));
        }
        let login_failures: Family<KindLabels, Counter> = Family::default();
        for kind in ["wrong", "throttled"] {
            drop(login_failures.get_or_create(&KindLabels { kind }));
        }
        registry.register(
            "login_failures",
            "Requests with a token that was wrong, or was not looked at after too many wrong ones",
            login_failures.clone(),
        );
        registry.register("requests", "Requests answered, by route and outcome", requests.clone());
        registry.register_with_unit(
            "request",
            "From the end of a request's head to its answer",
            Unit::Seconds,
            request_seconds.clone(),
        );
        registry.register_with_unit(
            "stage",
            "Stages of segmentations; those that did not run are not counted",
            Unit::Seconds,
            stage_seconds.clone(),
        );
        registry.register(
            "cache_hits",
            "Segmentations whose answer, or at least whose embedding, was cached",
            hits.clone(),
        );
        registry.register_collector(Box::new(Rooms { service, budget, seats, security }));
        Self { registry, requests, request_seconds, stage_seconds, hits, login_failures }
    }

    /// Tells these figures too.
    pub fn also(&mut self, collector: Box<dyn Collector>) {
        self.registry.register_collector(collector);
    }

    /// Counts an answered request; `outcome` is `ok` or a problem's code.
    pub fn answered(&self, route: &'static str, outcome: &'static str, took: Duration) {
        self.requests.get_or_create(&RequestLabels { route, outcome }).inc();
        self.request_seconds.get_or_create(&RouteLabels { route }).observe(took.as_secs_f64());
    }

    /// Counts a token that was wrong, or not looked at.
    pub fn login_failed(&self, kind: &'static str) {
        self.login_failures.get_or_create(&KindLabels { kind }).inc();
    }

    /// Counts a segmentation.
    pub fn segmented(&self, timings: &Timings, cached: bool, embedding_cached: bool) {
        for (stage, took) in [
            ("decode", timings.decode),
            ("queue", timings.queue),
            ("encode", timings.encode),
            ("prompt", timings.prompt),
            ("render", timings.render),
        ] {
            if let Some(took) = took {
                let stage = StageLabels { stage };
                self.stage_seconds.get_or_create(&stage).observe(took.as_secs_f64());
            }
        }
        for (kind, hit) in [("answer", cached), ("embedding", embedding_cached && !cached)] {
            if hit {
                self.hits.get_or_create(&KindLabels { kind }).inc();
            }
        }
    }

    /// Everything as text.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a String can't fail; a broken collector would show as a cut text.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

/// Labels of requests that no route answered.
#[must_use]
pub fn route_label(route: Option<Route>) -> &'static str {
    route.map_or("none", Route::template)
}

/// The rooms below HTTP, asked at every scrape.
struct Rooms {
    service: Service,
    budget: Budget,
    seats: Seats,
    security: Security,
}

impl fmt::Debug for Rooms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Rooms")
    }
}

impl Collector for Rooms {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let mut page = Page(encoder);
        self.http(&mut page)?;
        self.security(&mut page)?;
        self.engine(&mut page)?;
        self.decoder(&mut page)?;
        self.cache(&mut page)
    }
}

impl Rooms {
    fn http(&self, page: &mut Page<'_>) -> fmt::Result {
        page.gauge("connections", "Open connections", self.seats.taken())?;
        let uploads = self.budget.in_use();
        page.gauge("upload_bytes", "Memory granted to bodies of requests", uploads)
    }

    fn security(&self, page: &mut Page<'_>) -> fmt::Result {
        if let Some(tls) = &self.security.tls {
            let end = tls.expires().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            let help = "When the TLS certificate ends, in Unix time";
            page.gauge("tls_certificate_end", help, usize::try_from(end.as_secs()).unwrap_or(0))?;
        }
        if let Some(audit) = &self.security.audit {
            let vitals = audit.vitals();
            let records = [
                ("written", vitals.written.load(Ordering::Relaxed)),
                ("lost", vitals.lost.load(Ordering::Relaxed)),
                ("unsent", vitals.unsent.load(Ordering::Relaxed)),
            ];
            page.counters("audit_records", "Records of the audit trail", "kind", &records)?;
        }
        Ok(())
    }

    fn engine(&self, page: &mut Page<'_>) -> fmt::Result {
        let engine = self.service.engine();
        let vitals = engine.vitals();
        let state = match engine.state() {
            State::Loading => "loading",
            State::Ready(_) => "ready",
            State::ManualOnly { .. } => "manual-only",
        };
        let states = ["loading", "ready", "manual-only"].map(|s| (s, u64::from(s == state)));
        page.gauges("engine_state", "1 for the state that the engine is in", "state", &states)?;
        let calls = [
            ("encode", vitals.encodes),
            ("decode", vitals.decodes),
            ("probe", vitals.probes),
            ("load", vitals.loads),
        ];
        page.counters("engine_calls", "Finished calls of the engine", "kind", &calls)?;
        page.counter("engine_prompts", "Prompts decoded", vitals.prompts)?;
        page.counter("engine_failures", "Failed inferences", vitals.failures)?;
        page.counter("engine_breakdowns", "Times READY was lost", vitals.breakdowns)?;
        let lost = [
            ("refused", vitals.refused),
            ("expired", vitals.expired),
            ("abandoned", vitals.abandoned),
        ];
        page.counters("engine_jobs_lost", "Jobs that were not run", "why", &lost)?;
        let [warm, cold, promptless] = vitals.queued.map(|jobs| jobs as u64);
        let queued = [("warm", warm), ("cold", cold), ("promptless", promptless)];
        page.gauges("engine_queue", "Jobs that wait for the engine", "class", &queued)?;
        page.seconds("engine_busy", "Time spent in calls of the engine", vitals.busy_total)?;
        page.gauge("embeddings_bytes", "Embeddings in memory", self.service.embeddings_bytes())
    }

    fn decoder(&self, page: &mut Page<'_>) -> fmt::Result {
        let vitals = self.service.decoder().vitals();
        let outcomes = [
            ("decoded", vitals.decoded),
            ("refused", vitals.refused),
            ("killed", vitals.killed),
            ("unavailable", vitals.unavailable),
        ];
        page.counters("decoder_images", "Images given to decoder children", "outcome", &outcomes)?;
        page.gauge("decoder_ready", "Decoder children that wait for an image", vitals.ready)
    }

    fn cache(&self, page: &mut Page<'_>) -> fmt::Result {
        let Some(stats) = self.service.cache().map(crate::cache::Cache::stats) else {
            return Ok(());
        };
        let by_kind = |figure: fn(&crate::cache::KindStats) -> u64| {
            let kinds = Kind::ALL.iter().zip(&stats.kinds);
            kinds.map(|(kind, stats)| (kind.name(), figure(stats))).collect::<Vec<_>>()
        };
        page.gauges("cache_entries", "Entries on disk", "kind", &by_kind(|k| k.entries))?;
        page.gauges("cache_bytes", "Bytes on disk", "kind", &by_kind(|k| k.bytes))?;
        page.counters("cache_found", "Entries found on disk", "kind", &by_kind(|k| k.hits))?;
        page.counters("cache_missed", "Entries not found", "kind", &by_kind(|k| k.misses))?;
        page.counters("cache_puts", "Entries written", "kind", &by_kind(|k| k.puts))?;
        let failures = by_kind(|k| k.put_failures);
        page.counters("cache_put_failures", "Entries not written", "kind", &failures)?;
        page.counters("cache_evicted", "Entries pushed out", "kind", &by_kind(|k| k.evicted))?;
        page.counters("cache_expired", "Entries gone by age", "kind", &by_kind(|k| k.expired))?;
        page.counters("cache_bad", "Entries found damaged", "kind", &by_kind(|k| k.bad))?;
        page.counter("cache_faults", "Times the disk failed the cache", stats.faults)
    }
}

/// Writes one metric after the other.
struct Page<'a>(DescriptorEncoder<'a>);

impl Page<'_> {
    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let counter = ConstCounter::new(value);
        counter.encode(self.0.encode_descriptor(name, help, None, counter.metric_type())?)
    }

    fn seconds(&mut self, name: &str, help: &str, value: Duration) -> fmt::Result {
        let counter = ConstCounter::new(value.as_secs_f64());
        let unit = Some(&Unit::Seconds);
        counter.encode(self.0.encode_descriptor(name, help, unit, counter.metric_type())?)
    }

    fn gauge(&mut self, name: &str, help: &str, value: usize) -> fmt::Result {
        let gauge = ConstGauge::new(value as u64);
        gauge.encode(self.0.encode_descriptor(name, help, None, gauge.metric_type())?)
    }

    fn counters(
        &mut self,
        name: &str,
        help: &str,
        label: &'static str,
        values: &[(&'static str, u64)],
    ) -> fmt::Result {
        let kind = ConstCounter::new(0_u64).metric_type();
        let mut family = self.0.encode_descriptor(name, help, None, kind)?;
        values.iter().try_for_each(|(value, count)| {
            let labels = [(label, *value)];
            ConstCounter::new(*count).encode(family.encode_family(&labels)?)
        })
    }

    fn gauges(
        &mut self,
        name: &str,
        help: &str,
        label: &'static str,
        values: &[(&'static str, u64)],
    ) -> fmt::Result {
        let kind = ConstGauge::new(0_u64).metric_type();
        let mut family = self.0.encode_descriptor(name, help, None, kind)?;
        values.iter().try_for_each(|(value, count)| {
            let labels = [(label, *value)];
            ConstGauge::new(*count).encode(family.encode_family(&labels)?)
        })
    }
}
