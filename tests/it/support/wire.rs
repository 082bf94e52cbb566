//! A served box and a client that says exactly what it is told to.

use sam2d::access;
use sam2d::access::keeper::Keeper;
use sam2d::http::Options;
use sam2d::http::server::Server;
use sam2d::service::Service;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// A service behind its sockets.
pub(crate) struct Served {
    pub(crate) address: SocketAddr,
    stop: oneshot::Sender<()>,
    ended: JoinHandle<bool>,
}

impl Served {
    /// On a free port of this machine.
    pub(crate) async fn start(service: Service, options: Options) -> Self {
        let options = Options { listen: vec![([127, 0, 0, 1], 0).into()], ..options };
        Self::serve(Server::bind(&options).await.unwrap(), service)
    }

    pub(crate) fn serve(server: Server, service: Service) -> Self {
        let address = server.addresses()[0];
        let (stop, stopped) = oneshot::channel();
        let serving = server.serve(service, async {
            let _ = stopped.await;
        });
        Self { address, stop, ended: tokio::spawn(serving) }
    }

    /// The same, where tokens are asked for.
    pub(crate) async fn start_with_tokens(
        service: Service,
        options: Options,
        keeper: Keeper,
        access: &access::Options,
    ) -> Self {
        let options = Options { listen: vec![([127, 0, 0, 1], 0).into()], ..options };
        let server = Server::bind(&options).await.unwrap().with_tokens(keeper, access);
        Self::serve(server, service)
    }

    /// Sends the stop signal and waits for the end of the drain.
    pub(crate) async fn stop(self) -> bool {
        let _ = self.stop.send(());
        self.ended.await.unwrap()
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[], b"").await
    }

    pub(crate) async fn json(&self, path: &str, body: &str) -> Answer {
        let headers = [("Content-Type", "application/json")];
        self.ask("POST", path, &headers, body.as_bytes()).await
    }

    pub(crate) async fn form(&self, path: &str, parts: &[(&str, &[u8])]) -> Answer {
        let headers = [("Content-Type", FORM)];
        self.ask("POST", path, &headers, &form(parts)).await
    }

    pub(crate) async fn ask(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        let mut request = request(method, path, headers, Some(body.len()));
        request.extend_from_slice(body);
        let mut answers = self.raw(&request).await;
        assert_eq!(answers.len(), 1, "{method} {path}");
        answers.remove(0)
    }

    /// Sends bytes as they are and reads until the box closes; it does so after a request with
    /// `Connection: close`.
    pub(crate) async fn raw(&self, bytes: &[u8]) -> Vec<Answer> {
        self.raw_from([127, 0, 0, 1], bytes).await
    }

    /// The same from another address of this machine.
    pub(crate) async fn raw_from(&self, client: [u8; 4], bytes: &[u8]) -> Vec<Answer> {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((client, 0).into()).unwrap();
        let mut stream = socket.connect(self.address).await.unwrap();
        // A refusal may come, and the box stop reading, before everything is sent.
        let _ = stream.write_all(bytes).await;
        let mut all = Vec::new();
        let _ = stream.read_to_end(&mut all).await;
        answers(&all)
    }

    /// The value of a metric, `name{labels}`; 0 where it is not there yet.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").await.text();
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.map_or(0.0, |value| value.trim().parse().unwrap())
    }
}

/// The content type of [`form`].
pub(crate) const FORM: &str = "multipart/form-data; boundary=part";

/// A form; parts named `file` and `image` get a file name.
pub(crate) fn form(parts: &[(&str, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (name, bytes) in parts {
        let file =
            if ["file", "image"].contains(name) { "; filename=\"Canary^Name.dcm\"" } else { "" };
        let head =
            format!("--part\r\nContent-Disposition: form-data; name=\"{name}\"{file}\r\n\r\n");
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(bytes);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b"--part--\r\n");
    body
}

/// The head of a request that is the last of its connection. `headers` may bring a Host of their
/// own.
pub(crate) fn request(
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    length: Option<usize>,
) -> Vec<u8> {
    let mut head = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
    if !headers.iter().any(|(name, _)| *name == "Host") {
        head += "Host: localhost\r\n";
    }
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    match length {
        Some(length) if length > 0 || method == "POST" => {
            head += &format!("Content-Length: {length}\r\n");
        }
        _ => {}
    }
    (head + "\r\n").into_bytes()
}

/// A response as it came.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| &**value)
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    pub(crate) fn value(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {}", self.text()))
    }

    /// The code of a problem, whose form is checked on the way.
    pub(crate) fn code(&self) -> String {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let problem = self.value();
        assert_eq!(problem["status"], self.status);
        assert_eq!(problem["request_id"], self.header("x-request-id").unwrap());
        assert!(!problem["detail"].as_str().unwrap().is_empty());
        problem["code"].as_str().unwrap().to_owned()
    }
}

/// Splits what came on one connection into responses; bodies have a Content-Length or are empty.
pub(crate) fn answers(mut bytes: &[u8]) -> Vec<Answer> {
    let mut answers = Vec::new();
    while let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
        let head = std::str::from_utf8(&bytes[..end]).unwrap();
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers: Vec<_> = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect();
        let length = headers.iter().find(|(name, _)| name == "content-length");
        let length = length.map_or(0, |(_, length)| length.parse().unwrap());
        bytes = &bytes[end + 4..];
        // A HEAD's answer tells the length of a body that does not come.
        let body = bytes.get(..length).unwrap_or_default().to_vec();
        bytes = bytes.get(length..).unwrap_or_default();
        answers.push(Answer { status, headers, body });
    }
    answers
}
