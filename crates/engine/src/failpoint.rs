//! Named points at which a test may kill the process.
//!
//! Compiled in only with the `failpoints` feature, which no release has. The points stand between the steps of a
//! pass, so that a test can ask what the clouds and the log look like when the process dies right there.

/// Passes the named point. Without the feature this is nothing.
macro_rules! failpoint {
    ($name:literal) => {
        fail::fail_point!($name)
    };
}

pub(crate) use failpoint;

/// Makes the process kill itself (SIGKILL: no destructor, no flush) when it passes the point `name` for the
/// `nth` time, counted from 1. An error in a build without the `failpoints` feature.
#[cfg(feature = "failpoints")]
pub fn crash_at(name: &str, nth: u32) -> Result<(), String> {
    use std::sync::atomic::{AtomicU32, Ordering};

    let passed = AtomicU32::new(0);
    fail::cfg_callback(name, move || {
        if passed.fetch_add(1, Ordering::SeqCst) + 1 == nth {
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        }
    })
}

/// As above.
#[cfg(not(feature = "failpoints"))]
pub fn crash_at(name: &str, _nth: u32) -> Result<(), String> {
    Err(format!(
        "this build cannot stop at `{name}`: it has no failpoints"
    ))
}
