//! The keys under `[http]`: where to listen, who may ask, and every limit with its reason.

use super::network::Cidr;
use serde::{Deserialize, Serialize};
use std::net::{Ipv4Addr, SocketAddr};

/// `[http]`.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Addresses to listen on. Anything but loopback also needs a rule for who may ask.
    pub listen: Vec<SocketAddr>,
    /// Prefixes under which the `/api/...` routes are repeated, as existing proxies expect them.
    pub base_paths: Vec<String>,
    /// Host names (or `name:port`) under which the box may be asked; anything else is 421, which
    /// stops DNS rebinding. `auto` stands for the loopback names, the bound addresses and the
    /// box's own names.
    pub allowed_hosts: Vec<String>,
    /// Origins of other hosts' pages that may ask, for example `https://editor.hospital.example`.
    pub allowed_origins: Vec<String>,
    /// Networks whose peers may ask without a token, for example an old backend's address.
    pub anonymous_networks: Vec<Cidr>,
    /// Everyone who reaches the box may ask. Explicit, because it is rarely meant.
    pub allow_anonymous: bool,
    /// Proxies whose `X-Forwarded-For` and `X-Forwarded-Host` are believed.
    pub trusted_proxies: Vec<Cidr>,

    /// Time for one request, from the end of its head; the editors give up after 35 s.
    pub request_timeout_s: u64,
    /// Time for a request head, from its first byte: a slow-loris client holds a connection no
    /// longer than this.
    pub head_timeout_s: u64,
    /// How long a connection may lie idle between requests; above the 60 s after which common
    /// proxies close their own side first.
    pub idle_timeout_s: u64,
    /// A body that brings nothing for this long is 408.
    pub body_idle_timeout_s: u64,
    /// How long an answer may wait for a client that takes less than 64 KiB of it meanwhile; then
    /// the connection ends.
    pub write_timeout_s: u64,

    /// Request line and headers together; single-sign-on cookies of an intranet reach 16 KiB.
    pub max_head_bytes: usize,
    /// Header lines of a request; browsers send about 20.
    pub max_headers: usize,
    /// One body. A 512×512 multi-frame CT of 100 frames is 50 MiB, and base64 adds a third.
    pub max_body_bytes: usize,
    /// Parts of a form; the contract knows 13.
    pub max_form_parts: usize,
    /// One text field of a form. `mask_input` and `image_data` may hold base64 and are bounded by
    /// `max_body_bytes` alone; all others are short.
    pub max_text_bytes: usize,
    /// All bodies together that are being read or worked on. Parsing a form may hold a body twice
    /// for a moment, so memory for uploads stays below twice this.
    pub max_inflight_bytes: usize,
    /// All bodies of one address together: half, so that nobody can take all; a proxy in
    /// `trusted_proxies` has no limit.
    pub max_inflight_bytes_per_client: usize,

    /// Connections in all; each costs a file and some 20 KiB.
    pub max_connections: usize,
    /// Connections of one address; a browser opens 6, a proxy in `trusted_proxies` has no limit.
    pub max_connections_per_client: usize,
    /// Requests of one address at a time that may need the engine: half of what may wait for it
    /// (`engine.max_queue`), so that nobody can take all; a proxy in `trusted_proxies` has no limit.
    pub max_requests_per_client: usize,

    /// At shutdown, how long idle connections stay open so that a request already on its way is
    /// still answered.
    pub drain_grace_ms: u64,
    /// At shutdown, how long requests in work are waited for: longer than `request_timeout_s`, so
    /// that every accepted one is answered.
    pub drain_timeout_s: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            listen: vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 8642))],
            base_paths: vec![String::new(), "/api/ctai".to_owned()],
            allowed_hosts: vec!["auto".to_owned()],
            allowed_origins: Vec::new(),
            anonymous_networks: Vec::new(),
            allow_anonymous: false,
            trusted_proxies: Vec::new(),
            request_timeout_s: 30,
            head_timeout_s: 10,
            idle_timeout_s: 75,
            body_idle_timeout_s: 10,
            write_timeout_s: 30,
            max_head_bytes: 32 << 10,
            max_headers: 100,
            max_body_bytes: 96 << 20,
            max_form_parts: 64,
            max_text_bytes: 64 << 10,
            max_inflight_bytes: 512 << 20,
            max_inflight_bytes_per_client: 256 << 20,
            max_connections: 512,
            max_connections_per_client: 64,
            max_requests_per_client: 32,
            drain_grace_ms: 300,
            drain_timeout_s: 35,
        }
    }
}

impl Options {
    /// What is wrong with these keys, in words that say what to write; empty when nothing is.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if self.listen.is_empty() {
            faults.push("http.listen is empty: nothing could be asked".to_owned());
        }
        for path in &self.base_paths {
            let absolute = path.is_empty() || (path.starts_with('/') && !path.ends_with('/'));
            if !absolute || path.contains(['?', '#', '%', ' ']) || path.contains("//") {
                faults.push(format!(
                    "http.base_paths: \"{path}\" must be empty or a path such as \"/api/ctai\", without a slash at its end"
                ));
            }
        }
        for origin in &self.allowed_origins {
            if super::guard::Origin::parse(origin).is_none() {
                faults.push(format!(
                    "http.allowed_origins: \"{origin}\" must be a scheme, a host and nothing more, such as \"https://editor.hospital.example\""
                ));
            }
        }
        for (name, value) in [
            ("request_timeout_s", self.request_timeout_s),
            ("head_timeout_s", self.head_timeout_s),
            ("idle_timeout_s", self.idle_timeout_s),
            ("body_idle_timeout_s", self.body_idle_timeout_s),
            ("write_timeout_s", self.write_timeout_s),
            ("max_headers", self.max_headers as u64),
            ("max_body_bytes", self.max_body_bytes as u64),
            ("max_connections", self.max_connections as u64),
            ("max_connections_per_client", self.max_connections_per_client as u64),
            ("max_requests_per_client", self.max_requests_per_client as u64),
        ] {
            if value == 0 {
                faults.push(format!("http.{name} must not be 0"));
            }
        }
        if self.max_head_bytes < 1024 {
            faults.push("http.max_head_bytes must be at least 1024".to_owned());
        }
        if self.max_inflight_bytes < self.max_body_bytes {
            faults.push(format!(
                "http.max_inflight_bytes ({}) must hold at least one body (http.max_body_bytes = {})",
                self.max_inflight_bytes, self.max_body_bytes
            ));
        }
        if self.max_inflight_bytes_per_client < self.max_body_bytes {
            faults.push(format!(
                "http.max_inflight_bytes_per_client ({}) must hold at least one body (http.max_body_bytes = {})",
                self.max_inflight_bytes_per_client, self.max_body_bytes
            ));
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_have_no_faults_and_survive_the_configuration_file() {
        let options = Options::default();
        assert_eq!(options.faults(), Vec::<String>::new());
        let text = toml::to_string(&options).unwrap();
        assert_eq!(toml::from_str::<Options>(&text).unwrap(), options);
        assert!(toml::from_str::<Options>("max_bodybytes = 1").is_err());
    }

    #[test]
    fn every_fault_names_its_key() {
        struct Case(fn(&mut Options), &'static str);
        for Case(spoil, key) in [
            Case(|o| o.listen.clear(), "http.listen"),
            Case(|o| o.base_paths.push("api".into()), "http.base_paths"),
            Case(|o| o.base_paths.push("/api/".into()), "http.base_paths"),
            Case(|o| o.allowed_origins.push("*".into()), "http.allowed_origins"),
            Case(|o| o.allowed_origins.push("null".into()), "http.allowed_origins"),
            Case(|o| o.allowed_origins.push("https://a/b".into()), "http.allowed_origins"),
            Case(|o| o.head_timeout_s = 0, "http.head_timeout_s"),
            Case(|o| o.write_timeout_s = 0, "http.write_timeout_s"),
            Case(|o| o.max_head_bytes = 10, "http.max_head_bytes"),
            Case(|o| o.max_inflight_bytes = 1, "http.max_inflight_bytes"),
            Case(|o| o.max_inflight_bytes_per_client = 1, "http.max_inflight_bytes_per_client"),
        ] {
            let mut options = Options::default();
            spoil(&mut options);
            let faults = options.faults();
            assert!(faults.iter().any(|fault| fault.contains(key)), "{key}: {faults:?}");
        }
    }
}
