//! `sam2d accept`: does this installation do what it promises? A report for the site's files.
//!
//! It asks the running daemon as an editor would, with pictures that come with the program: never a
//! patient's. With `--restart` it also has systemd restart the service, and looks whether results and
//! service come back.
//!
//! It proves that the service works here; it says nothing of how good the engine's masks are. That
//! is for people who can judge them (docs/acceptance.md).

use super::client::{Answered, Daemon};
use crate::engine::package::Package;
use crate::service::LOADING;
use anyhow::{Context, ensure};
use clap::Args;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

/// A drawn slice of a body, DICOM.
const PHANTOM: &[u8] = include_bytes!("../../samples/phantom-axial.dcm");
/// Where its organ lies.
const PHANTOM_CLICK: (u32, u32) = (160, 167);
/// The unit that is restarted.
const UNIT: &str = "sam2d.service";
/// A restart with a large plan on an SD card takes minutes.
const RESTART_PATIENCE: Duration = Duration::from_secs(900);

/// Flags.
#[derive(Debug, Args)]
pub struct AcceptArgs {
    /// Address of the daemon
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8642")]
    pub url: String,
    /// The authority of an https address, PEM; `sam2d cert init` leaves it in tls/ca.pem of the state folder
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// File with a token, where tokens are on
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Also restart the service by systemd and look whether it comes back; needs root
    #[arg(long)]
    pub restart: bool,
    /// Write the Markdown report here instead of standard output
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// How a step went.
#[derive(Debug)]
enum Outcome {
    Passed(String),
    Failed(String),
    NotRun(String),
}

/// The report's lines.
#[derive(Debug, Default)]
struct Report {
    steps: Vec<(&'static str, Outcome, Duration)>,
}

/// Runs every step; true when none failed.
///
/// # Errors
/// When the report can't be written or the arguments make no sense.
pub async fn run(args: &AcceptArgs) -> anyhow::Result<bool> {
    let token = match &args.token_file {
        None => None,
        Some(file) => {
            let text = std::fs::read_to_string(file);
            Some(text.with_context(|| file.display().to_string())?.trim().to_owned())
        }
    };
    let daemon = Daemon::new(&args.url, token, args.ca.as_deref())?;
    let mut report = Report::default();
    let model = report.step("health", health(&daemon)).await;
    report.step("request as JSON", json_form(&daemon)).await;
    report.step("request as a form, answered from the cache", form(&daemon)).await;
    report.step("DICOM", dicom(&daemon)).await;
    report.step("a file that is no image is refused", refusal(&daemon)).await;
    if daemon.is_secured() {
        report.step("TLS", tls(&daemon)).await;
    } else {
        report.note("TLS", "not run: the address is clear text; ask for it with https:// and --ca");
    }
    report.step("watchdog", async { watchdog() }).await;
    if args.restart {
        report.step("restart, and the cache outlives it", restart(&daemon)).await;
    } else {
        report.note("restart", "not run: ask for it with --restart");
    }
    let text = report.markdown(&args.url, model.as_deref().unwrap_or("unknown"));
    match &args.out {
        Some(file) => {
            std::fs::write(file, text).with_context(|| file.display().to_string())?;
        }
        None => print!("{text}"),
    }
    Ok(report.passed())
}

impl Report {
    /// Runs a step and keeps how it went; gives its words when it passed.
    async fn step(
        &mut self,
        name: &'static str,
        work: impl Future<Output = anyhow::Result<String>>,
    ) -> Option<String> {
        let began = Instant::now();
        let (outcome, words) = match work.await {
            Ok(words) => (Outcome::Passed(words.clone()), Some(words)),
            Err(error) => match error.downcast::<NotHere>() {
                Ok(NotHere(why)) => (Outcome::NotRun(why), None),
                Err(error) => (Outcome::Failed(format!("{error:#}")), None),
            },
        };
        self.steps.push((name, outcome, began.elapsed()));
        words
    }

    fn note(&mut self, name: &'static str, why: &str) {
        self.steps.push((name, Outcome::NotRun(why.to_owned()), Duration::ZERO));
    }

    fn passed(&self) -> bool {
        !self.steps.iter().any(|(_, outcome, _)| matches!(outcome, Outcome::Failed(_)))
    }

    fn markdown(&self, url: &str, engine: &str) -> String {
        let mut text = String::new();
        // Writing to a String can't fail.
        let _ = writeln!(
            text,
            "# Installation test of sam2d {}\n\nNot for diagnostic use. It shows that the service works here, \
             not how good its masks are.\n\n\
             - daemon: {url}\n- {engine}\n- time: {}\n- result: **{}**\n\n\
             | step | result | what was seen | ms |\n|---|---|---|---|",
            env!("CARGO_PKG_VERSION"),
            chrono::Utc::now().format("%Y-%m-%dT%H:%M:%SZ"),
            if self.passed() { "passed" } else { "FAILED" },
        );
        for (name, outcome, took) in &self.steps {
            let (word, seen) = match outcome {
                Outcome::Passed(seen) => ("passed", seen),
                Outcome::Failed(seen) => ("**FAILED**", seen),
                Outcome::NotRun(seen) => ("not run", seen),
            };
            let seen = seen.replace('|', "\\|").replace('\n', " ");
            let _ = writeln!(text, "| {name} | {word} | {seen} | {} |", took.as_millis());
        }
        text
    }
}

/// There is no way to look here; not a failure.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct NotHere(String);

/// Waits while the engine is being loaded: that says nothing of an installation.
async fn health(daemon: &Daemon) -> anyhow::Result<String> {
    let began = Instant::now();
    let json = loop {
        let Answered { status, json } = daemon.get("/api/segmentation/sam2/health").await?;
        ensure!(status.is_success(), "status {status}");
        let loading = json.get("reason").and_then(Value::as_str) == Some(LOADING);
        if !loading || began.elapsed() > RESTART_PATIENCE {
            break json;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    let reason = json.get("reason").and_then(Value::as_str).unwrap_or("none given");
    ensure!(json.get("available") == Some(&Value::Bool(true)), "manual-only: {reason}");
    let text = |key: &str| json.pointer(key).and_then(Value::as_str).unwrap_or("?");
    Ok(format!(
        "engine {} ({}), fingerprint {}; its golden image came out right in this run",
        text("/model/name"),
        text("/model/intended_use"),
        text("/model/fingerprint").get(..12).unwrap_or("?"),
    ))
}

/// The golden picture and its click, as JSON.
async fn json_form(daemon: &Daemon) -> anyhow::Result<String> {
    let (picture, x, y) = golden()?;
    let body = json!({
        "image_data": base64_simd::STANDARD.encode_to_string(&picture),
        "image_type": "auto",
        "click_points": [{"x": x, "y": y, "label": 1}],
    });
    let path = "/api/segmentation/sam2";
    let answer = daemon.post(path, "application/json", body.to_string().into_bytes()).await?;
    described(&answer, (x, y))
}

/// The same as a form; the same answer must come, from the cache.
async fn form(daemon: &Daemon) -> anyhow::Result<String> {
    let (picture, x, y) = golden()?;
    let answer = send_form(daemon, &picture, (x, y)).await?;
    let seen = described(&answer, (x, y))?;
    ensure!(answer.json.get("cached") == Some(&Value::Bool(true)), "it was not cached: {seen}");
    Ok(seen)
}

async fn dicom(daemon: &Daemon) -> anyhow::Result<String> {
    let (x, y) = PHANTOM_CLICK;
    let place = (f64::from(x), f64::from(y));
    described(&send_form(daemon, PHANTOM, place).await?, place)
}

/// All before went by TLS, to a name that the certificate has. Nothing of it must be had in clear.
async fn tls(daemon: &Daemon) -> anyhow::Result<String> {
    let in_clear = daemon.in_clear().get("/livez").await;
    ensure!(in_clear.is_err(), "the address answers in clear text, too");
    Ok("the certificate comes from the authority given and has this name; no clear text".to_owned())
}

async fn refusal(daemon: &Daemon) -> anyhow::Result<String> {
    let answer = send_form(daemon, b"this is no image", (1.0, 1.0)).await?;
    let code = answer.json.get("code").and_then(Value::as_str).unwrap_or("none");
    ensure!(answer.status == 400 && code == "unsupported_format", "{} {code}", answer.status);
    Ok("400 unsupported_format".to_owned())
}

/// What the golden picture of the embedded engine shows, and where.
fn golden() -> anyhow::Result<(Vec<u8>, f64, f64)> {
    let package = Package::embedded()?;
    let (clicks, bounds) = package.manifest().golden.prompt();
    let click = clicks.first().map(|click| (click.x, click.y));
    let center = bounds.map(|b| (b.x + b.width / 2.0, b.y + b.height / 2.0));
    let (x, y) = click.or(center).context("the golden prompt is empty")?;
    Ok((package.golden_image().to_vec(), x, y))
}

async fn send_form(daemon: &Daemon, file: &[u8], (x, y): (f64, f64)) -> anyhow::Result<Answered> {
    const BOUNDARY: &str = "sam2d-accept-7f3c1d";
    let mut body = Vec::new();
    let mut part = |head: &str, content: &[u8]| {
        body.extend_from_slice(
            format!("--{BOUNDARY}\r\nContent-Disposition: form-data; {head}\r\n\r\n").as_bytes(),
        );
        body.extend_from_slice(content);
        body.extend_from_slice(b"\r\n");
    };
    part("name=\"file\"; filename=\"accept\"", file);
    part("name=\"image_type\"", b"auto");
    let clicks = json!([{"x": x, "y": y, "label": 1}]).to_string();
    part("name=\"click_points\"", clicks.as_bytes());
    body.extend_from_slice(format!("--{BOUNDARY}--\r\n").as_bytes());
    let kind = format!("multipart/form-data; boundary={BOUNDARY}");
    daemon.post("/api/segmentation/sam2", &kind, body).await
}

/// A mask came, and it is where the click was.
fn described(answer: &Answered, (x, y): (f64, f64)) -> anyhow::Result<String> {
    let Answered { status, json } = answer;
    let detail = json.get("detail").and_then(Value::as_str).unwrap_or_default();
    ensure!(status.is_success(), "status {status}: {detail}");
    let side = |key: &str| json.pointer(&format!("/bounding_box/{key}")).and_then(Value::as_f64);
    let (Some(left), Some(top), Some(width), Some(height)) =
        (side("x"), side("y"), side("width"), side("height"))
    else {
        anyhow::bail!("the mask is empty");
    };
    let inside = (left..left + width).contains(&x) && (top..top + height).contains(&y);
    ensure!(inside, "the mask ({width} × {height} at {left}, {top}) is not where the click was");
    let number = |key: &str| json.get(key).and_then(Value::as_f64).unwrap_or(-1.0);
    Ok(format!(
        "mask {width} × {height} at {left}, {top}; confidence {:.2}; {:.1} ms; cached {}",
        number("confidence_score"),
        number("processing_time_ms"),
        json.get("cached").and_then(Value::as_bool).unwrap_or(false),
    ))
}

/// Is systemd's watchdog on, and fed?
fn watchdog() -> anyhow::Result<String> {
    let property = |name: &str| {
        let output = Command::new("systemctl").args(["show", "-P", name, UNIT]).output();
        output.map(|out| String::from_utf8_lossy(&out.stdout).trim().to_owned())
    };
    let not_here = |why: &str| NotHere(format!("not run: {why}"));
    let active = property("ActiveState").map_err(|_| not_here("there is no systemctl"))?;
    if active != "active" {
        return Err(not_here("the daemon does not run as a unit of systemd").into());
    }
    let (patience, state) = (property("WatchdogUSec")?, property("StatusText")?);
    ensure!(!matches!(patience.as_str(), "" | "0" | "infinity"), "the unit has no WatchdogSec");
    let restarts = property("NRestarts")?;
    Ok(format!("patience {patience}, restarts {restarts}; systemd knows: {state}"))
}

async fn restart(daemon: &Daemon) -> anyhow::Result<String> {
    let (began, (picture, x, y)) = (Instant::now(), golden()?);
    let done =
        tokio::task::spawn_blocking(|| Command::new("systemctl").args(["restart", UNIT]).output());
    let done = done.await?.map_err(|_| NotHere("not run: there is no systemctl".to_owned()))?;
    ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr).trim());
    loop {
        if health(daemon).await.is_ok() {
            break;
        }
        ensure!(began.elapsed() < RESTART_PATIENCE, "it did not become ready again");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let back = began.elapsed().as_secs_f64();
    let answer = send_form(daemon, &picture, (x, y)).await?;
    let seen = described(&answer, (x, y))?;
    ensure!(answer.json.get("cached") == Some(&Value::Bool(true)), "the cache is lost: {seen}");
    Ok(format!("ready again after {back:.1} s; {seen}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::StatusCode;

    fn answer(json: Value) -> Answered {
        Answered { status: StatusCode::OK, json }
    }

    #[test]
    fn a_mask_must_be_there_and_where_the_click_was() {
        let there = json!({"bounding_box": {"x": 10, "y": 20, "width": 5, "height": 5}});
        assert!(described(&answer(there.clone()), (10.0, 24.5)).is_ok());
        for beside in [(9.0, 22.0), (15.0, 22.0), (12.0, 19.0), (12.0, 25.0)] {
            assert!(described(&answer(there.clone()), beside).is_err(), "{beside:?}");
        }
        assert!(described(&answer(json!({"bounding_box": null})), (1.0, 1.0)).is_err());
        let refused = Answered { status: StatusCode::SERVICE_UNAVAILABLE, json: there };
        assert!(described(&refused, (12.0, 22.0)).is_err());
    }

    #[test]
    fn one_step_that_fails_fails_the_report_and_one_that_was_not_run_does_not() {
        let mut report = Report::default();
        report.note("a", "not run: a | b");
        report.steps.push(("b", Outcome::Passed("seen".to_owned()), Duration::ZERO));
        assert!(report.passed());
        let text = report.markdown("http://box", "engine x");
        assert!(text.contains("result: **passed**") && text.contains("not run: a \\| b"), "{text}");
        report.steps.push(("c", Outcome::Failed("broken".to_owned()), Duration::ZERO));
        assert!(!report.passed());
        assert!(report.markdown("http://box", "engine x").contains("| c | **FAILED** | broken |"));
    }
}
