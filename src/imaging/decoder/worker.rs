//! The parent's side of one child: start it, hand it one image, check what comes back.

use super::wire::{Reply, Request, Setup, info_from_bytes, receive, send, source_from_bytes};
use super::{Decoded, Program, Wanted, sealed};
use crate::domain::slice::{Format, Slice};
use crate::imaging::decode::DecodeError;
use crate::imaging::sniff::sniff;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A process that closes its socket ends at once, unless it means harm.
const LAST_MOMENT: Duration = Duration::from_millis(500);

/// An uncompressed 512 × 512 CT slice, and its header.
const USUAL_FILE: u64 = 512 * 512 * 2 + 16 * 1024;

/// A child that said it is ready. Dropping it ends and reaps it.
#[derive(Debug)]
pub(super) struct Worker {
    process: Child,
    socket: OwnedFd,
    setup: Setup,
    /// For the image's bytes.
    memory: Option<File>,
}

/// How one image's decoding went wrong.
#[derive(Debug)]
pub(super) enum Failure {
    /// The child said why.
    Refused(DecodeError),
    /// It ended before it read the image: not this image's fault.
    Gone,
    /// It ended without an answer.
    Died(String),
    /// It was still at it when its time was up.
    TimedOut,
    /// It answered something that can't be.
    Lied(&'static str),
    /// We could not hand it over.
    Ours(io::Error),
}

impl Worker {
    /// Starts a child and waits until its sandbox stands.
    pub(super) fn start(program: &Program, setup: Setup) -> io::Result<Self> {
        let kind = SocketType::SEQPACKET;
        let (socket, theirs) = socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?;
        // Before the child: what fails after it must not leave it behind.
        let memory = Some(sealed::prepare(USUAL_FILE)?);
        let process = Command::new(&program.path)
            .arg0("sam2d")
            .args(&program.arguments)
            .env_clear()
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let worker = Self { process, socket, setup, memory };
        send(&worker.socket, &setup.to_bytes(), None)?;
        if !worker.has_answer(Instant::now() + program.start)? {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the decoder child does not start",
            ));
        }
        let (reply, _) = receive(&worker.socket).map_err(|error| {
            io::Error::new(error.kind(), "the decoder child ended at its start")
        })?;
        match Reply::from_bytes(&reply) {
            Some(Reply::Ready) => Ok(worker),
            Some(Reply::Refused(reason)) => Err(io::Error::new(
                io::ErrorKind::Unsupported,
                format!(
                    "the decoder child can't be sandboxed here: {reason} \
                     (decoder.sandbox = \"off\" does without)"
                ),
            )),
            _ => {
                Err(io::Error::new(io::ErrorKind::InvalidData, "the decoder child talks nonsense"))
            }
        }
    }

    /// Has one image decoded.
    pub(super) fn decode(
        &mut self,
        bytes: &[u8],
        wanted: Wanted,
        deadline: Instant,
    ) -> Result<Decoded, Failure> {
        let memory = self.memory.take().ok_or(Failure::Gone)?;
        let file = sealed::fill(memory, &[bytes]).map_err(Failure::Ours)?;
        let Wanted { frame, identity } = wanted;
        let request = Request { length: bytes.len() as u64, frame, identity };
        send(&self.socket, &request.to_bytes(), Some(file.as_fd())).map_err(|_| Failure::Gone)?;
        drop(file);
        if !self.has_answer(deadline).map_err(Failure::Ours)? {
            return Err(Failure::TimedOut);
        }
        let (reply, file) = match receive(&self.socket) {
            Ok(received) => received,
            // unix(7): so it reads when the other side ended with our message unread.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                return Err(Failure::Gone);
            }
            Err(_) => return Err(Failure::Died(self.last_words())),
        };
        match Reply::from_bytes(&reply) {
            Some(Reply::Slice { samples, info, identity }) => {
                let file = file.ok_or(Failure::Lied("an answer without its memory"))?;
                self.checked(file, [samples, info, identity], (bytes, wanted))
            }
            Some(Reply::Error(error)) => Err(Failure::Refused(error)),
            _ => Err(Failure::Lied("an answer out of turn")),
        }
    }

    /// Maps an answer once nothing in it can be false about its shape.
    fn checked(
        &self,
        file: OwnedFd,
        [samples, info, identity]: [u64; 3],
        (bytes, wanted): (&[u8], Wanted),
    ) -> Result<Decoded, Failure> {
        let length = samples
            .checked_add(info)
            .and_then(|length| length.checked_add(identity))
            .filter(|&length| length <= self.setup.bounds.answer_bytes)
            .and_then(|length| usize::try_from(length).ok())
            .ok_or(Failure::Lied("an answer larger than any may be"))?;
        let samples = usize::try_from(samples).unwrap_or(length);
        let info_end = samples + usize::try_from(info).unwrap_or(length - samples);
        let memory = sealed::map(file, length)
            .map_err(|_| Failure::Lied("memory that is not as it says"))?;
        let (info, identity) = (memory.slice(samples..info_end), memory.slice(info_end..));
        let (info, samples) = info_from_bytes(&info, memory.slice(..samples))
            .ok_or(Failure::Lied("a description that can't be"))?;
        let size = info.size;
        if self.setup.limits.check(size.width.into(), size.height.into()).is_err() {
            return Err(Failure::Lied("a size past the limits"));
        }
        let frame = wanted.frame;
        if Some(info.format) != sniff(bytes) || frame.is_some_and(|frame| frame != info.frame) {
            return Err(Failure::Lied("another image than was asked for"));
        }
        let source = match (wanted.identity, info.format) {
            (true, Format::Dicom) => {
                let source = source_from_bytes(&identity, &info);
                Some(source.ok_or(Failure::Lied("an identity that can't be"))?)
            }
            _ if identity.is_empty() => None,
            _ => return Err(Failure::Lied("an identity nobody asked for")),
        };
        let slice = Slice::new(info, samples)
            .map_err(|_| Failure::Lied("samples that don't fill the image"))?;
        Ok(Decoded { slice, source })
    }

    /// Waits for a message or the end of the child; false when the deadline came first.
    fn has_answer(&self, deadline: Instant) -> io::Result<bool> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: left.subsec_nanos().into(),
            };
            let mut sockets = [PollFd::new(&self.socket, PollFlags::IN)];
            match poll(&mut sockets, Some(&timeout)) {
                Ok(0) if left.is_zero() => return Ok(false),
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                Ok(_) => return Ok(true),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// How it ended, for the log; one that only closed its socket is not waited for.
    fn last_words(&mut self) -> String {
        let until = Instant::now() + LAST_MOMENT;
        loop {
            match self.process.try_wait() {
                Ok(Some(status)) => {
                    return match status.signal() {
                        Some(signal) => format!("signal {signal}"),
                        None => format!("exit {}", status.code().unwrap_or(-1)),
                    };
                }
                Ok(None) if Instant::now() < until => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Ok(None) => return "closed its socket and went on".to_owned(),
                Err(error) => return error.to_string(),
            }
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Both fail only when it is gone already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
