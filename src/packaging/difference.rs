//! Where the types of a component differ from the contract's, as lines of WIT:
//! what an engine says of it names one type, in its own words.
//!
//! Reads only; a component that cannot be decoded has no difference to show.

use std::collections::BTreeMap;

use anyhow::Context as _;
use wit_component::{DecodedWasm, WitPrinter};
use wit_parser::{PackageId, Resolve};

use super::contract;

/// Interfaces that a component must have whole; of the others it has what it uses.
const EXPORTED: [&str; 2] = ["plugin", "executor"];
const PACKAGE: &str = "package cogo:executor@";

/// The lines of each item of an interface, by the interface and by what the item
/// is called, such as `record task` or `describe`.
type Items = BTreeMap<String, BTreeMap<String, Vec<String>>>;

/// The items that differ: a line with `-` is the contract's, one with `+` the
/// component's. `None` where there is none, or the component says nothing of its
/// types.
pub fn difference(component: &[u8]) -> Option<String> {
    let theirs = match wit_component::decode(component).ok()? {
        decoded @ DecodedWasm::Component(..) => {
            let packages = decoded.resolve().packages.iter().map(|(id, _)| id);
            let nested: Vec<PackageId> = packages.filter(|id| *id != decoded.package()).collect();
            printed(decoded.resolve(), decoded.package(), &nested).ok()?
        }
        DecodedWasm::WitPackage(..) => return None,
    };
    let lines = compared(&ours().ok()?, &items(&theirs));
    (!lines.is_empty()).then(|| lines.join("\n"))
}

fn ours() -> anyhow::Result<Items> {
    let (resolve, world) = contract::resolve()?;
    let package = resolve.worlds.get(world).and_then(|world| world.package);
    let package = package.context("the contract's world is in no package")?;
    Ok(items(&printed(&resolve, package, &[])?))
}

fn printed(resolve: &Resolve, main: PackageId, nested: &[PackageId]) -> anyhow::Result<String> {
    let mut printer = WitPrinter::default();
    printer.emit_docs(false);
    printer.print(resolve, main, nested)?;
    Ok(printer.output.to_string())
}

/// The items of the contract's package within printed WIT.
fn items(text: &str) -> Items {
    let mut items = Items::new();
    let mut own = false;
    let mut interface = None;
    let mut item: Option<(String, Vec<String>)> = None;
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        if line.starts_with("package ") {
            own = line.starts_with(PACKAGE);
        } else if let Some(name) = heading(line, "interface") {
            interface = own.then(|| name.to_owned());
        } else if heading(line, "world").is_some() {
            interface = None;
        } else if let Some((_, lines)) = &mut item {
            lines.push(line.to_owned());
        } else if line != "}" && !line.starts_with("use ") {
            let name = line.split(['{', ':', '=']).next().unwrap_or(line);
            item = Some((name.trim().to_owned(), vec![line.to_owned()]));
        }
        let whole = line == "}" || line.ends_with(';');
        if let Some((name, lines)) = item.take_if(|_| whole)
            && let Some(interface) = &interface
        {
            let of_interface = items.entry(interface.clone()).or_default();
            of_interface.insert(name, lines);
        }
    }
    items
}

fn heading<'a>(line: &'a str, kind: &str) -> Option<&'a str> {
    line.strip_prefix(kind)?
        .strip_prefix(' ')?
        .strip_suffix(" {")
}

fn compared(ours: &Items, theirs: &Items) -> Vec<String> {
    let nothing = BTreeMap::new();
    let mut lines = Vec::new();
    for (interface, wanted) in ours {
        let found = theirs.get(interface).unwrap_or(&nothing);
        let mut differing = Vec::new();
        for (name, found) in found {
            let wanted = wanted.get(name).map_or(&[][..], Vec::as_slice);
            if wanted != found.as_slice() {
                differing.extend(changed(wanted, found));
            }
        }
        let missing = wanted.iter().filter(|(name, _)| {
            EXPORTED.contains(&interface.as_str()) && !found.contains_key(*name)
        });
        differing.extend(missing.flat_map(|(_, wanted)| changed(wanted, &[])));
        if !differing.is_empty() {
            lines.push(format!("interface {interface} {{"));
            lines.append(&mut differing);
            lines.push("}".to_owned());
        }
    }
    lines
}

/// Both forms of one item: what they share is there once.
fn changed(wanted: &[String], found: &[String]) -> Vec<String> {
    let depth = |line: &str| match line.ends_with('{') || line == "}" || line.ends_with(';') {
        true => "  ",
        false => "    ",
    };
    let mut left = found.iter().peekable();
    let mut lines = Vec::new();
    for line in wanted {
        if !found.contains(line) {
            lines.push(format!("- {}{line}", depth(line)));
            continue;
        }
        while let Some(added) = left.next_if(|added| !wanted.contains(added)) {
            lines.push(format!("+ {}{added}", depth(added)));
        }
        left.next();
        lines.push(format!("  {}{line}", depth(line)));
    }
    lines.extend(left.map(|added| format!("+ {}{added}", depth(added))));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: &str = "package cogo:executor@0.1.0;
interface contract {
  record task {
    id: string,
    attempt: u32,
  }
  record unused {
    x: u8,
  }
}
interface plugin {
  describe: func() -> string;
}
world executor-plugin {
  export plugin;
}";

    #[test]
    fn only_what_differs_is_shown() {
        let theirs = "package root:component;
world root {
  export cogo:executor/plugin@0.1.0;
}
package cogo:executor@0.1.0 {
  interface contract {
    record task {
      id: string,
      attempt: u64,
    }
  }
  interface plugin {
    use contract.{task};
    descibe: func() -> string;
  }
}
package wasi:io@0.2.0 {
  interface contract {
    other: func();
  }
}";
        assert_eq!(
            compared(&items(OURS), &items(theirs)).join("\n"),
            "interface contract {\n\
             \x20   record task {\n\
             \x20     id: string,\n\
             -     attempt: u32,\n\
             +     attempt: u64,\n\
             \x20   }\n\
             }\n\
             interface plugin {\n\
             +   descibe: func() -> string;\n\
             -   describe: func() -> string;\n\
             }"
        );
        assert!(compared(&items(OURS), &items(OURS)).is_empty());
    }

    #[test]
    fn the_contract_is_read_whole() {
        let ours = ours().unwrap();
        assert!(ours["plugin"].contains_key("describe"), "{ours:#?}");
        assert!(ours["contract"].contains_key("record task"), "{ours:#?}");
    }
}
