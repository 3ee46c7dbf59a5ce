//! Guests for the tests: core modules in WebAssembly's text form, laid out by
//! hand and wrapped as components of the contract's world.
//!
//! A guest is as hostile as its text: nothing of a language's runtime stands
//! between it and the host.

use std::path::PathBuf;

use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::{PackageId, Resolve};

pub mod fetch;

/// Where the descriptor lies in the guest's memory.
const DESCRIPTOR: u32 = 1024;
/// Where the result lies that `execute` returns unless its text says otherwise.
pub const RESULT: u32 = 2048;
/// Where texts begin; the allocator's memory follows them.
const TEXTS: u32 = 4096;

/// The world's name in `wit/`.
const WORLD: &str = "executor-plugin";

/// A guest under construction.
#[derive(Clone)]
pub struct Guest {
    pub name: String,
    pub version: String,
    pub kind: u8,
    pub handles: Vec<String>,
    pub config_keys: Vec<String>,
    pub egress: Vec<String>,
    /// What `execute` returns at [`RESULT`].
    pub returns: Returns,
    /// Imports, and other items of the module.
    pub items: String,
    /// Items behind the guest's own memory, which is the first one.
    pub tail: String,
    /// The memory's limits, in pages.
    pub memory: String,
    /// The bodies of the exported functions.
    pub describe: String,
    pub execute: String,
    pub realloc: String,
}

/// What `execute` returns.
#[derive(Clone)]
pub enum Returns {
    BuildTest {
        passed: bool,
    },
    Codegen {
        edits_url: String,
    },
    Sandbox {
        exit_code: i32,
        stdout: String,
    },
    Custom(String),
    Retryable {
        code: String,
        message: String,
        after_ms: Option<u64>,
    },
    Permanent {
        code: String,
        message: String,
    },
    Interrupted,
}

/// Allocates by moving a mark, growing the memory when it must.
const BUMP: &str = "
    (local $at i32)
    (local.set $at (i32.and
        (i32.add (global.get $mark) (i32.sub (local.get 2) (i32.const 1)))
        (i32.xor (i32.sub (local.get 2) (i32.const 1)) (i32.const -1))))
    (global.set $mark (i32.add (local.get $at) (local.get 3)))
    (if (i32.gt_u (global.get $mark) (i32.mul (memory.size) (i32.const 65536)))
        (then (if (i32.eq (i32.const -1) (memory.grow
            (i32.add (i32.const 1) (i32.shr_u (local.get 3) (i32.const 16)))))
            (then unreachable))))
    (local.get $at)";

impl Guest {
    /// A guest of the route `sandbox/run` with this body of `execute`, whose
    /// local 0 points at the task and which leaves a pointer to its result.
    pub fn new(execute: &str) -> Self {
        Self {
            name: "guest".to_owned(),
            version: "1.0.0".to_owned(),
            kind: 1,
            handles: vec!["sandbox/run".to_owned()],
            config_keys: Vec::new(),
            egress: Vec::new(),
            returns: Returns::Sandbox {
                exit_code: 0,
                stdout: "ok".to_owned(),
            },
            items: String::new(),
            tail: String::new(),
            memory: "2".to_owned(),
            describe: format!("(i32.const {DESCRIPTOR})"),
            execute: execute.to_owned(),
            realloc: BUMP.to_owned(),
        }
    }

    /// A guest that does nothing but return this.
    pub fn returning(returns: Returns) -> Self {
        Self {
            returns,
            ..Self::new(&format!("(i32.const {RESULT})"))
        }
    }

    pub fn with_execute(mut self, execute: &str) -> Self {
        self.execute = execute.to_owned();
        self
    }

    pub fn items(mut self, items: &str) -> Self {
        self.items.push_str(items);
        self
    }

    pub fn tail(mut self, tail: &str) -> Self {
        self.tail.push_str(tail);
        self
    }

    pub fn egress(mut self, egress: &[&str]) -> Self {
        self.egress = egress.iter().map(|e| (*e).to_owned()).collect();
        self
    }

    /// The core module's text.
    pub fn text(&self) -> String {
        let mut image = Image::new();
        self.lay_descriptor(&mut image);
        self.returns.lay(&mut image);
        let Image { texts, fixed, .. } = &image;
        let mark = (TEXTS as usize + texts.len()).next_multiple_of(16);
        let data: String = fixed
            .iter()
            .map(|(at, bytes)| format!("(data (i32.const {at}) \"{}\")\n", escaped(bytes)))
            .collect();
        let Self {
            items,
            tail,
            memory,
            describe,
            execute,
            realloc,
            ..
        } = self;
        format!(
            r#"(module
                {items}
                (memory (export "memory") {memory})
                (global $mark (mut i32) (i32.const {mark}))
                {data}
                (data (i32.const {TEXTS}) "{}")
                (func $realloc (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
                    {realloc})
                (func (export "cogo:executor/plugin@0.1.0#describe") (result i32)
                    {describe})
                (func $execute (export "cogo:executor/executor@0.1.0#execute") (param i32) (result i32)
                    {execute})
                {tail})"#,
            escaped(texts)
        )
    }

    /// The guest as a component.
    pub fn component(&self) -> Vec<u8> {
        componentize(&self.text())
    }

    /// As [`Guest::component`] for a module that the encoder's validation would
    /// refuse already.
    pub fn component_unchecked(&self) -> Vec<u8> {
        let (resolve, package) = contract();
        componentize_with(&self.text(), &resolve, package, false)
    }

    fn lay_descriptor(&self, image: &mut Image) {
        let mut at = DESCRIPTOR;
        for text in [&self.name, &self.version] {
            let text = image.text(text);
            image.pair(at, text);
            at += 8;
        }
        image.fix(at, vec![self.kind]);
        at += 4;
        for list in [&self.handles, &self.config_keys, &self.egress] {
            let list = image.list(list);
            image.pair(at, list);
            at += 8;
        }
    }
}

impl Returns {
    /// Lays the canonical form of `result<outcome, failure>` at [`RESULT`].
    fn lay(&self, image: &mut Image) {
        let at = RESULT;
        match self {
            Self::BuildTest { passed } => {
                image.fix(at, vec![0]);
                image.fix(at + 8, vec![0]);
                image.fix(at + 16, vec![u8::from(*passed)]);
                image.word(at + 20, 3);
                image.word(at + 24, u32::from(!*passed));
                image.word(at + 32, 5);
            }
            Self::Codegen { edits_url } => {
                image.fix(at, vec![0]);
                image.fix(at + 8, vec![1]);
                let text = image.text(edits_url);
                image.pair(at + 16, text);
                image.word(at + 24, 1);
            }
            Self::Sandbox { exit_code, stdout } => {
                image.fix(at, vec![0]);
                image.fix(at + 8, vec![2]);
                image.fix(at + 16, exit_code.to_le_bytes().to_vec());
                let text = image.text(stdout);
                image.pair(at + 20, text);
            }
            Self::Custom(json) => {
                image.fix(at, vec![0]);
                image.fix(at + 8, vec![3]);
                let text = image.text(json);
                image.pair(at + 16, text);
            }
            Self::Retryable {
                code,
                message,
                after_ms,
            } => {
                image.fix(at + 8, vec![0]);
                Self::lay_problem(image, code, message, *after_ms);
            }
            Self::Permanent { code, message } => {
                image.fix(at + 8, vec![1]);
                Self::lay_problem(image, code, message, None);
            }
            Self::Interrupted => {
                image.fix(at, vec![1]);
                image.fix(at + 8, vec![2]);
            }
        }
    }

    fn lay_problem(image: &mut Image, code: &str, message: &str, after_ms: Option<u64>) {
        let at = RESULT;
        image.fix(at, vec![1]);
        let code = image.text(code);
        image.pair(at + 16, code);
        let message = image.text(message);
        image.pair(at + 24, message);
        if let Some(after_ms) = after_ms {
            image.fix(at + 32, vec![1]);
            image.fix(at + 40, after_ms.to_le_bytes().to_vec());
        }
    }
}

/// What lies in the guest's memory when it starts.
struct Image {
    texts: Vec<u8>,
    fixed: Vec<(u32, Vec<u8>)>,
}

impl Image {
    fn new() -> Self {
        Self {
            texts: Vec::new(),
            fixed: Vec::new(),
        }
    }

    fn text(&mut self, text: &str) -> (u32, u32) {
        let at = TEXTS + self.texts.len() as u32;
        self.texts.extend_from_slice(text.as_bytes());
        (at, text.len() as u32)
    }

    fn list(&mut self, texts: &[String]) -> (u32, u32) {
        let pairs: Vec<(u32, u32)> = texts.iter().map(|text| self.text(text)).collect();
        self.texts.resize(self.texts.len().next_multiple_of(4), 0);
        let at = TEXTS + self.texts.len() as u32;
        for (pointer, length) in &pairs {
            self.texts.extend_from_slice(&pointer.to_le_bytes());
            self.texts.extend_from_slice(&length.to_le_bytes());
        }
        (at, pairs.len() as u32)
    }

    fn fix(&mut self, at: u32, bytes: Vec<u8>) {
        self.fixed.push((at, bytes));
    }

    fn word(&mut self, at: u32, word: u32) {
        self.fix(at, word.to_le_bytes().to_vec());
    }

    fn pair(&mut self, at: u32, (pointer, length): (u32, u32)) {
        self.word(at, pointer);
        self.word(at + 4, length);
    }
}

fn escaped(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("\\{b:02x}")).collect()
}

fn contract() -> (Resolve, PackageId) {
    let mut resolve = Resolve::default();
    let wit = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("wit");
    let (package, _) = resolve.push_dir(&wit).expect("wit/ parses");
    (resolve, package)
}

/// Wraps a core module's text as a component of the contract's world.
pub fn componentize(text: &str) -> Vec<u8> {
    let (resolve, package) = contract();
    componentize_with(text, &resolve, package, true)
}

/// The same for another world of the same name.
pub fn componentize_as(text: &str, wit: &str) -> Vec<u8> {
    let mut resolve = Resolve::default();
    let package = resolve.push_str("other.wit", wit).expect("the WIT parses");
    componentize_with(text, &resolve, package, true)
}

fn componentize_with(text: &str, resolve: &Resolve, package: PackageId, validate: bool) -> Vec<u8> {
    let mut module = wat::parse_str(text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let world = resolve
        .select_world(&[package], Some(WORLD))
        .expect("the world exists");
    embed_component_metadata(&mut module, resolve, world, StringEncoding::UTF8).unwrap();
    ComponentEncoder::default()
        .validate(validate)
        .module(&module)
        .and_then(|mut encoder| encoder.encode())
        .unwrap_or_else(|e| panic!("{e:#}\n{text}"))
}
