//! The contract's WIT, as this program was built with it: what modules are
//! wrapped with, and what other languages' tools are shown.

use std::io;
use std::path::Path;

use sha2::{Digest as _, Sha256};
use wit_parser::{Resolve, UnresolvedPackageGroup, WorldId};

/// The world that a plugin is a component of.
pub(super) const WORLD: &str = "executor-plugin";

macro_rules! wit {
    ($($path:literal),+ $(,)?) => {
        &[$(($path, include_str!(concat!("../../wit/", $path)))),+]
    };
}

/// Every file of `wit/`; the contract's own first.
pub(super) const FILES: &[(&str, &str)] = wit![
    "executor.wit",
    "deps/README.md",
    "deps/cli.wit",
    "deps/clocks.wit",
    "deps/filesystem.wit",
    "deps/http.wit",
    "deps/io.wit",
    "deps/random.wit",
    "deps/sockets.wit",
];

/// The world with its package and version, as the contract itself says it.
pub(super) fn name() -> String {
    let package = FILES.first().and_then(|(_, text)| {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("package "))?;
        line.trim_end_matches(';').split_once('@')
    });
    match package {
        Some((package, version)) => format!("{package}/{WORLD}@{version}"),
        None => WORLD.to_owned(),
    }
}

/// The digest of all of it, in hexadecimal digits.
pub(super) fn digest() -> String {
    let mut whole = Sha256::new();
    for (path, text) in FILES {
        whole.update(path);
        whole.update((text.len() as u64).to_le_bytes());
        whole.update(text);
    }
    hex::encode(whole.finalize())
}

/// Writes it below `directory`, as the tools of other languages want it.
pub(super) fn write(directory: &Path) -> io::Result<()> {
    for (path, text) in FILES {
        let path = directory.join(path);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(path, text)?;
    }
    Ok(())
}

/// The contract as the encoder of components takes it.
pub(super) fn resolve() -> anyhow::Result<(Resolve, WorldId)> {
    let parse = |path: &str, text: &str| {
        UnresolvedPackageGroup::parse(path, text).map_err(|(_, error)| anyhow::Error::new(error))
    };
    let mut main = None;
    let mut dependencies = Vec::new();
    for (path, text) in FILES.iter().filter(|(path, _)| path.ends_with(".wit")) {
        match main {
            None => main = Some(parse(path, text)?),
            Some(_) => dependencies.push(parse(path, text)?),
        }
    }
    let main = main.ok_or_else(|| anyhow::anyhow!("the contract has no file"))?;
    let mut resolve = Resolve::default();
    let package = resolve.push_groups(main, dependencies)?;
    let world = resolve.select_world(&[package], Some(WORLD))?;
    Ok((resolve, world))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_contract_is_whole() {
        let wit = Path::new(env!("CARGO_MANIFEST_DIR")).join("wit");
        let mut lying: Vec<String> = ["", "deps"]
            .into_iter()
            .flat_map(|part| {
                let files = std::fs::read_dir(wit.join(part)).unwrap();
                files.map(move |file| (part, file.unwrap()))
            })
            .filter(|(_, file)| file.path().is_file())
            .map(|(part, file)| {
                let name = file.file_name().into_string().unwrap();
                if part.is_empty() {
                    name
                } else {
                    format!("{part}/{name}")
                }
            })
            .collect();
        lying.sort();
        let mut known: Vec<&str> = FILES.iter().map(|(path, _)| *path).collect();
        known.sort_unstable();
        assert_eq!(known, lying);
        resolve().expect("valid WIT");
        assert_eq!(name(), "cogo:executor/executor-plugin@0.1.0");
    }
}
