//! What Postern has to be allowed in each cloud: the least that the calls of its enforcers need, as documents that the
//! clouds take.
//!
//! A test plays the demo's story and a sweep with exactly these permissions, and holds every action here against the
//! calls that were made.

pub mod aws;
pub mod azure;

use clap::ValueEnum;

/// Who is given the permissions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Bearer {
    /// `postern serve`.
    Server,
    /// `postern sweep --apply`, which only ever closes.
    Sweeper,
}

impl Bearer {
    /// As people call it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Sweeper => "sweeper",
        }
    }
}
