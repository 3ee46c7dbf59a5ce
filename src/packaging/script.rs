//! Plugins whose sources are not compiled by cargo: JavaScript and Python, which
//! bring an engine along, and WebAssembly's text form.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::source::Covered;
use super::toolchain::{self, Componentize};
use super::{BuildError, Language, ManifestError, component, contract};

/// What a manifest leaves open.
const DEFAULT_MODULE: &str = "app";
const DEFAULT_TEXT: &str = "plugin.wat";
const DEFAULT_SCRIPT: &str = "plugin.js";
/// Where Python's modules lie, so that nothing else becomes part of a component.
const PYTHON_SOURCES: &str = "src";
/// Makes a component of a module: node COMPONENTIZE SOURCE WIT WORLD OUTPUT
const COMPONENTIZE: &str = include_str!("script/componentize.js");

/// Sources that a tool turns into a component as they are.
pub(super) struct Script {
    directory: PathBuf,
    pub name: String,
    pub version: String,
    entry: Entry,
}

/// Where a script begins.
enum Entry {
    /// The main module, relative to the directory.
    JavaScript(PathBuf),
    /// The name of the module, below `src`.
    Python(String),
    /// The file, relative to the directory.
    Wat(PathBuf),
}

#[derive(Deserialize)]
struct PackageJson {
    name: Option<String>,
    version: Option<String>,
    main: Option<PathBuf>,
}

#[derive(Deserialize)]
struct PyProject {
    project: Option<Named>,
    #[serde(default)]
    tool: Tools,
}

#[derive(Deserialize, Default)]
struct Tools {
    cogo: Option<PythonTool>,
}

#[derive(Deserialize)]
struct PythonTool {
    module: Option<String>,
}

#[derive(Deserialize)]
struct PluginToml {
    plugin: Option<Named>,
}

#[derive(Deserialize)]
struct Named {
    name: Option<String>,
    version: Option<String>,
    main: Option<PathBuf>,
}

impl Script {
    /// Reads `package.json`.
    pub(super) fn javascript(directory: PathBuf) -> Result<Self, ManifestError> {
        let path = directory.join(Language::JavaScript.manifest());
        let package: PackageJson =
            serde_json::from_str(&read(&path)?).map_err(|source| ManifestError::ParseJson {
                path: path.clone(),
                source,
            })?;
        Ok(Self {
            name: required(&path, "name", package.name)?,
            version: required(&path, "version", package.version)?,
            entry: Entry::JavaScript(package.main.unwrap_or_else(|| DEFAULT_SCRIPT.into())),
            directory,
        })
    }

    /// Reads `pyproject.toml`.
    pub(super) fn python(directory: PathBuf) -> Result<Self, ManifestError> {
        let path = directory.join(Language::Python.manifest());
        let manifest: PyProject = parse(&path)?;
        let project = manifest.project;
        let (name, version) = project.map_or((None, None), |own| (own.name, own.version));
        let module = manifest.tool.cogo.and_then(|own| own.module);
        Ok(Self {
            name: required(&path, "project.name", name)?,
            version: required(&path, "project.version", version)?,
            entry: Entry::Python(module.unwrap_or_else(|| DEFAULT_MODULE.into())),
            directory,
        })
    }

    /// Reads `plugin.toml`.
    pub(super) fn wat(directory: PathBuf) -> Result<Self, ManifestError> {
        let path = directory.join(Language::Wat.manifest());
        let manifest: PluginToml = parse(&path)?;
        let Some(plugin) = manifest.plugin else {
            let field = "[plugin]";
            return Err(ManifestError::Missing { path, field });
        };
        Ok(Self {
            name: required(&path, "plugin.name", plugin.name)?,
            version: required(&path, "plugin.version", plugin.version)?,
            entry: Entry::Wat(plugin.main.unwrap_or_else(|| DEFAULT_TEXT.into())),
            directory,
        })
    }

    pub(super) const fn language(&self) -> Language {
        match self.entry {
            Entry::JavaScript(_) => Language::JavaScript,
            Entry::Python(_) => Language::Python,
            Entry::Wat(_) => Language::Wat,
        }
    }

    pub(super) fn covered(&self) -> Covered<'_> {
        // The contract is this program's own, so it is part of the recipe.
        let recipe = format!(
            "cogo-recipe {} 1: {}\n",
            self.language(),
            contract::digest()
        );
        Covered {
            base: &self.directory,
            packages: BTreeSet::from([self.directory.as_path()]),
            inputs: BTreeSet::new(),
            files: Vec::new(),
            recipe: recipe.into(),
        }
    }

    /// Makes the component, not yet stamped.
    pub(super) fn compile(&self) -> Result<Vec<u8>, BuildError> {
        match &self.entry {
            Entry::JavaScript(main) => self.compile_javascript(main),
            Entry::Python(module) => self.compile_python(module),
            Entry::Wat(file) => self.compile_text(file),
        }
    }

    fn compile_text(&self, file: &Path) -> Result<Vec<u8>, BuildError> {
        let path = self.directory.join(file);
        let module = wat::parse_file(&path).map_err(|error| BuildError::Text {
            path,
            message: error.to_string(),
        })?;
        if wasmparser::Parser::is_component(&module) {
            return Ok(module);
        }
        component::encode_plain(&self.name, &module)
    }

    fn compile_javascript(&self, main: &Path) -> Result<Vec<u8>, BuildError> {
        let node = toolchain::node(&self.directory)?;
        let scratch = Scratch::new()?;
        let mut command = Command::new(node);
        command
            .current_dir(&self.directory)
            .args(["--input-type=module", "--eval", COMPONENTIZE, "--"])
            .arg(main)
            .arg(scratch.wit())
            .arg(contract::WORLD)
            .arg(scratch.output());
        self.run("node", command, &scratch)
    }

    fn compile_python(&self, module: &str) -> Result<Vec<u8>, BuildError> {
        let Componentize(tool) = toolchain::componentize_py(&self.directory)?;
        let scratch = Scratch::new()?;
        let mut command = Command::new(tool);
        command
            .current_dir(&self.directory)
            // Only the sources and Python's own library go in: of the packages
            // that are installed for other purposes it is shown none.
            .env("VIRTUAL_ENV", scratch.empty_environment()?)
            .arg("--quiet")
            .arg("--wit-path")
            .arg(scratch.wit())
            .args(["--world", contract::WORLD, "componentize"])
            .args(["--python-path", PYTHON_SOURCES, "--output"])
            .arg(scratch.output())
            .arg(module);
        self.run("componentize-py", command, &scratch)
    }

    /// Runs a tool and takes what it left as the output.
    fn run(
        &self,
        program: &'static str,
        mut command: Command,
        scratch: &Scratch,
    ) -> Result<Vec<u8>, BuildError> {
        let said = io::stderr().as_fd().try_clone_to_owned();
        let status = command
            .stdin(Stdio::null())
            // Standard output is the answer of the command that builds.
            .stdout(said.map_err(BuildError::Scratch)?)
            .status()
            .map_err(|source| BuildError::Start {
                program: program.to_owned(),
                source,
            })?;
        if !status.success() {
            return Err(BuildError::Compile {
                program,
                package: self.name.clone(),
                status,
            });
        }
        let path = scratch.output();
        std::fs::read(&path).map_err(|source| BuildError::ReadOutput { path, source })
    }
}

/// A place for what a tool reads and writes; gone with this.
struct Scratch(tempfile::TempDir);

impl Scratch {
    fn new() -> Result<Self, BuildError> {
        let scratch = Self(tempfile::tempdir().map_err(BuildError::Scratch)?);
        contract::write(&scratch.wit()).map_err(BuildError::Scratch)?;
        Ok(scratch)
    }

    fn wit(&self) -> PathBuf {
        self.0.path().join("wit")
    }

    fn output(&self) -> PathBuf {
        self.0.path().join("built.wasm")
    }

    fn empty_environment(&self) -> Result<PathBuf, BuildError> {
        let environment = self.0.path().join("empty");
        let packages = environment.join("lib/site-packages");
        std::fs::create_dir_all(packages).map_err(BuildError::Scratch)?;
        Ok(environment)
    }
}

fn read(path: &Path) -> Result<String, ManifestError> {
    std::fs::read_to_string(path).map_err(|source| ManifestError::Read {
        path: path.to_path_buf(),
        source,
    })
}

fn parse<T: DeserializeOwned>(path: &Path) -> Result<T, ManifestError> {
    toml::from_str(&read(path)?).map_err(|source| ManifestError::Parse {
        path: path.to_path_buf(),
        source: Box::new(source),
    })
}

fn required(
    path: &Path,
    field: &'static str,
    value: Option<String>,
) -> Result<String, ManifestError> {
    let missing = || ManifestError::Missing {
        path: path.to_path_buf(),
        field,
    };
    value.filter(|text| !text.is_empty()).ok_or_else(missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(manifest: &str, text: &str) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join(manifest), text).unwrap();
        directory
    }

    fn read_as(language: Language, text: &str) -> Result<Script, ManifestError> {
        let directory = directory(language.manifest(), text);
        let path = directory.path().to_path_buf();
        match language {
            Language::JavaScript => Script::javascript(path),
            Language::Python => Script::python(path),
            _ => Script::wat(path),
        }
    }

    #[test]
    fn every_manifest_names_and_begins_a_plugin() {
        for (language, text) in [
            (
                Language::JavaScript,
                r#"{"name":"one","version":"1.2.3","x":[]}"#,
            ),
            (
                Language::Python,
                "[project]\nname = \"one\"\nversion = \"1.2.3\"\nx = 1\n",
            ),
            (
                Language::Wat,
                "[plugin]\nname = \"one\"\nversion = \"1.2.3\"\n",
            ),
        ] {
            let script = read_as(language, text).unwrap();
            assert_eq!(
                (script.name.as_str(), script.version.as_str()),
                ("one", "1.2.3")
            );
            assert_eq!(script.language(), language);
            let fits = match script.entry {
                Entry::JavaScript(main) => main == Path::new("plugin.js"),
                Entry::Python(module) => module == "app",
                Entry::Wat(file) => file == Path::new("plugin.wat"),
            };
            assert!(fits, "{language}");
        }
    }

    #[test]
    fn what_a_manifest_lacks_is_named() {
        for (language, text, said) in [
            (
                Language::JavaScript,
                r#"{"version":"1.0.0"}"#,
                "has no name",
            ),
            (Language::JavaScript, "{", "is not valid"),
            (
                Language::Python,
                "[project]\nname = \"one\"\n",
                "has no project.version",
            ),
            (
                Language::Python,
                "[tool.cogo]\nmodule = \"x\"\n",
                "has no project.name",
            ),
            (Language::Wat, "[other]\n", "has no [plugin]"),
            (
                Language::Wat,
                "[plugin]\nname = \"\"\n",
                "has no plugin.name",
            ),
        ] {
            let Err(error) = read_as(language, text) else {
                panic!("{text} was taken for a plugin");
            };
            assert!(error.to_string().ends_with(said), "{error}");
        }
    }

    #[test]
    fn text_that_does_not_parse_is_shown_with_its_line() {
        let directory = directory(
            "plugin.toml",
            "[plugin]\nname = \"one\"\nversion = \"1.0.0\"\n",
        );
        let path = directory.path().to_path_buf();
        std::fs::write(
            path.join("plugin.wat"),
            "(module\n  (func $a (result i32) i32.cost 1))",
        )
        .unwrap();
        let script = Script::wat(path).unwrap();
        let error = script.compile().unwrap_err().to_string();
        assert!(
            error.contains("plugin.wat") && error.contains(":2:"),
            "{error}"
        );
    }
}
