//! `edits.json`, the one format for edits: what codegen writes and a build-test
//! applies. `examples/cogo-worker/EDITS.md` describes it; where this crate
//! differs from that page, one of them is a bug.
//!
//! Pure: it checks a document by itself and never sees the tree that the edits
//! are for. Shared by the plugins that write the document and the host that
//! passes it on, so that both refuse the same.
//!
//! ```
//! use cogo_edits::{Change, Edit, Edits};
//!
//! # fn main() -> Result<(), cogo_edits::InvalidEdits> {
//! let edits = Edits::new(
//!     Some("task-7"),
//!     Some("main"),
//!     vec![Edit::new("docs/note.md", Change::Content("Noted.\n".into()))],
//! )?;
//! let document = edits.to_json();
//! assert_eq!(Edits::parse(&document)?, edits);
//! # Ok(())
//! # }
//! ```

mod diff;
mod document;
mod path;

use std::collections::BTreeMap;

pub use document::digest_of;

/// The only version there is.
pub const VERSION: u32 = 1;
/// The largest document, in bytes: what the host keeps as an artifact.
pub const MAX_BYTES: usize = 4 * 1024 * 1024;
/// The most edits of a document.
pub const MAX_EDITS: usize = 2_000;
/// The longest label of a task, in characters.
pub const MAX_TASK_ID: usize = 256;

/// A document that has passed every check that needs no tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edits {
    version: Option<u32>,
    task_id: Option<String>,
    base_ref: Option<String>,
    edits: Vec<Edit>,
    digest: String,
}

/// What becomes of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edit {
    /// Relative, with forward slashes.
    pub path: String,
    pub change: Change,
    /// Digest of the bytes that the edit was made against.
    pub base_digest: Option<String>,
}

/// How a file changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It becomes this, whether or not it was there.
    Content(String),
    /// It must be there and is changed by this unified diff.
    Diff(String),
    /// It must be there and goes.
    Delete,
}

/// Why a document is none of this format. The codes are those of the worker.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidEdits {
    #[error("{0}")]
    Malformed(String),
    #[error(
        "its digest is {given}, that of its content is {found}: it was changed after it was written"
    )]
    DigestMismatch { given: String, found: String },
    #[error("{0}")]
    TooLarge(String),
    #[error("{0}")]
    OutsideTree(String),
}

impl InvalidEdits {
    /// Stable and machine-readable.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "invalid_edits",
            Self::DigestMismatch { .. } => "edits_digest_mismatch",
            Self::TooLarge(_) => "edits_too_large",
            Self::OutsideTree(_) => "edit_outside_tree",
        }
    }
}

impl Edit {
    /// An edit that does not say what it was made against.
    pub fn new(path: impl Into<String>, change: Change) -> Self {
        Self {
            path: path.into(),
            change,
            base_digest: None,
        }
    }
}

impl Edits {
    /// A document of these edits, complete with version and digest.
    ///
    /// # Errors
    ///
    /// [`InvalidEdits`] as for one that was read.
    pub fn new(
        task_id: Option<&str>,
        base_ref: Option<&str>,
        edits: Vec<Edit>,
    ) -> Result<Self, InvalidEdits> {
        let mut made = Self {
            version: Some(VERSION),
            task_id: task_id.map(str::to_owned),
            base_ref: base_ref.map(str::to_owned),
            edits,
            digest: String::new(),
        };
        made.check()?;
        made.digest = made.computed_digest();
        let bytes = made.to_json().len();
        if bytes > MAX_BYTES {
            return Err(too_many_bytes(bytes));
        }
        Ok(made)
    }

    /// Reads a document and checks all of it.
    ///
    /// # Errors
    ///
    /// [`InvalidEdits`] names the place, as in `edits[3]: …`.
    pub fn parse(document: &[u8]) -> Result<Self, InvalidEdits> {
        if document.len() > MAX_BYTES {
            return Err(too_many_bytes(document.len()));
        }
        let (mut read, given) = document::read(document)?;
        read.check()?;
        let found = read.computed_digest();
        match given {
            // After the fields, whose complaints say more than a digest can.
            Some(given) if given != found => Err(InvalidEdits::DigestMismatch { given, found }),
            _ => {
                read.digest = found;
                Ok(read)
            }
        }
    }

    /// The document as it is stored, with its digest.
    pub fn to_json(&self) -> Vec<u8> {
        document::write(self)
    }

    /// The label of the task that it was made for.
    pub fn task_id(&self) -> Option<&str> {
        self.task_id.as_deref()
    }

    /// The branch, tag or commit that the edits were made against.
    pub fn base_ref(&self) -> Option<&str> {
        self.base_ref.as_deref()
    }

    /// One for each file.
    pub fn edits(&self) -> &[Edit] {
        &self.edits
    }

    /// Of the canonical body.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    fn check(&self) -> Result<(), InvalidEdits> {
        if let Some(task_id) = &self.task_id
            && !(1..=MAX_TASK_ID).contains(&task_id.chars().count())
        {
            let message = format!("task_id has not 1 to {MAX_TASK_ID} characters");
            return Err(InvalidEdits::Malformed(message));
        }
        if self
            .base_ref
            .as_deref()
            .is_some_and(|name| !is_usable_ref(name))
        {
            let message = "base_ref is not a usable branch, tag or commit".to_owned();
            return Err(InvalidEdits::Malformed(message));
        }
        if self.edits.len() > MAX_EDITS {
            return Err(too_many_edits(self.edits.len()));
        }
        for (at, edit) in self.edits.iter().enumerate() {
            path::check(&edit.path).map_err(|why| InvalidEdits::OutsideTree(placed(at, &why)))?;
            check_change(edit).map_err(|why| InvalidEdits::Malformed(placed(at, &why)))?;
        }
        self.check_apart()
    }

    /// No file twice, and none where another edit needs a directory.
    fn check_apart(&self) -> Result<(), InvalidEdits> {
        let mut seen = BTreeMap::new();
        for (at, edit) in self.edits.iter().enumerate() {
            if let Some(first) = seen.insert(edit.path.as_str(), at) {
                let why = format!("`{}` is edited twice, first in edits[{first}]", edit.path);
                return Err(InvalidEdits::Malformed(placed(at, &why)));
            }
        }
        for (at, edit) in self.edits.iter().enumerate() {
            for (end, _) in edit.path.match_indices('/') {
                let above = edit.path.get(..end).unwrap_or_default();
                if let Some(file) = seen.get(above) {
                    let why = format!(
                        "`{}` is below `{above}`, which edits[{file}] says is a file",
                        edit.path
                    );
                    return Err(InvalidEdits::Malformed(placed(at, &why)));
                }
            }
        }
        Ok(())
    }

    fn computed_digest(&self) -> String {
        digest_of(&document::canonical(self))
    }
}

/// Whether git could take `name` for nothing but a branch, tag or commit.
pub fn is_usable_ref(name: &str) -> bool {
    let known = |c: char| c.is_ascii_alphanumeric() || "_./+@#-".contains(c);
    (1..=255).contains(&name.len())
        && name.chars().all(known)
        && name.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
        && !["..", "@{", "//"].iter().any(|part| name.contains(part))
        && !["/", ".", ".lock"].iter().any(|end| name.ends_with(end))
}

fn check_change(edit: &Edit) -> Result<(), String> {
    if edit
        .base_digest
        .as_deref()
        .is_some_and(|digest| !document::is_digest(digest))
    {
        return Err("base_digest is not `sha256:` and 64 lower-case hexadecimal digits".to_owned());
    }
    match &edit.change {
        Change::Diff(text) => diff::check(text, &edit.path),
        Change::Content(_) | Change::Delete => Ok(()),
    }
}

fn placed(at: usize, why: &str) -> String {
    format!("edits[{at}]: {why}")
}

fn too_many_bytes(bytes: usize) -> InvalidEdits {
    InvalidEdits::TooLarge(format!(
        "the document has {bytes} bytes; at most {MAX_BYTES} are kept"
    ))
}

fn too_many_edits(count: usize) -> InvalidEdits {
    InvalidEdits::TooLarge(format!("{count} edits; at most {MAX_EDITS}"))
}

#[cfg(test)]
mod tests;
