//! What there is to say about a component file, also one that does not fit.
//!
//! Reads only: nothing is compiled and nothing runs, so that a file can be
//! looked at before anybody trusts it.

use serde::Serialize;
use wit_component::{DecodedWasm, WitPrinter};

use crate::ids::Digest;
use crate::plugin::load::{LoadCause, LoadError, MAX_BYTES};
use crate::plugin::wasi::Profile;
use crate::plugin::world::{FileKind, Outline, Stray};

/// What a file is.
#[derive(Debug, Clone, Serialize)]
pub struct Inspection {
    pub digest: Digest,
    pub bytes: u64,
    /// Absent for what is no component, or a damaged one.
    pub component: Option<Component>,
    /// Why it would not be loaded.
    pub problems: Vec<Problem>,
}

/// What a component is, whether it fits or not.
#[derive(Debug, Clone, Serialize)]
pub struct Component {
    /// What it is linked with.
    pub profile: Profile,
    pub imports: Vec<String>,
    pub exports: Vec<String>,
    /// The digest of the sources it was built from, where its build left one.
    pub source_digest: Option<String>,
    /// The world with what is missing (`-`) and what is too much (`+`).
    pub against_world: String,
    /// Imports that are linked and lead nowhere.
    pub strays: Vec<Stray>,
    /// Its own world in WIT; absent where its types cannot be read.
    pub wit: Option<String>,
}

/// One reason for which a file is refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    pub code: &'static str,
    pub message: String,
    pub hint: String,
}

impl Problem {
    fn of(cause: LoadCause) -> Self {
        let message = cause.to_string();
        let error = LoadError::new(String::new(), cause);
        Self {
            code: error.code(),
            message,
            hint: error.hint(),
        }
    }
}

impl From<LoadError> for Problem {
    fn from(error: LoadError) -> Self {
        Self {
            code: error.code(),
            message: error.to_string(),
            hint: error.hint(),
        }
    }
}

/// Looks at a file's bytes. For what only running it would tell, its name and
/// version, load it: [`crate::plugin::load::Loader::load`].
pub fn inspect(bytes: &[u8]) -> Inspection {
    let mut inspection = Inspection {
        digest: Digest::of(bytes),
        bytes: bytes.len() as u64,
        component: None,
        problems: Vec::new(),
    };
    let problems = &mut inspection.problems;
    if inspection.bytes > MAX_BYTES {
        let bytes = inspection.bytes;
        problems.push(Problem::of(LoadCause::TooLarge { bytes }));
    }
    match FileKind::of(bytes) {
        FileKind::Component => {}
        other => {
            problems.push(Problem::of(LoadCause::NotComponent(other.into())));
            return inspection;
        }
    }
    let outline = match Outline::read(bytes) {
        Ok(outline) => outline,
        Err(cause) => {
            problems.push(Problem::of(LoadCause::damaged(&cause)));
            return inspection;
        }
    };
    let (profile, differences) = outline.compare();
    if !differences.is_empty() {
        problems.push(Problem::of(LoadCause::World(differences)));
    }
    inspection.component = Some(Component {
        profile,
        against_world: outline.against_world(),
        strays: outline.strays(),
        imports: outline.imports,
        exports: outline.exports,
        source_digest: outline.source_digest,
        wit: wit(bytes),
    });
    inspection
}

/// The world of a component, printed.
fn wit(bytes: &[u8]) -> Option<String> {
    let decoded = match wit_component::decode(bytes) {
        Ok(decoded @ DecodedWasm::Component(..)) => decoded,
        Ok(DecodedWasm::WitPackage(..)) | Err(_) => return None,
    };
    let mut printer = WitPrinter::default();
    printer
        .print(decoded.resolve(), decoded.package(), &[])
        .ok()?;
    Some(printer.output.to_string())
}
