//! How many connections there may be, in all and of one client; and how many requests of one client
//! that may need the engine.

use super::network::Cidr;
use super::options::Options;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// Counts connections, or requests.
#[derive(Clone, Debug)]
pub struct Seats(Arc<Room>);

#[derive(Debug)]
struct Room {
    max: usize,
    max_per_client: usize,
    unlimited: Vec<Cidr>,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    by_client: HashMap<IpAddr, usize>,
}

/// Why there is no seat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoSeat {
    /// All are taken.
    Full,
    /// This client has its share.
    ClientFull,
}

/// A place for one of them, given back when dropped.
#[derive(Debug)]
pub struct Seat {
    room: Arc<Room>,
    client: IpAddr,
}

impl Seats {
    /// For as many connections as the options say.
    #[must_use]
    pub fn new(options: &Options) -> Self {
        Self::of(options.max_connections, options.max_connections_per_client, options)
    }

    /// For as many requests of one client that may need the engine as the options say; of all
    /// together there may be what the connections carry.
    #[must_use]
    pub fn at_engine(options: &Options) -> Self {
        Self::of(usize::MAX, options.max_requests_per_client, options)
    }

    /// Proxies that speak for many clients have no limit of their own.
    fn of(max: usize, max_per_client: usize, options: &Options) -> Self {
        let unlimited = options.trusted_proxies.clone();
        Self(Arc::new(Room { max, max_per_client, unlimited, taken: Mutex::default() }))
    }

    /// Taken at the moment.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.0.taken.lock().unwrap_or_else(PoisonError::into_inner).all
    }

    /// A seat for a client.
    ///
    /// # Errors
    /// Which bound was reached.
    pub fn take(&self, client: IpAddr) -> Result<Seat, NoSeat> {
        let client = client.to_canonical();
        let mut taken = self.0.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.all >= self.0.max {
            return Err(NoSeat::Full);
        }
        let limited = !self.0.unlimited.iter().any(|proxy| proxy.contains(client));
        let own = taken.by_client.entry(client).or_default();
        if limited && *own >= self.0.max_per_client {
            return Err(NoSeat::ClientFull);
        }
        *own += 1;
        taken.all += 1;
        Ok(Seat { room: Arc::clone(&self.0), client })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.room.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.all -= 1;
        if let Some(own) = taken.by_client.get_mut(&self.client) {
            *own -= 1;
            if *own == 0 {
                // An address that left must not be remembered: there are very many of them.
                taken.by_client.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seats_are_bounded_in_all_and_per_client_and_come_back() {
        let options = Options {
            max_connections: 4,
            max_connections_per_client: 2,
            trusted_proxies: vec!["10.0.0.9".parse().unwrap()],
            ..Options::default()
        };
        let seats = Seats::new(&options);
        let take = |client: &str| seats.take(client.parse().unwrap());
        let first = take("10.0.0.1").unwrap();
        let second = take("::ffff:10.0.0.1").unwrap();
        assert_eq!(take("10.0.0.1").unwrap_err(), NoSeat::ClientFull);
        drop(second);
        let mut proxied: Vec<_> = (0..3).map(|_| take("10.0.0.9").unwrap()).collect();
        assert_eq!(take("10.0.0.2").unwrap_err(), NoSeat::Full);
        proxied.pop();
        assert!(take("10.0.0.2").is_ok());
        drop((first, proxied));
        assert_eq!(seats.taken(), 0);
        assert!(seats.0.taken.lock().unwrap().by_client.is_empty());
    }
}
