//! Memory for what clients send: all bodies together, and a share of it for each address.
//!
//! Invariants:
//! 1. A [`Grant`] counts until its last clone is dropped.
//! 2. One address has its share at most, but for a proxy, which speaks for many.
//! 3. Nobody waits for memory: what doesn't fit now is refused, so that a client with a slow link
//!    can't hold others up.

use super::network::Cidr;
use super::options::Options;
use bytes::Bytes;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The semaphore counts blocks of this size, since its permits are counted in 32 bits.
const BLOCK_BYTES: usize = 1024;

/// Memory for all bodies together, `http.max_inflight_bytes`.
#[derive(Clone, Debug)]
pub struct Budget {
    blocks: Arc<Semaphore>,
    size: usize,
    clients: Arc<Clients>,
    /// Against whose share a grant counts.
    client: Option<IpAddr>,
}

/// Blocks that were granted to each address.
#[derive(Debug, Default)]
struct Clients {
    max: usize,
    unlimited: Vec<Cidr>,
    taken: Mutex<HashMap<IpAddr, usize>>,
}

impl Budget {
    /// Of this many bytes, for whoever comes.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        let size = (bytes / BLOCK_BYTES).min(Semaphore::MAX_PERMITS);
        let blocks = Arc::new(Semaphore::new(size));
        Self { blocks, size, clients: Arc::default(), client: None }
    }

    /// As the options say, with a share for each client.
    #[must_use]
    pub fn shared(options: &Options) -> Self {
        let clients = Clients {
            max: options.max_inflight_bytes_per_client / BLOCK_BYTES,
            unlimited: options.trusted_proxies.clone(),
            taken: Mutex::default(),
        };
        Self { clients: Arc::new(clients), ..Self::new(options.max_inflight_bytes) }
    }

    /// The same, with grants that count against this client's share.
    #[must_use]
    pub fn of(&self, client: IpAddr) -> Self {
        let limited = !self.clients.unlimited.iter().any(|proxy| proxy.contains(client));
        Self { client: limited.then_some(client), ..self.clone() }
    }

    /// Bytes granted at the moment.
    #[must_use]
    pub fn in_use(&self) -> usize {
        (self.size - self.blocks.available_permits()) * BLOCK_BYTES
    }

    /// Room for this many bytes, or none at all.
    ///
    /// # Errors
    /// [`NoRoom`].
    pub fn grant(&self, bytes: usize) -> Result<Grant, NoRoom> {
        let permits = Mutex::new(self.take(bytes.div_ceil(BLOCK_BYTES))?);
        Ok(Grant { share: Arc::new(Share { budget: self.clone(), permits }) })
    }

    fn take(&self, blocks: usize) -> Result<OwnedSemaphorePermit, NoRoom> {
        let count = u32::try_from(blocks).map_err(|_| NoRoom::Full)?;
        let acquire =
            || Arc::clone(&self.blocks).try_acquire_many_owned(count).map_err(|_| NoRoom::Full);
        let Some(client) = self.client.filter(|_| blocks > 0) else { return acquire() };
        let mut taken = self.clients.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let own = taken.get(&client).copied().unwrap_or(0) + blocks;
        if own > self.clients.max {
            return Err(NoRoom::ClientFull);
        }
        let granted = acquire()?;
        taken.insert(client, own);
        Ok(granted)
    }

    /// A client's share is as large again as before a grant.
    fn give_back(&self, blocks: usize) {
        let Some(client) = self.client else { return };
        let mut taken = self.clients.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let left = taken.get(&client).copied().unwrap_or(0).saturating_sub(blocks);
        if left > 0 {
            taken.insert(client, left);
        } else {
            // An address that left must not be remembered: there are very many of them.
            taken.remove(&client);
        }
    }
}

/// Why a body finds no memory now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoRoom {
    /// Other uploads fill the memory set aside for them.
    #[error("the box is taking in as many uploads as it can; try again in a moment")]
    Full,
    /// This client's uploads fill its share.
    #[error("this address is sending as much at a time as one may; wait for an upload to end")]
    ClientFull,
}

/// What one body holds of the budget, given back when the last clone is dropped.
#[derive(Clone, Debug)]
pub struct Grant {
    share: Arc<Share>,
}

#[derive(Debug)]
struct Share {
    budget: Budget,
    permits: Mutex<OwnedSemaphorePermit>,
}

impl Grant {
    /// At least this many bytes from now on.
    ///
    /// # Errors
    /// [`NoRoom`]: what was granted before stays.
    pub fn grow_to(&self, bytes: usize) -> Result<(), NoRoom> {
        let mut permits = self.share.permits.lock().unwrap_or_else(PoisonError::into_inner);
        let needed = bytes.div_ceil(BLOCK_BYTES);
        if needed > permits.num_permits() {
            let more = self.share.budget.take(needed - permits.num_permits())?;
            permits.merge(more);
        }
        Ok(())
    }

    /// Ties bytes to this grant.
    #[must_use]
    pub fn hold(&self, bytes: Bytes) -> Bytes {
        Bytes::from_owner(Held { bytes, _grant: self.clone() })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let permits = self.permits.get_mut().unwrap_or_else(PoisonError::into_inner);
        self.budget.give_back(permits.num_permits());
    }
}

/// Bytes that count against the budget until they are dropped.
struct Held {
    bytes: Bytes,
    _grant: Grant,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_client_has_its_share_and_no_more() {
        let options = Options {
            max_inflight_bytes: 8192,
            max_inflight_bytes_per_client: 4096,
            trusted_proxies: vec!["10.0.0.9".parse().unwrap()],
            ..Options::default()
        };
        let budget = Budget::shared(&options);
        let of = |client: &str, bytes| budget.of(client.parse().unwrap()).grant(bytes);
        let first = of("10.0.0.1", 2000).unwrap();
        let second = of("10.0.0.1", 2000).unwrap();
        assert_eq!(of("10.0.0.1", 2000).err(), Some(NoRoom::ClientFull));
        // What has no length counts as it comes.
        let undeclared = of("10.0.0.1", 0).unwrap();
        assert_eq!(undeclared.grow_to(1), Err(NoRoom::ClientFull));
        let other = of("10.0.0.2", 2000).unwrap();
        drop(first);
        undeclared.grow_to(2000).unwrap();
        assert_eq!(of("10.0.0.1", 1).err(), Some(NoRoom::ClientFull));
        drop((second, undeclared, other));
        assert!(budget.clients.taken.lock().unwrap().is_empty());
        let proxied: Vec<_> = (0..4).map(|_| of("10.0.0.9", 2000).unwrap()).collect();
        assert_eq!(of("10.0.0.9", 2000).err(), Some(NoRoom::Full));
        // Who was refused for want of memory has nothing of its share taken.
        assert_eq!(of("10.0.0.1", 2000).err(), Some(NoRoom::Full));
        drop(proxied);
        assert_eq!(budget.in_use(), 0);
        assert!(budget.clients.taken.lock().unwrap().is_empty());
    }

    #[test]
    fn a_grant_counts_until_its_last_clone_and_the_last_bytes_are_gone() {
        let budget = Budget::new(4096);
        let grant = budget.grant(1).unwrap();
        let bytes = grant.hold(Bytes::from_static(b"abc")).slice(1..);
        grant.grow_to(1025).unwrap();
        assert_eq!(budget.in_use(), 2048);
        drop(grant);
        assert_eq!((&bytes[..], budget.in_use()), (&b"bc"[..], 2048));
        drop(bytes);
        assert_eq!(budget.in_use(), 0);
    }
}
