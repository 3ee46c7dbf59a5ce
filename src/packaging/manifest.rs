//! What building a plugin needs to know of its `Cargo.toml`, read without cargo:
//! verifying a component has to work where there is none.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::rust::RECIPE;
use super::source::Covered;

/// Files of the workspace that say how its packages are built.
const SHARED_FILES: [&str; 4] = [
    "Cargo.lock",
    "rust-toolchain.toml",
    "rust-toolchain",
    ".cargo/config.toml",
];

/// A cargo package and what it is built from besides itself.
#[derive(Debug)]
pub(super) struct Manifest {
    /// Where the package lies, absolute.
    pub directory: PathBuf,
    pub name: String,
    pub version: String,
    /// Where the package's workspace lies, or the package if it is in none.
    pub workspace: PathBuf,
    /// Every workspace that one of the packages inherits from.
    pub workspaces: BTreeSet<PathBuf>,
    /// The package and every package it depends on by path.
    pub packages: BTreeSet<PathBuf>,
    /// What `package.metadata.cogo.inputs` of those packages names.
    pub inputs: BTreeSet<PathBuf>,
}

/// Why a directory is not taken for the sources of a plugin.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum ManifestError {
    #[error(
        "{directory} holds no plugin: it has no Cargo.toml (Rust), package.json (JavaScript), \
         pyproject.toml (Python) or plugin.toml (WebAssembly text)"
    )]
    NoPlugin { directory: PathBuf },
    #[error("{directory} cannot be looked at")]
    Directory {
        directory: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{path} cannot be read")]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{path} is not valid")]
    Parse {
        path: PathBuf,
        #[source]
        source: Box<toml::de::Error>,
    },
    #[error("{path} is not valid")]
    ParseJson {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("{path} has no {field}")]
    Missing { path: PathBuf, field: &'static str },
    #[error("{path} refers to {target}, which is not there")]
    Dangling {
        path: PathBuf,
        target: String,
        #[source]
        source: std::io::Error,
    },
}

impl Manifest {
    /// Reads the package in `directory`.
    pub(super) fn read(directory: &Path) -> Result<Self, ManifestError> {
        let directory = directory
            .canonicalize()
            .map_err(|source| ManifestError::Directory {
                directory: directory.to_path_buf(),
                source,
            })?;
        let file = File::read(&directory)?;
        let workspace = Workspace::of(&file)?;
        let mut manifest = Self {
            name: file
                .package("name")
                .ok_or_else(|| file.missing("package.name"))?
                .to_owned(),
            version: workspace.version_of(&file)?,
            workspace: workspace.file.directory.clone(),
            workspaces: BTreeSet::new(),
            packages: BTreeSet::new(),
            inputs: BTreeSet::new(),
            directory,
        };
        for patched in workspace.file.patches()? {
            manifest.follow(File::read(&patched)?)?;
        }
        manifest.follow(file)?;
        Ok(manifest)
    }

    /// What a component of the package is built from.
    pub(super) fn covered(&self) -> Covered<'_> {
        let inherited = self.workspaces.iter();
        let inherited = inherited.map(|workspace| workspace.join("Cargo.toml"));
        let shared = SHARED_FILES.iter().map(|name| self.workspace.join(name));
        Covered {
            base: &self.directory,
            packages: self.packages.iter().map(PathBuf::as_path).collect(),
            inputs: self.inputs.iter().map(PathBuf::as_path).collect(),
            files: inherited.chain(shared).collect(),
            recipe: RECIPE.into(),
        }
    }

    /// Adds a package, and those it depends on by path.
    fn follow(&mut self, file: File) -> Result<(), ManifestError> {
        if !self.packages.insert(file.directory.clone()) {
            return Ok(());
        }
        for input in file.inputs() {
            let path = file.resolve(input)?;
            self.inputs.insert(path);
        }
        let workspace = Workspace::of(&file)?;
        for (name, dependency) in file.dependencies() {
            if let Some(directory) = workspace.path_of(&file, name, dependency)? {
                self.follow(File::read(&directory)?)?;
            }
        }
        self.workspaces.insert(workspace.file.directory);
        Ok(())
    }
}

/// The workspace that a package inherits from.
struct Workspace {
    file: File,
}

impl Workspace {
    /// The nearest `Cargo.toml` with a `[workspace]`, from the package upwards,
    /// that does not leave the package out; else the package is one by itself.
    fn of(package: &File) -> Result<Self, ManifestError> {
        for candidate in package.directory.ancestors() {
            if !candidate.join("Cargo.toml").is_file() {
                continue;
            }
            let file = File::read(candidate)?;
            let Some(workspace) = file.table.get("workspace") else {
                continue;
            };
            let excluded = strings(workspace.get("exclude"))
                .any(|excluded| package.directory.starts_with(candidate.join(excluded)));
            if !excluded {
                return Ok(Self { file });
            }
        }
        Ok(Self {
            file: package.clone(),
        })
    }

    fn version_of(&self, file: &File) -> Result<String, ManifestError> {
        let inherited = || self.file.at(&["workspace", "package", "version"])?.as_str();
        let version = file.package("version").or_else(inherited);
        version
            .map(str::to_owned)
            .ok_or_else(|| file.missing("package.version"))
    }

    /// Where a dependency lies, if it is one by path.
    fn path_of(
        &self,
        file: &File,
        name: &str,
        dependency: &Value,
    ) -> Result<Option<PathBuf>, ManifestError> {
        let inherited = dependency.get("workspace").and_then(Value::as_bool) == Some(true);
        if inherited {
            let path = self.file.at(&["workspace", "dependencies", name, "path"]);
            let path = path.and_then(Value::as_str);
            return path.map(|path| self.file.resolve(path)).transpose();
        }
        let path = dependency.get("path").and_then(Value::as_str);
        path.map(|path| file.resolve(path)).transpose()
    }
}

/// A parsed `Cargo.toml`.
#[derive(Clone)]
struct File {
    directory: PathBuf,
    path: PathBuf,
    table: Table,
}

impl File {
    fn read(directory: &Path) -> Result<Self, ManifestError> {
        let path = directory.join("Cargo.toml");
        let text = std::fs::read_to_string(&path).map_err(|source| ManifestError::Read {
            path: path.clone(),
            source,
        })?;
        let table = text.parse().map_err(|source| ManifestError::Parse {
            path: path.clone(),
            source: Box::new(source),
        })?;
        Ok(Self {
            directory: directory.to_path_buf(),
            path,
            table,
        })
    }

    fn at(&self, keys: &[&str]) -> Option<&Value> {
        let (first, rest) = keys.split_first()?;
        rest.iter()
            .try_fold(self.table.get(*first)?, |value, key| value.get(*key))
    }

    fn package(&self, field: &str) -> Option<&str> {
        self.at(&["package", field])?.as_str()
    }

    /// What the package says it is built from beyond its own directory.
    fn inputs(&self) -> impl Iterator<Item = &str> {
        strings(self.at(&["package", "metadata", "cogo", "inputs"]))
    }

    /// Every dependency that can end up in a build; those of tests cannot.
    fn dependencies(&self) -> impl Iterator<Item = (&str, &Value)> {
        let targets = self.table.get("target").and_then(Value::as_table);
        let targets = targets.into_iter().flat_map(Table::values);
        std::iter::once(&self.table)
            .chain(targets.filter_map(Value::as_table))
            .flat_map(|table| ["dependencies", "build-dependencies"].map(|kind| table.get(kind)))
            .flatten()
            .filter_map(Value::as_table)
            .flatten()
            .map(|(name, dependency)| (name.as_str(), dependency))
    }

    /// The packages that stand in for published ones.
    fn patches(&self) -> Result<Vec<PathBuf>, ManifestError> {
        let sources = self.table.get("patch").and_then(Value::as_table);
        sources
            .into_iter()
            .flat_map(Table::values)
            .filter_map(Value::as_table)
            .flat_map(Table::values)
            .filter_map(|patch| patch.get("path").and_then(Value::as_str))
            .map(|path| self.resolve(path))
            .collect()
    }

    /// A path in this file, absolute.
    fn resolve(&self, target: &str) -> Result<PathBuf, ManifestError> {
        self.directory
            .join(target)
            .canonicalize()
            .map_err(|source| ManifestError::Dangling {
                path: self.path.clone(),
                target: target.to_owned(),
                source,
            })
    }

    fn missing(&self, field: &'static str) -> ManifestError {
        ManifestError::Missing {
            path: self.path.clone(),
            field,
        }
    }
}

fn strings(list: Option<&Value>) -> impl Iterator<Item = &str> {
    list.and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
}
