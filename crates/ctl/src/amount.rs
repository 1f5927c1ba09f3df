//! Numbers with units, as people write and read them: `1.5 GiB`, `7d`, `50k`.

use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

/// Bytes for people.
pub(crate) fn size(bytes: u64) -> String {
    let mut units = ["KiB", "MiB", "GiB", "TiB", "PiB"].into_iter();
    let (mut whole, mut rest, mut unit) = (bytes, 0, "B");
    while whole >= 1024
        && let Some(next) = units.next()
    {
        (whole, rest, unit) = (whole / 1024, whole % 1024, next);
    }
    if unit == "B" { format!("{whole} B") } else { format!("{whole}.{} {unit}", rest * 10 / 1024) }
}

/// Seconds for people, in the two largest units.
pub(crate) fn span(seconds: u64) -> String {
    let units = [("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)];
    let at = units.iter().position(|(_, unit)| seconds >= *unit).unwrap_or(units.len() - 1);
    let (name, unit) = units[at];
    let rest = seconds % unit;
    match units.get(at + 1).filter(|(_, next)| rest >= *next) {
        Some((next, next_unit)) => format!("{}{name}{}{next}", seconds / unit, rest / next_unit),
        None => format!("{}{name}", seconds / unit),
    }
}

/// How long ago a time of the cluster was; "in …" if it is still to come.
pub(crate) fn ago(time_ms: u64) -> String {
    let now = now_ms();
    match time_ms > now {
        true => format!("in {}", span((time_ms - now) / 1_000)),
        false => span((now - time_ms) / 1_000),
    }
}

/// Milliseconds since the Unix epoch.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// A number with a decimal multiplier: `50k`, `1.5M`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Count(pub(crate) f64);

/// A size: `512`, `4kB`, `4KiB`, `1.5G`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bytes(pub(crate) u64);

/// A span of time: `30s`, `12h`, `7d`, `1h30m`; a bare number is seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span(pub(crate) u64);

impl FromStr for Count {
    type Err = String;

    fn from_str(text: &str) -> Result<Count, String> {
        let (number, unit) = parts(text)?;
        let factor = match unit {
            "" => 1.0,
            "k" | "K" => 1e3,
            "m" | "M" => 1e6,
            "g" | "G" => 1e9,
            _ => return Err(format!("unit {unit:?} is none of k, M, G")),
        };
        Ok(Count(number * factor))
    }
}

impl FromStr for Bytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Bytes, String> {
        let (number, unit) = parts(text)?;
        let factor = match unit.to_ascii_lowercase().trim_end_matches('b') {
            "" => 1.0,
            "k" => 1e3,
            "m" => 1e6,
            "g" => 1e9,
            "t" => 1e12,
            "ki" => 1024.0,
            "mi" => 1_048_576.0,
            "gi" => 1_073_741_824.0,
            "ti" => 1_099_511_627_776.0,
            _ => {
                return Err(format!(
                    "unit {unit:?} is none of B, kB, MB, GB, TB, KiB, MiB, GiB, TiB"
                ));
            }
        };
        whole(number * factor).map(Bytes)
    }
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Span, String> {
        let (mut rest, mut seconds) = (text, 0.0);
        loop {
            let end = rest.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(rest.len());
            let next = rest[end..].find(|c: char| !c.is_ascii_alphabetic());
            let (part, later) = rest.split_at(next.map_or(rest.len(), |next| end + next));
            let (number, unit) = parts(part)?;
            seconds += number
                * match unit {
                    "" | "s" => 1.0,
                    "m" | "min" => 60.0,
                    "h" => 3_600.0,
                    "d" => 86_400.0,
                    "w" => 604_800.0,
                    _ => return Err(format!("unit {unit:?} is none of s, m, h, d, w")),
                };
            if later.is_empty() {
                return whole(seconds).map(Span);
            }
            rest = later;
        }
    }
}

/// The number at the beginning, and the rest.
fn parts(text: &str) -> Result<(f64, &str), String> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let number =
        number.parse::<f64>().map_err(|_| format!("{text:?} does not begin with a number"))?;
    Ok((number, unit.trim()))
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked before")]
fn whole(number: f64) -> Result<u64, String> {
    // Above this a float has no units any more.
    if (0.0..9e15).contains(&number) { Ok(number as u64) } else { Err("too large".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        let sizes = [0, 1023, 1024, 1536, 5 << 20, 3 << 40].map(size);
        assert_eq!(sizes, ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "5.0 MiB", "3.0 TiB"]);
    }

    #[test]
    fn spans_have_two_units() {
        let spans = [0, 59, 60, 61, 3_600, 5_400, 86_399, 90_000, 604_800].map(span);
        assert_eq!(spans, ["0s", "59s", "1m", "1m1s", "1h", "1h30m", "23h59m", "1d1h", "7d"]);
    }

    #[test]
    fn people_write_units() {
        assert_eq!("50k".parse(), Ok(Count(50_000.0)));
        assert_eq!("1.5M".parse(), Ok(Count(1_500_000.0)));
        assert_eq!("256".parse(), Ok(Bytes(256)));
        assert_eq!("4KiB".parse(), Ok(Bytes(4_096)));
        assert_eq!("1.5 GB".parse(), Ok(Bytes(1_500_000_000)));
        assert_eq!("7d".parse(), Ok(Span(604_800)));
        assert_eq!("1h30m".parse(), Ok(Span(5_400)));
        assert_eq!("90".parse(), Ok(Span(90)));
        assert!("".parse::<Count>().is_err());
        assert!("7y".parse::<Span>().is_err());
        assert!("-1".parse::<Bytes>().is_err());
        assert!("1e9".parse::<Span>().is_err());
        assert!("99999999999999999d".parse::<Span>().is_err());
    }
}
