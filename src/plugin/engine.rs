//! The wasmtime engines of this process and the thread that counts time for them.
//!
//! There is one configuration of the code generator. Two engines share it: one
//! takes instances from a pool, which is what makes a fresh instance per attempt
//! cheap, the other allocates on demand for components that do not fit the
//! pool's slots. Compiled code fits both; stores and instances never mix.
//!
//! **Invariant:** epochs are advanced by an operating system thread. A task of a
//! runtime would stand still together with the guests that it should interrupt.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::OnceLock;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::Duration;

use wasmtime::{Config, Enabled, Engine, PoolingAllocationConfig};

use crate::plugin::limits::Limits;

/// How often epochs advance: the granularity at which guests give way.
pub const TICK: Duration = Duration::from_millis(10);

const MIB: usize = 1024 * 1024;

/// What traps a deep recursion.
const WASM_STACK: usize = 512 * 1024;
/// Guests run on stacks of their own; host calls need room above the guest's.
const ASYNC_STACK: usize = 2 * MIB;

/// Kept mapped and zeroed between two attempts instead of being given back.
/// Cheap only where the kernel can tell which pages were touched. Giving pages
/// back, or taking a table's first fault anew, interrupts every other core.
const KEEP_RESIDENT: usize = MIB;

/// Slots of the pool. A slot is reserved address space, not memory.
const POOL_INSTANCES: u32 = 256;
const POOL_MEMORIES: u32 = 384;
const POOL_TABLES: u32 = 1024;
const POOL_CORE_INSTANCES: u32 = 2048;

/// Why the engines could not be made.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error("the WebAssembly engine does not start on this machine")]
    Engine(#[source] wasmtime::Error),
    #[error("the thread that interrupts guests does not start")]
    Ticker(#[source] std::io::Error),
}

/// Which engine a component runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Allocation {
    Pooled,
    OnDemand,
}

/// The engines of the process. Make one and share it.
pub struct Engines {
    pooled: Ticked,
    /// Made when the first component needs it: most hosts never do.
    on_demand: OnceLock<Ticked>,
}

/// An engine and the thread that advances its epoch.
struct Ticked {
    engine: Engine,
    _ticker: Ticker,
}

impl Ticked {
    fn start(engine: Engine) -> Result<Self, EngineError> {
        let ticker = Ticker::start(&engine)?;
        Ok(Self {
            engine,
            _ticker: ticker,
        })
    }
}

impl Engines {
    /// # Errors
    /// When the machine is not supported, its address space is too small for
    /// the pool, or no thread can be started.
    pub fn new() -> Result<Self, EngineError> {
        Ok(Self {
            pooled: Ticked::start(pooled_engine()?)?,
            on_demand: OnceLock::new(),
        })
    }

    /// The engine for components that are allocated so.
    ///
    /// # Errors
    /// As [`Engines::new`], when the engine is made by this call.
    pub fn get(&self, allocation: Allocation) -> Result<&Engine, EngineError> {
        match (allocation, self.on_demand.get()) {
            (Allocation::Pooled, _) => Ok(&self.pooled.engine),
            (Allocation::OnDemand, Some(made)) => Ok(&made.engine),
            (Allocation::OnDemand, None) => {
                let made = Ticked::start(on_demand_engine()?)?;
                Ok(&self.on_demand.get_or_init(|| made).engine)
            }
        }
    }

    /// Whether a guest may be given this much by an engine's pool.
    pub fn fits_pool(limits: &Limits) -> bool {
        limits.memory_bytes <= Limits::DEFAULT.memory_bytes
    }

    /// What compiled code depends on besides the component: another value means
    /// that it must be compiled again.
    pub fn compatibility(&self) -> String {
        compatibility(&self.pooled.engine)
    }
}

/// See [`Engines::compatibility`].
pub(crate) fn compatibility(engine: &Engine) -> String {
    // The engine's version, its configuration and what the processor can do.
    let mut hasher = DefaultHasher::new();
    engine.precompile_compatibility_hash().hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

fn pooled_engine() -> Result<Engine, EngineError> {
    let limits = Limits::DEFAULT;
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(POOL_INSTANCES)
        .total_core_instances(POOL_CORE_INSTANCES)
        .total_memories(POOL_MEMORIES)
        .total_tables(POOL_TABLES)
        .total_stacks(POOL_INSTANCES)
        .max_core_instances_per_component(limits.instances)
        .max_memories_per_component(limits.memories)
        .max_tables_per_component(limits.tables)
        .max_memories_per_module(limits.memories)
        .max_tables_per_module(limits.tables)
        .max_memory_size(limits.memory_bytes)
        .table_elements(limits.table_elements)
        .linear_memory_keep_resident(KEEP_RESIDENT)
        .table_keep_resident(KEEP_RESIDENT)
        .pagemap_scan(Enabled::Auto);
    let mut config = code_config();
    config.allocation_strategy(pool);
    Engine::new(&config).map_err(EngineError::Engine)
}

/// The engine for components that the pool has no slot for; also what compiles.
pub(crate) fn on_demand_engine() -> Result<Engine, EngineError> {
    Engine::new(&code_config()).map_err(EngineError::Engine)
}

/// What the generated code depends on, alike for all engines. Garbage
/// collection, threads, stack switching and exceptions are not even compiled in.
fn code_config() -> Config {
    let mut config = Config::new();
    config
        .wasm_component_model(true)
        .wasm_memory64(false)
        .wasm_custom_page_sizes(false)
        .wasm_wide_arithmetic(false)
        // Same results on every machine, whatever its processor can fuse.
        .relaxed_simd_deterministic(true)
        .epoch_interruption(true)
        .max_wasm_stack(WASM_STACK)
        .async_stack_size(ASYNC_STACK);
    config
}

/// Advances the epoch of one engine until it is dropped.
struct Ticker {
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Ticker {
    fn start(engine: &Engine) -> Result<Self, EngineError> {
        // Weak: guests that outlive the engine's owner need no interruption.
        let engine = engine.weak();
        let (stop, stopped) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("epoch-ticker".to_owned())
            .spawn(move || {
                while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(TICK) {
                    match engine.upgrade() {
                        Some(engine) => engine.increment_epoch(),
                        None => return,
                    }
                }
            })
            .map_err(EngineError::Ticker)?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        // Wakes the thread at once, which then ends.
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It cannot panic, and a drop has nobody to tell.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_compiled_for_one_engine_fits_the_other() {
        let engines = Engines::new().unwrap();
        let on_demand = engines.get(Allocation::OnDemand).unwrap();
        assert_eq!(engines.compatibility(), compatibility(on_demand));
    }

    #[test]
    fn proposals_that_guests_do_not_need_are_off() {
        let engine = on_demand_engine().unwrap();
        for (what, text) in [
            ("gc", "(module (type (struct (field i32))))"),
            ("threads", "(module (memory 1 1 shared))"),
            ("memory64", "(module (memory i64 1))"),
            ("exceptions", "(module (tag))"),
            ("custom page sizes", "(module (memory 1 (pagesize 1)))"),
            (
                "stack switching",
                "(module (type $f (func)) (type (cont $f)))",
            ),
        ] {
            let wasm = wat::parse_str(text).unwrap();
            assert!(wasmtime::Module::new(&engine, wasm).is_err(), "{what}");
        }
    }
}
