//! Instants and spans as people read them. Always UTC: operators compare nodes and logs.

use ostler_protocol::rpc::values::Timestamp;

/// `2026-11-23 14:05:09 UTC`.
pub(super) fn instant(at: Timestamp) -> String {
    let seconds = at.0 / 1000;
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = date(days);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

/// How long ago: `5m`, `3h`, `12d`.
pub(super) fn age(at: Timestamp, now: Timestamp) -> String {
    span(now.since(at))
}

/// So many milliseconds, in the largest unit that leaves at least one.
pub(super) fn span(milliseconds: u64) -> String {
    match milliseconds / 1000 {
        0 => format!("{milliseconds}ms"),
        s @ 1..60 => format!("{s}s"),
        s @ 60..3_600 => format!("{}m", s / 60),
        s @ 3_600..86_400 => format!("{}h", s / 3_600),
        s => format!("{}d", s / 86_400),
    }
}

/// The Gregorian date of a day counted from 1970-01-01.
fn date(days: u64) -> (u64, u64, u64) {
    // A time stamp from a node can be anything: years beyond four digits are of no use to anybody,
    // and would make the loops below long.
    let mut left = days.min(2_932_896);
    let mut year = 1970;
    while left >= year_length(year) {
        left -= year_length(year);
        year += 1;
    }
    let february = if year_length(year) == 366 { 29 } else { 28 };
    let lengths = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 1;
    for length in lengths {
        if left < length {
            break;
        }
        left -= length;
        month += 1;
    }
    (year, month, left + 1)
}

fn year_length(year: u64) -> u64 {
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    if leap { 366 } else { 365 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_are_gregorian_and_utc() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_782_399, "2000-02-28 23:59:59 UTC"),
            (951_782_400, "2000-02-29 00:00:00 UTC"),
            (951_868_800, "2000-03-01 00:00:00 UTC"),
            (1_735_689_599, "2024-12-31 23:59:59 UTC"),
            (4_107_542_400, "2100-03-01 00:00:00 UTC"),
        ] {
            assert_eq!(instant(Timestamp(seconds * 1000)), text);
        }
        assert!(instant(Timestamp(u64::MAX)).starts_with("9999-12-31"));
    }

    #[test]
    fn spans_take_the_largest_unit() {
        for (milliseconds, text) in
            [(7, "7ms"), (1_000, "1s"), (59_999, "59s"), (60_000, "1m"), (7_200_000, "2h")]
        {
            assert_eq!(span(milliseconds), text);
        }
    }
}
