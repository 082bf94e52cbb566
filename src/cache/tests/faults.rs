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
