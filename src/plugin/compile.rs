//! Turns components into machine code, away from this process, and keeps it.
//!
//! Compiling what a stranger wrote may take any time and memory and may crash
//! the compiler, so it happens in a child process with limits. The result is
//! kept in a private directory under the component's digest, the version of the
//! code generator and its configuration; what does not match the checksum that
//! was written with it is compiled again, never loaded.

use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::process::{ExitCode, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustix::process::{Pid, Resource, Rlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::sync::Semaphore;
use wasmtime::Engine;
use wasmtime::component::Component;

use crate::ids::Digest;
use crate::plugin::engine::{Allocation, EngineError, Engines, on_demand_engine};
use crate::plugin::text;

mod cache;

pub use cache::{Cache, CacheError};

/// How much of a failed child's complaint is kept, in bytes.
const COMPLAINT_BYTES: u64 = 8 * 1024;

/// The hidden subcommand of this program that calls [`child_main`].
pub const SUBCOMMAND: &str = "compile-component";

/// The exit code of a child that refuses the component, as opposed to crashing.
const REFUSED: u8 = 3;

/// The command that compiles: it calls [`child_main`] with the last argument,
/// which is added to `args`.
#[derive(Debug, Clone)]
pub struct CompileCommand {
    pub program: PathBuf,
    pub args: Vec<String>,
}

/// What a compiling child may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompileLimits {
    pub memory_bytes: u64,
    pub cpu: Duration,
    pub wall: Duration,
}

impl CompileCommand {
    /// This program itself.
    ///
    /// # Errors
    /// When the operating system does not tell which file it is.
    pub fn this_program() -> io::Result<Self> {
        Ok(Self {
            program: std::env::current_exe()?,
            args: vec![SUBCOMMAND.to_owned()],
        })
    }
}

impl Default for CompileLimits {
    fn default() -> Self {
        Self {
            memory_bytes: 2 * 1024 * 1024 * 1024,
            cpu: Duration::from_secs(60),
            wall: Duration::from_secs(60),
        }
    }
}

/// Why a component could not be compiled.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// The component is invalid, or needs what is switched off.
    #[error("{0}")]
    Refused(String),
    #[error("the compiler died ({0}); the component is taken to be hostile or damaged")]
    Died(String),
    #[error("compiling took longer than {0:?}")]
    TimedOut(Duration),
    #[error("the compiler cannot be started or read from: {0}")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Cache(#[from] CacheError),
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// Where compiling happens.
#[derive(Debug, Clone)]
enum Place {
    Child {
        command: CompileCommand,
        limits: CompileLimits,
    },
    /// For tests and benchmarks, which bring their own components.
    InProcess,
}

/// Compiles components, one at a time, and keeps the results.
#[derive(Debug, Clone)]
pub struct Compiler {
    place: Place,
    cache: Option<Cache>,
    // One at a time: a directory full of new plugins must not take all cores
    // from the attempts that run.
    slot: Arc<Semaphore>,
}

impl Compiler {
    /// Compiles in child processes, and keeps the results in `cache`.
    pub fn in_child(command: CompileCommand, limits: CompileLimits, cache: Cache) -> Self {
        Self {
            place: Place::Child { command, limits },
            cache: Some(cache),
            slot: Arc::new(Semaphore::new(1)),
        }
    }

    /// Compiles in this process, without a child to be lost instead of it: only
    /// for components of one's own, in tests and benchmarks.
    pub fn in_process(cache: Option<Cache>) -> Self {
        Self {
            place: Place::InProcess,
            cache,
            slot: Arc::new(Semaphore::new(1)),
        }
    }

    /// The component, ready to be linked on the engine that it fits.
    ///
    /// # Errors
    /// [`CompileError`]; [`CompileError::Refused`] is the component's fault.
    pub(crate) async fn compile(
        &self,
        engines: &Arc<Engines>,
        preferred: Allocation,
        digest: Digest,
        bytes: &Bytes,
    ) -> Result<Fitted, CompileError> {
        if let Some(found) = self.cached(engines, preferred, digest).await? {
            return Ok(found);
        }
        let _slot = self.slot.acquire().await;
        // Somebody may have compiled the same while this call waited.
        if let Some(found) = self.cached(engines, preferred, digest).await? {
            return Ok(found);
        }
        match (&self.place, &self.cache) {
            (Place::Child { command, limits }, Some(cache)) => {
                let entry = cache.begin(engines, digest)?;
                run_child(command, *limits, digest, bytes.clone(), entry.output()?).await?;
                blocking(move || Ok(entry.commit()?)).await?;
                let made = self.cached(engines, preferred, digest).await?;
                made.ok_or(CacheError::Vanished.into())
            }
            (_, cache) => {
                let (engines, bytes, cache) = (Arc::clone(engines), bytes.clone(), cache.clone());
                blocking(move || compile_here(&engines, preferred, digest, &bytes, cache.as_ref()))
                    .await
            }
        }
    }

    async fn cached(
        &self,
        engines: &Arc<Engines>,
        preferred: Allocation,
        digest: Digest,
    ) -> Result<Option<Fitted>, CompileError> {
        let Some(cache) = self.cache.clone() else {
            return Ok(None);
        };
        let engines = Arc::clone(engines);
        blocking(move || Ok(cache.load(&engines, preferred, digest)?)).await
    }
}

/// A component on the engine that has room for it.
pub(crate) struct Fitted {
    pub(crate) component: Component,
    pub(crate) allocation: Allocation,
}

/// Makes a component on the preferred engine, or on the one without slots where
/// the pool's are too small for it.
fn fit(
    engines: &Engines,
    preferred: Allocation,
    make: impl Fn(&Engine) -> wasmtime::Result<Component>,
) -> wasmtime::Result<Fitted> {
    if preferred == Allocation::Pooled
        && let Ok(component) = make(engines.get(Allocation::Pooled)?)
    {
        let allocation = Allocation::Pooled;
        return Ok(Fitted {
            component,
            allocation,
        });
    }
    let allocation = Allocation::OnDemand;
    Ok(Fitted {
        component: make(engines.get(allocation)?)?,
        allocation,
    })
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, CompileError> + Send + 'static,
) -> Result<T, CompileError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(io::Error::other)?
}

fn compile_here(
    engines: &Engines,
    preferred: Allocation,
    digest: Digest,
    bytes: &[u8],
    cache: Option<&Cache>,
) -> Result<Fitted, CompileError> {
    let fitted = fit(engines, preferred, |engine| {
        Component::from_binary(engine, bytes)
    })
    .map_err(|cause| refused(&cause))?;
    if let Some(cache) = cache {
        let code = fitted.component.serialize();
        let code = code.map_err(|cause| refused(&cause))?;
        let entry = cache.begin(engines, digest)?;
        entry.output()?.write_all(&code)?;
        entry.commit()?;
    }
    Ok(fitted)
}

fn refused(cause: &wasmtime::Error) -> CompileError {
    CompileError::Refused(text::cut(text::printable(format!("{cause:#}")), 2_000))
}

/// Runs one child to its end. It is killed when this future is dropped.
async fn run_child(
    command: &CompileCommand,
    limits: CompileLimits,
    digest: Digest,
    bytes: Bytes,
    output: std::fs::File,
) -> Result<(), CompileError> {
    let mut child = Command::new(&command.program)
        .args(&command.args)
        .arg(digest.to_string())
        .env_clear()
        // Each thread reserves address space, which the limit counts.
        .env("RAYON_NUM_THREADS", threads().to_string())
        .env("MALLOC_ARENA_MAX", "2")
        .stdin(Stdio::piped())
        .stdout(Stdio::from(output))
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    // Set from outside and before it has read a byte: nothing that the child
    // reads can lift them.
    restrict(&child, limits)?;
    let ended = tokio::time::timeout(limits.wall, converse(&mut child, bytes)).await;
    let Ok(ended) = ended else {
        child.kill().await?;
        return Err(CompileError::TimedOut(limits.wall));
    };
    let (status, complaint) = ended?;
    if status.success() {
        return Ok(());
    }
    let complaint = text::printable(String::from_utf8_lossy(&complaint).trim().to_owned());
    if status.code() == Some(i32::from(REFUSED)) {
        return Err(CompileError::Refused(complaint));
    }
    let last = complaint.lines().last().unwrap_or_default();
    Err(CompileError::Died(match last {
        "" => status.to_string(),
        last => format!("{status}: {last}"),
    }))
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get().min(4))
}

fn restrict(child: &Child, limits: CompileLimits) -> io::Result<()> {
    let id = child.id().and_then(|id| i32::try_from(id).ok());
    let Some(pid) = id.and_then(Pid::from_raw) else {
        return Err(io::Error::other("the compiler ended at once"));
    };
    let exactly = |amount: u64| Rlimit {
        current: Some(amount),
        maximum: Some(amount),
    };
    let set = |resource, amount| rustix::process::prlimit(Some(pid), resource, exactly(amount));
    set(Resource::As, limits.memory_bytes)?;
    set(Resource::Cpu, limits.cpu.as_secs().max(1))?;
    // A core file would hold the component and fill the disk.
    set(Resource::Core, 0)?;
    Ok(())
}

async fn converse(
    child: &mut Child,
    bytes: Bytes,
) -> io::Result<(std::process::ExitStatus, Vec<u8>)> {
    let stdin = child.stdin.take();
    let stderr = child.stderr.take();
    let feed = async move {
        if let Some(mut stdin) = stdin {
            // A child that dies early has said why on its standard error.
            let _ = stdin.write_all(&bytes).await;
        }
    };
    let listen = async move {
        let mut complaint = Vec::new();
        if let Some(stderr) = stderr {
            let mut stderr = stderr;
            (&mut stderr)
                .take(COMPLAINT_BYTES)
                .read_to_end(&mut complaint)
                .await?;
            // Read on, or the child would wait for room in the pipe.
            tokio::io::copy(&mut stderr, &mut tokio::io::sink()).await?;
        }
        io::Result::Ok(complaint)
    };
    let ((), complaint, status) = tokio::join!(feed, listen, child.wait());
    Ok((status?, complaint?))
}

/// The child's whole life: reads a component from standard input, writes its
/// machine code to standard output, complains on standard error. `digest` is
/// what the bytes must have, so that what was admitted is what is compiled.
pub fn child_main(digest: &str) -> ExitCode {
    let compiled = compile_stdin(digest);
    let written = compiled.and_then(|code| {
        let mut stdout = io::stdout().lock();
        let written = stdout.write_all(&code).and_then(|()| stdout.flush());
        written.map_err(|cause| format!("cannot write the code: {cause}"))
    });
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(complaint) => {
            // Nobody is left to tell if this fails.
            let _ = writeln!(io::stderr(), "{complaint}");
            ExitCode::from(REFUSED)
        }
    }
}

fn compile_stdin(digest: &str) -> Result<Vec<u8>, String> {
    let expected: Digest = digest.parse().map_err(|cause| format!("{cause}"))?;
    let mut bytes = Vec::new();
    io::stdin()
        .lock()
        .read_to_end(&mut bytes)
        .map_err(|cause| format!("cannot read the component: {cause}"))?;
    let found = Digest::of(&bytes);
    if found != expected {
        return Err(format!(
            "the component arrived as {found}, not as {expected}"
        ));
    }
    let engine = on_demand_engine().map_err(|cause| cause.to_string())?;
    engine
        .precompile_component(&bytes)
        .map_err(|cause| format!("{cause:#}"))
}
