//! Times for people: how long ago, and how long.

use std::time::Duration;

use jiff::Timestamp;

/// Returns how long `then` is before `now`: `3 minutes ago`. Clocks of two machines differ; the future is `just now`.
pub(crate) fn ago(then: Timestamp, now: Timestamp) -> String {
    let seconds = now.as_second().saturating_sub(then.as_second());
    let (count, unit) = match seconds {
        ..=4 => return "just now".to_owned(),
        5..60 => (seconds, "second"),
        60..3600 => (seconds / 60, "minute"),
        3600..86_400 => (seconds / 3600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {unit}{plural} ago")
}

/// Returns the time from `then` to `now` in its two largest units: `3h 12m`.
pub(crate) fn uptime(then: Timestamp, now: Timestamp) -> String {
    let seconds = now.as_second().saturating_sub(then.as_second()).max(0);
    match seconds {
        ..60 => format!("{seconds}s"),
        60..3600 => format!("{}m {}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h {}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d {}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// Returns a time that was waited for, with one digit below the second while that matters: `1.9s`, `2m 5s`.
pub(crate) fn elapsed(time: Duration) -> String {
    let seconds = time.as_secs();
    if seconds < 60 {
        format!("{:.1}s", time.as_secs_f64())
    } else {
        format!("{}m {}s", seconds / 60, seconds % 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn ages_have_one_unit_and_the_future_is_now() {
        for (seconds, text) in [
            (-100, "just now"),
            (0, "just now"),
            (59, "59 seconds ago"),
            (60, "1 minute ago"),
            (7200, "2 hours ago"),
            (200_000, "2 days ago"),
        ] {
            assert_eq!(ago(at(1_000_000), at(1_000_000 + seconds)), text);
        }
    }

    #[test]
    fn uptimes_have_two_units() {
        for (seconds, text) in [(-5, "0s"), (59, "59s"), (61, "1m 1s"), (11_520, "3h 12m"), (90_000, "1d 1h")]
        {
            assert_eq!(uptime(at(1_000_000), at(1_000_000 + seconds)), text);
        }
    }

    #[test]
    fn waits_have_tenths_below_a_minute() {
        assert_eq!(elapsed(Duration::from_millis(1940)), "1.9s");
        assert_eq!(elapsed(Duration::from_secs(125)), "2m 5s");
    }
}
