//! One thing that can be asked of the API: who answers it and what is said of it,
//! in one value. The router, the listing at `/` and `/openapi.json` are made of
//! the same list, so that none of them can leave out what another has.

use axum::handler::Handler;
use axum::http::Method;
use axum::routing::{MethodFilter, MethodRouter, on};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use std::sync::Arc;

use super::Shared;

type Described = fn(&mut SchemaGenerator) -> Schema;

/// A method of a path.
pub(super) struct Operation {
    pub(super) method: Method,
    /// As the router has it: `/artifacts/{task}/{*path}`.
    pub(super) path: &'static str,
    pub(super) says: &'static str,
    pub(super) query: &'static [&'static str],
    /// The words that a part of the path may be, where they are few.
    pub(super) choice: Option<(&'static str, &'static [&'static str])>,
    pub(super) takes: Option<Content>,
    /// What a success has in its body.
    pub(super) answers: Content,
    /// The statuses of a success.
    pub(super) statuses: &'static [u16],
    /// Statuses that are no success and have the same body all the same.
    pub(super) also: &'static [u16],
    /// Whether it is answered without a token.
    pub(super) open: bool,
    router: MethodRouter<Arc<Shared>>,
}

/// What a body holds.
#[derive(Clone, Copy)]
pub(super) enum Content {
    Json(Described),
    /// Bytes of this media type.
    Raw(&'static str),
}

impl Content {
    fn json<T: JsonSchema>() -> Self {
        Self::Json(SchemaGenerator::subschema_for::<T>)
    }
}

impl Operation {
    pub(super) fn get<H, X>(path: &'static str, says: &'static str, handler: H) -> Self
    where
        H: Handler<X, Arc<Shared>>,
        X: 'static,
    {
        Self::new(
            Method::GET,
            path,
            says,
            on(MethodFilter::GET.or(MethodFilter::HEAD), handler),
        )
    }

    pub(super) fn post<H, X>(path: &'static str, says: &'static str, handler: H) -> Self
    where
        H: Handler<X, Arc<Shared>>,
        X: 'static,
    {
        Self::new(Method::POST, path, says, on(MethodFilter::POST, handler))
    }

    pub(super) fn put<H, X>(path: &'static str, says: &'static str, handler: H) -> Self
    where
        H: Handler<X, Arc<Shared>>,
        X: 'static,
    {
        Self::new(Method::PUT, path, says, on(MethodFilter::PUT, handler))
    }

    fn new(
        method: Method,
        path: &'static str,
        says: &'static str,
        router: MethodRouter<Arc<Shared>>,
    ) -> Self {
        Self {
            method,
            path,
            says,
            query: &[],
            choice: None,
            takes: None,
            answers: Content::Raw("application/octet-stream"),
            statuses: &[200],
            also: &[],
            open: false,
            router,
        }
    }

    pub(super) fn query(mut self, names: &'static [&'static str]) -> Self {
        self.query = names;
        self
    }

    pub(super) fn choice(mut self, part: &'static str, words: &'static [&'static str]) -> Self {
        self.choice = Some((part, words));
        self
    }

    pub(super) fn takes<T: JsonSchema>(mut self) -> Self {
        self.takes = Some(Content::json::<T>());
        self
    }

    pub(super) fn takes_raw(mut self, media_type: &'static str) -> Self {
        self.takes = Some(Content::Raw(media_type));
        self
    }

    pub(super) fn answers<T: JsonSchema>(mut self) -> Self {
        self.answers = Content::json::<T>();
        self
    }

    pub(super) fn answers_raw(mut self, media_type: &'static str) -> Self {
        self.answers = Content::Raw(media_type);
        self
    }

    pub(super) fn statuses(mut self, statuses: &'static [u16]) -> Self {
        self.statuses = statuses;
        self
    }

    pub(super) fn also(mut self, statuses: &'static [u16]) -> Self {
        self.also = statuses;
        self
    }

    pub(super) fn open(mut self) -> Self {
        self.open = true;
        self
    }

    /// Adds this one to those that are served.
    pub(super) fn serve(self, router: axum::Router<Arc<Shared>>) -> axum::Router<Arc<Shared>> {
        router.route(self.path, self.router)
    }

    /// The path as people write it, without the router's star.
    pub(super) fn written_path(&self) -> String {
        self.path.replace("{*", "{")
    }

    /// The variable parts of the path, in order.
    pub(super) fn parts(&self) -> impl Iterator<Item = &'static str> {
        let segments = self.path.split('/');
        let parts = segments.filter_map(|segment| segment.strip_prefix('{')?.strip_suffix('}'));
        parts.map(|part| part.trim_start_matches('*'))
    }
}
