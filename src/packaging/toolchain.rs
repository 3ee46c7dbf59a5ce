//! Finding and calling a compiler for `wasm32-unknown-unknown`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize;

use super::manifest::Manifest;
use super::{BuildError, LockFile};

const TARGET: &str = "wasm32-unknown-unknown";

/// What is asked of the linker. Memory starts large enough that a usual attempt
/// never grows it, and the stack holds JSON nested as deep as serde_json follows it:
/// untouched pages cost nothing, growing costs more than a small task.
const LINK_ARGUMENTS: [&str; 2] = ["--initial-memory=2097152", "-zstack-size=262144"];

/// How components are built, as far as the sources do not say it; part of the
/// source digest. Change it with the flags.
pub(super) const RECIPE: &str =
    "cogo-recipe 1: wasm32-unknown-unknown --initial-memory=2097152 -zstack-size=262144\n";

/// A compiler that can build plugins.
pub(super) struct Toolchain {
    std: StandardLibrary,
    sysroot: PathBuf,
}

/// Where the target's standard library comes from.
enum StandardLibrary {
    /// It came with the compiler.
    Installed,
    /// Only its sources did; it is built along, which stable cargo does when it
    /// is told to forget that it is stable.
    FromSource,
}

/// Why plugins cannot be built here.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum ToolchainError {
    #[error("there is no Rust compiler (rustc) in PATH; install Rust 1.95 or later")]
    NoCompiler(#[source] std::io::Error),
    #[error("rustc does not answer: {0}")]
    Broken(String),
    #[error("the Rust compiler cannot build for {TARGET}; run: rustup target add {TARGET}")]
    NoTarget,
    #[error(
        "the Rust compiler cannot build for {TARGET} and there is no rustup to add it; install \
         the package of your system that has Rust's standard library for {TARGET}, or its sources"
    )]
    NoTargetNoRustup,
}

/// Looks at the compiler that cargo will use in the plugin's directory.
pub(super) fn find(manifest: &Manifest) -> Result<Toolchain, ToolchainError> {
    let ask = |arguments: &[&str]| rustc(&manifest.directory, arguments);
    let sysroot = ask(&["--print", "sysroot"])?;
    let std = match ask(&["--print", "target-libdir", "--target", TARGET]) {
        Ok(libraries) if holds_core(&libraries) => StandardLibrary::Installed,
        _ if has_sources(&sysroot) => StandardLibrary::FromSource,
        _ if starts("rustup") => return Err(ToolchainError::NoTarget),
        _ => return Err(ToolchainError::NoTargetNoRustup),
    };
    Ok(Toolchain { std, sysroot })
}

impl Toolchain {
    /// Has cargo compile the package, and says where the module lies.
    pub(super) fn compile(
        &self,
        manifest: &Manifest,
        lock_file: LockFile,
    ) -> Result<PathBuf, BuildError> {
        let start = |source| BuildError::Start {
            program: "cargo".into(),
            source,
        };
        let output = self
            .command(manifest, lock_file)
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()
            .map_err(start)?;
        if !output.status.success() {
            return Err(BuildError::Compile {
                package: manifest.name.clone(),
                status: output.status,
            });
        }
        let messages = String::from_utf8_lossy(&output.stdout);
        module(&messages, &manifest.directory).ok_or_else(|| BuildError::NoLibrary {
            package: manifest.name.clone(),
        })
    }

    fn command(&self, manifest: &Manifest, lock_file: LockFile) -> Command {
        let mut cargo = Command::new("cargo");
        cargo
            .current_dir(&manifest.directory)
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
        if matches!(self.std, StandardLibrary::FromSource) {
            cargo
                .arg("-Zbuild-std=std,panic_abort")
                .env("RUSTC_BOOTSTRAP", "1");
        }
        // Flags from the environment would make another component of the same sources.
        cargo
            .env_remove("RUSTFLAGS")
            .env("CARGO_ENCODED_RUSTFLAGS", self.flags(manifest));
        cargo
    }

    /// The compiler's flags, separated as cargo wants them. No path of the
    /// machine may end up in a component, or no two machines build the same.
    fn flags(&self, manifest: &Manifest) -> OsString {
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
        for (directory, name) in self.hidden(manifest) {
            let mut flag = OsString::from("--remap-path-prefix=");
            flag.push(directory);
            flag.push("=");
            flag.push(name);
            add(flag);
        }
        flags
    }

    /// Directories that messages within a component may not name, and what they
    /// name instead. Of several that fit a path the compiler takes the last.
    fn hidden(&self, manifest: &Manifest) -> Vec<(PathBuf, &'static str)> {
        let mut hidden = vec![(self.sysroot.clone(), "/rust")];
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
        hidden.push((manifest.workspace.clone(), "/plugin"));
        hidden
    }
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

fn rustc(directory: &Path, arguments: &[&str]) -> Result<PathBuf, ToolchainError> {
    let output = Command::new("rustc")
        .current_dir(directory)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(ToolchainError::NoCompiler)?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(ToolchainError::Broken(words));
    }
    Ok(PathBuf::from(
        String::from_utf8_lossy(&output.stdout).trim(),
    ))
}

fn holds_core(libraries: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(libraries) else {
        return false;
    };
    entries
        .flatten()
        .any(|entry| entry.file_name().to_string_lossy().starts_with("libcore-"))
}

fn has_sources(sysroot: &Path) -> bool {
    sysroot
        .join("lib/rustlib/src/rust/library/std/Cargo.toml")
        .is_file()
}

fn starts(program: &str) -> bool {
    let quiet = Command::new(program)
        .arg("--version")
        .stdin(Stdio::null())
        .output();
    quiet.is_ok_and(|output| output.status.success())
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
