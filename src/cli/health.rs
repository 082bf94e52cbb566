//! `sam2d health`: one line on a running daemon, for people, Icinga and scripts.

use clap::Args;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::Request;
use hyper_util::rt::TokioIo;
use std::process::ExitCode;
use std::time::Duration;
use tokio::net::TcpStream;

/// Long enough for a busy box, short enough for a monitoring check.
const TIMEOUT: Duration = Duration::from_secs(5);
/// A health answer has about 1 kB.
const MAX_BYTES: usize = 1 << 20;

/// Flags.
#[derive(Debug, Args)]
pub struct HealthArgs {
    /// Address of the daemon
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8642")]
    pub url: String,
}

/// Asks, prints one line, and gives the exit code: 0 ready, 1 manual-only, 2 down.
pub async fn run(args: HealthArgs) -> ExitCode {
    match tokio::time::timeout(TIMEOUT, ask(&args.url)).await {
        Ok(Ok(health)) => {
            let text = |key: &str| health.get(key).and_then(|v| v.as_str()).unwrap_or_default();
            let available = health.get("available").and_then(serde_json::Value::as_bool);
            if available == Some(true) {
                let model = health.pointer("/model/name").and_then(|v| v.as_str());
                println!("OK: ready ({}) {}", text("mode"), model.unwrap_or_default());
                return ExitCode::SUCCESS;
            }
            println!("WARNING: {}: {}", text("mode"), text("reason"));
            ExitCode::from(1)
        }
        Ok(Err(error)) => {
            println!("CRITICAL: {}: {error}", args.url);
            ExitCode::from(2)
        }
        Err(_) => {
            println!("CRITICAL: {}: no answer within {} s", args.url, TIMEOUT.as_secs());
            ExitCode::from(2)
        }
    }
}

async fn ask(url: &str) -> anyhow::Result<serde_json::Value> {
    let rest = url.strip_prefix("http://");
    let rest = rest.ok_or_else(|| anyhow::anyhow!("the address must start with http://"))?;
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let address = if authority.rsplit_once(':').is_some_and(|(_, p)| p.parse::<u16>().is_ok()) {
        authority.to_owned()
    } else {
        format!("{authority}:80")
    };
    let stream = TcpStream::connect(&address).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let path = path.trim_end_matches('/');
    let slash = if path.is_empty() { "" } else { "/" };
    let request = Request::get(format!("{slash}{path}/api/segmentation/sam2/health"))
        .header("host", authority)
        .body(Empty::<bytes::Bytes>::new())?;
    let answer = sender.send_request(request).await?;
    anyhow::ensure!(answer.status().is_success(), "the daemon answered {}", answer.status());
    let body = Limited::new(answer.into_body(), MAX_BYTES).collect().await;
    let body = body.map_err(|error| anyhow::anyhow!("{error}"))?.to_bytes();
    Ok(serde_json::from_slice(&body)?)
}
