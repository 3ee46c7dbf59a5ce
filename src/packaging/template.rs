//! The plugins that `plugin new` writes: those of `examples/plugins`, under
//! another name, with everything they are built from beside them, so that
//! nothing has to be fetched to begin.

use std::io;
use std::path::{Path, PathBuf};

use super::{Language, contract};
use crate::ids::PluginName;

/// A file by its path below the plugin's directory.
type File = (&'static str, &'static str);

macro_rules! files {
    ($directory:literal: $($path:literal),+ $(,)?) => {
        &[$((
            $path,
            include_str!(concat!("../../", $directory, "/", $path)),
        )),+]
    };
}

const RUST: &[File] = files!["examples/plugins/rust":
    ".gitignore",
    "Cargo.lock",
    "Cargo.toml",
    "README.md",
    "src/lib.rs",
    "tasks/fails-for-good.expect.json",
    "tasks/fails-for-good.task.json",
    "tasks/fetches.expect.json",
    "tasks/fetches.task.json",
    "tasks/greets.expect.json",
    "tasks/greets.task.json",
    "tasks/waits-for-a-server.expect.json",
    "tasks/waits-for-a-server.task.json",
];
const JAVASCRIPT: &[File] = files!["examples/plugins/javascript":
    ".gitignore",
    ".npmrc",
    "README.md",
    "package-lock.json",
    "package.json",
    "plugin.js",
    "tasks/fails-for-good.expect.json",
    "tasks/fails-for-good.task.json",
    "tasks/fetches.expect.json",
    "tasks/fetches.task.json",
    "tasks/greets.expect.json",
    "tasks/greets.task.json",
    "tasks/waits-for-a-server.expect.json",
    "tasks/waits-for-a-server.task.json",
];
const PYTHON: &[File] = files!["examples/plugins/python":
    ".gitignore",
    "README.md",
    "pyproject.toml",
    "requirements.txt",
    "src/app.py",
    "tasks/fails-for-good.expect.json",
    "tasks/fails-for-good.task.json",
    "tasks/fetches.expect.json",
    "tasks/fetches.task.json",
    "tasks/greets.expect.json",
    "tasks/greets.task.json",
    "tasks/waits-for-a-server.expect.json",
    "tasks/waits-for-a-server.task.json",
];
const WAT: &[File] = files!["examples/plugins/wat":
    ".gitignore",
    "README.md",
    "plugin.toml",
    "plugin.wat",
    "tasks/fails-for-good.expect.json",
    "tasks/fails-for-good.task.json",
    "tasks/fetches.expect.json",
    "tasks/fetches.task.json",
    "tasks/greets.expect.json",
    "tasks/greets.task.json",
    "tasks/waits-for-a-server.expect.json",
    "tasks/waits-for-a-server.task.json",
];
/// The SDK that Rust plugins are written on, as it was when this program was built.
const SDK: &[File] = files!["plugins/sdk":
    "Cargo.toml",
    "guides/codegen_delegate.md",
    "guides/rest_adapter.md",
    "guides/test_double.md",
    "src/bindings.rs",
    "src/contract.rs",
    "src/guides.rs",
    "src/host.rs",
    "src/http.rs",
    "src/http/base_url.rs",
    "src/http/refusal.rs",
    "src/http/retry_after.rs",
    "src/http/wire.rs",
    "src/json.rs",
    "src/lib.rs",
    "src/payload.rs",
    "src/testing.rs",
];
/// Where the example finds the SDK, and where a plugin that was written here does.
const SDK_BY_EXAMPLE: &str = "../../../plugins/sdk";
const SDK_BESIDE: &str = "vendor/cogo-executor";

/// Why no plugin was written.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum NewError {
    #[error("{directory} is there already, and not empty")]
    NotEmpty { directory: PathBuf },
    #[error("{path} is there already, and no directory")]
    NoDirectory { path: PathBuf },
    #[error("cannot write {path}")]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Writes a plugin to start from into `directory`, which is made where it is
/// missing, and says which files.
///
/// # Errors
///
/// When the directory holds something already, or cannot be written.
pub fn create(
    directory: &Path,
    name: &PluginName,
    language: Language,
) -> Result<Vec<PathBuf>, NewError> {
    must_be_free(directory)?;
    let mut written = Vec::new();
    for (path, text) in files(name, language) {
        let target = directory.join(&path);
        let write = || {
            if let Some(parent) = target.parent() {
                std::fs::create_dir_all(parent)?;
            }
            std::fs::write(&target, text)
        };
        write().map_err(|source| NewError::Write {
            path: target.clone(),
            source,
        })?;
        written.push(path);
    }
    Ok(written)
}

fn must_be_free(directory: &Path) -> Result<(), NewError> {
    match std::fs::read_dir(directory) {
        Ok(mut entries) => match entries.next() {
            None => Ok(()),
            Some(_) => Err(NewError::NotEmpty {
                directory: directory.to_path_buf(),
            }),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => Err(NewError::NoDirectory {
            path: directory.to_path_buf(),
        }),
        Err(source) => Err(NewError::Write {
            path: directory.to_path_buf(),
            source,
        }),
    }
}

/// Every file of a new plugin.
fn files(name: &PluginName, language: Language) -> Vec<(PathBuf, String)> {
    let example = match language {
        Language::Rust => RUST,
        Language::JavaScript => JAVASCRIPT,
        Language::Python => PYTHON,
        Language::Wat => WAT,
    };
    let old = format!("{language}-example");
    let own = example.iter().map(|(path, text)| {
        let text = text.replace(&old, name.as_str());
        (
            PathBuf::from(path),
            text.replace(SDK_BY_EXAMPLE, SDK_BESIDE),
        )
    });
    let beside = |place: &'static str, files: &'static [File]| {
        files
            .iter()
            .map(move |(path, text)| (Path::new(place).join(path), (*text).to_owned()))
    };
    match language {
        // The SDK looks for the contract two directories above itself.
        Language::Rust => own
            .chain(beside(SDK_BESIDE, SDK))
            .chain(beside("wit", contract::FILES))
            .collect(),
        _ => own.collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The committed files below a directory, as git would list them.
    fn lying(directory: &str) -> Vec<String> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(directory);
        let mut found = Vec::new();
        let mut directories = vec![root.clone()];
        while let Some(directory) = directories.pop() {
            for entry in std::fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                let name = path.file_name().unwrap().to_str().unwrap().to_owned();
                let ignored = ["target", "node_modules", ".venv", "__pycache__"];
                if path.is_dir() {
                    if !ignored.contains(&name.as_str()) {
                        directories.push(path);
                    }
                } else if !name.ends_with(".wasm") {
                    let path = path.strip_prefix(&root).unwrap();
                    found.push(path.to_str().unwrap().to_owned());
                }
            }
        }
        found.sort();
        found
    }

    #[test]
    fn a_new_plugin_has_every_file_of_the_example() {
        for (directory, files) in [
            ("examples/plugins/rust", RUST),
            ("examples/plugins/javascript", JAVASCRIPT),
            ("examples/plugins/python", PYTHON),
            ("examples/plugins/wat", WAT),
            ("plugins/sdk", SDK),
        ] {
            let mut known: Vec<&str> = files.iter().map(|(path, _)| *path).collect();
            known.sort_unstable();
            assert_eq!(known, lying(directory), "{directory}");
        }
    }

    #[test]
    fn nothing_of_the_example_is_left_in_it() {
        let name = "my-own".parse().unwrap();
        for language in Language::ALL {
            let directory = tempfile::tempdir().unwrap();
            let directory = directory.path().join("deep/new");
            create(&directory, &name, language).unwrap();
            let outline = super::super::outline(&directory).unwrap();
            assert_eq!(
                (outline.language, outline.name.as_str()),
                (language, "my-own")
            );
            for (path, text) in files(&name, language) {
                assert!(!text.contains("-example"), "{}", path.display());
                assert!(!text.contains(SDK_BY_EXAMPLE), "{}", path.display());
            }
        }
    }

    #[test]
    fn what_lies_there_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let name = "my-own".parse().unwrap();
        let file = directory.path().join("notes");
        std::fs::write(&file, "mine").unwrap();
        let refused = create(directory.path(), &name, Language::Wat);
        assert!(matches!(refused, Err(NewError::NotEmpty { .. })));
        let refused = create(&file, &name, Language::Wat);
        assert!(matches!(refused, Err(NewError::NoDirectory { .. })));
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
