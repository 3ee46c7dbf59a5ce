//! Has cargo make a core module of a package.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize;

use super::manifest::Manifest;
use super::toolchain::{self, RustCompiler, StandardLibrary, TARGET};
use super::{BuildError, LockFile};

/// What is asked of the linker. Memory starts large enough that a usual attempt
/// never grows it, and the stack holds JSON nested as deep as serde_json follows it:
/// untouched pages cost nothing, growing costs more than a small task.
const LINK_ARGUMENTS: [&str; 2] = ["--initial-memory=2097152", "-zstack-size=262144"];

/// How components are built, as far as the sources do not say it; part of the
/// source digest. Change it with the flags.
pub(super) const RECIPE: &str =
    "cogo-recipe 1: wasm32-unknown-unknown --initial-memory=2097152 -zstack-size=262144\n";

/// The core module of a package, which cargo compiles.
pub(super) fn compile(manifest: &Manifest, lock_file: LockFile) -> Result<Vec<u8>, BuildError> {
    let build = Build {
        manifest,
        compiler: toolchain::rust(&manifest.directory)?,
    };
    let path = build.run(lock_file)?;
    std::fs::read(&path).map_err(|source| BuildError::ReadOutput { path, source })
}

struct Build<'a> {
    manifest: &'a Manifest,
    compiler: RustCompiler,
}

impl Build<'_> {
    /// Has cargo compile the package, and says where the module lies.
    fn run(&self, lock_file: LockFile) -> Result<PathBuf, BuildError> {
        let manifest = self.manifest;
        let start = |source| BuildError::Start {
            program: "cargo".into(),
            source,
        };
        let output = self
            .command(lock_file)
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()
            .map_err(start)?;
        if !output.status.success() {
            return Err(BuildError::Compile {
                program: "cargo",
                package: manifest.name.clone(),
                status: output.status,
            });
        }
        let messages = String::from_utf8_lossy(&output.stdout);
        module(&messages, &manifest.directory).ok_or_else(|| BuildError::NoLibrary {
            package: manifest.name.clone(),
        })
    }

    fn command(&self, lock_file: LockFile) -> Command {
        let mut cargo = self.compiler.cargo();
        cargo
            .current_dir(&self.manifest.directory)
            .args(["rustc", "--release", "--lib", "--crate-type", "cdylib"])
            .args([
                "--target",
                TARGET,
                "--message-format",
                "json-render-diagnostics",
            ]);
        if lock_file == LockFile::Keep {
            cargo.arg("--locked");
        }
        if matches!(self.compiler.std, StandardLibrary::FromSource) {
            cargo
                .arg("-Zbuild-std=std,panic_abort")
                .env("RUSTC_BOOTSTRAP", "1");
        }
        // Flags from the environment would make another component of the same sources.
        cargo
            .env_remove("RUSTFLAGS")
            .env("CARGO_ENCODED_RUSTFLAGS", self.flags())
            // For the plugin alone: what it depends on then serves plugins elsewhere, too.
            .arg("--")
            .arg(remapped(&self.manifest.workspace, "/plugin"));
        cargo
    }

    /// The compiler's flags, separated as cargo wants them. No path of the
    /// machine may end up in a component, or no two machines build the same.
    fn flags(&self) -> OsString {
        let mut flags = OsString::new();
        let mut add = |flag: OsString| {
            if !flags.is_empty() {
                flags.push("\u{1f}");
            }
            flags.push(flag);
        };
        for argument in LINK_ARGUMENTS {
            add(format!("-Clink-arg={argument}").into());
        }
        for (directory, name) in self.hidden() {
            add(remapped(&directory, name));
        }
        flags
    }

    /// Directories that messages within a component may not name, and what they
    /// name instead. Of several that fit a path the compiler takes the last.
    fn hidden(&self) -> Vec<(PathBuf, &'static str)> {
        let mut hidden = vec![(self.compiler.sysroot.clone(), "/rust")];
        if let Some(home) = cargo_home() {
            // One directory for each registry, named after where it is reached.
            let registries = std::fs::read_dir(home.join("registry/src"));
            let registries = registries.into_iter().flatten().flatten();
            let mut registries: Vec<_> = registries
                .map(|registry| (registry.path(), "/crates"))
                .collect();
            registries.sort();
            hidden.push((home, "/cargo"));
            hidden.append(&mut registries);
        }
        // Cargo names the files of the workspace itself relative to it.
        let packages = self.manifest.packages.iter();
        let outside = packages.filter(|package| !package.starts_with(&self.manifest.workspace));
        hidden.extend(outside.map(|package| (package.clone(), "/package")));
        hidden
    }
}

fn remapped(directory: &Path, name: &str) -> OsString {
    let mut flag = OsString::from("--remap-path-prefix=");
    flag.push(directory);
    flag.push("=");
    flag.push(name);
    flag
}

/// One line that cargo writes for each thing it does; other kinds lack fields.
#[derive(Deserialize)]
struct Message {
    reason: String,
    manifest_path: Option<PathBuf>,
    #[serde(default)]
    filenames: Vec<PathBuf>,
}

/// The module among what cargo says it made of the package in `directory`.
fn module(messages: &str, directory: &Path) -> Option<PathBuf> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Message>(line).ok())
        .filter(|message| message.reason == "compiler-artifact")
        .filter(|message| {
            message.manifest_path.as_deref().and_then(Path::parent) == Some(directory)
        })
        .flat_map(|message| message.filenames)
        .find(|path| {
            path.extension()
                .is_some_and(|extension| extension == "wasm")
        })
}

fn cargo_home() -> Option<PathBuf> {
    let named = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    named.or_else(|| std::env::home_dir().map(|home| home.join(".cargo")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_recipe_names_every_flag() {
        for argument in LINK_ARGUMENTS {
            assert!(RECIPE.contains(argument), "{argument} is not in the recipe");
        }
        assert!(RECIPE.contains(TARGET));
    }

    #[test]
    fn the_module_is_found_among_the_messages_of_cargo() {
        let messages = r#"
            {"reason":"build-script-executed","package_id":"x"}
            {"reason":"compiler-artifact","manifest_path":"/a/sdk/Cargo.toml","filenames":["/t/sdk.wasm"]}
            {"reason":"compiler-artifact","manifest_path":"/a/one/Cargo.toml","filenames":["/t/one.d","/t/one.wasm"]}
            {"reason":"build-finished","success":true}
            no message at all"#;
        assert_eq!(
            module(messages, Path::new("/a/one")),
            Some("/t/one.wasm".into())
        );
        assert_eq!(module(messages, Path::new("/a/two")), None);
    }
}
