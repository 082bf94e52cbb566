//! `sam2d check-config`: what is wrong, or what results.

use crate::config::{Config, ConfigError};
use clap::Args;
use std::path::PathBuf;

/// Flags.
#[derive(Debug, Args)]
pub struct CheckConfigArgs {
    /// The file [default: /etc/sam2d/sam2d.toml, if there is one]
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Show the whole configuration that results, defaults and environment included
    #[arg(long)]
    pub show: bool,
}

/// Checks and says so.
///
/// # Errors
/// What is wrong with file, environment or values.
pub fn run(args: CheckConfigArgs) -> Result<String, ConfigError> {
    let common = super::CommonArgs { config: args.file, engine: None };
    let config: Config = common.load()?;
    config.check()?;
    if args.show {
        // Plain data of our own; a value TOML can't hold would be a bug that this shows.
        return Ok(toml::to_string_pretty(&config).unwrap_or_else(|error| error.to_string()));
    }
    Ok("the configuration is right\n".to_owned())
}
