//! `sam2d cert init`: a certificate for the box, from an authority of its own or the hospital's.

use super::CommonArgs;
use crate::access::certificate::{self, AUTHORITY, CERTIFICATE, FOLDER, KEY, REQUEST, Wanted};
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// Flags.
#[derive(Debug, Args)]
pub struct CertArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: CertCommand,
    /// Configuration file [default: /etc/sam2d/sam2d.toml, if there is one]
    #[arg(long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
    /// Folder for what must outlive a restart; the daemon's own
    #[arg(long, value_name = "DIR", global = true)]
    pub state_dir: Option<PathBuf>,
}

/// What to do with certificates.
#[derive(Debug, Subcommand)]
pub enum CertCommand {
    /// Make a key and a certificate, under an authority of the box's own
    Init {
        /// Host name or address of the box; may be given several times [default: its own names]
        #[arg(long, value_name = "NAME|ADDR")]
        name: Vec<String>,
        /// Days the certificate holds; browsers take up to 397 without a word
        #[arg(long, value_name = "N", default_value_t = 397, value_parser = clap::value_parser!(u32).range(1..=3650))]
        days: u32,
        /// Make a request for the hospital's authority instead of a certificate
        #[arg(long)]
        csr: bool,
        /// Replace certificate and key; the authority stays, and so do names that aren't given
        #[arg(long)]
        renew: bool,
        /// Make a new authority too; every client must then trust it anew
        #[arg(long, conflicts_with = "csr")]
        new_ca: bool,
    },
}

/// Does it, and says what to do next. `own_names` are the box's.
///
/// # Errors
/// What is wrong with the configuration, the names or the folder.
pub fn run(args: CertArgs, own_names: &[String]) -> anyhow::Result<String> {
    let mut config = CommonArgs { config: args.config, engine: None }.load()?;
    if let Some(folder) = args.state_dir {
        config.state.path = Some(folder);
    }
    let folder = config.state_dir().join(FOLDER);
    let CertCommand::Init { name, days, csr, renew, new_ca } = args.command;
    let mut names = name;
    if names.is_empty() && (!renew || csr || new_ca) {
        names = own_names.to_vec();
        names.extend(["localhost", "127.0.0.1", "::1"].map(str::to_owned));
    }
    let mut seen = std::collections::HashSet::new();
    names.retain(|name| seen.insert(name.clone()));
    let wanted = Wanted { names, days, renew, new_authority: new_ca };
    let at = |file: &str| folder.join(file).display().to_string();
    if csr {
        certificate::request(&folder, &wanted)?;
        return Ok(format!(
            "request: {}\nkey:     {} (stays here)\nHave the request signed, and put the answer, with what is between it and the\nauthority, to {}; a running daemon takes it by itself.\n",
            at(REQUEST),
            at(KEY),
            at(CERTIFICATE)
        ));
    }
    let facts = certificate::issue(&folder, &wanted)?;
    Ok(format!(
        "certificate: {} for {}\nkey:         {}\nauthority:   {}: have clients trust it; it can speak for these names only\nServe it with tls.listen = [\"0.0.0.0:8643\"].\n",
        at(CERTIFICATE),
        facts.names.join(", "),
        at(KEY),
        at(AUTHORITY)
    ))
}
