//! `/openapi.json`: the API described in OpenAPI 3.1, made of the same list as
//! the router, with schemas derived from the types that the handlers take and
//! answer with. Nothing of it is written down twice.
//!
//! Source: OpenAPI Specification 3.1.1; its schemas are JSON Schema 2020-12.

use axum::Json;
use axum::extract::RawQuery;
use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::error::{ApiError, ErrorAnswer};
use super::operation::{Content, Operation};
use super::operations::{self, Streamed};
use super::query::Params;
use crate::route::RouteKey;
use crate::task::Status;

pub(super) async fn show(RawQuery(query): RawQuery) -> Result<Json<Value>, ApiError> {
    Params::read(query.as_deref(), &[])?;
    Ok(Json(openapi()))
}

/// The document.
pub fn openapi() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    let inline = settings
        .clone()
        .with(|settings| settings.inline_subschemas = true);
    let mut document = Document {
        read: inline.for_deserialize().into_generator(),
        written: settings.for_serialize().into_generator(),
        paths: Map::new(),
    };
    for operation in operations::all() {
        document.add(&operation);
    }
    document.written.subschema_for::<Streamed>();
    let Document {
        mut written, paths, ..
    } = document;
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": env!("CARGO_PKG_NAME"),
            "version": env!("CARGO_PKG_VERSION"),
            "description": "What programs and people ask a running host. Answers are only ever added to: ignore fields that you do not know.",
            "license": { "name": env!("CARGO_PKG_LICENSE"), "identifier": env!("CARGO_PKG_LICENSE") },
        },
        "security": [{}, { "token": [] }],
        "paths": paths,
        "components": {
            "schemas": written.take_definitions(true),
            "securitySchemes": { "token": {
                "type": "http",
                "scheme": "bearer",
                "description": "Needed for writes in staging and production, and for everything where the host listens beyond loopback.",
            } },
        },
    })
}

struct Document {
    /// Of what is read: a field with a default may be left out, which it never is
    /// where the same type is written.
    read: SchemaGenerator,
    written: SchemaGenerator,
    paths: Map<String, Value>,
}

impl Document {
    fn add(&mut self, operation: &Operation) {
        let described = self.operation(operation);
        let path = self.paths.entry(operation.written_path());
        if let Some(methods) = path.or_insert_with(|| json!({})).as_object_mut() {
            let method = operation.method.as_str().to_ascii_lowercase();
            methods.insert(method, described);
        }
    }

    fn operation(&mut self, operation: &Operation) -> Value {
        let mut described = json!({
            "operationId": operation_id(operation),
            "summary": operation.says,
            "parameters": self.parameters(operation),
            "responses": self.responses(operation),
        });
        if let (Some(takes), Some(fields)) = (operation.takes, described.as_object_mut()) {
            let body = json!({ "required": true, "content": content(takes, &mut self.read) });
            fields.insert("requestBody".to_owned(), body);
        }
        if let (true, Some(fields)) = (operation.open, described.as_object_mut()) {
            fields.insert("security".to_owned(), json!([]));
        }
        described
    }

    fn parameters(&mut self, operation: &Operation) -> Vec<Value> {
        let of_path = operation.parts().map(|name| {
            let mut schema = json!({ "type": "string" });
            if let Some((_, words)) = operation.choice.filter(|(part, _)| *part == name) {
                schema = json!({ "enum": words });
            }
            json!({ "name": name, "in": "path", "required": true, "schema": schema })
        });
        let mut parameters: Vec<Value> = of_path.collect();
        parameters.extend(operation.query.iter().map(|name| {
            let schema = self.query_schema(name);
            json!({ "name": name, "in": "query", "schema": schema })
        }));
        parameters
    }

    /// A parameter of one name means the same everywhere.
    fn query_schema(&mut self, name: &str) -> Value {
        match name {
            "limit" | "since_min" | "window_min" => json!({ "type": "integer", "minimum": 1 }),
            "after" | "wait_ms" => json!({ "type": "integer", "minimum": 0 }),
            "enforce" | "require_real" => json!({ "type": "boolean" }),
            "route" => json!(self.read.subschema_for::<RouteKey>()),
            "status" => json!(self.read.subschema_for::<Status>()),
            _ => json!({ "type": "string", "minLength": 1 }),
        }
    }

    fn responses(&mut self, operation: &Operation) -> Map<String, Value> {
        let content_of_success = content(operation.answers, &mut self.written);
        let statuses = operation.statuses.iter().chain(operation.also);
        let mut responses: Map<String, Value> = statuses
            .map(|status| {
                let answer =
                    json!({ "description": operation.says, "content": content_of_success });
                (status.to_string(), answer)
            })
            .collect();
        let error = Content::Json(SchemaGenerator::subschema_for::<ErrorAnswer>);
        let refused = json!({
            "description": "What went wrong; `cogo-host explain CODE` says more",
            "content": content(error, &mut self.written),
        });
        responses.insert("default".to_owned(), refused);
        responses
    }
}

fn content(content: Content, schemas: &mut SchemaGenerator) -> Value {
    match content {
        Content::Raw(media_type) => json!({ media_type: {} }),
        Content::Json(schema) => json!({ "application/json": { "schema": schema(schemas) } }),
    }
}

/// Such as `post_api_tasks_id_cancel`.
fn operation_id(operation: &Operation) -> String {
    let words = operation.path.split(|c: char| !c.is_ascii_alphanumeric());
    let words = words.filter(|word| !word.is_empty());
    let method = operation.method.as_str().to_ascii_lowercase();
    std::iter::once(method.as_str())
        .chain(words)
        .collect::<Vec<_>>()
        .join("_")
}
