//! The query of a page: a form sends its empty fields too, and links keep what
//! they do not change.

use url::form_urlencoded;

use crate::api::query::{Params, QueryError};

/// The fields that were filled in.
///
/// # Errors
/// As [`Params::read`].
pub(super) fn filled(
    query: Option<&str>,
    known: &'static [&'static str],
) -> Result<Params, QueryError> {
    let pairs = form_urlencoded::parse(query.unwrap_or_default().as_bytes());
    let pairs = pairs.filter(|(_, value)| !value.trim().is_empty());
    let filled = joined(pairs);
    Params::read(Some(&filled), known)
}

/// A path with a query; without one where nothing is asked.
pub(super) fn asking<'a>(
    path: &str,
    fields: impl IntoIterator<Item = (&'a str, Option<String>)>,
) -> String {
    let fields = fields.into_iter();
    let query = joined(fields.filter_map(|(name, value)| Some((name, value?))));
    let mark = if query.is_empty() { "" } else { "?" };
    format!("{path}{mark}{query}")
}

fn joined<N: AsRef<str>, V: AsRef<str>>(pairs: impl Iterator<Item = (N, V)>) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    for (name, value) in pairs {
        query.append_pair(name.as_ref(), value.as_ref());
    }
    query.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_fields_say_nothing() {
        let params = filled(Some("a=&b=x+y&a=%20"), &["a", "b"]).unwrap();
        assert_eq!(params.text("a").unwrap(), None);
        assert_eq!(params.text("b").unwrap(), Some("x y"));
        assert!(filled(Some("c=1"), &["a"]).is_err());
    }

    #[test]
    fn a_link_names_what_it_asks_for() {
        let value = |text: &str| Some(text.to_owned());
        assert_eq!(asking("/p", [("a", None)]), "/p");
        assert_eq!(
            asking("/p", [("a", value("1&2")), ("b", None)]),
            "/p?a=1%262"
        );
    }
}
