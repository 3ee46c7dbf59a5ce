//! `/`: what there is to ask, for programs; for browsers, the dashboard.

use std::sync::Arc;

use axum::Json;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse as _, Response};
use schemars::JsonSchema;
use serde::Serialize;

use super::error::ApiError;
use super::operation::Operation;
use super::query::Params;
use super::{Shared, operations, pages};

#[derive(Serialize, JsonSchema)]
pub(super) struct Index {
    name: &'static str,
    version: &'static str,
    /// Such as `GET /api/tasks?status=&limit=`, sorted by path.
    paths: Vec<String>,
    /// Where a browser finds pages, besides here.
    pages: Vec<String>,
}

/// A page for a browser, and the listing for a program.
pub(super) async fn show(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    Params::read(query.as_deref(), &[])?;
    if pages::wants_page(&headers) {
        return pages::overview(shared).await;
    }
    let vary = [(header::VARY, "accept")];
    Ok((vary, Json(listing())).into_response())
}

fn listing() -> Index {
    let operations = operations::all();
    let mut paths: Vec<String> = operations.iter().flat_map(listed).collect();
    paths.sort_by(|one, other| by_path(one).cmp(&by_path(other)));
    Index {
        name: env!("CARGO_PKG_NAME"),
        version: env!("CARGO_PKG_VERSION"),
        paths,
        pages: pages::page_paths(),
    }
}

fn by_path(line: &str) -> (&str, &str) {
    let (method, rest) = line.split_once(' ').unwrap_or(("", line));
    let path = rest.split('?').next().unwrap_or(rest);
    (path, method)
}

/// One line, or one for each word that a part of the path may be.
fn listed(operation: &Operation) -> Vec<String> {
    let path = operation.written_path();
    let paths = match operation.choice {
        None => vec![path],
        Some((part, words)) => {
            let part = format!("{{{part}}}");
            words.iter().map(|word| path.replace(&part, word)).collect()
        }
    };
    let query: Vec<String> = operation
        .query
        .iter()
        .map(|name| format!("{name}="))
        .collect();
    let query = query.join("&");
    let mark = if query.is_empty() { "" } else { "?" };
    let method = &operation.method;
    let lines = paths
        .into_iter()
        .map(|path| format!("{method} {path}{mark}{query}"));
    lines.collect()
}
