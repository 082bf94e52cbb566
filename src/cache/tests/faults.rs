//! Failpoints: a test tells its own thread what is to happen before an operation on the disk.

use crate::cache::store::Op;
use std::cell::RefCell;
use std::io;

type Hook = Box<dyn FnMut(Op<'_>) -> io::Result<()>>;

thread_local! {
    static HOOK: RefCell<Option<Hook>> = const { RefCell::new(None) };
}

/// Called by the store before each operation.
pub(in crate::cache) fn before(op: Op<'_>) -> io::Result<()> {
    HOOK.with_borrow_mut(|hook| hook.as_mut().map_or(Ok(()), |hook| hook(op)))
}

/// Has `hook` called before each operation of this thread, until the result is dropped.
pub(super) fn on(hook: impl FnMut(Op<'_>) -> io::Result<()> + 'static) -> Off {
    HOOK.set(Some(Box::new(hook)));
    Off
}

/// Takes the hook out again.
pub(super) struct Off;

impl Drop for Off {
    fn drop(&mut self) {
        HOOK.take();
    }
}

/// The operation's name, for tables and messages.
pub(super) fn name(op: Op<'_>) -> &'static str {
    match op {
        Op::Create { .. } => "create",
        Op::Write { .. } => "write",
        Op::SetTimes => "set times",
        Op::SyncFile { .. } => "sync file",
        Op::MakeShard { .. } => "make shard",
        Op::SyncKind { .. } => "sync kind",
        Op::Rename { .. } => "rename",
        Op::SyncShard { .. } => "sync shard",
        Op::Unlink { .. } => "unlink",
        Op::UnlinkTmp { .. } => "unlink tmp",
        Op::Read => "read",
        Op::WriteTag => "write tag",
        Op::SyncTag => "sync tag",
        Op::SyncRoot => "sync root",
        Op::SyncTree => "sync tree",
        Op::MakeFolder => "make folder",
    }
}
