//! The dashboard: a running host as people see it in a browser.
//!
//! Pages show what the API answers with, read by the same functions, so that
//! there is no second way of computing anything. They are read-only by design:
//! what can be done is shown as the command and the API call that do it.
//!
//! **Invariants.** Everything that a template prints passes [`escape`]. A page
//! needs no script to be read, loads nothing from elsewhere, and names where its
//! facts can be had as JSON. What a database or a guest wrote is never markup,
//! and is a link only where [`shown::link`] says so.

mod accept;
mod action;
mod assets;
mod error;
mod escape;
mod events;
mod form;
mod frame;
mod gate;
mod judged;
mod overview;
mod plugins;
mod rollouts;
mod route;
mod shown;
mod standing;
mod task;
mod tasks;
mod trace;
mod waits;
mod waterfall;

use std::sync::Arc;

use axum::Router;
use axum::handler::Handler;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{Html, IntoResponse as _, Response};
use axum::routing::{MethodFilter, MethodRouter, on};

use super::Shared;
use super::error::ApiError;
pub(super) use accept::wants_page;
pub(super) use error::in_place_of;
pub(crate) use escape::Shown;
pub(super) use judged::Judged;
pub(super) use overview::show as overview;

/// What all pages but the first begin with.
const PREFIX: &str = "/ui/";

/// A page that is served.
pub(super) struct Page {
    path: &'static str,
    query: &'static [&'static str],
    router: MethodRouter<Arc<Shared>>,
}

impl Page {
    fn new<H, X>(path: &'static str, query: &'static [&'static str], handler: H) -> Self
    where
        H: Handler<X, Arc<Shared>>,
        X: 'static,
    {
        Self {
            path,
            query,
            router: on(MethodFilter::GET.or(MethodFilter::HEAD), handler),
        }
    }

    /// Adds this one to those that are served.
    pub(super) fn serve(self, router: Router<Arc<Shared>>) -> Router<Arc<Shared>> {
        router.route(self.path, self.router)
    }
}

/// Every page but the first, which `/` answers with.
pub(super) fn all() -> Vec<Page> {
    vec![
        Page::new("/ui/tasks", tasks::FILTERS, tasks::show),
        Page::new("/ui/tasks/{id}", &[], task::show),
        Page::new("/ui/traces/{trace}", &[], trace::show),
        Page::new("/ui/plugins", &[], plugins::show),
        Page::new("/ui/rollouts", &[], rollouts::list),
        Page::new("/ui/rollouts/{id}", &[], rollouts::show),
        Page::new("/ui/events", events::FILTERS, events::show),
        Page::new("/ui/assets/{name}", &[], assets::show),
    ]
}

/// Where the pages lie and what they may be asked, such as
/// `/ui/events?trace=&type=`; without the first, which `/` answers with.
pub fn page_paths() -> Vec<String> {
    let written = |page: Page| {
        let query: Vec<String> = page.query.iter().map(|name| format!("{name}=")).collect();
        let mark = if query.is_empty() { "" } else { "?" };
        format!("{}{mark}{}", page.path, query.join("&"))
    };
    all().into_iter().map(written).collect()
}

/// Whether a request is answered with a page, errors included: what is no page
/// keeps the shape that programs expect.
pub(super) fn is_page(method: &Method, path: &str, headers: &HeaderMap) -> bool {
    let reads = *method == Method::GET || *method == Method::HEAD;
    let of_programs = path.starts_with("/api/") || path.starts_with("/artifacts/");
    reads && !of_programs && wants_page(headers)
}

/// Whether somebody else's link may lead here.
pub(super) fn is_entrance(path: &str) -> bool {
    path == "/" || path.starts_with(PREFIX)
}

/// A template as the answer to a request.
fn rendered(status: StatusCode, template: &impl askama::Template) -> Response {
    match template.render() {
        Ok(text) => {
            let vary = [(header::VARY, "accept")];
            (status, vary, Html(text)).into_response()
        }
        Err(error) => {
            tracing::error!(%error, "a page cannot be made");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

type Answer = Result<Response, ApiError>;
