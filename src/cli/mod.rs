//! The command line: one file a command.
//!
//! Exit codes: 0; 1 the work failed; 2 usage; 69 no engine although one is required; 70 internal,
//! device lost, hang; 78 configuration.

pub mod accept;
pub mod audit;
pub mod cache;
pub mod cert;
pub mod check_config;
mod client;
pub mod doctor;
pub mod engine;
pub mod health;
pub mod man;
pub mod segment;
pub mod token;

use crate::config::{Config, ConfigError, DEFAULT_FILE};
use clap::{Args, Parser, Subcommand};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// The hospital's own one-click segmentation box. Not for diagnostic use.
///
/// Without a command it serves: an HTTP service on 127.0.0.1:8642 that segments PNG, JPEG and DICOM
/// slices with SAM2. Nothing leaves this machine.
#[derive(Debug, Parser)]
#[command(name = "sam2d", version, args_conflicts_with_subcommands = true, max_term_width = 100)]
pub struct Cli {
    /// What to do; `serve` when left out.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Flags of `serve`.
    #[command(flatten)]
    pub serve: ServeArgs,
}

/// Commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve requests (the default)
    Serve(ServeArgs),
    /// Segment image files without a server
    Segment(segment::SegmentArgs),
    /// Look at engines
    #[command(subcommand)]
    Engine(engine::EngineCommand),
    /// Create, list and revoke the tokens that let clients in
    Token(token::TokenArgs),
    /// Look at cached results, check or forget them; also while the daemon runs
    Cache(cache::CacheArgs),
    /// Make the certificate that TLS shows
    Cert(cert::CertArgs),
    /// Verify the trail of who did what
    #[command(subcommand_required = true)]
    Audit(audit::AuditArgs),
    /// One line on a running daemon; exit code 0 ready, 1 manual-only, 2 down
    Health(health::HealthArgs),
    /// Check a configuration file and show what results
    CheckConfig(check_config::CheckConfigArgs),
    /// Test an installation as a client would, and write a Markdown report; exit code 1 when a step fails
    Accept(accept::AcceptArgs),
    /// Say what is wrong on this machine and what to do about it; exit code 1 when something is
    Doctor(doctor::DoctorArgs),
    /// Print the OpenAPI document of the service
    Openapi,
    /// Print a completion script for a shell
    Completions {
        /// bash, zsh, fish, elvish or powershell
        shell: clap_complete::Shell,
    },
    /// Write the manual pages (for packagers)
    #[command(hide = true)]
    Man(man::ManArgs),
    /// Parse one image from a stranger (started by the daemon itself)
    #[command(hide = true)]
    DecodeChild,
}

/// Flags of `serve`.
#[derive(Clone, Debug, Default, Args)]
pub struct ServeArgs {
    /// Shared by all commands that load an engine.
    #[command(flatten)]
    pub common: CommonArgs,
    /// Address and port to listen on, instead of http.listen
    #[arg(long, value_name = "ADDR:PORT")]
    pub listen: Option<SocketAddr>,
    /// Folder for what must outlive a restart
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Folder for cached results
    #[arg(long, value_name = "DIR")]
    pub cache_dir: Option<PathBuf>,
}

/// Flags of every command that reads the configuration.
#[derive(Clone, Debug, Default, Args)]
pub struct CommonArgs {
    /// Configuration file [default: /etc/sam2d/sam2d.toml, if there is one]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Engine package: a name in an engine folder, or a path
    #[arg(long, value_name = "NAME|PATH")]
    pub engine: Option<String>,
}

impl CommonArgs {
    /// The configuration: file, environment, these flags.
    ///
    /// # Errors
    /// Any [`ConfigError`].
    pub fn load(&self) -> Result<Config, ConfigError> {
        let default = Path::new(DEFAULT_FILE);
        let file = self.config.as_deref().or_else(|| default.exists().then_some(default));
        let mut config = Config::load(file, std::env::vars())?;
        if let Some(engine) = &self.engine {
            config.engine.path = Some(engine.into());
        }
        Ok(config)
    }
}

impl ServeArgs {
    /// The configuration: file, environment, these flags; checked.
    ///
    /// # Errors
    /// Any [`ConfigError`].
    pub fn load(&self) -> Result<Config, ConfigError> {
        let mut config = self.common.load()?;
        if let Some(listen) = self.listen {
            config.http.listen = vec![listen];
        }
        if let Some(folder) = &self.state_dir {
            config.state.path = Some(folder.clone());
        }
        if let Some(folder) = &self.cache_dir {
            config.cache.dir = Some(folder.clone());
        }
        config.check()?;
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn no_command_is_serve_with_its_flags() {
        let cli = Cli::try_parse_from(["sam2d", "--listen", "127.0.0.1:0"]).unwrap();
        assert!(cli.command.is_none());
        assert_eq!(cli.serve.listen.unwrap().port(), 0);
        assert!(Cli::try_parse_from(["sam2d", "--listen", "localhost"]).is_err());
    }
}
