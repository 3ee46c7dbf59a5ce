//! How pages write instants, durations, sizes, long texts and links.

use chrono::{DateTime, SecondsFormat, Utc};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use url::Url;

use crate::ids::MessageId;

/// More of a payload or a result than a person reads on a page, in bytes.
pub(super) const TEXT_SHOWN: usize = 16 * 1024;
/// What stays as it is in a part of a path.
const PART: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b':');

/// An id whose middle may be left out where there is no room: those of one time
/// begin alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LongId {
    pub(super) head: String,
    pub(super) tail: String,
}

impl LongId {
    /// Of a UUID as it is written.
    pub(super) fn of(id: MessageId) -> Self {
        let id = id.to_string();
        let at = id.len().saturating_sub(8);
        let (head, tail) = id.split_at_checked(at).unwrap_or((&id, ""));
        Self {
            head: head.to_owned(),
            tail: tail.to_owned(),
        }
    }
}

/// An instant, for `<time>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct When {
    /// For programs.
    pub(super) iso: String,
    /// For people, in UTC.
    pub(super) utc: String,
}

impl When {
    pub(super) fn of(at: DateTime<Utc>) -> Self {
        Self {
            iso: at.to_rfc3339_opts(SecondsFormat::Millis, true),
            utc: at.format("%Y-%m-%d %H:%M:%S").to_string(),
        }
    }
}

/// A colour that goes with a word, never in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    Good,
    Warn,
    Bad,
    Busy,
    Quiet,
}

impl Tone {
    const fn class(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Warn => "warn",
            Self::Bad => "bad",
            Self::Busy => "busy",
            Self::Quiet => "quiet",
        }
    }
}

/// A word with its colour.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Badge {
    pub(super) class: &'static str,
    pub(super) text: String,
}

impl Badge {
    pub(super) fn new(tone: Tone, text: impl Into<String>) -> Self {
        Self {
            class: tone.class(),
            text: text.into(),
        }
    }

    /// Of what a task or an attempt came to.
    pub(super) fn of_outcome(outcome: &str) -> Self {
        let tone = match outcome {
            "done" => Tone::Good,
            "failed" | "lost" | "host-fault" => Tone::Bad,
            "retry" | "drained" | "probe" => Tone::Warn,
            "claimed" => Tone::Busy,
            _ => Tone::Quiet,
        };
        Self::new(tone, outcome)
    }
}

/// A duration in two units at the most: `312 ms`, `12.3 s`, `3m 20s`.
pub(super) fn duration(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..60_000 => format!("{}.{} s", ms / 1_000, ms % 1_000 / 100),
        _ => {
            let whole = std::time::Duration::from_secs(ms / 1_000);
            let shown = humantime::format_duration(whole).to_string();
            let mut parts = shown.split(' ').take(2);
            let first = parts.next().unwrap_or_default().to_owned();
            parts.fold(first, |shown, part| shown + " " + part)
        }
    }
}

/// Half a thousandth counts, as spans are short.
pub(super) fn micros(us: u64) -> String {
    match us {
        0..10_000 => format!("{}.{:02} ms", us / 1_000, us % 1_000 / 10),
        _ => duration(us / 1_000),
    }
}

pub(super) fn bytes(bytes: u64) -> String {
    const KIB: u64 = 1024;
    const MIB: u64 = 1024 * KIB;
    // A size on a page is far below 2^53.
    match bytes {
        0..KIB => format!("{bytes} B"),
        KIB..MIB => format!("{:.1} KiB", bytes as f64 / KIB as f64),
        _ => format!("{:.1} MiB", bytes as f64 / MIB as f64),
    }
}

/// A text of which a page shows the beginning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Excerpt {
    pub(super) text: String,
    /// How much there is in all, where that is more.
    pub(super) whole: Option<String>,
}

impl Excerpt {
    /// The first `most` bytes, up to a character's border.
    pub(super) fn of(mut text: String, most: usize) -> Self {
        let len = text.len();
        if len <= most {
            return Self { text, whole: None };
        }
        let border = (0..=most).rev().find(|at| text.is_char_boundary(*at));
        text.truncate(border.unwrap_or(0));
        Self {
            text,
            whole: Some(bytes(len as u64)),
        }
    }

    /// A value as JSON with lines.
    pub(super) fn json(value: &serde_json::Value, most: usize) -> Self {
        // A value that was read from JSON can be written as JSON.
        let text = serde_json::to_string_pretty(value).unwrap_or_default();
        Self::of(text, most)
    }
}

/// Where a URL that somebody wrote may be followed to: other schemes than those
/// of the web do things in a browser.
pub(super) fn link(url: &str) -> Option<String> {
    let parsed = Url::parse(url).ok()?;
    matches!(parsed.scheme(), "http" | "https").then(|| parsed.to_string())
}

/// A part of a path of ours.
pub(super) fn part(text: &str) -> String {
    match text {
        // A browser takes these for steps in the path.
        "." => "%2E".to_owned(),
        ".." => "%2E%2E".to_owned(),
        _ => utf8_percent_encode(text, PART).to_string(),
    }
}

/// The first line of a text, and of that so many characters.
pub(super) fn first_line(text: &str, chars: usize) -> String {
    let line = text.lines().next().unwrap_or_default();
    let mut shown: String = line.chars().take(chars).collect();
    if shown.len() < text.trim_end().len() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_are_short() {
        for (ms, shown) in [
            (0, "0 ms"),
            (999, "999 ms"),
            (1_000, "1.0 s"),
            (59_999, "59.9 s"),
            (60_000, "1m"),
            (200_000, "3m 20s"),
            (90_061_000, "1day 1h"),
        ] {
            assert_eq!(duration(ms), shown);
        }
        assert_eq!(micros(1_234), "1.23 ms");
        assert_eq!(micros(12_345), "12 ms");
        assert_eq!(
            (bytes(1023), bytes(1536)),
            ("1023 B".into(), "1.5 KiB".into())
        );
        assert_eq!(bytes(3 << 20), "3.0 MiB");
    }

    #[test]
    fn an_excerpt_ends_at_a_character_and_says_so() {
        let cut = Excerpt::of("äöü".to_owned(), 3);
        assert_eq!((&*cut.text, cut.whole.as_deref()), ("ä", Some("6 B")));
        assert_eq!(Excerpt::of("äöü".to_owned(), 6).whole, None);
    }

    #[test]
    fn only_the_web_is_linked() {
        assert_eq!(
            link("https://x.example/a?b").as_deref(),
            Some("https://x.example/a?b")
        );
        for bad in [
            "javascript:alert(1)",
            " javascript:alert(1)",
            "data:text/html,x",
            "/a",
            "file:///a",
            "jav\nascript:x",
        ] {
            assert_eq!(link(bad), None, "{bad}");
        }
    }

    #[test]
    fn parts_of_paths_stay_parts() {
        assert_eq!(part("a/b?c#d e"), "a%2Fb%3Fc%23d%20e");
        assert_eq!((part("."), part("..")), ("%2E".into(), "%2E%2E".into()));
        assert_eq!(part("sha256:0-a_b"), "sha256:0-a_b");
    }

    #[test]
    fn a_line_is_the_first() {
        assert_eq!(first_line("a\nb", 9), "a…");
        assert_eq!(first_line("abcdef", 3), "abc…");
        assert_eq!(first_line("abc\n", 3), "abc");
    }
}
