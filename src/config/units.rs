//! Units: durations, sizes, instants and JSON paths as they are written in pipeline files.
//!
//! Does not: know where they stand; the shape check names the place of a bad one.

use crate::event::{DurationMs, EventTime};
use arrow::compute::kernels::cast_utils::string_to_timestamp_nanos;

const DURATION_UNITS: [(&str, i64); 5] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

const SIZE_UNITS: [(&str, u64); 9] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("B", 1),
];

/// A century: sums of times and some durations do not overflow.
const DURATION_MAX: DurationMs = 36_525 * 86_400_000;

/// `500ms`, `5s`, `10m`, `1h`, `7d`: whole numbers with one unit, a century at most.
pub fn duration(text: &str) -> Option<DurationMs> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let factor = DURATION_UNITS.iter().find(|(name, _)| *name == unit)?.1;
    number.parse::<i64>().ok()?.checked_mul(factor).filter(|ms| *ms <= DURATION_MAX)
}

/// The shortest way to write a duration.
pub fn duration_text(ms: DurationMs) -> String {
    let (unit, factor) =
        DURATION_UNITS.iter().rev().find(|(_, factor)| ms % factor == 0 && ms != 0).copied().unwrap_or(("s", 1_000));
    format!("{}{unit}", ms / factor)
}

/// `128MB` (10^6), `1GiB` (2^30), `512B`.
pub fn size(text: &str) -> Option<u64> {
    let (unit, factor) = SIZE_UNITS.iter().find(|(unit, _)| text.ends_with(unit))?;
    let number = text.strip_suffix(unit)?;
    if !number.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    number.parse::<u64>().ok()?.checked_mul(*factor).filter(|bytes| *bytes <= i64::MAX as u64)
}

/// An RFC 3339 instant such as `2026-01-31T07:00:00Z`; without a zone it is UTC.
pub fn instant(text: &str) -> Option<EventTime> {
    string_to_timestamp_nanos(text).ok().map(|nanos| nanos.div_euclid(1_000_000))
}

/// A point in time, or how long after another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    At(EventTime),
    After(DurationMs),
}

/// An instant, or a time before or after another one: `5s`, `-2s`, `1m30s`.
pub fn moment(text: &str) -> Option<Moment> {
    let (sign, mut rest) = text.strip_prefix('-').map_or((1, text), |rest| (-1, rest));
    let mut sum = (!rest.is_empty()).then_some(0);
    while let Some(ms) = sum.filter(|ms| *ms <= DURATION_MAX && !rest.is_empty()) {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let unit = rest[digits..].find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len() - digits);
        let (length, after) = rest.split_at(digits + unit);
        sum = duration(length).map(|length| ms + length);
        rest = after;
    }
    match sum {
        Some(ms) => (ms <= DURATION_MAX).then_some(Moment::After(sign * ms)),
        None => instant(text).map(Moment::At),
    }
}

/// The fields of `$.a.b` or `$['a b'].c`; `$` alone is the whole value. `$index` is no path of fields.
pub fn json_path(text: &str) -> Option<Vec<String>> {
    let mut rest = text.strip_prefix('$')?;
    let mut fields = Vec::new();
    while !rest.is_empty() {
        if let Some(tail) = rest.strip_prefix('.') {
            let end = tail.find(['.', '[']).unwrap_or(tail.len());
            if end == 0 || tail[..end].contains(['*', ' ', '\'', '"', ']', '?', '@']) {
                return None;
            }
            fields.push(tail[..end].to_string());
            rest = &tail[end..];
        } else {
            let tail = rest.strip_prefix('[')?;
            let quote = tail.chars().next().filter(|c| *c == '\'' || *c == '"')?;
            let end = tail[1..].find(quote)? + 1;
            fields.push(tail[1..end].to_string());
            rest = tail[end + 1..].strip_prefix(']')?;
        }
    }
    Some(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_whole_numbers_with_one_unit() {
        assert_eq!(duration("500ms"), Some(500));
        assert_eq!(duration("7d"), Some(604_800_000));
        for bad in ["90x", "10", "m", "-5s", "1.5h", "5 s", "", "99999999999999d", "36526d"] {
            assert_eq!(duration(bad), None, "{bad}");
        }
        assert_eq!(
            (duration_text(600_000), duration_text(1_500), duration_text(0)),
            ("10m".into(), "1500ms".into(), "0s".into())
        );
    }

    #[test]
    fn sizes_tell_decimal_from_binary() {
        assert_eq!(size("128MB"), Some(128_000_000));
        assert_eq!(size("1GiB"), Some(1 << 30));
        for bad in ["128", "1.5GB", "MB", "1 GB", "10mb", "99999999TB"] {
            assert_eq!(size(bad), None, "{bad}");
        }
    }

    #[test]
    fn instants_are_utc_milliseconds() {
        assert_eq!(instant("1970-01-02T00:00:00Z"), Some(86_400_000));
        assert_eq!(instant("1970-01-01T01:00:00+01:00"), Some(0));
        assert_eq!(instant("yesterday"), None);
    }

    #[test]
    fn moments_are_instants_or_signed_sums_of_durations() {
        assert_eq!(moment("5s"), Some(Moment::After(5_000)));
        assert_eq!(moment("-2s"), Some(Moment::After(-2_000)));
        assert_eq!(moment("1m30s500ms"), Some(Moment::After(90_500)));
        assert_eq!(moment("1970-01-01T00:00:01Z"), Some(Moment::At(1_000)));
        for bad in ["", "-", "5", "s", "5s-2s", "5s 2s", "+5s", "36525d1s", "soon"] {
            assert_eq!(moment(bad), None, "{bad}");
        }
    }

    #[test]
    fn paths_name_object_fields() {
        assert_eq!(json_path("$.user.id"), Some(vec!["user".into(), "id".into()]));
        assert_eq!(json_path("$['a.b'].c"), Some(vec!["a.b".into(), "c".into()]));
        assert_eq!(json_path("$"), Some(vec![]));
        for bad in ["user.id", "$.a..b", "$.a[0]", "$.*", "$index", "$['a", ""] {
            assert_eq!(json_path(bad), None, "{bad}");
        }
    }
}
