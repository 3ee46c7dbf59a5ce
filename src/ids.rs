//! Identifiers as types of their own, parsed once at the edge and printed one way.
//!
//! Nothing here reads a clock, a file or a database; randomness is used only to
//! make new identifiers.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

/// Why a text is not the identifier it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{value}` is not a {what}: {why}")]
pub struct InvalidId {
    what: &'static str,
    value: String,
    why: &'static str,
}

impl InvalidId {
    fn new(what: &'static str, value: &str, why: &'static str) -> Self {
        // A hostile value must not fill a log line.
        let value = value.chars().take(80).collect();
        Self { what, value, why }
    }
}

/// Implements text conversion, serde and a schema for a newtype by its `FromStr`
/// and `Display`; the pattern is what `FromStr` takes, for readers of the schema.
macro_rules! text_id {
    ($name:ident, $pattern:literal) => {
        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": "string", "pattern": $pattern })
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

/// One row of `agent_messages`. The row identifies a task; `task_id` is only
/// the producer's label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageId(pub Uuid);

impl MessageId {
    /// A new id that sorts by time of creation (UUID version 7), which keeps
    /// index inserts at the right edge.
    pub fn generate() -> Self {
        Self(Uuid::now_v7())
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_hyphenated().fmt(f)
    }
}

impl FromStr for MessageId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        Uuid::parse_str(text)
            .map(Self)
            .map_err(|_| InvalidId::new("message id", text, "expected a UUID"))
    }
}

text_id!(MessageId, "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$");

/// Which shadow: what runs tasks again, beside what serves, for comparison.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ShadowId(String);

impl ShadowId {
    /// A new one, short enough to be typed.
    pub fn generate() -> Self {
        Self(format!("sh-{:010x}", rand::random::<u64>() >> 24))
    }

    /// What compares real and mock in development, where nobody ordered it.
    pub fn compare() -> Self {
        Self("compare".to_owned())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ShadowId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ShadowId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let usable = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        match (1..=64).contains(&text.len()) && text.bytes().all(usable) {
            true => Ok(Self(text.to_owned())),
            false => {
                let why = "expected up to 64 letters, digits or hyphens, as in `sh-0123456789`";
                Err(InvalidId::new("shadow", text, why))
            }
        }
    }
}

text_id!(ShadowId, "^[A-Za-z0-9-]{1,64}$");

/// Correlates every event, log line and outbound request of a task.
///
/// Producers choose it freely; those that the host makes are W3C trace ids
/// (32 lower-case hexadecimal digits).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TraceId(Arc<str>);

/// Begins the traces of smoke tests, for statements that leave them out. Letters
/// alone, so that it sorts alike in every collation.
macro_rules! smoke_prefix {
    () => {
        "cogosmoke"
    };
}
pub(crate) use smoke_prefix;

impl TraceId {
    /// The longest trace id that a producer may choose, in bytes.
    pub const MAX_BYTES: usize = 128;

    /// A new random W3C trace id.
    pub fn generate() -> Self {
        Self(Uuid::new_v4().as_simple().to_string().into())
    }

    /// A new trace of a smoke test. It shows wherever the trace goes (rows,
    /// events, logs, the worker), and keeps what happened on purpose out of the
    /// gates over real work.
    pub fn generate_smoke() -> Self {
        let id = Uuid::new_v4();
        Self(format!("{}{}", smoke_prefix!(), id.as_simple()).into())
    }

    /// Whether this is the trace of a smoke test.
    pub fn is_smoke(&self) -> bool {
        self.0.starts_with(smoke_prefix!())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The same trace as a W3C trace id: itself where it is one, else the first
    /// sixteen bytes of its SHA-256, so that every hop derives the same.
    /// Source: W3C Trace Context, section 3.2.2.3.
    pub fn w3c(&self) -> String {
        let hex = self.0.len() == 32
            && self
                .0
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if hex && self.0.bytes().any(|b| b != b'0') {
            return self.0.to_string();
        }
        let hash = Sha256::digest(self.0.as_bytes());
        hash.iter().take(16).map(|b| format!("{b:02x}")).collect()
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for TraceId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let invalid = |why| Err(InvalidId::new("trace id", text, why));
        if text.is_empty() || text.len() > Self::MAX_BYTES {
            return invalid("expected 1 to 128 bytes");
        }
        // It travels in HTTP headers and log lines.
        if !text.bytes().all(|b| b.is_ascii_graphic()) {
            return invalid("expected visible ASCII characters without spaces");
        }
        Ok(Self(text.into()))
    }
}

text_id!(TraceId, "^[!-~]{1,128}$");

/// The SHA-256 of a component's bytes: which code ran.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest([u8; 32]);

impl Digest {
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The first digits, enough to name it: `sha256:304dc9d5a1b2`.
    pub fn short(&self) -> String {
        let hex = self.hex();
        format!("sha256:{}", hex.get(..12).unwrap_or(&hex))
    }

    /// The 64 hexadecimal digits without the `sha256:` prefix, for file names.
    pub fn hex(&self) -> String {
        hex::encode(self.0)
    }
}

impl fmt::Display for Digest {
    /// Without an allocation: every attempt writes a handful of them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut digits = [0; 64];
        hex::encode_to_slice(self.0, &mut digits).map_err(|_| fmt::Error)?;
        f.write_str("sha256:")?;
        f.write_str(std::str::from_utf8(&digits).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let invalid = || {
            InvalidId::new(
                "digest",
                text,
                "expected `sha256:` and 64 hexadecimal digits",
            )
        };
        let hex = text.strip_prefix("sha256:").ok_or_else(invalid)?;
        if hex.len() != 64 || !hex.is_ascii() {
            return Err(invalid());
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(hex.as_bytes().chunks(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| invalid())?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| invalid())?;
        }
        Ok(Self(bytes))
    }
}

text_id!(Digest, "^sha256:[0-9a-f]{64}$");

/// One start of one host process, as written to `claimed_by`: the configured
/// `HOLDER_ID`, a colon, and an id of the process start. A restarted host is
/// somebody else, so it never mistakes an old claim for its own.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HolderId(String);

impl HolderId {
    /// The identity of this process start under the configured name.
    pub fn generate(name: &str) -> Self {
        let start = Uuid::new_v4().as_simple().to_string();
        Self(format!("{name}:{}", &start[..12]))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for HolderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of an executor plugin: lower-case kebab, at most 64 bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PluginName(String);

impl PluginName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PluginName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for PluginName {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let kebab = text.starts_with(|c: char| c.is_ascii_lowercase())
            && !text.ends_with('-')
            && !text.contains("--")
            && text
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if !kebab || text.len() > 64 {
            let why = "expected lower-case letters, digits and single hyphens, starting with a letter, at most 64 bytes";
            return Err(InvalidId::new("plugin name", text, why));
        }
        Ok(Self(text.to_owned()))
    }
}

text_id!(PluginName, "^[a-z][a-z0-9]*(-[a-z0-9]+)*$");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digest_round_trips_and_refuses_what_is_none() {
        let digest = Digest::of(b"");
        assert_eq!(
            digest.to_string(),
            "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
        assert_eq!(digest.to_string().parse(), Ok(digest));
        for bad in ["", "sha256:", "e3b0", &format!("sha256:{}", "é".repeat(32))] {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
    }

    #[test]
    fn trace_id_of_a_producer_maps_to_one_w3c_id() {
        let own = TraceId::generate();
        assert_eq!(own.w3c(), own.as_str());
        let label: TraceId = "ticket-7".parse().unwrap();
        assert_eq!(label.w3c().len(), 32);
        assert_eq!(label.w3c(), label.w3c());
        // All zeros is invalid in W3C Trace Context.
        let zero: TraceId = "0".repeat(32).parse().unwrap();
        assert_ne!(zero.w3c(), "0".repeat(32));
    }

    #[test]
    fn identifiers_refuse_what_would_break_a_header_or_a_path() {
        assert!("a b".parse::<TraceId>().is_err());
        assert!("a\r\nb".parse::<TraceId>().is_err());
        for bad in ["", "Mock", "../mock", "mock-", "a--b", "9a"] {
            assert!(bad.parse::<PluginName>().is_err(), "{bad}");
        }
        assert!("cogo-worker".parse::<PluginName>().is_ok());
    }

    #[test]
    fn two_starts_of_a_host_are_two_holders() {
        assert_ne!(HolderId::generate("h1"), HolderId::generate("h1"));
    }
}
