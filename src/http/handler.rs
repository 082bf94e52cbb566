//! From a request to its response. Generic over the body, so that tests need no socket.
//!
//! Invariants:
//! 1. Every response, whoever made it, carries our request id, `nosniff`, `Vary`, and what CORS
//!    allows; every error is a problem.
//! 2. One log line a request, of what [`super`] allows and nothing else. A failure of ours is
//!    logged here, once, with its causes.
//! 3. A panic is a 500, and the next request finds everything as it was.

use super::budget::Budget;
use super::course::{Course, Trace, work};
use super::failure::{Failure, not_recorded, refused, told, too_many};
use super::guard::{Caller, Connection, Guard};
use super::head::Refusal;
use super::intake::{Intake, Limits};
use super::linger::Lingering;
use super::metrics::{self, Metrics};
use super::options::Options;
use super::routes::{self, Route};
use super::seats::Seats;
use super::security::Security;
use super::wire::accept::{AnswerFormat, BodyFormat, body_format, negotiate};
use super::wire::fields::{Fields, Parsed};
use super::wire::form::{self, FormLimits};
use super::wire::json::{self, Shape};
use super::wire::problem::{Code, Problem};
use super::wire::reply::Reply;
use super::wire::{answer, health, stored};
use super::{cors, editor, openapi, request_id};
use crate::domain::key::{AnswerKey, Sum};
use crate::service::Service;
use crate::service::error::ServiceError;
use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderMap, HeaderValue, Method, Request, Response, Version};
use http_body::Body;
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use prometheus_client::collector::Collector;
use std::error::Error;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant, SystemTime};

/// Bodies above this are parsed on a thread of their own: below, handing them over costs more than
/// the fraction of a millisecond that it saves the others.
const PARSE_ELSEWHERE_BYTES: usize = 1 << 20;

/// Answers requests. Cheap to clone.
#[derive(Clone)]
pub struct Handler(Arc<Inner>);

struct Inner {
    service: Service,
    options: Options,
    guard: Guard,
    budget: Budget,
    /// For requests that may need the engine.
    seats: Seats,
    metrics: Metrics,
    security: Security,
}

impl Handler {
    /// `names` are the box's own, for [`Guard`].
    #[must_use]
    pub fn new(service: Service, options: &Options, names: &[String], seats: Seats) -> Self {
        let guard = Guard::new(options, names);
        Self::guarded(service, options, guard, seats, Security::default(), None)
    }

    /// The same, secured.
    #[must_use]
    pub fn secured(
        service: Service,
        options: &Options,
        names: &[String],
        seats: Seats,
        security: Security,
        collector: Option<Box<dyn Collector>>,
    ) -> Self {
        let mut guard = Guard::new(options, names);
        if let Some((keeper, access)) = &security.tokens {
            guard = guard.with_tokens(keeper.clone(), access.max_failures_per_minute);
        }
        Self::guarded(service, options, guard, seats, security, collector)
    }

    fn guarded(
        service: Service,
        options: &Options,
        guard: Guard,
        seats: Seats,
        security: Security,
        collector: Option<Box<dyn Collector>>,
    ) -> Self {
        let budget = Budget::shared(options);
        let mut metrics = Metrics::new(service.clone(), budget.clone(), seats, security.clone());
        if let Some(collector) = collector {
            metrics.also(collector);
        }
        Self(Arc::new(Inner {
            metrics,
            service,
            options: options.clone(),
            guard,
            budget,
            seats: Seats::at_engine(options),
            security,
        }))
    }

    /// Answers a request.
    pub async fn respond<B>(&self, request: Request<B>, ends: Connection) -> Response<Reply>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let mut course = Course {
            id: request_id::new(),
            started: Instant::now(),
            route: None,
            origin: None,
            trace: Trace::default(),
            unread: !request.body().is_end_stream(),
        };
        let (method, version) = (request.method().clone(), request.version());
        let request = request.map(|body| match version {
            Version::HTTP_2 => Lingering::new(body).map_err(Into::into).boxed_unsync(),
            _ => body.map_err(Into::into).boxed_unsync(),
        });
        let outcome = caught(self.0.answer(request, ends, &mut course)).await;
        let (mut response, mut code) = match outcome {
            Some(Ok(response)) => (response, None),
            Some(Err(failure)) => {
                let problem = told(&failure, &course.id);
                (problem.clone().into_response(&course.id), Some(problem.code()))
            }
            None => {
                tracing::error!(request_id = %course.id, "a request ended in a panic");
                let problem = Problem::new(Code::Internal, "internal error");
                (problem.into_response(&course.id), Some(Code::Internal))
            }
        };
        let event = course.trace.event(code, &ends, &course.id);
        if let (Some(audit), Some(event)) = (&self.0.security.audit, event)
            && audit.record(event).await.is_err()
        {
            // What can't be recorded was not done, as far as the client is concerned.
            let problem = not_recorded();
            code = Some(problem.code());
            response = problem.into_response(&course.id);
        }
        let headers = response.headers_mut();
        cors::mark(headers, course.origin);
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        if let Ok(id) = HeaderValue::from_str(&course.id) {
            headers.insert("x-request-id", id);
        }
        // Where the rest of the body begins nobody knows; HTTP/2 has no such trouble.
        if course.unread && version < Version::HTTP_2 {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        let took = course.started.elapsed();
        let route = metrics::route_label(course.route);
        self.0.metrics.answered(route, code.map_or("ok", Code::as_str), took);
        let (method, status) = (known(&method), response.status().as_u16());
        let ms = answer::milliseconds(took);
        tracing::info!(
            method,
            route,
            status,
            ms,
            request_id = %course.id,
            who = course.trace.who,
            "request: {method} {route} {status} in {ms} ms"
        );
        response
    }
}

impl Inner {
    async fn answer(
        &self,
        request: Request<AnyBody>,
        ends: Connection,
        course: &mut Course,
    ) -> Result<Response<Reply>, Failure> {
        let (head, body) = request.into_parts();
        let (method, path, headers) = (&head.method, head.uri.path(), &head.headers);
        if let Some(refusal) = Refusal::of(method, path) {
            // Nothing of this connection can be read any more.
            course.unread = true;
            return Err(refused(refusal).into());
        }
        let passed = self.guard.check(&head.uri, headers, &ends)?;
        course.origin.clone_from(&passed.origin);
        let nothing = || Problem::new(Code::NotFound, "there is nothing at this path");
        let matched = routes::resolve(path, &self.options.base_paths).ok_or_else(nothing)?;
        let route = matched.route;
        course.route = Some(route);
        if method == Method::OPTIONS {
            return Ok(cors::options(route, headers));
        }
        if !route.allows(method) {
            return Err(Problem::method_not_allowed(route.allow()).into());
        }
        let caller = self.guard.identify(&passed, headers).await;
        match &caller {
            Caller::Mistaken => self.metrics.login_failed("wrong"),
            Caller::Throttled(_) => self.metrics.login_failed("throttled"),
            Caller::Holder(_) | Caller::Known | Caller::Stranger => {}
        }
        course.trace.identified(&caller, passed.client, &ends);
        self.guard.admit(&caller, route)?;
        course.trace.work = work(route);
        let at_work = route.asks_engine().then(|| self.seats.take(passed.client)).transpose();
        let _at_work = at_work.map_err(|_| too_many())?;
        if let (Some(audit), Some(_)) = (&self.security.audit, course.trace.work) {
            audit.may_work().map_err(|_| not_recorded())?;
        }
        let deadline = course.started + Duration::from_secs(self.options.request_timeout_s);
        let asked = Asked { headers, prefix: matched.prefix, deadline, course };
        match route {
            Route::Segment | Route::OldSegment => self.segment(route, asked, body).await,
            Route::Embed => self.embed(asked, body).await,
            Route::Preview => self.preview(asked, body).await,
            Route::Mask => self.mask(headers, matched.mask_id).await,
            Route::Health if !caller.is_let_in() => Ok(health::reduced(&self.service.health())),
            Route::Health => {
                let mut health = self.service.health();
                health.warnings.extend(self.security.warnings(SystemTime::now()));
                Ok(health::full(&health, self.service.lifetime()))
            }
            Route::OldHealth => Ok(health::old(&self.service.health())),
            Route::Live | Route::V2Live => Ok(health::live()),
            Route::Ready | Route::V2Ready => Ok(health::ready(&self.service.health())),
            Route::Metrics => Ok(text(self.metrics.text(), metrics::MEDIA_TYPE)),
            Route::Page | Route::Client | Route::PagePart => {
                Ok(editor::respond(path, headers).ok_or_else(nothing)?)
            }
            Route::OpenApi => Ok(text(openapi::document(), "application/json")),
        }
    }

    async fn segment(
        &self,
        route: Route,
        mut asked: Asked<'_>,
        body: AnyBody,
    ) -> Result<Response<Reply>, Failure> {
        const FORMATS: [AnswerFormat; 3] =
            [AnswerFormat::Json, AnswerFormat::Png, AnswerFormat::Dicom];
        let mut format = negotiate(asked.headers, &FORMATS)?;
        let fields = self.fields(route, Shape::Segment, &mut asked, body).await?;
        let Parsed { request, echo, mask_format, warnings } = fields.finish(asked.deadline)?;
        if format == AnswerFormat::Dicom && !request.image.source.is_dicom() {
            // Of this image there is no such answer; perhaps the client takes another.
            format = negotiate(asked.headers, &[AnswerFormat::Json, AnswerFormat::Png])
                .map_err(|_| ServiceError::NotDicom)?;
        }
        let image_type = request.image.image_type;
        asked.course.trace.patient.clone_from(&echo.patient_id);
        let (segmented, file) = match format {
            AnswerFormat::Json | AnswerFormat::Png => (self.service.segment(request).await?, None),
            AnswerFormat::Dicom => {
                let (segmented, file) = self.service.segmentation(request).await?;
                (segmented, Some(file))
            }
        };
        asked.course.trace.image = Some(segmented.image.key.0.to_hex());
        let (cached, embedding_cached) = (segmented.cached, segmented.embedding_cached);
        self.metrics.segmented(&segmented.timings, cached, embedding_cached);
        let context = answer::Context {
            echo: &echo,
            image_type,
            mask_format,
            prefix: asked.prefix,
            warnings: &warnings,
            request_id: &asked.course.id,
            took: asked.course.started.elapsed(),
        };
        Ok(match (file, format) {
            (Some(file), _) => answer::segmented_dicom(file, &segmented, &context),
            (None, AnswerFormat::Png) => answer::segmented_png(&segmented, &context),
            (None, _) => answer::segmented_json(&segmented, &context),
        })
    }

    async fn embed(&self, mut asked: Asked<'_>, body: AnyBody) -> Result<Response<Reply>, Failure> {
        negotiate(asked.headers, &[AnswerFormat::Json])?;
        let fields = self.fields(Route::Embed, Shape::Image, &mut asked, body).await?;
        let Parsed { request, echo, .. } = fields.finish(asked.deadline)?;
        asked.course.trace.patient = echo.patient_id;
        let embedded = self.service.embed(request.image, asked.deadline).await?;
        asked.course.trace.image = Some(embedded.image.key.0.to_hex());
        Ok(answer::embedded_json(&embedded, asked.course.started.elapsed()))
    }

    async fn preview(
        &self,
        mut asked: Asked<'_>,
        body: AnyBody,
    ) -> Result<Response<Reply>, Failure> {
        negotiate(asked.headers, &[AnswerFormat::Png])?;
        let fields = self.fields(Route::Preview, Shape::Image, &mut asked, body).await?;
        let Parsed { request, echo, .. } = fields.finish(asked.deadline)?;
        asked.course.trace.patient = echo.patient_id;
        let (image, png) = self.service.preview(request.image, asked.deadline).await?;
        asked.course.trace.image = Some(image.key.0.to_hex());
        Ok(answer::bare_png(png))
    }

    async fn mask(&self, headers: &HeaderMap, mask_id: &str) -> Result<Response<Reply>, Failure> {
        // Ids are opaque: one that can't be ours is simply unknown.
        let sum = Sum::from_hex(mask_id).ok_or(ServiceError::UnknownMask)?;
        let answer = self.service.mask(AnswerKey(sum)).await?;
        Ok(stored::mask(&answer, headers, SystemTime::now())?)
    }

    /// Lets the body in and reads its fields.
    async fn fields(
        &self,
        route: Route,
        shape: Shape,
        asked: &mut Asked<'_>,
        body: AnyBody,
    ) -> Result<Fields, Failure> {
        let format = body_format(asked.headers)?;
        if route == Route::OldSegment && format == BodyFormat::Json {
            return Err(Problem::new(
                Code::UnsupportedMediaType,
                "Content-Type must be multipart/form-data here",
            )
            .into());
        }
        let limits = Limits {
            max_bytes: self.options.max_body_bytes,
            idle: Duration::from_secs(self.options.body_idle_timeout_s),
            deadline: asked.deadline.into(),
        };
        let client = asked.course.trace.client;
        let budget = client.map_or_else(|| self.budget.clone(), |client| self.budget.of(client));
        let intake = Intake::open(asked.headers, body, &budget, limits).map_err(Problem::from)?;
        let upload = intake.collect().await.map_err(Problem::from)?;
        asked.course.unread = false;
        let form_limits = FormLimits {
            max_parts: self.options.max_form_parts,
            max_text_bytes: self.options.max_text_bytes,
        };
        let large = upload.bytes().len() > PARSE_ELSEWHERE_BYTES;
        let read = move || match format {
            BodyFormat::Json => json::read(upload, shape),
            BodyFormat::Form { boundary } => form::read(upload, &boundary, shape, form_limits),
        };
        if !large {
            return Ok(read()?);
        }
        match tokio::task::spawn_blocking(read).await {
            Ok(fields) => Ok(fields?),
            Err(panic) => Err(ServiceError::Internal(Arc::new(panic)).into()),
        }
    }
}

/// A body, whoever sends it.
type AnyBody = UnsyncBoxBody<Bytes, Box<dyn Error + Send + Sync>>;

/// What a route's handler needs of the request besides its body.
struct Asked<'a> {
    headers: &'a HeaderMap,
    prefix: &'a str,
    deadline: Instant,
    course: &'a mut Course,
}

fn text(text: String, media_type: &'static str) -> Response<Reply> {
    let mut response = answer::json(Reply::from(text));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}

/// Methods with a meaning; any other is a word of the client's and stays out of the log.
fn known(method: &Method) -> &str {
    const KNOWN: [Method; 8] = [
        Method::GET,
        Method::HEAD,
        Method::POST,
        Method::PUT,
        Method::DELETE,
        Method::OPTIONS,
        Method::PATCH,
        Method::CONNECT,
    ];
    if KNOWN.contains(method) { method.as_str() } else { "other" }
}

/// The work's outcome, or `None` where it panicked.
async fn caught<T>(work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    std::future::poll_fn(|cx| {
        // What a panic leaves behind is dropped with `work`; what is shared guards itself.
        match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(cx))) {
            Ok(Poll::Ready(outcome)) => Poll::Ready(Some(outcome)),
            Ok(Poll::Pending) => Poll::Pending,
            Err(_) => Poll::Ready(None),
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_caught_wherever_it_happens() {
        assert_eq!(caught(async { 7 }).await, Some(7));
        let late = async {
            tokio::task::yield_now().await;
            assert_eq!(1 + 1, 3, "a bug, for the test");
        };
        assert_eq!(caught(late).await, None);
    }

    #[test]
    fn a_method_that_nobody_knows_stays_out_of_the_log() {
        assert_eq!(known(&Method::POST), "POST");
        assert_eq!(known(&Method::from_bytes(b"Maier").unwrap()), "other");
    }
}
