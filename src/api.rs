//! The HTTP API: what programs and people ask a running host.
//!
//! One file for each resource below `api/`, named as its path. Handlers parse,
//! ask [`Store`], [`BusHandle`] or [`HostFacts`], and shape the answer; they
//! decide nothing that the command line would have to decide again.
//!
//! **Invariants.** Every request passes [`guard`] before anything else. Every
//! error has one shape ([`error`]). Answers are only ever added to: an example
//! of each lies in the tests.

mod approvals;
mod artifacts;
mod auth;
mod body;
mod controls;
mod error;
mod events;
mod facts;
mod flags;
mod guard;
mod health;
mod host_names;
mod hosts;
mod index;
mod integration;
mod metrics;
mod openapi;
mod operation;
mod operations;
mod pages;
mod path;
mod pipeline;
mod plugins;
mod prometheus;
mod published;
mod query;
mod rollouts;
mod routes;
mod serve;
mod shadows;
mod tasks;
mod workflows;

use std::sync::Arc;

pub use axum::Router;
use axum::http::{Method, Uri};
use axum::middleware::from_fn_with_state;
use tokio::sync::{Notify, Semaphore};

pub use approvals::RevokedView;
pub use auth::{Actor, Auth, InvalidTokens, NoTokens, Protection, Tokens};
pub use controls::{DecidedView, RouteOperator, RouteRefused};
pub use facts::{
    DirectoryStateView, DirectoryView, ExecutorNow, FlagView, HostFacts, PluginSource, PluginView,
    PreviousView, Profile, ReadinessCheck, RefusedFileView, RouteDecided, RouteView, ServingView,
    SwapCounts,
};
pub use host_names::HostNames;
pub use openapi::openapi;
pub use pages::page_paths;
pub use plugins::{PluginOperator, RollbackOrder, RollbackView, VersionView};
pub use published::{PublishOrder, PublishRefused, PublishView, RetractRefused, RetractView};
pub use rollouts::{Candidacy, RolloutRefused, Versions};
pub use serve::serve;
pub use shadows::ShadowRefused;

use crate::artifacts::published::PublishedArtifacts;
use crate::bus::BusHandle;
use crate::gate::Thresholds;
use crate::route::{Policy, RouteKey};
use crate::stage::Stage;
use crate::store::Store;
use crate::trace::Judging;
use error::ApiError;

/// What the API needs of the host, put together by the composition root.
pub struct Api {
    pub store: Arc<dyn Store>,
    pub artifacts: PublishedArtifacts,
    pub bus: BusHandle,
    pub facts: Arc<dyn HostFacts>,
    pub plugins: Arc<dyn PluginOperator>,
    pub routes: Arc<dyn RouteOperator>,
    /// Tells who drives the pipelines here that one has something to do.
    pub pipelines: Arc<Notify>,
    pub thresholds: Thresholds,
    /// How far gates over a window look back where a request does not say.
    pub window_min: u32,
    pub auth: Auth,
    pub hosts: HostNames,
}

/// What all handlers share.
struct Shared {
    api: Api,
    answered: prometheus::Answered,
    judged: pages::Judged,
    /// Clients that may follow the events at once.
    streams: Arc<Semaphore>,
}

impl Shared {
    fn store(&self) -> &dyn Store {
        &*self.api.store
    }

    /// Whether gates want real results here, whoever asks.
    fn requires_real(&self) -> bool {
        self.api.facts.stage() != Stage::Development || self.api.facts.ci()
    }

    /// Which results of a route a gate counts.
    fn policy(&self) -> impl Fn(&RouteKey) -> Policy + Send + Sync + '_ {
        |route| self.api.facts.policy(route)
    }

    fn judging<'a>(
        &'a self,
        require_real: bool,
        policy: &'a (dyn Fn(&RouteKey) -> Policy + Send + Sync),
    ) -> Judging<'a> {
        Judging {
            thresholds: &self.api.thresholds,
            require_real,
            policy,
        }
    }
}

/// The whole API as a service. Only [`serve`] can put it on a socket: it tells
/// handlers who asks and when to end.
pub fn router(api: Api) -> Router {
    let shared = Arc::new(Shared {
        api,
        answered: prometheus::Answered::default(),
        judged: pages::Judged::default(),
        streams: Arc::new(Semaphore::new(events::STREAMS_MAX)),
    });
    let operations = operations::all().into_iter();
    let router = operations.fold(Router::new(), |router, operation| operation.serve(router));
    let pages = pages::all().into_iter();
    pages
        .fold(router, |router, page| page.serve(router))
        .fallback(unknown_path)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(from_fn_with_state(Arc::clone(&shared), guard::guard))
        .with_state(shared)
}

async fn unknown_path(uri: Uri) -> ApiError {
    ApiError::UnknownPath(query::shortened(uri.path()))
}

async fn method_not_allowed(method: Method, uri: Uri) -> ApiError {
    ApiError::MethodNotAllowed {
        method: query::shortened(method.as_str()),
        path: query::shortened(uri.path()),
    }
}
