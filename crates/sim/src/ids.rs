//! Seeded randomness for ids and fault dice: the same seed gives the same ids in the same order.

use std::sync::{Arc, Mutex, PoisonError};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use uuid::Uuid;

/// A source of ids; clones share one sequence.
#[derive(Debug, Clone)]
pub struct Ids(Arc<Mutex<StdRng>>);

impl Ids {
    /// A source whose whole sequence follows from `seed`.
    pub fn seeded(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(StdRng::seed_from_u64(seed))))
    }

    /// A random (version 4) UUID.
    pub fn uuid(&self) -> Uuid {
        let bytes: [u8; 16] = self.rng(Rng::random);
        uuid::Builder::from_random_bytes(bytes).into_uuid()
    }

    /// `length` lower-case hexadecimal digits, at most 32.
    pub fn hex(&self, length: usize) -> String {
        let number: u128 = self.rng(Rng::random);
        format!("{number:032x}").chars().take(length).collect()
    }

    /// A uniform number in `0..bound`; zero where `bound` is zero.
    pub fn below(&self, bound: u64) -> u64 {
        if bound == 0 {
            0
        } else {
            self.rng(|rng| rng.random_range(0..bound))
        }
    }

    fn rng<T>(&self, draw: impl FnOnce(&mut StdRng) -> T) -> T {
        draw(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
