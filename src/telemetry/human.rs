//! Human: numbers, sizes and lengths of time as people read them.
//!
//! Holds: three significant digits at most past a thousand; no locale.

/// `999`, `12.3 k`, `1.20 M`: a count for a glance.
pub fn human_count(count: u64) -> String {
    scaled(count as f64, 1000.0, &["", " k", " M", " G", " T"])
}

/// `1,234,567`: a count to compare digit by digit.
pub fn exact_count(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `17 B`, `1.50 KiB`, `128 MiB`.
pub fn human_bytes(bytes: u64) -> String {
    scaled(bytes as f64, 1024.0, &[" B", " KiB", " MiB", " GiB", " TiB"])
}

/// `152 k/s`.
pub fn human_rate(per_second: f64) -> String {
    match per_second {
        slow if slow < 10.0 => format!("{slow:.1}/s"),
        fast => scaled(fast, 1000.0, &["", " k", " M", " G"]) + "/s",
    }
}

/// `350 ms`, `5.2 s`, `2 min 5 s`, `3 h 20 min`, `2 d 4 h`.
pub fn human_duration_ms(duration_ms: i64) -> String {
    let sign = if duration_ms < 0 { "-" } else { "" };
    let ms = duration_ms.unsigned_abs();
    let pair = |large: u64, unit: &str, small: u64, small_unit: &str| match small {
        0 => format!("{large} {unit}"),
        small => format!("{large} {unit} {small} {small_unit}"),
    };
    let (minutes, hours) = (ms / 60_000, ms / 3_600_000);
    let text = match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..60_000 if ms.is_multiple_of(1000) => format!("{} s", ms / 1000),
        1_000..60_000 => format!("{}.{} s", ms / 1000, ms % 1000 / 100),
        60_000..3_600_000 => pair(minutes, "min", ms / 1000 % 60, "s"),
        3_600_000..86_400_000 => pair(hours, "h", minutes % 60, "min"),
        _ => pair(hours / 24, "d", hours % 24, "h"),
    };
    format!("{sign}{text}")
}

/// `2026-01-31 07:00:12.345Z`: a Unix time in ms, to the millisecond where it has one.
pub fn human_time(ms: i64) -> String {
    let Some(time) = arrow::temporal_conversions::timestamp_ms_to_datetime(ms) else { return format!("{ms} ms") };
    let pattern = if ms.rem_euclid(1000) == 0 { "%Y-%m-%d %H:%M:%SZ" } else { "%Y-%m-%d %H:%M:%S%.3fZ" };
    time.format(pattern).to_string()
}

/// `10.1 %` of a whole; `-` where there is no whole.
pub fn human_percent(part: u64, whole: u64) -> String {
    match whole {
        0 => "-".into(),
        whole => format!("{:.1} %", part as f64 * 100.0 / whole as f64),
    }
}

fn scaled(value: f64, base: f64, units: &[&str]) -> String {
    let (mut value, mut unit) = (value, 0);
    // 999.5 would round to a fourth digit.
    while value >= base - 0.5 && unit + 1 < units.len() {
        value /= base;
        unit += 1;
    }
    let digits = match value {
        _ if unit == 0 => 0,
        small if small < 9.995 => 2,
        middle if middle < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.digits$}{}", units[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_keep_three_digits() {
        let cases = [
            (0, "0"),
            (999, "999"),
            (1000, "1.00 k"),
            (9_994, "9.99 k"),
            (9_996, "10.0 k"),
            (12_345, "12.3 k"),
            (152_000, "152 k"),
            (999_600, "1.00 M"),
            (2_000_000, "2.00 M"),
            (u64::MAX, "18446744 T"),
        ];
        for (count, expected) in cases {
            assert_eq!(human_count(count), expected);
        }
        assert_eq!(exact_count(0) + " " + &exact_count(999) + " " + &exact_count(1_234_567), "0 999 1,234,567");
    }

    #[test]
    fn sizes_and_rates_name_their_unit() {
        assert_eq!(human_bytes(17), "17 B");
        assert_eq!(human_bytes(1536), "1.50 KiB");
        assert_eq!(human_bytes(128 << 20), "128 MiB");
        assert_eq!(human_rate(0.25), "0.2/s");
        assert_eq!(human_rate(152_345.0), "152 k/s");
    }

    #[test]
    fn lengths_of_time_use_the_two_largest_units() {
        let cases = [
            (0, "0 ms"),
            (999, "999 ms"),
            (1000, "1 s"),
            (5_250, "5.2 s"),
            (60_000, "1 min"),
            (125_999, "2 min 5 s"),
            (12_000_000, "3 h 20 min"),
            (86_400_000, "1 d"),
            (187_200_000, "2 d 4 h"),
            (-1_500, "-1.5 s"),
        ];
        for (ms, expected) in cases {
            assert_eq!(human_duration_ms(ms), expected);
        }
    }

    #[test]
    fn a_share_of_nothing_is_a_dash() {
        assert_eq!(human_percent(0, 0), "-");
        assert_eq!(human_percent(101, 1000), "10.1 %");
    }
}
