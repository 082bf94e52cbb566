//! The child's side: one process, one image.
//!
//! It gets its limits, locks itself in, says so, waits for one image, answers, and ends. Nothing of
//! one image can reach the next one, because there is none.

use super::wire::{Reply, Request, Setup, info_to_bytes, receive, send, source_to_bytes};
use super::{sandbox, sealed};
use crate::imaging::decode::{DecodeError, Limits, decode, segmentation_source};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs `sam2d decode-child`: standard input is the socket to the parent.
pub fn main() -> ! {
    // A codec's panic is an answer, not a message; and there is nowhere to print it.
    std::panic::set_hook(Box::new(|_| {}));
    let code = match serve() {
        Ok(()) => 0,
        Err(_) => 1,
    };
    std::process::exit(code)
}

fn serve() -> io::Result<()> {
    let socket = rustix::stdio::stdin();
    let (setup, _) = receive(socket)?;
    let setup = Setup::from_bytes(&setup).ok_or_else(nonsense)?;
    let answer = warmed_up(&setup)?;
    let locked = sandbox::limit(setup.bounds)
        .and_then(|()| if setup.sandboxed { sandbox::lock() } else { Ok(()) });
    if let Err(error) = locked {
        return send(socket, &Reply::Refused(error.to_string()).to_bytes(), None);
    }
    send(socket, &Reply::Ready.to_bytes(), None)?;
    let (request, file) = match receive(socket) {
        // The daemon is going down: nobody asked anything.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
        received => received?,
    };
    let request = Request::from_bytes(&request).ok_or_else(nonsense)?;
    let file = file.ok_or_else(nonsense)?;
    match refused_on_panic(|| answer_to(request, file, &setup, answer)) {
        Ok((reply, file)) => send(socket, &reply.to_bytes(), Some(file.as_fd())),
        Err(error) => send(socket, &Reply::Error(error).to_bytes(), None),
    }
}

/// What costs time and needs no image: the answer's memory, the heap's, and the code itself.
fn warmed_up(setup: &Setup) -> io::Result<File> {
    /// A 512 × 512 slice as f32, and its description.
    const USUAL_ANSWER: u64 = (512 * 512 * 4) + 4096;
    let answer = sealed::prepare(USUAL_ANSWER.min(setup.bounds.answer_bytes))?;
    // The allocator keeps what was given back; the second time it comes from the heap that stays.
    for _ in 0..2 {
        std::hint::black_box(vec![1u8; 2 * 1024 * 1024]);
    }
    // Not under the configured limits: a box may take smaller images only than the one we warm up with.
    let known = decode(super::PROBE, None, &Limits::default());
    std::hint::black_box(known).map_err(io::Error::other)?;
    Ok(answer)
}

/// A codec's panic is the image's fault, and the child lives to say so.
fn refused_on_panic<T>(work: impl FnOnce() -> Result<T, DecodeError>) -> Result<T, DecodeError> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err(DecodeError::unreadable("its data is damaged")))
}

fn answer_to(
    request: Request,
    file: OwnedFd,
    setup: &Setup,
    answer: File,
) -> Result<(Reply, OwnedFd), DecodeError> {
    let ours = |error: io::Error| DecodeError::Unavailable(error.to_string());
    let length = usize::try_from(request.length).unwrap_or(usize::MAX);
    let bytes = sealed::map(file, length).map_err(ours)?;
    let slice = decode(&bytes, request.frame, &setup.limits)?;
    let info = info_to_bytes(slice.info(), slice.samples());
    let identity = if request.identity {
        segmentation_source(&bytes, request.frame, &setup.limits)?
            .map_or_else(Vec::new, |source| source_to_bytes(&source))
    } else {
        Vec::new()
    };
    let samples = slice.samples().bytes();
    let reply = Reply::Slice {
        samples: samples.len() as u64,
        info: info.len() as u64,
        identity: identity.len() as u64,
    };
    let sealed = sealed::fill(answer, &[samples, &info, &identity]).map_err(ours)?;
    // The process ends in a moment, and someone waits: giving memory back takes longer than sending.
    std::mem::forget((bytes, slice));
    Ok((reply, sealed))
}

fn nonsense() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "not a message of the parent")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_a_refusal() {
        let refused = refused_on_panic::<()>(|| panic!("in a codec"));
        assert!(matches!(refused, Err(DecodeError::Unreadable(_))), "{refused:?}");
        assert!(matches!(refused_on_panic(|| Ok(7)), Ok(7)));
    }
}
