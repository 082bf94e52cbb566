//! `[control]`, and where the socket is.

use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Name of the socket in its folder.
const NAME: &str = "control.sock";
/// Where systemd makes the service's runtime folder.
const OF_THE_SERVICE: &str = "/run/sam2d";

/// `[control]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// The socket that `sam2d cache …` asks a running daemon through; only root and the daemon's
    /// user are answered. Unset: control.sock in `$RUNTIME_DIRECTORY` (systemd sets it), else in
    /// `$XDG_RUNTIME_DIR/sam2d`, else in the state folder. At most 107 bytes, says the kernel.
    pub socket: Option<PathBuf>,
    /// Clients answered at a time; more wait. Each may read the whole cache once.
    pub max_clients: usize,
    /// Time for a client's request, and for it to take what it is sent.
    pub timeout_s: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { socket: None, max_clients: 4, timeout_s: 10 }
    }
}

impl Options {
    /// What makes no sense, a sentence each.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        let mut faults = vec![];
        if self.max_clients == 0 {
            faults.push("control.max_clients is 0: nobody could ask; 1 or more".to_owned());
        }
        if self.timeout_s == 0 {
            faults.push("control.timeout_s is 0: no request could come in time".to_owned());
        }
        faults
    }

    /// Where a daemon puts the socket.
    #[must_use]
    pub fn own_path(&self, state_dir: &Path) -> PathBuf {
        self.candidates(state_dir, &|name| std::env::var_os(name))
            .into_iter()
            .next()
            .unwrap_or_else(|| state_dir.join(NAME))
    }

    /// Where a client looks for it, in this order: where a daemon of this user would put it, and
    /// where the service has it.
    #[must_use]
    pub fn known_paths(&self, state_dir: &Path) -> Vec<PathBuf> {
        let mut paths = self.candidates(state_dir, &|name| std::env::var_os(name));
        if self.socket.is_none() {
            paths.push(Path::new(OF_THE_SERVICE).join(NAME));
        }
        paths
    }

    fn candidates(
        &self,
        state_dir: &Path,
        variable: &dyn Fn(&str) -> Option<OsString>,
    ) -> Vec<PathBuf> {
        if let Some(socket) = &self.socket {
            return vec![socket.clone()];
        }
        let absolute = |path: PathBuf| path.is_absolute().then_some(path);
        // systemd gives a list when a unit has several; ours has one.
        let first = |list: OsString| std::env::split_paths(&list).next();
        let from_systemd = variable("RUNTIME_DIRECTORY").and_then(first).and_then(absolute);
        let of_session = variable("XDG_RUNTIME_DIR").map(PathBuf::from).and_then(absolute);
        let folders = [from_systemd, of_session.map(|path| path.join("sam2d"))];
        let last = state_dir.to_owned();
        folders.into_iter().flatten().chain([last]).map(|folder| folder.join(NAME)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_is_where_it_is_set_else_in_the_runtime_folder_else_with_the_state() {
        let state = Path::new("/state");
        let paths = |set: &[(&str, &str)], socket: Option<&str>| -> Vec<String> {
            let variable = |name: &str| {
                set.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into())
            };
            let options = Options { socket: socket.map(Into::into), ..Options::default() };
            let paths = options.candidates(state, &variable);
            paths.iter().map(|path| path.display().to_string()).collect()
        };
        assert_eq!(paths(&[], None), ["/state/control.sock"]);
        assert_eq!(paths(&[("XDG_RUNTIME_DIR", "relative")], None), ["/state/control.sock"]);
        let both = [("RUNTIME_DIRECTORY", "/run/a:/run/b"), ("XDG_RUNTIME_DIR", "/run/user/7")];
        let expected = ["/run/a/control.sock", "/run/user/7/sam2d/control.sock"];
        assert_eq!(paths(&both, None)[..2], expected);
        assert_eq!(paths(&both, Some("/x/y")), ["/x/y"]);
    }
}
