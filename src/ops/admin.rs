//! What the control socket can be asked, done: the cache's verbs on a running daemon.

use crate::cache::Cache;
use crate::cache::tools::Listed;
use crate::control::server::{Answer, Replies};
use crate::control::{CacheStat, Hello, Reply, Request, wire};
use crate::service::Service;
use std::sync::Arc;

/// Said where nothing is kept on disk.
const NO_DISK: &str = "this daemon has no cache on disk (switched off, or its log says why)";

/// Who answers.
#[must_use]
pub fn hello(service: &Service) -> Hello {
    Hello {
        sam2d: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        cache_dir: service.cache().and_then(Cache::folder),
    }
}

/// How a request is answered.
#[must_use]
pub fn answer(service: Service) -> Arc<Answer> {
    Arc::new(move |request, replies: &Replies| match request {
        Request::CacheStat => {
            let _ = replies.send(Reply::CacheStat(Box::new(stat(&service))));
            Ok(())
        }
        Request::CacheList => {
            let mut show = |found: Listed| replies.send(Reply::CacheEntry((&found).into()));
            disk(&service)?.list(&mut show).map_err(|error| unlisted(&error))
        }
        Request::CacheVerify => verify(disk(&service)?, replies),
        Request::CachePurge => {
            let files = service.purge();
            tracing::info!(files, "the cache was purged: disk, memory and device");
            let _ = replies.send(Reply::CachePurged { files });
            Ok(())
        }
    })
}

fn disk(service: &Service) -> Result<&Cache, String> {
    service.cache().filter(|cache| cache.folder().is_some()).ok_or_else(|| NO_DISK.to_owned())
}

fn stat(service: &Service) -> CacheStat {
    CacheStat {
        disk: disk(service).ok().map(Cache::stats),
        embeddings_bytes: service.embeddings_bytes() as u64,
        answers_bytes: service.answers_bytes() as u64,
    }
}

fn verify(cache: &Cache, replies: &Replies) -> Result<(), String> {
    let verified = cache.verify(&|| replies.go_on()).map_err(|error| unlisted(&error))?;
    // Whoever has left meanwhile misses the end only.
    let _ = wire::verified(&verified).try_for_each(|reply| replies.send(reply));
    Ok(())
}

fn unlisted(error: &std::io::Error) -> String {
    format!("the cache folder can't be listed: {error}")
}
