//! Time of day for get-time-of-day and set-time-of-day (LoPAR, Time of Day): UTC, kept as an offset to a base.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

const NANOS_PER_SECOND: i64 = 1_000_000_000;
const SECONDS_PER_DAY: i64 = 86_400;

/// A date and time as RTAS carries it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DateTime {
    /// Gregorian year.
    pub year: u32,
    /// 1 to 12.
    pub month: u32,
    /// 1 to 31.
    pub day: u32,
    /// 0 to 23.
    pub hour: u32,
    /// 0 to 59.
    pub minute: u32,
    /// 0 to 59.
    pub second: u32,
    /// 0 to 999,999,999.
    pub nanosecond: u32,
}

impl DateTime {
    /// From nanoseconds since 1970, UTC; years 1970 to 2261.
    pub fn from_unix_ns(nanos: i64) -> Self {
        let seconds = nanos.div_euclid(NANOS_PER_SECOND);
        let (days, in_day) = (seconds.div_euclid(SECONDS_PER_DAY), seconds.rem_euclid(SECONDS_PER_DAY));
        let (year, month, day) = civil_from_days(days);
        Self {
            year: year as u32,
            month,
            day,
            hour: (in_day / 3600) as u32,
            minute: (in_day / 60 % 60) as u32,
            second: (in_day % 60) as u32,
            nanosecond: nanos.rem_euclid(NANOS_PER_SECOND) as u32,
        }
    }

    /// Nanoseconds since 1970, UTC; `None` for a date or time that does not exist or lies outside 1970 to 2199.
    pub fn to_unix_ns(self) -> Option<i64> {
        let in_range = (1970..2200).contains(&self.year)
            && (1..=12).contains(&self.month)
            && (1..=31).contains(&self.day)
            && self.hour < 24
            && self.minute < 60
            && self.second < 60
            && i64::from(self.nanosecond) < NANOS_PER_SECOND;
        if !in_range {
            return None;
        }
        let days = days_from_civil(i64::from(self.year), self.month, self.day);
        let in_day = i64::from(self.hour) * 3600 + i64::from(self.minute) * 60 + i64::from(self.second);
        let nanos = (days * SECONDS_PER_DAY + in_day) * NANOS_PER_SECOND + i64::from(self.nanosecond);
        // The 31st of a shorter month comes back as another date.
        (Self::from_unix_ns(nanos) == self).then_some(nanos)
    }
}

/// Days since 1970-01-01 of a Gregorian date: years begin in March, so that the leap day is the last of its year, and repeat
/// every 400 years.
fn days_from_civil(year: i64, month: u32, day: u32) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((i64::from(month) + 9) % 12) + 2) / 5 + i64::from(day) - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + day_of_year - 719_468
}

fn civil_from_days(days: i64) -> (i64, u32, u32) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month as u32, day as u32)
}

/// The partition's clock.
#[derive(Debug)]
pub struct PartitionClock {
    /// `None`: the host's clock. A fixed base makes runs repeatable; it does not advance.
    fixed_base_ns: Option<i64>,
    offset_ns: AtomicI64,
}

/// What a deterministic machine takes for the time of day: 2026-01-01 00:00 UTC.
const DETERMINISTIC_BASE_NS: i64 = 1_767_225_600 * NANOS_PER_SECOND;

impl PartitionClock {
    /// The host's time of day.
    pub fn host() -> Self {
        Self { fixed_base_ns: None, offset_ns: AtomicI64::new(0) }
    }

    /// The same time of day in every run.
    pub fn deterministic() -> Self {
        Self { fixed_base_ns: Some(DETERMINISTIC_BASE_NS), offset_ns: AtomicI64::new(0) }
    }

    /// Now.
    pub fn now(&self) -> DateTime {
        DateTime::from_unix_ns(self.base_ns().saturating_add(self.offset_ns.load(Ordering::Relaxed)))
    }

    /// The guest sets its clock: the difference to the base is kept. False for a date that does not exist.
    pub fn set(&self, to: DateTime) -> bool {
        let Some(nanos) = to.to_unix_ns() else { return false };
        self.offset_ns.store(nanos.saturating_sub(self.base_ns()), Ordering::Relaxed);
        true
    }

    fn base_ns(&self) -> i64 {
        let host = || {
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
        };
        self.fixed_base_ns.unwrap_or_else(host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_dates() {
        let date = DateTime::from_unix_ns(951_782_400 * NANOS_PER_SECOND + 5);
        assert_eq!((date.year, date.month, date.day, date.hour, date.nanosecond), (2000, 2, 29, 0, 5));
        let date = DateTime::from_unix_ns(DETERMINISTIC_BASE_NS - 1);
        assert_eq!((date.year, date.month, date.day, date.hour, date.minute, date.second), (2025, 12, 31, 23, 59, 59));
    }

    #[test]
    fn every_day_round_trips() {
        for day in 0..80_000 {
            let nanos = (day * SECONDS_PER_DAY + 12_345) * NANOS_PER_SECOND + 678;
            assert_eq!(DateTime::from_unix_ns(nanos).to_unix_ns(), Some(nanos));
        }
    }

    #[test]
    fn impossible_dates_are_refused_and_change_nothing() {
        let clock = PartitionClock::deterministic();
        let good = DateTime { year: 2030, month: 2, day: 28, hour: 1, minute: 2, second: 3, nanosecond: 4 };
        assert!(clock.set(good));
        assert_eq!(clock.now(), good);
        for bad in [
            DateTime { day: 30, ..good },
            DateTime { month: 0, ..good },
            DateTime { month: 13, ..good },
            DateTime { hour: 24, ..good },
            DateTime { year: 1969, ..good },
            DateTime { year: u32::MAX, ..good },
            DateTime { nanosecond: 1_000_000_000, ..good },
        ] {
            assert!(!clock.set(bad), "{bad:?}");
        }
        assert_eq!(clock.now(), good);
    }
}
