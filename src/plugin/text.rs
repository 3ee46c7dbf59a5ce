//! Makes text from a guest fit to be stored and shown.
//!
//! Nothing that a terminal would act on and nothing that a database refuses
//! gets past this module. It never allocates for text that is clean already.

use std::borrow::Cow;

/// What marks a text that was cut.
const CUT: &str = "…";

/// Shortens to at most `bytes`, at a character's border, and says so.
pub(crate) fn cut(mut text: String, bytes: usize) -> String {
    if text.len() <= bytes {
        return text;
    }
    let room = bytes.saturating_sub(CUT.len());
    let border = (0..=room)
        .rev()
        .find(|at| text.is_char_boundary(*at))
        .unwrap_or(0);
    text.truncate(border);
    text.push_str(CUT);
    text
}

/// Removes escape sequences and control characters but line breaks and tabs.
pub(crate) fn printable(text: String) -> String {
    match strip(&text) {
        Cow::Borrowed(_) => text,
        Cow::Owned(stripped) => stripped,
    }
}

/// As [`printable`], on one line.
pub(crate) fn one_line(text: String) -> String {
    let text = printable(text);
    if text.contains(['\n', '\t']) {
        text.replace(['\n', '\t'], " ")
    } else {
        text
    }
}

/// Replaces NUL, which neither column type of the bus can hold in a text.
pub(crate) fn storable(text: String) -> String {
    if text.contains('\0') {
        text.replace('\0', "\u{fffd}")
    } else {
        text
    }
}

fn strip(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_unwanted) {
        return Cow::Borrowed(text);
    }
    let mut kept = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c == '\u{1b}' || c == '\u{9b}' {
            skip_escape(c, &mut chars);
        } else if !is_unwanted(c) {
            kept.push(c);
        }
    }
    Cow::Owned(kept)
}

/// Whether a character is not read but does something to what is: what
/// [`printable`] removes, and marks that have no width.
pub(crate) fn acts_on_readers(c: char) -> bool {
    is_unwanted(c)
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}' | '\u{2029}'
            | '\u{2060}'..='\u{2064}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}')
}

/// Controls, and the marks that turn the direction of what follows.
fn is_unwanted(c: char) -> bool {
    (c.is_control() && c != '\n' && c != '\t')
        || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Skips the rest of an escape sequence as ECMA-48 shapes them: a control
/// sequence up to its final byte, a string up to its terminator, else one byte.
fn skip_escape(introducer: char, chars: &mut std::iter::Peekable<std::str::Chars<'_>>) {
    let kind = if introducer == '\u{9b}' {
        Some('[')
    } else {
        chars.next_if(char::is_ascii)
    };
    match kind {
        Some('[') => {
            while chars.next_if(|c| matches!(c, ' '..='?')).is_some() {}
            let _ = chars.next_if(|c| matches!(c, '@'..='~'));
        }
        // Operating system command, device control, and the like.
        Some(']' | 'P' | 'X' | '^' | '_') => {
            while let Some(c) = chars.next_if(|c| *c != '\n') {
                if c == '\u{7}' || c == '\u{9c}' {
                    return;
                }
                if c == '\u{1b}' {
                    let _ = chars.next_if_eq(&'\\');
                    return;
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_act_on_is_gone() {
        for (raw, clean) in [
            ("plain ünïcode\n\ttext", "plain ünïcode\n\ttext"),
            ("\u{1b}[31mred\u{1b}[0m", "red"),
            ("\u{1b}]0;title\u{7}after", "after"),
            ("\u{1b}]8;;http://x\u{1b}\\link", "link"),
            ("\u{9b}2Jcleared", "cleared"),
            ("nul\0bell\u{7}cr\r", "nulbellcr"),
            ("\u{1b}", ""),
            ("a\u{202e}b", "ab"),
            ("\u{1b}P unfinished\nnext", "\nnext"),
        ] {
            assert_eq!(printable(raw.to_owned()), clean, "{raw:?}");
        }
    }

    #[test]
    fn a_cut_never_splits_a_character() {
        for bytes in 0..12 {
            let cut = cut("äöüäöü".to_owned(), bytes);
            assert!(cut.len() <= bytes.max(CUT.len()), "{cut}");
        }
        assert_eq!(cut("short".to_owned(), 5), "short");
    }

    #[test]
    fn one_line_is_one_line() {
        assert_eq!(one_line("a\r\nb\tc".to_owned()), "a b c");
        assert_eq!(storable("a\0b".to_owned()), "a\u{fffd}b");
    }
}
