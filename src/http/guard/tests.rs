//! The rules, one after the other, on heads of requests.

use super::*;
use http::header::HOST;

fn options() -> Options {
    Options { allowed_origins: vec!["https://editor.example".to_owned()], ..Options::default() }
}

fn connection(peer: &str, local: &str) -> Connection {
    Connection { peer: peer.parse().unwrap(), local: local.parse().unwrap(), certificate: None }
}

fn ask(options: &Options, peer: &str, headers: &[(&'static str, &str)]) -> Result<Passed, Code> {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(*name, value.parse().unwrap());
    }
    let guard = Guard::new(options, &["Box7".to_owned()]);
    let connection = connection(peer, "10.0.0.5:8642");
    guard.check(&Uri::from_static("/"), &map, &connection).map_err(|problem| problem.code())
}

fn host(options: &Options, host: &str) -> Result<Passed, Code> {
    ask(options, "127.0.0.1:9", &[("host", host)])
}

#[test]
fn only_names_of_the_box_are_served() {
    let auto = options();
    for good in [
        "localhost",
        "LOCALHOST:8642",
        "localhost.",
        "127.0.0.1:8642",
        "127.8.9.1",
        "[::1]:1",
        "10.0.0.5",
        "10.0.0.5:99",
        "box7",
        "BOX7:8642",
        "[::ffff:10.0.0.5]",
    ] {
        assert!(host(&auto, good).is_ok(), "{good}");
    }
    for bad in ["evil.example", "10.0.0.6", "localhost.evil.example", "box7.evil", "box", "xbox7"] {
        assert_eq!(host(&auto, bad), Err(Code::WrongHost), "{bad}");
    }
    for malformed in ["", "localhost@evil.example", "a b", "evil.example@localhost", "[::1"] {
        assert_eq!(host(&auto, malformed), Err(Code::InvalidRequest), "{malformed}");
    }
    let twice = [("host", "localhost"), ("host", "localhost")];
    assert_eq!(ask(&auto, "127.0.0.1:9", &twice), Err(Code::InvalidRequest));
    assert_eq!(ask(&auto, "127.0.0.1:9", &[]), Err(Code::InvalidRequest));
}

#[test]
fn a_list_of_hosts_replaces_the_automatic_ones() {
    let hosts = vec!["sam2.example".to_owned(), "other:81".to_owned()];
    let options = Options { allowed_hosts: hosts, ..options() };
    for good in ["sam2.example", "sam2.example:1", "other:81"] {
        assert!(host(&options, good).is_ok(), "{good}");
    }
    for bad in ["localhost", "10.0.0.5", "box7", "other", "other:82"] {
        assert_eq!(host(&options, bad), Err(Code::WrongHost), "{bad}");
    }
}

#[test]
fn an_absolute_target_counts_instead_of_the_header() {
    let guard = Guard::new(&options(), &[]);
    let mut headers = HeaderMap::new();
    headers.insert(HOST, HeaderValue::from_static("localhost"));
    let uri = Uri::from_static("http://evil.example/");
    let problem = guard.check(&uri, &headers, &connection("127.0.0.1:9", "127.0.0.1:1"));
    assert_eq!(problem.unwrap_err().code(), Code::WrongHost);
}

#[test]
fn only_pages_of_the_box_and_of_listed_origins_may_ask() {
    let origin = |host: &str, origin: &str| {
        ask(&options(), "127.0.0.1:9", &[("host", host), ("origin", origin)])
    };
    for (host, good) in [
        ("localhost:8642", "http://localhost:8642"),
        ("localhost", "https://localhost"),
        ("localhost:443", "https://LOCALHOST"),
        ("box7", "http://box7:80"),
        ("box7", "https://editor.example"),
        ("box7", "https://editor.example:443"),
    ] {
        assert_eq!(origin(host, good).unwrap().origin.unwrap(), good);
    }
    for (host, bad) in [
        ("localhost:8642", "http://localhost"),
        ("localhost:8642", "http://localhost:8643"),
        ("localhost:8642", "http://127.0.0.1:8642"),
        ("box7", "http://editor.example"),
        ("box7", "https://editor.example.evil"),
        ("box7", "https://editor.example/x"),
        ("box7", "https://a@editor.example"),
        ("box7", "null"),
        ("box7", ""),
        ("box7", "box7"),
        ("box7", "file://box7"),
    ] {
        assert_eq!(origin(host, bad), Err(Code::Forbidden), "{bad}");
    }
    let twice = [("host", "box7"), ("origin", "http://box7"), ("origin", "http://evil.example")];
    assert_eq!(ask(&options(), "127.0.0.1:9", &twice), Err(Code::Forbidden));
    let without = ask(&options(), "127.0.0.1:9", &[("host", "box7")]).unwrap();
    assert_eq!(without.origin, None);
}

#[test]
fn strangers_ask_open_routes_only_and_named_networks_everything() {
    let networks = vec!["10.1.0.0/16".parse().unwrap()];
    let named = Options { anonymous_networks: networks, ..options() };
    let everybody = Options { allow_anonymous: true, ..options() };
    let caller =
        |options: &Options, peer: &str| ask(options, peer, &[("host", "box7")]).unwrap().caller;
    assert_eq!(caller(&named, "10.1.2.3:9"), Caller::Known);
    assert_eq!(caller(&named, "127.0.0.1:9"), Caller::Known);
    assert_eq!(caller(&named, "10.2.0.1:9"), Caller::Stranger);
    assert_eq!(caller(&everybody, "10.2.0.1:9"), Caller::Known);
    assert_eq!(caller(&options(), "10.2.0.1:9"), Caller::Stranger);
    let guard = Guard::new(&named, &[]);
    for route in Route::all() {
        let open = matches!(route.template(), "/livez" | "/readyz" | "/health" | "/openapi.json")
            || matches!(route.template(), "/" | "/client.js" | "/editor/{file}")
            || route.template().starts_with("/v2/")
            || route.template().ends_with("/sam2/health");
        assert_eq!(guard.admit(&Caller::Stranger, route).is_ok(), open, "{route:?}");
        assert!(guard.admit(&Caller::Known, route).is_ok());
    }
}

#[test]
fn a_proxy_s_word_counts_only_where_it_is_trusted() {
    let proxied = [
        ("host", "10.0.0.5"),
        ("x-forwarded-host", "evil.example"),
        ("x-forwarded-for", "10.2.0.1"),
    ];
    let passed = ask(&options(), "127.0.0.1:9", &proxied).unwrap();
    assert_eq!(passed.client.to_string(), "127.0.0.1");
    let trusted_proxies = vec!["127.0.0.1".parse().unwrap()];
    let trusting = Options { trusted_proxies, ..options() };
    assert_eq!(ask(&trusting, "127.0.0.1:9", &proxied), Err(Code::WrongHost));
    let honest = [("host", "x"), ("x-forwarded-host", "box7"), ("x-forwarded-for", "10.2.0.1")];
    let passed = ask(&trusting, "127.0.0.1:9", &honest).unwrap();
    assert_eq!((passed.client.to_string(), passed.caller), ("10.2.0.1".into(), Caller::Stranger));
}

#[test]
fn an_open_address_needs_a_rule_for_who_may() {
    let loopback: SocketAddr = "127.0.0.1:8642".parse().unwrap();
    let off = Keeper::off().unwrap();
    let mapped: SocketAddr = "[::ffff:127.0.0.1]:8642".parse().unwrap();
    assert_eq!(may_listen(&options(), &[loopback, mapped], &off), Ok(()));
    for open in ["0.0.0.0:8642", "[::]:8642", "10.0.0.5:1", "[fe80::1]:1"] {
        let address = open.parse().unwrap();
        let refused = may_listen(&options(), &[loopback, address], &off).unwrap_err();
        assert_eq!(refused.address, address);
        assert!(refused.to_string().contains("http.anonymous_networks"), "{refused}");
        let everybody = Options { allow_anonymous: true, ..options() };
        assert_eq!(may_listen(&everybody, &[address], &off), Ok(()));
        let networks = vec!["10.1.2.3".parse().unwrap()];
        let named = Options { anonymous_networks: networks, ..options() };
        assert_eq!(may_listen(&named, &[address], &off), Ok(()));
    }
}
