//! Children that misbehave, each in its own way, and what the parent makes of them.
//!
//! A stand-in is this test binary, run again with the name of one ignored test: it is honest about the
//! probe image and does its worst on any other (unless it is named for doing so always).

use super::wire::{Reply, Request, Setup, info_to_bytes, receive, send};
use super::*;
use crate::domain::slice::{Format, Samples, Size, SliceInfo, Voi};
use bytes::Bytes;
use rustix::fs::{SealFlags, fcntl_add_seals};
use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

/// 2 × 2 grey; any image but the probe.
const IMAGE: &[u8] = include_bytes!("../../../tests/fixtures/decode/grey_2x2.png");

const SEALS: SealFlags =
    SealFlags::SEAL.union(SealFlags::SHRINK).union(SealFlags::GROW).union(SealFlags::WRITE);

/// The two sides' socket, unless a person runs the ignored tests.
fn socket() -> Option<BorrowedFd<'static>> {
    let stdin = rustix::stdio::stdin();
    rustix::net::sockopt::socket_type(stdin).is_ok().then_some(stdin)
}

/// Plays a child up to the request, answers the probe honestly, and hands anything else to `worst`.
fn child(worst: impl FnOnce(BorrowedFd<'static>, Request)) {
    let Some(socket) = socket() else { return };
    let (setup, _) = receive(socket).unwrap();
    let setup = Setup::from_bytes(&setup).unwrap();
    send(socket, &Reply::Ready.to_bytes(), None).unwrap();
    let Ok((request, file)) = receive(socket) else { std::process::exit(0) };
    let request = Request::from_bytes(&request).unwrap();
    let bytes = sealed::map(file.unwrap(), usize::try_from(request.length).unwrap()).unwrap();
    if bytes != PROBE {
        worst(socket, request);
        std::process::exit(0);
    }
    let slice = match super::super::decode::decode(&bytes, None, &setup.limits) {
        Ok(slice) => slice,
        Err(error) => {
            send(socket, &Reply::Error(error).to_bytes(), None).unwrap();
            std::process::exit(0);
        }
    };
    let info = info_to_bytes(slice.info(), slice.samples());
    let samples = slice.samples().bytes();
    let file = sealed::fill(sealed::create().unwrap(), &[samples, &info]).unwrap();
    let reply =
        Reply::Slice { samples: samples.len() as u64, info: info.len() as u64, identity: 0 };
    send(socket, &reply.to_bytes(), Some(file.as_fd())).unwrap();
    std::process::exit(0);
}

fn info(size: Size) -> SliceInfo {
    SliceInfo::picture(size, Format::Png)
}

const SIZE: Size = Size { width: 2, height: 2 };

/// An answer that would be right, changed before it is sent.
fn answer(socket: BorrowedFd<'_>, info: &SliceInfo, samples: &[u8], seals: SealFlags) -> File {
    answer_in(sealed::create().unwrap(), socket, info, samples, seals)
}

fn answer_in(
    mut file: File,
    socket: BorrowedFd<'_>,
    info: &SliceInfo,
    samples: &[u8],
    seals: SealFlags,
) -> File {
    let description = info_to_bytes(info, &Samples::Grey8(Bytes::new()));
    file.write_all(samples).unwrap();
    file.write_all(&description).unwrap();
    fcntl_add_seals(&file, seals).unwrap();
    let reply =
        Reply::Slice { samples: samples.len() as u64, info: description.len() as u64, identity: 0 };
    send(socket, &reply.to_bytes(), Some(file.as_fd())).unwrap();
    file
}

/// Locked in as the real child is, with a second of processor time, it does `what`; if it may, it
/// answers rightly.
fn locked_in(socket: BorrowedFd<'_>, what: impl FnOnce()) {
    let file = sealed::create().unwrap();
    let usual = Options::default().setup().bounds;
    sandbox::limit(Bounds { cpu_s: 1, memory_bytes: 1 << 30, ..usual }).unwrap();
    sandbox::lock().unwrap();
    what();
    answer_in(file, socket, &info(SIZE), &[1, 2, 3, 4], SEALS);
}

macro_rules! stand_ins {
    ($($name:ident => $worst:expr;)*) => {
        $(
            #[test]
            #[ignore = "a child that misbehaves; the other tests run it"]
            fn $name() {
                child($worst);
            }
        )*
    };
}

stand_ins! {
    is_honest => |socket, _| { answer(socket, &info(SIZE), &[1, 2, 3, 4], SEALS); };
    omits_every_seal => |socket, _| {
        answer(socket, &info(SIZE), &[1, 2, 3, 4], SealFlags::empty());
    };
    omits_the_write_seal => |socket, _| {
        answer(socket, &info(SIZE), &[1, 2, 3, 4], SEALS.difference(SealFlags::WRITE));
    };
    seals_only_against_future_writes => |socket, _| {
        let seals = SEALS.difference(SealFlags::WRITE).union(SealFlags::FUTURE_WRITE);
        answer(socket, &info(SIZE), &[1, 2, 3, 4], seals);
    };
    shrinks_after_reporting => |socket, _| {
        let seals = SEALS.difference(SealFlags::SHRINK).difference(SealFlags::WRITE);
        let file = answer(socket, &info(SIZE), &[1, 2, 3, 4], seals);
        file.set_len(1).unwrap();
        std::thread::sleep(Duration::from_secs(60));
    };
    rewrites_after_reporting => |socket, _| {
        let mut file = answer(socket, &info(SIZE), &[1, 2, 3, 4], SealFlags::empty());
        loop {
            use std::io::Seek as _;
            file.rewind().unwrap();
            file.write_all(&[9, 9, 9, 9]).unwrap();
        }
    };
    claims_more_bytes_than_there_are => |socket, _| {
        let file = sealed::fill(sealed::create().unwrap(), &[&[0; 64]]).unwrap();
        let reply = Reply::Slice { samples: 4, info: 4096, identity: 0 };
        send(socket, &reply.to_bytes(), Some(file.as_fd())).unwrap();
    };
    claims_lengths_that_overflow => |socket, _| {
        let file = sealed::fill(sealed::create().unwrap(), &[&[0; 64]]).unwrap();
        let reply = Reply::Slice { samples: u64::MAX, info: 65, identity: 0 };
        send(socket, &reply.to_bytes(), Some(file.as_fd())).unwrap();
    };
    claims_more_than_any_answer_may_have => |socket, _| {
        let file = sealed::create().unwrap();
        file.set_len(1 << 40).unwrap();
        fcntl_add_seals(&file, SEALS).unwrap();
        let reply = Reply::Slice { samples: 1 << 39, info: 1 << 39, identity: 0 };
        send(socket, &reply.to_bytes(), Some(file.as_fd())).unwrap();
    };
    claims_a_larger_image_than_its_samples => |socket, _| {
        answer(socket, &info(Size { width: 200, height: 2 }), &[1, 2, 3, 4], SEALS);
    };
    claims_a_size_past_the_limits => |socket, _| {
        answer(socket, &info(Size { width: 2, height: 3 }), &[1, 2, 3, 4, 5, 6], SEALS);
    };
    claims_a_size_of_zero => |socket, _| {
        answer(socket, &info(Size { width: 0, height: 0 }), &[], SEALS);
    };
    answers_for_another_format => |socket, _| {
        answer(socket, &SliceInfo { format: Format::Dicom, ..info(SIZE) }, &[1, 2, 3, 4], SEALS);
    };
    answers_for_another_frame => |socket, _| {
        answer(socket, &SliceInfo { frame: 1, frames: 2, ..info(SIZE) }, &[1, 2, 3, 4], SEALS);
    };
    sends_an_identity_nobody_asked_for => |socket, _| {
        let samples = [1u8, 2, 3, 4];
        let description = info_to_bytes(&info(SIZE), &Samples::Grey8(Bytes::new()));
        let name = b"\x10\0\x10\0\x01\0\0\0A";
        let parts = [&samples[..], &description, &name[..]];
        let [samples, info, identity] = parts.map(|part| part.len() as u64);
        let file = sealed::fill(sealed::create().unwrap(), &parts).unwrap();
        let reply = Reply::Slice { samples, info, identity };
        send(socket, &reply.to_bytes(), Some(file.as_fd())).unwrap();
    };
    describes_a_window_that_can_not_be => |socket, _| {
        let window = crate::domain::slice::Window {
            center: f64::NAN,
            width: -1.0,
            function: crate::domain::slice::WindowFunction::Linear,
        };
        answer(socket, &SliceInfo { voi: Voi::Window(window), ..info(SIZE) }, &[1, 2, 3, 4], SEALS);
    };
    sends_no_memory => |socket, _| {
        send(socket, &Reply::Slice { samples: 4, info: 50, identity: 0 }.to_bytes(), None).unwrap();
    };
    sends_a_plain_file => |socket, _| {
        let file: OwnedFd = File::open("/proc/self/exe").unwrap().into();
        send(socket, &Reply::Slice { samples: 4, info: 50, identity: 0 }.to_bytes(), Some(file.as_fd())).unwrap();
    };
    talks_nonsense => |socket, _| send(socket, &[0xA5; 1000], None).unwrap();
    says_ready_again => |socket, _| send(socket, &Reply::Ready.to_bytes(), None).unwrap();
    hangs => |_, _| std::thread::sleep(Duration::from_secs(600));
    loops => |_, _| loop { std::hint::spin_loop(); };
    closes_its_socket_and_hangs => |_, _| {
        rustix::stdio::dup2_stdin(File::open("/dev/null").unwrap()).unwrap();
        std::thread::sleep(Duration::from_secs(600));
    };
    ends_without_a_word => |_, _| {};
    aborts => |_, _| std::process::abort();
    is_locked_in => |socket, _| locked_in(socket, || {});
    knows_its_limits => |socket, _| {
        use rustix::process::{DumpableBehavior, Resource, dumpable_behavior, getrlimit};
        let bounds = Options::default().setup().bounds;
        sandbox::limit(bounds).unwrap();
        let limits = [Resource::Core, Resource::Nofile, Resource::Fsize, Resource::Cpu, Resource::As];
        let (size, time, memory) = (bounds.answer_bytes, bounds.cpu_s, bounds.memory_bytes);
        let expected = [0, 16, size, time, memory].map(Some);
        assert_eq!(limits.map(|limit| getrlimit(limit).maximum), expected);
        assert_eq!(dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
        answer(socket, &info(SIZE), &[1, 2, 3, 4], SEALS);
    };
    opens_a_file => |socket, _| locked_in(socket, || drop(File::open("/etc/hostname")));
    lists_a_folder => |socket, _| locked_in(socket, || drop(std::fs::read_dir("/")));
    opens_a_socket => |socket, _| {
        locked_in(socket, || drop(std::net::UdpSocket::bind("127.0.0.1:0")));
    };
    starts_a_process => |socket, _| {
        locked_in(socket, || drop(std::process::Command::new("/bin/true").status()));
    };
    starts_a_thread => |socket, _| {
        locked_in(socket, || drop(std::thread::Builder::new().spawn(|| {})));
    };
    makes_memory_code => |socket, _| {
        let memory = memmap2::MmapMut::map_anon(4096).unwrap();
        locked_in(socket, || drop(memory.make_exec()));
    };
    ends_its_parent => |socket, _| {
        let parent = rustix::process::getppid().unwrap();
        locked_in(socket, || rustix::process::test_kill_process(parent).unwrap());
    };
    takes_all_memory => |socket, _| {
        locked_in(socket, || drop(std::hint::black_box(vec![1u8; 2 << 30])));
    };
    takes_all_time => |socket, _| {
        locked_in(socket, || loop { std::hint::spin_loop(); });
    };
    answers_without_end => |socket, _| {
        let file = sealed::create().unwrap();
        locked_in(socket, || file.set_len(1 << 40).unwrap());
    };
    is_killed => |_, _| {
        let own = rustix::process::getpid();
        rustix::process::kill_process(own, rustix::process::Signal::KILL).unwrap();
    };
}

#[test]
#[ignore = "a child that misbehaves; the other tests run it"]
fn always_aborts() {
    let Some(socket) = socket() else { return };
    receive(socket).unwrap();
    send(socket, &Reply::Ready.to_bytes(), None).unwrap();
    if receive(socket).is_ok() {
        std::process::abort();
    }
}

#[test]
#[ignore = "a child that misbehaves; the other tests run it"]
fn never_gets_ready() {
    if socket().is_some() {
        std::thread::sleep(Duration::from_secs(600));
    }
}

#[test]
#[ignore = "a child that misbehaves; the other tests run it"]
fn dies_while_it_waits() {
    let Some(socket) = socket() else { return };
    receive(socket).unwrap();
    send(socket, &Reply::Ready.to_bytes(), None).unwrap();
}

/// Killed with the image before it, unread, if the file that its last argument names is still there: the
/// first child finds it, the next ones are honest.
#[test]
#[ignore = "a child that misbehaves; the other tests run it"]
fn is_killed_once_before_it_reads() {
    let Some(socket) = socket() else { return };
    if std::fs::remove_file(std::env::args().next_back().unwrap()).is_err() {
        return child(|socket, _| drop(answer(socket, &info(SIZE), &[1, 2, 3, 4], SEALS)));
    }
    receive(socket).unwrap();
    send(socket, &Reply::Ready.to_bytes(), None).unwrap();
    let mut sockets = [rustix::event::PollFd::new(&socket, rustix::event::PollFlags::IN)];
    rustix::event::poll(&mut sockets, None).unwrap();
    let own = rustix::process::getpid();
    rustix::process::kill_process(own, rustix::process::Signal::KILL).unwrap();
}

#[test]
#[ignore = "a child that misbehaves; the other tests run it"]
fn can_not_lock_itself_in() {
    let Some(socket) = socket() else { return };
    receive(socket).unwrap();
    send(socket, &Reply::Refused("no seccomp here".to_owned()).to_bytes(), None).unwrap();
}

fn options(stand_in: &str) -> Options {
    let name = format!("imaging::decoder::stand_in::{stand_in}");
    let arguments = ["--ignored", "--exact", "--nocapture", &name];
    Options {
        workers: 1,
        deadline_ms: 2_000,
        executable: Some(std::env::current_exe().unwrap()),
        arguments: Some(arguments.map(str::to_owned).to_vec()),
        ..Options::default()
    }
}

#[test]
fn a_stand_in_that_is_honest_is_believed() {
    let decoder = Decoder::start(options("is_honest")).unwrap();
    let slice = decoder.decode(IMAGE, None).unwrap();
    assert_eq!(slice.samples().bytes()[..], [1, 2, 3, 4]);
}

#[test]
fn every_lie_of_a_child_is_the_images_fault_and_harms_no_other() {
    let lies = [
        "omits_every_seal",
        "omits_the_write_seal",
        "seals_only_against_future_writes",
        "shrinks_after_reporting",
        "rewrites_after_reporting",
        "claims_more_bytes_than_there_are",
        "claims_lengths_that_overflow",
        "claims_more_than_any_answer_may_have",
        "claims_a_larger_image_than_its_samples",
        "claims_a_size_of_zero",
        "answers_for_another_format",
        "sends_an_identity_nobody_asked_for",
        "describes_a_window_that_can_not_be",
        "sends_no_memory",
        "sends_a_plain_file",
        "talks_nonsense",
        "says_ready_again",
    ];
    for lie in lies {
        let decoder = Decoder::start(options(lie)).unwrap();
        match decoder.decode(IMAGE, None) {
            Err(DecodeError::Unreadable(reason)) => {
                assert_eq!(reason, "its data broke the decoder", "{lie}");
            }
            other => panic!("{lie}: {other:?}"),
        }
        assert_eq!(decoder.vitals().killed, 1, "{lie}");
        assert!(decoder.decode(PROBE, None).is_ok(), "{lie}: the next image");
    }
}

#[test]
fn a_child_that_answers_for_another_frame_is_not_believed() {
    let decoder = Decoder::start(options("answers_for_another_frame")).unwrap();
    assert!(matches!(decoder.decode(IMAGE, Some(0)), Err(DecodeError::Unreadable(_))));
    assert_eq!(decoder.vitals().killed, 1);
}

#[test]
fn every_death_of_a_child_is_the_images_fault_and_harms_no_other() {
    for death in ["ends_without_a_word", "aborts", "is_killed", "closes_its_socket_and_hangs"] {
        let decoder = Decoder::start(options(death)).unwrap();
        let start = Instant::now();
        match decoder.decode(IMAGE, None) {
            Err(DecodeError::Unreadable(reason)) => {
                assert_eq!(reason, "decoding it broke a limit, or the decoder", "{death}");
            }
            other => panic!("{death}: {other:?}"),
        }
        assert!(start.elapsed() < Duration::from_secs(5), "{death}: {:?}", start.elapsed());
        assert!(decoder.decode(PROBE, None).is_ok(), "{death}: the next image");
    }
}

#[test]
fn a_child_that_is_locked_in_can_answer_and_nothing_else() {
    for honest in ["is_locked_in", "knows_its_limits"] {
        let decoder = Decoder::start(options(honest)).unwrap();
        assert!(decoder.decode(IMAGE, None).is_ok(), "{honest}");
    }
    let forbidden = [
        "opens_a_file",
        "lists_a_folder",
        "opens_a_socket",
        "starts_a_process",
        "starts_a_thread",
        "makes_memory_code",
        "ends_its_parent",
        "takes_all_memory",
        "takes_all_time",
        "answers_without_end",
    ];
    for act in forbidden {
        // A second of processor time is many seconds of a machine that is busy otherwise.
        let decoder = Decoder::start(Options { deadline_ms: 120_000, ..options(act) }).unwrap();
        match decoder.decode(IMAGE, None) {
            Err(DecodeError::Unreadable(reason)) => {
                assert_eq!(reason, "decoding it broke a limit, or the decoder", "{act}");
            }
            other => panic!("{act}: {other:?}"),
        }
        assert!(decoder.decode(PROBE, None).is_ok(), "{act}: the next image");
    }
}

#[test]
fn a_child_that_hangs_is_given_up_at_the_deadline() {
    for hang in ["hangs", "loops"] {
        let decoder = Decoder::start(Options { deadline_ms: 700, ..options(hang) }).unwrap();
        let start = Instant::now();
        match decoder.decode(IMAGE, None) {
            Err(DecodeError::Unreadable(reason)) => {
                assert_eq!(reason, "decoding it took too long", "{hang}");
            }
            other => panic!("{hang}: {other:?}"),
        }
        let took = start.elapsed();
        assert!(took >= Duration::from_millis(700), "{hang}: {took:?}");
        assert!(took < Duration::from_secs(5), "{hang}: {took:?}");
        assert!(decoder.decode(PROBE, None).is_ok(), "{hang}: the next image");
    }
}

#[test]
fn a_size_past_the_limits_is_a_lie_however_well_it_is_filled() {
    let limited = Options { max_pixels: 5, ..options("claims_a_size_past_the_limits") };
    let decoder = Decoder::start(limited).unwrap();
    assert!(matches!(decoder.decode(IMAGE, None), Err(DecodeError::Unreadable(_))));
    assert_eq!(decoder.vitals().killed, 1);
}

#[test]
fn where_no_child_comes_free_in_time_it_is_our_fault() {
    let decoder = Decoder::start(options("is_honest")).unwrap();
    let _busy = decoder.pool.take(Instant::now() + Duration::from_secs(60)).unwrap();
    let start = Instant::now();
    match decoder.pool.take(start + Duration::from_millis(100)) {
        Err(DecodeError::Unavailable(reason)) => assert!(reason.contains("in time"), "{reason}"),
        other => panic!("{other:?}"),
    }
    assert!(start.elapsed() >= Duration::from_millis(100));
}

#[test]
fn limits_smaller_than_the_known_image_do_not_make_a_death_ours() {
    let decoder = Decoder::start(Options { max_pixels: 5, ..options("aborts") }).unwrap();
    assert!(matches!(decoder.decode(IMAGE, None), Err(DecodeError::Unreadable(_))));
}

#[test]
fn children_that_fail_on_a_good_image_too_are_our_fault() {
    let decoder = Decoder::start(options("always_aborts")).unwrap();
    assert!(matches!(decoder.decode(IMAGE, None), Err(DecodeError::Unavailable(_))));
    assert_eq!(decoder.vitals().unavailable, 1);
}

#[test]
fn a_child_that_died_before_it_read_the_image_is_replaced_and_costs_it_nothing() {
    let once = tempfile::NamedTempFile::new().unwrap();
    let mut options = options("is_killed_once_before_it_reads");
    options.arguments.as_mut().unwrap().push(once.path().to_str().unwrap().to_owned());
    let decoder = Decoder::start(options).unwrap();
    let slice = decoder.decode(IMAGE, None).unwrap();
    assert_eq!(slice.samples().bytes()[..], [1, 2, 3, 4]);
    assert!(!once.path().exists(), "the first child did die");
    assert_eq!((decoder.vitals().decoded, decoder.vitals().killed), (1, 0));
}

#[test]
fn children_that_all_die_while_they_wait_are_our_fault_not_the_images() {
    let decoder = Decoder::start(options("dies_while_it_waits")).unwrap();
    std::thread::sleep(Duration::from_millis(50));
    assert!(matches!(decoder.decode(IMAGE, None), Err(DecodeError::Unavailable(_))));
    assert_eq!((decoder.vitals().unavailable, decoder.vitals().killed), (1, 0));
}

#[test]
fn a_child_that_does_not_get_ready_is_our_fault_once_its_time_is_up() {
    let start = Instant::now();
    let error =
        Decoder::start(Options { start_ms: 300, ..options("never_gets_ready") }).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    assert!((300..5_000).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());
}

#[test]
fn a_child_that_can_not_lock_itself_in_is_refused_with_the_remedy() {
    let error = Decoder::start(options("can_not_lock_itself_in")).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::Unsupported);
    assert!(error.to_string().contains("no seccomp here"), "{error}");
    assert!(error.to_string().contains("decoder.sandbox"), "{error}");
}

#[test]
fn a_child_that_can_not_be_started_is_our_fault_at_start_and_later() {
    let missing = Options { executable: Some("/nonexistent".into()), ..options("is_honest") };
    assert!(Decoder::start(missing).is_err());
    // The executable goes away while the daemon runs.
    let folder = tempfile::tempdir().unwrap();
    // A link: while a copy is written, another test's fork may hold it open, and it can't be run.
    let link = folder.path().join("sam2d");
    std::os::unix::fs::symlink(std::env::current_exe().unwrap(), &link).unwrap();
    let honest = Options { executable: Some(link.clone()), ..options("is_honest") };
    let decoder = Decoder::start(honest).unwrap();
    std::fs::remove_file(&link).unwrap();
    assert!(decoder.decode(IMAGE, None).is_ok(), "the child that was ready");
    let start = Instant::now();
    assert!(matches!(decoder.decode(IMAGE, None), Err(DecodeError::Unavailable(_))));
    assert!(start.elapsed() < Duration::from_secs(1), "refused at once, not at the deadline");
    // It comes back.
    std::os::unix::fs::symlink(std::env::current_exe().unwrap(), &link).unwrap();
    let until = Instant::now() + Duration::from_secs(10);
    while decoder.decode(IMAGE, None).is_err() {
        assert!(Instant::now() < until, "a child is there again");
        std::thread::sleep(Duration::from_millis(50));
    }
    for _ in 0..3 {
        assert!(
            decoder.decode(IMAGE, None).is_ok(),
            "trouble that is over is forgotten: one waits"
        );
    }
}
