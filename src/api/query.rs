//! Query parameters, read strictly: a misspelt filter that is ignored would
//! answer another question than the one asked.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

use url::form_urlencoded;

/// How alike two names must be for one to be meant by the other, from 0 to 1.
const ALIKE: f64 = 0.7;

/// Why a query string is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum QueryError {
    #[error("there is no query parameter `{name}` here")]
    Unknown {
        name: String,
        known: &'static [&'static str],
    },
    #[error("the query parameter `{0}` is given more than once")]
    Repeated(&'static str),
    #[error("query parameter `{name}`: {problem}")]
    Value { name: &'static str, problem: String },
}

impl QueryError {
    pub(super) const fn code(&self) -> &'static str {
        match self {
            Self::Unknown { .. } => "parameter_unknown",
            Self::Repeated(_) => "parameter_repeated",
            Self::Value { .. } => "parameter_invalid",
        }
    }

    pub(super) fn hint(&self) -> Option<String> {
        match self {
            Self::Unknown { known: [], .. } => Some("this path takes none".to_owned()),
            Self::Unknown { name, known } => Some(match nearest(name, known) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => format!("there are: {}", known.join(", ")),
            }),
            Self::Repeated(_) => Some("give it once".to_owned()),
            Self::Value { .. } => None,
        }
    }
}

fn nearest(name: &str, known: &'static [&'static str]) -> Option<&'static str> {
    let rated = known.iter().map(|k| (strsim::jaro_winkler(name, k), *k));
    let (alike, meant) = rated.max_by(|a, b| a.0.total_cmp(&b.0))?;
    (alike >= ALIKE).then_some(meant)
}

/// The parameters of one request.
#[derive(Debug, Clone)]
pub(super) struct Params(Vec<(&'static str, String)>);

impl Params {
    /// # Errors
    /// When a parameter is none of `known`, or is given twice.
    pub(super) fn read(
        query: Option<&str>,
        known: &'static [&'static str],
    ) -> Result<Self, QueryError> {
        let mut params: Vec<(&'static str, String)> = Vec::new();
        for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            let Some(name) = known.iter().copied().find(|k| *k == name) else {
                let name = shortened(&name);
                return Err(QueryError::Unknown { name, known });
            };
            if params.iter().any(|(given, _)| *given == name) {
                return Err(QueryError::Repeated(name));
            }
            params.push((name, value.into_owned()));
        }
        Ok(Self(params))
    }

    /// # Errors
    /// When it is given without a value.
    pub(super) fn text(&self, name: &'static str) -> Result<Option<&str>, QueryError> {
        let given = self.0.iter().find(|(given, _)| *given == name);
        match given.map(|(_, value)| value.as_str()) {
            Some("") => Err(QueryError::Value {
                name,
                problem: "it is empty; leave it out instead".to_owned(),
            }),
            value => Ok(value),
        }
    }

    /// # Errors
    /// When the text is none of `T`; `T`'s error says the value and what is
    /// expected.
    pub(super) fn parsed<T>(&self, name: &'static str) -> Result<Option<T>, QueryError>
    where
        T: FromStr<Err: Display>,
    {
        let parsed = self.text(name)?.map(str::parse).transpose();
        parsed.map_err(|error: T::Err| QueryError::Value {
            name,
            problem: error.to_string(),
        })
    }

    /// How many to list at the most.
    ///
    /// # Errors
    /// When it is no whole number from 1 to `max`.
    pub(super) fn limit(&self, default: u32, max: u32) -> Result<u32, QueryError> {
        Ok(self.number("limit", 1..=max)?.unwrap_or(default))
    }

    /// # Errors
    /// When it is no whole number within `range`.
    pub(super) fn number(
        &self,
        name: &'static str,
        range: RangeInclusive<u32>,
    ) -> Result<Option<u32>, QueryError> {
        let Some(text) = self.text(name)? else {
            return Ok(None);
        };
        match text.parse() {
            Ok(number) if range.contains(&number) => Ok(Some(number)),
            _ => Err(QueryError::Value {
                name,
                problem: format!(
                    "`{}` is not a whole number from {} to {}",
                    shortened(text),
                    range.start(),
                    range.end()
                ),
            }),
        }
    }

    /// # Errors
    /// When it is neither `true` nor `false`.
    pub(super) fn truth(&self, name: &'static str) -> Result<Option<bool>, QueryError> {
        match self.text(name)? {
            None => Ok(None),
            Some("true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some(other) => Err(QueryError::Value {
                name,
                problem: format!("`{}` is neither `true` nor `false`", shortened(other)),
            }),
        }
    }
}

/// A hostile value must not fill an answer.
pub(super) fn shortened(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &[&str] = &["trace", "since_min", "limit"];

    fn read(query: &str) -> Result<Params, QueryError> {
        Params::read(Some(query), KNOWN)
    }

    #[test]
    fn a_misspelt_name_gets_the_nearest_known_one() {
        let hint = |query| read(query).unwrap_err().hint().unwrap();
        assert_eq!(hint("sincemin=5"), "did you mean `since_min`?");
        assert_eq!(hint("Limit=5"), "did you mean `limit`?");
        assert_eq!(hint("q=5"), "there are: trace, since_min, limit");
        let none = Params::read(Some("a=1"), &[]).unwrap_err();
        assert_eq!(none.hint().unwrap(), "this path takes none");
    }

    #[test]
    fn values_are_checked_and_named() {
        let params = read("limit=0&trace=&since_min=%35").unwrap();
        let limit = params.number("limit", 1..=9).unwrap_err().to_string();
        assert_eq!(
            limit,
            "query parameter `limit`: `0` is not a whole number from 1 to 9"
        );
        assert!(params.text("trace").is_err());
        assert_eq!(params.number("since_min", 1..=9), Ok(Some(5)));
        assert!(read("limit=1&limit=1").is_err());
    }
}
