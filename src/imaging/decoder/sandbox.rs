//! What the decoder child gives up before it sees a byte from outside: memory, time, files, network.
//!
//! Limits that the kernel enforces (`setrlimit`), then a seccomp filter that leaves allocation, the
//! socket it already has, sealing, and leaving. Anything else kills the process. It works on every
//! kernel with seccomp filters (3.17, so JetPack's too) and needs no privilege.

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};
use std::io;

/// Bounds of one child's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    /// Address space, binary included.
    pub(super) memory_bytes: u64,
    /// Seconds of processor time.
    pub(super) cpu_s: u64,
    /// Size of its answer.
    pub(super) answer_bytes: u64,
}

/// Sets the limits; they hold until the process ends.
pub(super) fn limit(bounds: Bounds) -> io::Result<()> {
    let set = |resource, maximum| {
        setrlimit(resource, Rlimit { current: Some(maximum), maximum: Some(maximum) })
    };
    set(Resource::As, bounds.memory_bytes)?;
    set(Resource::Cpu, bounds.cpu_s)?;
    // Memfds count as files.
    set(Resource::Fsize, bounds.answer_bytes)?;
    set(Resource::Nofile, 16)?;
    // A core file would be a patient's picture on disk; a debugger would read one from memory.
    set(Resource::Core, 0)?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    Ok(())
}

/// Installs the filter.
///
/// # Errors
/// Where kernel or architecture can't.
pub(super) fn lock() -> io::Result<()> {
    let filter = filter().map_err(io::Error::other)?;
    seccompiler::apply_filter(&filter).map_err(io::Error::other)
}

fn filter() -> Result<BpfProgram, seccompiler::BackendError> {
    let free = [
        // Memory and threads' locks.
        libc::SYS_brk,
        libc::SYS_munmap,
        libc::SYS_mremap,
        libc::SYS_madvise,
        libc::SYS_futex,
        // The socket and the memfds that are open already.
        libc::SYS_read,
        libc::SYS_write,
        libc::SYS_recvmsg,
        libc::SYS_sendmsg,
        libc::SYS_ftruncate,
        libc::SYS_fstat,
        libc::SYS_close,
        // Panics, signals, the end.
        libc::SYS_rt_sigreturn,
        libc::SYS_rt_sigprocmask,
        libc::SYS_sigaltstack,
        libc::SYS_exit,
        libc::SYS_exit_group,
        // Seeds of hash maps, time.
        libc::SYS_getrandom,
        libc::SYS_clock_gettime,
    ];
    let mut rules: Vec<(i64, Vec<SeccompRule>)> =
        free.into_iter().map(|call| (call, Vec::new())).collect();
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        // No memory becomes code.
        let exec = u64::from(libc::PROT_EXEC.cast_unsigned());
        rules.push((call, vec![argument(2, SeccompCmpOp::MaskedEq(exec), 0)?]));
    }
    let seals = [libc::F_ADD_SEALS, libc::F_GET_SEALS]
        .map(|command| argument(1, SeccompCmpOp::Eq, u64::from(command.cast_unsigned())));
    rules.push((libc::SYS_fcntl, seals.into_iter().collect::<Result<_, _>>()?));
    SeccompFilter::new(
        rules.into_iter().collect(),
        SeccompAction::KillProcess,
        SeccompAction::Allow,
        std::env::consts::ARCH.try_into()?,
    )?
    .try_into()
}

fn argument(
    index: u8,
    operator: SeccompCmpOp,
    value: u64,
) -> Result<SeccompRule, seccompiler::BackendError> {
    let condition = SeccompCondition::new(index, SeccompCmpArgLen::Dword, operator, value)?;
    SeccompRule::new(vec![condition])
}
