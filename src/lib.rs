//! cogo-host runs executor plugins, sandboxed WebAssembly components, for the
//! COGO job bus.
//!
//! # The life of a task
//!
//! A producer inserts a row into `agent_messages`. The [`bus`] claims it under
//! a lease ([`store`]), checks its [`payload`], and [`selection`] names the
//! plugin by stage, flag, [`rollout`], [`breaker`] and approval, as the bus holds
//! them ([`control`]). The attempt goes to the [`attempt::Executor`], which is
//! the sandbox in [`plugin`]: a fresh instance for this one attempt, cut off at
//! its deadline, reaching only what the operator granted. What comes back is
//! sorted by who acts next,
//! [`task::next_state`] turns it into the row's next state, and one transaction
//! writes that state, the attempt row, the [`event`]s and the artifacts,
//! provided that the lease is still held. [`gate`]s judge what the bus recorded.
//! Where a [`shadow`] watches the route, another version runs the task again then,
//! and the difference is recorded.
//!
//! # Words
//!
//! *task*: one bus row and what it asks. *route*: `service/role`, with shard and
//! tenant. *attempt*: one execution, counted at the claim. *lease* and *lease
//! epoch*: the fence of every later write. *settle*: write an attempt's outcome.
//! *rescue*: take back an expired lease. *executor* or *plugin*: a component.
//! *digest*: its SHA-256. *hold*: a route whose tasks wait. *fallback*: mock in
//! place of real. *gate* and *verdict*: `pass`, `fail`, `inconclusive`. *drain*:
//! finish or give back what runs, and stop.

pub mod ids;
pub mod millis;
pub mod route;
pub mod stage;

pub mod artifacts;
pub mod attempt;
pub mod breaker;
pub mod codes;
pub mod config;
pub mod control;
pub mod dispatch;
pub mod event;
pub mod expect;
pub mod finding;
pub mod gate;
pub mod intake;
pub mod payload;
pub mod pipeline;
pub mod report;
pub mod retry;
pub mod rollout;
pub mod routing;
pub mod selection;
pub mod shadow;
pub mod task;

pub mod plugin;
pub mod store;

pub mod bus;
pub mod packaging;
pub mod runs;
pub mod steering;
pub mod trace;
pub mod trial;

pub mod api;

pub mod cli;
pub mod doctor;
pub mod host;
pub mod telemetry;
