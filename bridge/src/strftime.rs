//! Python's datetime.strftime for a count of seconds since 1970, with the directives that templates use.

use std::fmt::Write;

const MONTHS: [&str; 12] = [
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
];
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

struct Civil {
    year: i64,
    month: usize,  // 0..11
    day: i64,      // 1..31
    year_day: i64, // 1..366
}

fn is_leap(year: i64) -> bool {
    (year % 4 == 0 && year % 100 != 0) || year % 400 == 0
}

fn civil(days_since_1970: i64) -> Civil {
    // 400 Gregorian years have 146,097 days; the rest takes at most 400 steps.
    let mut year = 1970 + days_since_1970.div_euclid(146_097) * 400;
    let mut left = days_since_1970.rem_euclid(146_097);
    loop {
        let length = if is_leap(year) { 366 } else { 365 };
        if left < length {
            break;
        }
        left -= length;
        year += 1;
    }
    let year_day = left + 1;
    let lengths = [31, if is_leap(year) { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while left >= lengths[month] {
        left -= lengths[month];
        month += 1;
    }
    Civil { year, month, day: left + 1, year_day }
}

pub fn format(pattern: &str, seconds: i64) -> String {
    let date = civil(seconds.div_euclid(86_400));
    let week_day = (seconds.div_euclid(86_400) + 4).rem_euclid(7) as usize;
    let of_day = seconds.rem_euclid(86_400);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    let hour12 = if hour % 12 == 0 { 12 } else { hour % 12 };
    let mut out = String::new();
    let mut rest = pattern.chars();
    while let Some(c) = rest.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut directive = rest.next();
        // "%-d" is glibc's way to leave out the padding.
        let padded = directive != Some('-');
        if !padded {
            directive = rest.next();
        }
        let mut number = |value: i64, width: usize| {
            let width = if padded { width } else { 1 };
            let _ = write!(out, "{value:0width$}");
        };
        match directive {
            Some('Y') => number(date.year, 4),
            Some('y') => number(date.year.rem_euclid(100), 2),
            Some('m') => number(date.month as i64 + 1, 2),
            Some('d') => number(date.day, 2),
            Some('j') => number(date.year_day, 3),
            Some('H') => number(hour, 2),
            Some('I') => number(hour12, 2),
            Some('M') => number(minute, 2),
            Some('S') => number(second, 2),
            Some('B') => out.push_str(MONTHS[date.month]),
            Some('b' | 'h') => out.push_str(&MONTHS[date.month][..3]),
            Some('A') => out.push_str(DAYS[week_day]),
            Some('a') => out.push_str(&DAYS[week_day][..3]),
            Some('p') => out.push_str(if hour < 12 { "AM" } else { "PM" }),
            Some('e') => {
                let _ = write!(out, "{:2}", date.day);
            }
            Some('F') => {
                let _ = write!(out, "{:04}-{:02}-{:02}", date.year, date.month + 1, date.day);
            }
            Some('T') => {
                let _ = write!(out, "{hour:02}:{minute:02}:{second:02}");
            }
            Some('%') => out.push('%'),
            Some(other) => {
                out.push('%');
                out.push(other);
            }
            None => out.push('%'),
        }
    }
    out
}
