//! Get and put, entry by entry. `cargo bench` in this folder; one line a store and size.

use divan::Bencher;
use sam2d::cache::Kind;
use sam2d_bench_cache::{Cacache, Keeper, Lmdb, Ours, Sqlite, key, payload};
use std::cell::Cell;
use std::path::Path;

/// A slice record, a mask, a mask with its logits at S = 1024, an embedding.
const SIZES: [usize; 4] = [500, 20_000, 150_000, 8_000_000];

fn main() {
    divan::main();
}

/// Hits on entries that were put before, page cache warm; 64 keys in turn.
fn hits(bencher: Bencher<'_, '_>, bytes: usize, make: impl FnOnce(&Path) -> Box<dyn Keeper>) {
    let folder = tempfile::tempdir_in(".").expect("a folder here");
    let store = make(folder.path());
    let keys = if bytes > 1_000_000 { 8 } else { 64 };
    (0..keys).for_each(|n| store.put(&key(n), &payload(n, bytes)));
    let next = Cell::new(0);
    bencher.counter(divan::counter::BytesCount::new(bytes)).bench_local(|| {
        next.set((next.get() + 1) % keys);
        assert_eq!(store.get(&key(next.get())), bytes);
    });
}

fn puts(bencher: Bencher<'_, '_>, bytes: usize, make: impl FnOnce(&Path) -> Box<dyn Keeper>) {
    let folder = tempfile::tempdir_in(".").expect("a folder here");
    let store = make(folder.path());
    let (next, content) = (Cell::new(0), payload(1, bytes));
    bencher.counter(divan::counter::BytesCount::new(bytes)).bench_local(|| {
        next.set(next.get() + 1);
        store.put(&key(next.get()), &content);
    });
}

#[divan::bench_group(max_time = 3)]
mod get_hit {
    use super::*;

    #[divan::bench(args = SIZES)]
    fn ours_in_memory(bencher: Bencher<'_, '_>, bytes: usize) {
        hits(bencher, bytes, |folder| Box::new(Ours::new(folder, Kind::Answer, 1 << 30)));
    }

    #[divan::bench(args = SIZES)]
    fn ours_read(bencher: Bencher<'_, '_>, bytes: usize) {
        hits(bencher, bytes, |folder| Box::new(Ours::new(folder, Kind::Answer, 0)));
    }

    #[divan::bench(args = SIZES)]
    fn ours_mapped(bencher: Bencher<'_, '_>, bytes: usize) {
        hits(bencher, bytes, |folder| Box::new(Ours::new(folder, Kind::Embedding, 0)));
    }

    #[divan::bench(args = SIZES)]
    fn cacache(bencher: Bencher<'_, '_>, bytes: usize) {
        hits(bencher, bytes, |folder| Box::new(Cacache(folder.join("cacache"))));
    }

    #[divan::bench(args = SIZES)]
    fn sqlite(bencher: Bencher<'_, '_>, bytes: usize) {
        hits(bencher, bytes, |folder| Box::new(Sqlite::new(folder)));
    }

    #[divan::bench(args = SIZES)]
    fn lmdb(bencher: Bencher<'_, '_>, bytes: usize) {
        hits(bencher, bytes, |folder| Box::new(Lmdb::new(folder)));
    }
}

#[divan::bench_group(max_time = 3, sample_size = 1)]
mod put {
    use super::*;

    #[divan::bench(args = SIZES)]
    fn ours_synced(bencher: Bencher<'_, '_>, bytes: usize) {
        puts(bencher, bytes, |folder| Box::new(Ours::new(folder, Kind::Answer, 0)));
    }

    #[divan::bench(args = SIZES)]
    fn ours_not_synced(bencher: Bencher<'_, '_>, bytes: usize) {
        puts(bencher, bytes, |folder| Box::new(Ours::new(folder, Kind::Embedding, 0)));
    }

    #[divan::bench(args = SIZES)]
    fn cacache_not_synced(bencher: Bencher<'_, '_>, bytes: usize) {
        puts(bencher, bytes, |folder| Box::new(Cacache(folder.join("cacache"))));
    }

    #[divan::bench(args = SIZES)]
    fn sqlite_synced(bencher: Bencher<'_, '_>, bytes: usize) {
        puts(bencher, bytes, |folder| Box::new(Sqlite::new(folder)));
    }

    #[divan::bench(args = SIZES)]
    fn lmdb_synced(bencher: Bencher<'_, '_>, bytes: usize) {
        puts(bencher, bytes, |folder| Box::new(Lmdb::new(folder)));
    }
}
