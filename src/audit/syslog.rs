//! Sends messages to the hospital's collector: syslog over TLS (RFC 5425), each framed by its
//! length.
//!
//! The trail on the disk is the record; this is its copy elsewhere. A collector that can't be
//! reached never delays anybody: up to [`QUEUE`] messages wait, the one under way is sent again
//! after a new connection, and what finds no room is counted.

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Messages that may wait; each has about 1.5 kB.
const QUEUE: usize = 4096;
const TIMEOUT: Duration = Duration::from_secs(10);
/// At the end of the daemon, for what is still on its way.
const PARTING: Duration = Duration::from_secs(3);
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// The way to the collector.
pub struct Sender {
    queue: SyncSender<String>,
    reached: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Sender {
    /// Starts the thread that sends. The collector may come later.
    ///
    /// # Errors
    /// When the authority's certificate or the address can't be used.
    pub fn start(address: &str, authority: &Path) -> io::Result<Self> {
        let wrong = |text: String| io::Error::new(io::ErrorKind::InvalidInput, text);
        let place =
            |error: &dyn std::fmt::Display| wrong(format!("{}: {error}", authority.display()));
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(authority).map_err(|e| place(&e))? {
            let certificate = certificate.map_err(|e| place(&e))?;
            roots.add(certificate).map_err(|e| place(&e))?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(|error| wrong(error.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let (host, _) = address.rsplit_once(':').ok_or_else(|| wrong("no port".to_owned()))?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(host).map_err(|error| wrong(error.to_string()))?;
        let (queue, messages) = sync_channel(QUEUE);
        let reached = Arc::new(AtomicBool::new(true));
        let wire = Wire {
            address: address.to_owned(),
            name,
            config: Arc::new(config),
            reached: Arc::clone(&reached),
        };
        let thread = std::thread::Builder::new().name("audit-syslog".to_owned());
        let thread = thread.spawn(move || wire.run(&messages))?;
        Ok(Self { queue, reached, thread })
    }

    /// Takes a message in; false when it finds no room.
    #[must_use]
    pub fn send(&self, message: String) -> bool {
        self.queue.try_send(message).is_ok()
    }

    /// Waits a moment for what is on its way. Blocking.
    pub fn finish(self) {
        drop(self.queue);
        let until = Instant::now() + PARTING;
        while !self.thread.is_finished() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Is the collector there, as far as is known?
    #[must_use]
    pub fn reached(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.reached)
    }
}

/// Ends a connection so that what was written last arrives: closing one that has unread bytes (TLS
/// tickets) would reset it.
fn part(stream: &mut Stream) {
    stream.conn.send_close_notify();
    let _ = stream.flush();
    let _ = stream.sock.set_read_timeout(Some(PARTING));
    let _ = stream.sock.shutdown(Shutdown::Write);
    let mut rest = [0; 1024];
    while stream.sock.read(&mut rest).is_ok_and(|read| read > 0) {}
}

struct Wire {
    address: String,
    name: ServerName<'static>,
    config: Arc<ClientConfig>,
    reached: Arc<AtomicBool>,
}

type Stream = StreamOwned<ClientConnection, TcpStream>;

impl Wire {
    fn run(&self, messages: &Receiver<String>) {
        let mut stream = None;
        while let Ok(message) = messages.recv() {
            let frame = format!("{} {message}", message.len());
            let mut pause = FIRST_PAUSE;
            while let Err(error) = self.put(&mut stream, frame.as_bytes()) {
                stream = None;
                if self.reached.swap(false, Ordering::Relaxed) {
                    tracing::warn!(%error, "the audit collector can't be reached");
                }
                std::thread::sleep(pause);
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            if !self.reached.swap(true, Ordering::Relaxed) {
                tracing::info!("the audit collector is reached again");
            }
        }
        if let Some(mut stream) = stream {
            part(&mut stream);
        }
    }

    fn put(&self, stream: &mut Option<Stream>, frame: &[u8]) -> io::Result<()> {
        if stream.is_none() {
            *stream = Some(self.connect()?);
        }
        let Some(stream) = stream else { return Ok(()) };
        stream.write_all(frame)?;
        stream.flush()
    }

    fn connect(&self) -> io::Result<Stream> {
        let mut last = io::Error::other("the collector's name has no address");
        for address in self.address.to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, TIMEOUT) {
                Ok(socket) => {
                    socket.set_read_timeout(Some(TIMEOUT))?;
                    socket.set_write_timeout(Some(TIMEOUT))?;
                    socket.set_nodelay(true)?;
                    let name = self.name.clone();
                    let connection = ClientConnection::new(Arc::clone(&self.config), name)
                        .map_err(io::Error::other)?;
                    let mut stream = StreamOwned::new(connection, socket);
                    while stream.conn.is_handshaking() {
                        stream.conn.complete_io(&mut stream.sock)?;
                    }
                    return Ok(stream);
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}
