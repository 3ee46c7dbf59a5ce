//! The document as JSON: read field by field, nothing passed over; written in
//! one order; and the canonical body that its digest is of.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use crate::{Change, Edit, Edits, InvalidEdits, MAX_EDITS, VERSION, placed, too_many_edits};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawDocument<'a> {
    #[serde(default, deserialize_with = "given")]
    version: Option<u32>,
    #[serde(default, deserialize_with = "given")]
    task_id: Option<String>,
    #[serde(default, deserialize_with = "given")]
    base_ref: Option<String>,
    #[serde(borrow)]
    edits: Vec<&'a RawValue>,
    #[serde(default, deserialize_with = "given")]
    digest: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEdit {
    path: String,
    #[serde(default, deserialize_with = "given")]
    content: Option<String>,
    #[serde(default, deserialize_with = "given")]
    diff: Option<String>,
    #[serde(default, deserialize_with = "given")]
    delete: Option<bool>,
    #[serde(default, deserialize_with = "given")]
    base_digest: Option<String>,
}

/// A field that may be left out, but not be `null`.
fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}

/// The document without its digest, and the digest that it names.
pub(crate) fn read(document: &[u8]) -> Result<(Edits, Option<String>), InvalidEdits> {
    let raw: RawDocument<'_> = serde_json::from_slice(document).map_err(|error| {
        InvalidEdits::Malformed(format!("the document is not edits.json: {error}"))
    })?;
    if raw.version.is_some_and(|version| version != VERSION) {
        let message = format!("version must be {VERSION}, the only one there is");
        return Err(InvalidEdits::Malformed(message));
    }
    if raw
        .digest
        .as_deref()
        .is_some_and(|digest| !is_digest(digest))
    {
        let message = "digest is not `sha256:` and 64 lower-case hexadecimal digits";
        return Err(InvalidEdits::Malformed(message.to_owned()));
    }
    if raw.edits.len() > MAX_EDITS {
        return Err(too_many_edits(raw.edits.len()));
    }
    let edits = raw.edits.iter().enumerate();
    let edits = edits
        .map(|(at, edit)| read_edit(edit).map_err(|why| InvalidEdits::Malformed(placed(at, &why))))
        .collect::<Result<Vec<Edit>, InvalidEdits>>()?;
    let read = Edits {
        version: raw.version,
        task_id: raw.task_id,
        base_ref: raw.base_ref,
        edits,
        digest: String::new(),
    };
    Ok((read, raw.digest))
}

fn read_edit(raw: &RawValue) -> Result<Edit, String> {
    let raw: RawEdit = serde_json::from_str(raw.get()).map_err(|error| error.to_string())?;
    let change = match (raw.content, raw.diff, raw.delete) {
        (Some(content), None, None) => Change::Content(content),
        (None, Some(diff), None) => Change::Diff(diff),
        (None, None, Some(true)) => Change::Delete,
        _ => {
            return Err(
                "beside `path` it has not exactly one of `content`, `diff` and `\"delete\": true`"
                    .to_owned(),
            );
        }
    };
    Ok(Edit {
        path: raw.path,
        change,
        base_digest: raw.base_digest,
    })
}

/// The document's body in the order of its keys, which makes it canonical
/// (RFC 8785): serde_json writes no white space and escapes only what JSON must.
#[derive(Serialize)]
struct Body<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    base_ref: Option<&'a str>,
    edits: Vec<Item<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    task_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<u32>,
}

/// An edit, its keys in order.
#[derive(Serialize)]
struct Item<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    base_digest: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delete: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    diff: Option<&'a str>,
    path: &'a str,
}

impl<'a> Item<'a> {
    fn of(edit: &'a Edit) -> Self {
        let (content, delete, diff) = match &edit.change {
            Change::Content(content) => (Some(content.as_str()), None, None),
            Change::Delete => (None, Some(true), None),
            Change::Diff(diff) => (None, None, Some(diff.as_str())),
        };
        Self {
            base_digest: edit.base_digest.as_deref(),
            content,
            delete,
            diff,
            path: &edit.path,
        }
    }
}

impl<'a> Body<'a> {
    fn of(edits: &'a Edits) -> Self {
        Self {
            base_ref: edits.base_ref.as_deref(),
            edits: edits.edits.iter().map(Item::of).collect(),
            task_id: edits.task_id.as_deref(),
            version: edits.version,
        }
    }
}

pub(crate) fn canonical(edits: &Edits) -> Vec<u8> {
    json(&Body::of(edits))
}

pub(crate) fn write(edits: &Edits) -> Vec<u8> {
    #[derive(Serialize)]
    struct Document<'a> {
        #[serde(flatten)]
        body: Body<'a>,
        digest: &'a str,
    }
    json(&Document {
        body: Body::of(edits),
        digest: &edits.digest,
    })
}

fn json(value: &impl Serialize) -> Vec<u8> {
    // Strings, numbers and booleans in structs have a form in JSON.
    serde_json::to_vec(value).unwrap_or_default()
}

/// A digest as the format writes it.
pub fn digest_of(content: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut digest = String::from("sha256:");
    for byte in Sha256::digest(content) {
        // Writing to a string cannot fail.
        let _ = write!(digest, "{byte:02x}");
    }
    digest
}

pub(crate) fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:").is_some_and(|hex| {
        hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    })
}
