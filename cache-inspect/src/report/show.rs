//! Keys, times and tables as text.

use std::fmt::Write as _;

/// Returns bytes as text for a terminal. Control characters, and bytes that are no UTF-8, are escaped.
pub(super) fn key(bytes: &[u8]) -> String {
    match str::from_utf8(bytes) {
        Ok(text) => printable(text),
        Err(_) => bytes.escape_ascii().to_string(),
    }
}

/// Returns the text with its control characters escaped.
pub(super) fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if is_printable(character) {
            shown.push(character);
        } else {
            shown.extend(character.escape_unicode());
        }
    }
    shown
}

/// Returns `false` for characters that control a terminal or the direction of the text.
fn is_printable(character: char) -> bool {
    !character.is_control()
        && !matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Returns bytes as hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut digits, byte| {
        let _ = write!(digits, "{byte:02x}");
        digits
    })
}

/// Returns a time in Unix milliseconds as RFC 3339 writes it, in UTC.
pub(super) fn time(millis: u64) -> String {
    let (days, of_day) = (millis / 86_400_000, millis % 86_400_000);
    // The last year that the format has is 9999.
    if days >= 2_932_897 {
        return "after 9999".to_owned();
    }
    // Years begin in March, so that a leap day is the last day of its year.
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hours, minutes) = (of_day / 3_600_000, of_day / 60_000 % 60);
    let (seconds, millis) = (of_day / 1000 % 60, of_day % 1000);
    format!("{year:04}-{month:02}-{day:02}T{hours:02}:{minutes:02}:{seconds:02}.{millis:03}Z")
}

/// Returns a duration in its two largest units.
pub(super) fn duration(millis: u64) -> String {
    let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s"), (1, "ms")];
    let Some(first) = units.iter().position(|(size, _)| millis >= *size) else { return "0 ms".to_owned() };
    let mut rest = millis;
    let mut parts = Vec::new();
    for (size, unit) in &units[first..units.len().min(first + 2)] {
        if rest / size > 0 {
            parts.push(format!("{} {unit}", rest / size));
        }
        rest %= size;
    }
    parts.join(" ")
}

/// Returns a time with its distance from now.
pub(super) fn time_from(millis: u64, now: u64) -> String {
    let distance = duration(millis.abs_diff(now));
    if millis <= now {
        format!("{} ({distance} ago)", time(millis))
    } else {
        format!("{} (in {distance})", time(millis))
    }
}

/// Returns the remaining time until the backend removes something.
pub(super) fn ttl(millis: Option<u64>) -> String {
    millis.map_or_else(|| "does not expire".to_owned(), duration)
}

/// Returns a number of bytes.
pub(super) fn bytes(count: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB"];
    let power = (1..=units.len()).rev().find(|&power| count >= 1 << (10 * power));
    match power {
        Some(power) => format!("{:.1} {}", count as f64 / (1_u64 << (10 * power)) as f64, units[power - 1]),
        None => format!("{count} B"),
    }
}

/// Returns rows as text: the cells of each column begin at one position. Rows may have fewer cells.
pub(super) fn table(rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = Vec::new();
    for row in rows {
        for (at, cell) in row.iter().enumerate() {
            let width = cell.chars().count();
            match widths.get_mut(at) {
                Some(widest) => *widest = width.max(*widest),
                None => widths.push(width),
            }
        }
    }
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{cell:<width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        for (millis, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (951_868_800_000, "2000-03-01T00:00:00.000Z"),
            (1_704_067_199_001, "2023-12-31T23:59:59.001Z"),
            (1_764_453_263_123, "2025-11-29T21:54:23.123Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
            (253_402_300_799_999, "9999-12-31T23:59:59.999Z"),
            (253_402_300_800_000, "after 9999"),
            (u64::MAX, "after 9999"),
        ] {
            assert_eq!(time(millis), text, "{millis}");
        }
    }

    #[test]
    fn durations_have_two_units() {
        for (millis, text) in [
            (0, "0 ms"),
            (999, "999 ms"),
            (1_000, "1 s"),
            (61_500, "1 m 1 s"),
            (3_600_000, "1 h"),
            (90_061_001, "1 d 1 h"),
        ] {
            assert_eq!(duration(millis), text);
        }
        assert_eq!(time_from(1_000, 3_000), "1970-01-01T00:00:01.000Z (2 s ago)");
        assert_eq!(time_from(3_000, 1_000), "1970-01-01T00:00:03.000Z (in 2 s)");
    }

    #[test]
    fn nothing_that_controls_a_terminal_is_shown() {
        assert_eq!(key("ä:42".as_bytes()), "ä:42");
        assert_eq!(key(b"a\x1b[31m"), "a\\u{1b}[31m");
        assert_eq!(key("a\u{202e}b\u{9b}".as_bytes()), "a\\u{202e}b\\u{9b}");
        assert_eq!(key(b"\xff\n"), "\\xff\\n");
        assert_eq!(hex(b"\xff\n"), "ff0a");
    }

    #[test]
    fn sizes_have_one_decimal() {
        assert_eq!([0, 1023, 1024, 1536, 5 << 30].map(bytes), ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "5.0 GiB"]);
    }

    #[test]
    fn columns_are_aligned() {
        let rows = [vec!["a".into(), "b".into(), "c".into()], vec!["äöü".into(), "d".into()]];
        assert_eq!(table(&rows), "a    b  c\näöü  d\n");
    }
}
