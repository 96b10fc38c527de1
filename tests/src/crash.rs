//! Makes the server under test die at a named point.

/// Reads `POSTERN_CRASH_AT=<point>=<nth>` and sees to it.
///
/// # Panics
/// If the variable is set and this build cannot do it, or the value has another form: a test that believes in a
/// crash which never comes would prove nothing.
pub fn arm() {
    let Ok(text) = std::env::var("POSTERN_CRASH_AT") else {
        return;
    };
    let (point, nth) = text.split_once('=').expect("POSTERN_CRASH_AT is <point>=<nth>");
    let nth = nth.parse().expect("the nth passing is a number");
    postern_engine::crash_at(point, nth).expect("the point can be armed");
}
