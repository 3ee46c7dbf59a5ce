//! What the database has already, by its own catalog.

use std::collections::HashMap;

use sqlx::postgres::{PgConnection, PgRow};

use super::shape::table_names;
use crate::store::cells::Cells;
use crate::store::postgres::Step;

/// The relations that the names of our tables lead to, by the search path.
const RELATIONS: &str = "
SELECT wanted.name, quote_ident(n.nspname) AS schema, c.relkind::text AS kind,
  pg_get_userbyid(c.relowner)::text AS owner,
  pg_has_role(c.relowner, 'USAGE') AS owned,
  coalesce(array_to_string(c.reloptions, ','), '') AS storage,
  row_security_active(c.oid) AS guarded,
  EXISTS (
    SELECT FROM pg_index AS i
    WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid AND i.indpred IS NULL
      AND i.indnkeyatts = 1
      AND i.indkey[0] = (SELECT a.attnum FROM pg_attribute AS a
        WHERE a.attrelid = c.oid AND a.attname = 'id' AND NOT a.attisdropped)
  ) AS keyed
FROM unnest($1::text[]) AS wanted(name)
JOIN pg_class AS c ON c.oid = to_regclass(quote_ident(wanted.name))
JOIN pg_namespace AS n ON n.oid = c.relnamespace";

const COLUMNS: &str = "
SELECT wanted.name, a.attname::text AS attribute, format_type(a.atttypid, NULL) AS kind,
  a.attnotnull AND NOT a.atthasdef AND a.attidentity = '' AND a.attgenerated = '' AS demanded,
  NOT a.attnotnull AS nullable
FROM unnest($1::text[]) AS wanted(name)
JOIN pg_attribute AS a ON a.attrelid = to_regclass(quote_ident(wanted.name))
WHERE a.attnum > 0 AND NOT a.attisdropped";

const INDEXES: &str = "
SELECT wanted.name, c.relname::text AS index, i.indisvalid AND i.indisready AS valid
FROM unnest($1::text[]) AS wanted(name)
JOIN pg_index AS i ON i.indrelid = to_regclass(quote_ident(wanted.name))
JOIN pg_class AS c ON c.oid = i.indexrelid";

const SURROUNDINGS: &str = "
SELECT quote_ident(current_schema()) AS schema, current_user::text AS \"user\",
  current_setting('server_version_num')::bigint AS version,
  (SELECT string_agg(quote_ident(rolname), ',' ORDER BY rolname) FROM pg_roles
   WHERE rolname IN ('anon', 'authenticated')) AS outsiders";

/// The catalog, as far as it matters here.
#[derive(Debug, Default)]
pub(super) struct Catalog {
    /// Where new tables go, quoted.
    pub(super) schema: Option<String>,
    pub(super) user: String,
    pub(super) server_version: i64,
    /// Supabase's roles for everybody, where they exist.
    pub(super) outsiders: Vec<String>,
    pub(super) relations: HashMap<String, Relation>,
}

#[derive(Debug, Default)]
pub(super) struct Relation {
    pub(super) schema: String,
    pub(super) kind: String,
    pub(super) owner: String,
    pub(super) owned: bool,
    pub(super) storage: String,
    /// Row-level security applies to this user.
    pub(super) guarded: bool,
    /// `id` is unique.
    pub(super) keyed: bool,
    pub(super) columns: HashMap<String, Attribute>,
    /// Index names, and whether each is valid.
    pub(super) indexes: HashMap<String, bool>,
}

#[derive(Debug)]
pub(super) struct Attribute {
    pub(super) kind: String,
    /// Inserts must name it.
    pub(super) demanded: bool,
    pub(super) nullable: bool,
}

impl Catalog {
    pub(super) async fn read(conn: &mut PgConnection) -> Step<Self> {
        let row = sqlx::query(SURROUNDINGS)
            .persistent(false)
            .fetch_one(&mut *conn)
            .await?;
        let cells = Cells::of("pg_roles", &row);
        let outsiders = cells.text("outsiders")?.unwrap_or_default();
        let mut catalog = Self {
            schema: cells.text("schema")?,
            user: cells.required_text("user")?,
            server_version: cells.int("version")?.unwrap_or(0),
            outsiders: outsiders
                .split(',')
                .filter(|role| !role.is_empty())
                .map(str::to_owned)
                .collect(),
            relations: HashMap::new(),
        };
        for row in rows(conn, RELATIONS).await? {
            let cells = Cells::of("pg_class", &row);
            let relation = Relation {
                schema: cells.required_text("schema")?,
                kind: cells.required_text("kind")?,
                owner: cells.required_text("owner")?,
                owned: cells.flag("owned")?,
                storage: cells.required_text("storage")?,
                guarded: cells.flag("guarded")?,
                keyed: cells.flag("keyed")?,
                ..Relation::default()
            };
            catalog
                .relations
                .insert(cells.required_text("name")?, relation);
        }
        for row in rows(conn, COLUMNS).await? {
            let cells = Cells::of("pg_attribute", &row);
            let attribute = Attribute {
                kind: cells.required_text("kind")?,
                demanded: cells.flag("demanded")?,
                nullable: cells.flag("nullable")?,
            };
            let name = cells.required_text("name")?;
            if let Some(relation) = catalog.relations.get_mut(&name) {
                let column = cells.required_text("attribute")?;
                relation.columns.insert(column, attribute);
            }
        }
        for row in rows(conn, INDEXES).await? {
            let cells = Cells::of("pg_index", &row);
            let name = cells.required_text("name")?;
            if let Some(relation) = catalog.relations.get_mut(&name) {
                let index = cells.required_text("index")?;
                relation.indexes.insert(index, cells.flag("valid")?);
            }
        }
        Ok(catalog)
    }
}

async fn rows(conn: &mut PgConnection, sql: &'static str) -> Step<Vec<PgRow>> {
    let query = sqlx::query(sql).persistent(false).bind(table_names());
    Ok(query.fetch_all(conn).await?)
}
