//! `sam2d token`: who may ask, on a box that is not alone.
//!
//! A token is shown once, on standard output, so that it can be piped to where it is needed; it is
//! never an argument of a command, where other users of the machine could read it.

use super::CommonArgs;
use crate::access::Scope;
use crate::access::file::{self, Record, Wanted};
use chrono::Utc;
use clap::{Args, Subcommand};
use std::fmt::Write as _;
use std::path::PathBuf;

/// Flags.
#[derive(Debug, Args)]
pub struct TokenArgs {
    /// Create, list or revoke.
    #[command(subcommand)]
    pub command: TokenCommand,
    /// Configuration file [default: /etc/sam2d/sam2d.toml, if there is one]
    #[arg(long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
    /// Folder for what must outlive a restart; the daemon's own
    #[arg(long, value_name = "DIR", global = true)]
    pub state_dir: Option<PathBuf>,
}

/// What to do with tokens.
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Create a token and print it, once
    Create {
        /// What it is for: an editor, a ward, a monitoring host
        #[arg(value_name = "NAME")]
        name: String,
        /// segment, metrics or admin; may be given several times
        #[arg(long, value_name = "SCOPE", default_value = "segment")]
        scope: Vec<Scope>,
        /// Days until it ends [default: it does not]
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=36_500))]
        days: Option<u32>,
    },
    /// List tokens: ids, names, scopes, dates
    List,
    /// Take a token away; a running daemon knows within a second
    Revoke {
        /// Its id or name
        #[arg(value_name = "ID|NAME")]
        which: String,
    },
}

/// Does it, and says so.
///
/// # Errors
/// What is wrong with the configuration or the file.
pub fn run(args: TokenArgs) -> anyhow::Result<String> {
    let mut config = CommonArgs { config: args.config, engine: None }.load()?;
    if let Some(folder) = args.state_dir {
        config.state.path = Some(folder);
    }
    let path = config.tokens_path();
    let now = Utc::now();
    match args.command {
        TokenCommand::Create { name, mut scope, days } => {
            scope.sort();
            scope.dedup();
            let token = file::create(&path, Wanted { name, scopes: scope, days }, now)?;
            eprintln!("This token is shown once; only a hash of it is kept in {}.", path.display());
            Ok(token.reveal() + "\n")
        }
        TokenCommand::List => {
            let records = file::read(&path)?;
            let mut text = String::new();
            match records.as_deref() {
                None => eprintln!("There is no token file ({}).", path.display()),
                Some([]) => eprintln!("There are no tokens, so nobody with one is let in."),
                Some(records) => {
                    for record in records {
                        let _ = writeln!(text, "{}", line(record, record.holds_at(now)));
                    }
                }
            }
            Ok(text)
        }
        TokenCommand::Revoke { which } => {
            let record = file::revoke(&path, &which)?;
            Ok(format!("revoked {} ({})\n", record.id, record.name))
        }
    }
}

fn line(record: &Record, holds: bool) -> String {
    let scopes: Vec<_> = record.scopes.iter().map(|scope| scope.as_str()).collect();
    let end = match (&record.expires, holds) {
        (None, _) => "no end".to_owned(),
        (Some(end), true) => format!("until {end}"),
        (Some(end), false) => format!("ENDED {end}"),
    };
    format!("{}  {}  {}  since {}, {end}", record.id, record.name, scopes.join("+"), record.created)
}
