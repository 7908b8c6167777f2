//! A zone as a rule, in POSIX's form: `CET-1CEST,M3.5.0,M10.5.0/3`.
//!
//! A name and what is to be added to reach Greenwich, for summer the same, and when each begins: in
//! local time, by the week of a month, by the day of the year, or by that leaving out 29 February.

const DAY: i64 = 86_400;
const HOUR: i64 = 3_600;

/// Name and offset at a time: `None` if the text is no rule.
pub(super) fn at(text: &str, time: i64) -> Option<(String, i64)> {
    // beyond it no calendar of ours reaches
    let time = time.clamp(-(1 << 40), 1 << 40);
    let mut text = Text(text);
    let name = text.name()?;
    let offset = -text.duration()?;
    if text.0.is_empty() {
        return Some((name, offset));
    }
    let summer = text.name()?;
    let summer_offset = if text.0.is_empty() || text.0.starts_with(',') {
        offset + HOUR
    } else {
        -text.duration()?
    };
    // a rule without days has those of the United States
    let mut days = if text.0.is_empty() { Text(",M3.2.0,M11.1.0") } else { text };
    let (begin, end) = (days.change()?, days.change()?);
    if !days.0.is_empty() {
        return None;
    }
    let (year, _) = civil((time + offset).div_euclid(DAY));
    let (begin, end) = (begin.in_year(year) - offset, end.in_year(year) - summer_offset);
    let is_summer = if begin <= end {
        (begin..end).contains(&time)
    } else {
        // south of the equator it is winter in between
        !(end..begin).contains(&time)
    };
    Some(if is_summer { (summer, summer_offset) } else { (name, offset) })
}

/// A day of every year, and the local time of a change on it.
struct Change {
    day: Day,
    seconds: i64,
}

enum Day {
    /// The week of a month, the fifth being the last, and the day of the week.
    Week { month: i64, week: i64, weekday: i64 },
    /// From 1, 29 February not counted.
    Julian(i64),
    /// From 0.
    Ordinal(i64),
}

impl Change {
    /// Seconds since 1970, as if the time were Greenwich's.
    fn in_year(&self, year: i64) -> i64 {
        let first = days(year, 1);
        let day = match self.day {
            Day::Ordinal(day) => first + day,
            Day::Julian(day) if is_leap(year) && day >= 60 => first + day,
            Day::Julian(day) => first + day - 1,
            Day::Week { month, week, weekday } => {
                let first = days(year, month);
                let next = if month == 12 { days(year + 1, 1) } else { days(year, month + 1) };
                // 1 January 1970 was a Thursday
                let day = first + (weekday - (first + 4)).rem_euclid(7) + 7 * (week - 1);
                if day >= next { day - 7 } else { day }
            }
        };
        day * DAY + self.seconds
    }
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

/// Days from 1970 to the first of a month.
fn days(year: i64, month: i64) -> i64 {
    const BEFORE: [i64; 12] = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
    let past = year - 1;
    let leaps = |year: i64| year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    let in_year = usize::try_from(month - 1).ok().and_then(|month| BEFORE.get(month)).copied();
    365 * (year - 1970) + leaps(past) - leaps(1969)
        + in_year.unwrap_or(0)
        + i64::from(month > 2 && is_leap(year))
}

/// The year of a day since 1970, and the day in it.
fn civil(day: i64) -> (i64, i64) {
    let mut year = 1970 + day.div_euclid(366);
    while days(year + 1, 1) <= day {
        year += 1 + (day - days(year + 1, 1)) / 366;
    }
    while days(year, 1) > day {
        year -= 1;
    }
    (year, day - days(year, 1))
}

/// What is left to read.
struct Text<'a>(&'a str);

impl<'a> Text<'a> {
    fn take(&mut self, length: usize) -> Option<&'a str> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn skip(&mut self, what: char) -> Option<()> {
        self.0 = self.0.strip_prefix(what)?;
        Some(())
    }

    /// Letters, or anything in angle brackets.
    fn name(&mut self) -> Option<String> {
        if self.skip('<').is_some() {
            let name = self.take(self.0.find('>')?)?;
            self.skip('>')?;
            return Some(name.to_owned());
        }
        let end = self.0.find(|letter: char| !letter.is_ascii_alphabetic());
        let name = self.take(end.unwrap_or(self.0.len()))?;
        (name.len() >= 3).then(|| name.to_owned())
    }

    fn number(&mut self, most: i64) -> Option<i64> {
        let end = self.0.find(|digit: char| !digit.is_ascii_digit()).unwrap_or(self.0.len());
        self.take(end)?.parse().ok().filter(|number| *number <= most)
    }

    /// `[+-]hours[:minutes[:seconds]]`
    fn duration(&mut self) -> Option<i64> {
        let sign = if self.skip('-').is_some() {
            -1
        } else {
            let _ = self.skip('+');
            1
        };
        let mut seconds = self.number(167)? * HOUR;
        if self.skip(':').is_some() {
            seconds += self.number(59)? * 60;
            if self.skip(':').is_some() {
                seconds += self.number(59)?;
            }
        }
        Some(sign * seconds)
    }

    /// `,DAY[/TIME]`
    fn change(&mut self) -> Option<Change> {
        self.skip(',')?;
        let day = if self.skip('M').is_some() {
            let month = self.number(12).filter(|month| *month >= 1)?;
            self.skip('.')?;
            let week = self.number(5).filter(|week| *week >= 1)?;
            self.skip('.')?;
            Day::Week { month, week, weekday: self.number(6)? }
        } else if self.skip('J').is_some() {
            Day::Julian(self.number(365).filter(|day| *day >= 1)?)
        } else {
            Day::Ordinal(self.number(365)?)
        };
        let seconds = if self.skip('/').is_some() { self.duration()? } else { 2 * HOUR };
        Some(Change { day, seconds })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(rule: &str, time: i64, name: &str, offset: i64) {
        assert_eq!(at(rule, time), Some((name.to_owned(), offset)), "{rule} at {time}");
    }

    #[test]
    fn a_zone_without_summer_is_always_the_same() {
        check("EST5", 0, "EST", -5 * HOUR);
        check("<+0530>-5:30", 1_700_000_000, "+0530", 5 * HOUR + 1800);
        check("<-03>3", -1, "-03", -3 * HOUR);
    }

    #[test]
    fn summer_begins_and_ends_to_the_second() {
        let berlin = "CET-1CEST,M3.5.0,M10.5.0/3";
        for (begin, end) in [(1_711_846_800, 1_729_990_800), (1_774_746_000, 1_792_890_000)] {
            check(berlin, begin - 1, "CET", HOUR);
            check(berlin, begin, "CEST", 2 * HOUR);
            check(berlin, end - 1, "CEST", 2 * HOUR);
            check(berlin, end, "CET", HOUR);
        }
        let sydney = "AEST-10AEDT,M10.1.0,M4.1.0/3";
        check(sydney, 1_704_067_200, "AEDT", 11 * HOUR);
        check(sydney, 1_719_792_000, "AEST", 10 * HOUR);
        let new_york = "EST5EDT";
        check(new_york, 1_710_054_000 - 1, "EST", -5 * HOUR);
        check(new_york, 1_710_054_000, "EDT", -4 * HOUR);
        // Dublin's winter is the exception, and its saving negative
        let dublin = "IST-1GMT0,M10.5.0,M3.5.0/1";
        check(dublin, 1_704_067_200, "GMT", 0);
        check(dublin, 1_719_792_000, "IST", HOUR);
        // Greenland changes on the day before, in local time
        let nuuk = "<-02>2<-01>,M3.5.0/-1,M10.5.0/0";
        check(nuuk, 1_711_846_800 - 1, "-02", -2 * HOUR);
        check(nuuk, 1_711_846_800, "-01", -HOUR);
    }

    #[test]
    fn days_of_the_year_are_counted_with_and_without_29_february() {
        // 1 March and 31 December of 2024, a leap year
        check("AAA0BBB,J60/0,J365/0", 1_709_251_200 - 1, "AAA", 0);
        check("AAA0BBB,J60/0,J365/0", 1_709_251_200, "BBB", HOUR);
        check("AAA0BBB,59/0,364/0", 1_709_164_800, "BBB", HOUR);
    }

    #[test]
    fn what_is_no_rule_is_refused() {
        for text in [
            "",
            "A",
            "CET",
            "CET-",
            "CET-1CEST,",
            "CET-1CEST,M3.5.0",
            "CET-1CEST,M13.5.0,M10.5.0",
            "CET-1CEST,M3.6.0,M10.5.0",
            "CET-1CEST,J0,J1",
            "CET-1CEST,M3.5.0,M10.5.0,",
            "<CET-1",
            "CET99999999999999999999",
            "é5",
        ] {
            assert_eq!(at(text, 0), None, "{text}");
        }
    }

    #[test]
    fn the_calendar_knows_every_year() {
        assert_eq!(days(1970, 1), 0);
        assert_eq!(days(2000, 3), 11_017);
        assert_eq!(days(1900, 1), -25_567);
        for day in (-800_000..800_000).step_by(97) {
            let (year, rest) = civil(day);
            assert_eq!(days(year, 1) + rest, day);
            assert!((0..365 + i64::from(is_leap(year))).contains(&rest));
        }
    }

    proptest! {
        #[test]
        fn no_text_breaks_the_reader(
            text in "([A-Z]{3}|<.{0,4}>|[+-]?[0-9]{1,4}|[:,./MJ]|.){0,14}",
            time in any::<i64>(),
        ) {
            at(&text, time);
        }
    }
}
