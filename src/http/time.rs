//! Timestamps as RFC 3339 writes them, in queries.
//!
//! Takes `date-time` of RFC 3339, section 5.6, and nothing else: no bare dates, no local times, none
//! of the shorter forms of ISO 8601. Invariant: every such text is taken, also one beyond the end of
//! the time that the clock library knows, which then counts as that end.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::Offset;

/// Reads a timestamp. A leap second counts as the last instant of the second before it, and digits
/// beyond the nanosecond are cut off.
pub(crate) fn rfc3339(text: &str) -> Option<Timestamp> {
    let mut rest = Rest(text.as_bytes());
    let year = rest.number(4)?;
    rest.one_of(b"-")?;
    let month = rest.number(2)?;
    rest.one_of(b"-")?;
    let day = rest.number(2)?;
    rest.one_of(b"Tt")?;
    let hour = rest.number(2)?;
    rest.one_of(b":")?;
    let minute = rest.number(2)?;
    rest.one_of(b":")?;
    let mut second = rest.number(2)?;
    let mut nanosecond = rest.fraction()?;
    let offset = rest.offset()?;
    if !rest.0.is_empty() {
        return None;
    }
    if second == 60 {
        (second, nanosecond) = (59, 999_999_999);
    }
    let [month, day, hour, minute, second] =
        [month, day, hour, minute, second].map(|part| i8::try_from(part).unwrap_or(i8::MAX));
    let civil = DateTime::new(year, month, day, hour, minute, second, nanosecond).ok()?;
    // Years have four digits, so only the end can be missed.
    Some(offset.to_timestamp(civil).unwrap_or(Timestamp::MAX))
}

/// What is left to read.
struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn one_of(&mut self, allowed: &[u8]) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        allowed.contains(first).then_some(*first)
    }

    fn digit(&mut self) -> Option<i16> {
        self.one_of(b"0123456789").map(|b| i16::from(b - b'0'))
    }

    /// So many digits; at most four.
    fn number(&mut self, digits: usize) -> Option<i16> {
        (0..digits).try_fold(0, |number, _| Some(number * 10 + self.digit()?))
    }

    /// `.` and digits, as nanoseconds; 0 when there are none.
    fn fraction(&mut self) -> Option<i32> {
        if self.0.first() != Some(&b'.') {
            return Some(0);
        }
        self.0 = self.0.get(1..)?;
        let (mut nanoseconds, mut unit) = (i32::from(self.digit()?) * 100_000_000, 10_000_000);
        while self.0.first().is_some_and(u8::is_ascii_digit) {
            nanoseconds += i32::from(self.digit()?) * unit;
            unit /= 10;
        }
        Some(nanoseconds)
    }

    fn offset(&mut self) -> Option<Offset> {
        let sign = match self.one_of(b"Zz+-")? {
            b'+' => 1,
            b'-' => -1,
            _ => return Some(Offset::UTC),
        };
        let hours = self.number(2)?;
        self.one_of(b":")?;
        let minutes = self.number(2)?;
        let seconds = sign * (i32::from(hours) * 3600 + i32::from(minutes) * 60);
        let allowed = hours < 24 && minutes < 60;
        Offset::from_seconds(seconds).ok().filter(|_| allowed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn micros(text: &str) -> i64 {
        let read = rfc3339(text);
        read.unwrap_or_else(|| panic!("{text}")).as_microsecond()
    }

    #[test]
    fn every_form_of_the_rfc_is_taken() {
        assert_eq!(micros("1970-01-01T00:00:01Z"), 1_000_000);
        assert_eq!(micros("1970-01-01t00:00:01.5z"), 1_500_000);
        assert_eq!(micros("1970-01-01T02:00:00+02:00"), 0);
        assert_eq!(micros("1969-12-31T16:00:00-08:00"), 0);
        assert_eq!(micros("1970-01-01T00:00:00-00:00"), 0);
        assert_eq!(micros("1970-01-01T23:59:00+23:59"), 0);
        assert_eq!(micros("1970-01-01T00:00:00.123456789987Z"), 123_456);
        assert_eq!(micros("1972-06-30T23:59:60Z"), 78_796_799_999_999);
        assert!(micros("0000-01-01T00:00:00+23:59") < 0);
        assert_eq!(rfc3339("9999-12-31T23:59:59Z"), Some(Timestamp::MAX));
        assert_eq!(
            rfc3339("2026-11-21T08:30:00.25Z"),
            "2026-11-21T08:30:00.25Z".parse().ok()
        );
    }

    #[test]
    fn nothing_else_is() {
        for bad in [
            "",
            "yesterday",
            "1795250000",
            "2026-11-21",
            "2026-11-21T08:30:00",
            "2026-11-21T08:30Z",
            "2026-11-21T08Z",
            "2026-11-21 08:30:00Z",
            "20261121T083000Z",
            "2026-11-21T08:30:00,5Z",
            "2026-11-21T08:30:00.Z",
            "2026-11-21T08:30:00Z[UTC]",
            "2026-11-21T08:30:00Zx",
            "2026-11-21T08:30:00+02",
            "2026-11-21T08:30:00+0200",
            "2026-11-21T08:30:00+24:00",
            "2026-11-21T08:30:00+02:60",
            "2026-02-30T08:30:00Z",
            "2026-13-01T08:30:00Z",
            "2026-11-21T24:00:00Z",
            "2026-11-21T08:60:00Z",
            "2026-11-21T08:30:61Z",
            "+002026-11-21T08:30:00Z",
            "26-11-21T08:30:00Z",
            "2026-11-21T08:30:00\u{ff3a}",
        ] {
            assert_eq!(rfc3339(bad), None, "{bad}");
        }
    }
}
