//! Durations on the command line.

use std::time::Duration;

/// Reads a duration such as `30m` or `1h 30m`; where it is none, says what one looks like.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|_| {
        "a duration is numbers with their units, such as `45s`, `30m`, `1h 30m` or `2days`".to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_duration_is_answered_with_what_one_looks_like() {
        for text in [
            "1e20",
            "",
            "10",
            "h",
            "-5m",
            "99999999999999999999h",
            "18446744073709551615h",
        ] {
            let told = duration(text).unwrap_err();
            assert!(told.contains("`30m`"), "{text}: {told}");
        }
        assert_eq!(duration("1h 30m").unwrap(), Duration::from_mins(90));
    }
}
