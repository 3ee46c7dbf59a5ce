//! The one door from text to markup: every value that a template prints passes
//! here.
//!
//! What could be markup is escaped. What would act on the reader's eyes instead
//! of being read, control characters and marks of direction, is shown as JSON
//! writes it (`\u202e`), so that nothing is hidden and nothing turns around.

use std::fmt::{self, Write};

use askama::filters::{Escaper, Html};

use crate::plugin::text::acts_on_readers;

/// The escaper of the templates; `askama.toml` names it.
#[derive(Clone, Copy)]
pub(crate) struct Shown;

impl Escaper for Shown {
    fn write_escaped_str<W: Write>(&self, mut dest: W, string: &str) -> fmt::Result {
        let mut rest = string;
        while let Some((at, c)) = rest.char_indices().find(|(_, c)| acts_on_readers(*c)) {
            let (plain, after) = rest.split_at(at);
            Html.write_escaped_str(&mut dest, plain)?;
            write!(dest, "\\u{:04x}", u32::from(c))?;
            rest = after.get(c.len_utf8()..).unwrap_or_default();
        }
        Html.write_escaped_str(&mut dest, rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        let mut written = String::new();
        Shown.write_escaped_str(&mut written, text).unwrap();
        written
    }

    #[test]
    fn nothing_is_markup_and_nothing_acts_on_the_reader() {
        for (text, expected) in [
            ("plain ünïcode\n\ttext", "plain ünïcode\n\ttext"),
            (
                "<b a='1' c=\"2\">&",
                "&#60;b a=&#39;1&#39; c=&#34;2&#34;&#62;&#38;",
            ),
            ("\u{1b}[31mred", "\\u001b[31mred"),
            ("a\u{202e}b\u{2066}<c>", "a\\u202eb\\u2066&#60;c&#62;"),
            ("nul\0bell\u{7}cr\r", "nul\\u0000bell\\u0007cr\\u000d"),
            ("\u{200f}\u{61c}\u{feff}", "\\u200f\\u061c\\ufeff"),
            ("\u{e0001}", "\\ue0001"),
            ("", ""),
        ] {
            assert_eq!(shown(text), expected, "{text:?}");
        }
    }
}
