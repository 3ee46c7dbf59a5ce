//! The statements that lead from what the database has to what it must have.
//!
//! Pure: catalog in, statements out. What is there already is never named in a
//! statement, because even an `IF NOT EXISTS` that does nothing takes its lock.

use super::catalog::{Catalog, Relation};
use super::shape::{
    AGENT_MESSAGES, BUS_EVENTS, BUSY_TABLE, EVENT_SEQ, LACKING, Missing, SUPERSEDED, TABLES, Table,
    VERSION, lacks,
};
use crate::store::StoreError;

/// The oldest server with `gen_random_uuid()`.
const OLDEST_SERVER: i64 = 13_00_00;

/// One step of a migration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Part of the one transaction of the table that it names.
    Together(&'static str, String),
    /// On its own, after the transactions: it does not keep others from writing.
    Alone(String),
    /// Not run: for the owner of the table to consider.
    Advice(String),
}

impl Step {
    pub(super) fn sql(&self) -> &str {
        match self {
            Self::Together(_, sql) | Self::Alone(sql) | Self::Advice(sql) => sql,
        }
    }

    pub(super) const fn is_advice(&self) -> bool {
        matches!(self, Self::Advice(_))
    }
}

/// # Errors
/// [`StoreError::Refused`] where an existing table cannot be used as it is, or
/// belongs to somebody else and lacks something.
pub(super) fn plan(catalog: &Catalog, from: i64) -> Result<Vec<Step>, StoreError> {
    if catalog.server_version < OLDEST_SERVER {
        let problem = "the server is older than Postgres 13";
        return Err(StoreError::Refused(problem.to_owned()));
    }
    let schema = home(catalog)?;
    let mut steps = Vec::new();
    let mut problems = Vec::new();
    for table in TABLES {
        match catalog.relations.get(table.name) {
            None => steps.extend(create(table, &schema, &catalog.outsiders)),
            Some(relation) => match complete(table, relation) {
                Ok(missing) if missing.iter().all(Step::is_advice) || relation.owned => {
                    steps.extend(missing);
                }
                Ok(missing) => problems.push(not_owned(table, relation, catalog, &missing)),
                Err(found) => problems.extend(found),
            },
        }
    }
    if !problems.is_empty() {
        return Err(StoreError::Refused(problems.join("; ")));
    }
    if from < VERSION {
        let sql = format!("INSERT INTO {schema}.cogo_host_schema (version) VALUES ({VERSION})");
        steps.push(Step::Alone(sql));
    }
    Ok(steps)
}

/// New tables lie beside the tasks, else where this user's tables go.
fn home(catalog: &Catalog) -> Result<String, StoreError> {
    let beside = |table: &Table| catalog.relations.get(table.name);
    let existing = beside(&AGENT_MESSAGES).or_else(|| beside(&BUS_EVENTS));
    existing
        .map(|relation| relation.schema.clone())
        .or_else(|| catalog.schema.clone())
        .ok_or_else(|| {
            let problem = "no schema of the search path exists: create one, or name one by \
                           `?options=-csearch_path%3DNAME`";
            StoreError::Refused(problem.to_owned())
        })
}

/// A table of ours: nobody else gets at it unless the operator says so.
fn create(table: &Table, schema: &str, outsiders: &[String]) -> Vec<Step> {
    let name = format!("{schema}.{}", table.name);
    let mut parts: Vec<String> = table
        .columns
        .iter()
        .map(|column| {
            let definition = match (table.name, column.name) {
                ("bus_events", "message_id") => "uuid".to_owned(),
                _ => column.definition(),
            };
            format!("  {} {definition}", column.name)
        })
        .collect();
    if !table.constraints.is_empty() {
        parts.push(format!("  {}", table.constraints));
    }
    let unlogged = if table.unlogged { "UNLOGGED " } else { "" };
    let mut sql = format!("CREATE {unlogged}TABLE {name} (\n{}\n)", parts.join(",\n"));
    if !table.storage.is_empty() {
        sql.push_str(&format!(" WITH ({})", table.storage));
    }
    let mut steps = vec![sql];
    for index in table.indexes {
        let unique = if index.unique { "UNIQUE " } else { "" };
        steps.push(format!(
            "CREATE {unique}INDEX {} ON {name} {}",
            index.name, index.on
        ));
    }
    let mut others = vec!["PUBLIC".to_owned()];
    others.extend_from_slice(outsiders);
    let others = others.join(", ");
    steps.push(format!("ALTER TABLE {name} ENABLE ROW LEVEL SECURITY"));
    steps.push(format!("REVOKE ALL ON TABLE {name} FROM {others}"));
    if table.name == BUS_EVENTS.name {
        steps.push(format!(
            "REVOKE ALL ON SEQUENCE {schema}.bus_events_id_seq FROM {others}"
        ));
    }
    let together = |sql| Step::Together(table.name, sql);
    steps.into_iter().map(together).collect()
}

/// What an existing table lacks.
fn complete(table: &Table, relation: &Relation) -> Result<Vec<Step>, Vec<String>> {
    let name = format!("{}.{}", relation.schema, table.name);
    if relation.kind != "r" {
        let problem = format!("{name} is no plain table (a view, or partitioned)");
        return Err(vec![problem]);
    }
    let added = missing_columns(table, relation, &name)?;
    let mut steps = Vec::new();
    if !added.is_empty() {
        let sql = format!("ALTER TABLE {name}\n{}", added.join(",\n"));
        steps.push(Step::Together(table.name, sql));
    }
    if table.name == BUS_EVENTS.name {
        steps.extend(number_events(relation, &name));
    }
    if table.name == AGENT_MESSAGES.name {
        if !relation.keyed {
            let sql = index_sql("UNIQUE ", "cogo_messages_id", &name, "(id)");
            steps.extend(index_steps(relation, "cogo_messages_id", sql));
        }
        let may_lack = |column: &str| {
            let found = relation.columns.get(column);
            found.is_some_and(|found| found.nullable)
        };
        if may_lack("created_at") || may_lack("priority") {
            let on = concat!("(id) WHERE ", lacks!());
            let sql = index_sql("", LACKING, &name, on);
            steps.extend(index_steps(relation, LACKING, sql));
        }
    }
    for index in table.indexes {
        let unique = if index.unique { "UNIQUE " } else { "" };
        let sql = index_sql(unique, index.name, &name, index.on);
        steps.extend(index_steps(relation, index.name, sql));
    }
    let superseded = SUPERSEDED
        .iter()
        .filter(|old| relation.indexes.contains_key(**old));
    steps.extend(superseded.map(|old| drop_index(relation, old)));
    if table.name == AGENT_MESSAGES.name && !relation.storage.contains("autovacuum_vacuum") {
        steps.push(Step::Advice(format!(
            "-- not run, since the table is yours; it keeps claims fast:\n\
             -- ALTER TABLE {name} SET ({BUSY_TABLE})"
        )));
    }
    Ok(steps)
}

fn missing_columns(
    table: &Table,
    relation: &Relation,
    name: &str,
) -> Result<Vec<String>, Vec<String>> {
    let mut added = Vec::new();
    let mut problems = Vec::new();
    for column in table.columns {
        match (relation.columns.get(column.name), column.missing) {
            (Some(found), _) => {
                let fits = column.kinds.is_empty() || column.kinds.contains(&found.kind.as_str());
                if !fits {
                    problems.push(format!(
                        "{name}.{} is {}; expected {}",
                        column.name,
                        found.kind,
                        column.kinds.join(" or ")
                    ));
                }
            }
            (None, Missing::Refuse) => problems.push(format!("{name} has no `{}`", column.name)),
            (None, Missing::Add) => {
                added.push(format!(
                    "  ADD COLUMN {} {}",
                    column.name,
                    column.definition()
                ));
            }
        }
    }
    let mut strange: Vec<&String> = relation
        .columns
        .iter()
        .filter(|(column, attribute)| {
            let known = table.columns.iter().any(|c| c.name == column.as_str());
            attribute.demanded && !known
        })
        .map(|(column, _)| column)
        .collect();
    strange.sort();
    // Its producers fill such a column of a task; nobody fills it for our events.
    if table.name != AGENT_MESSAGES.name {
        problems.extend(strange.iter().map(|column| {
            format!(
                "{name}.{column} must be filled, but the host does not know it: give it a default"
            )
        }));
    }
    match problems.is_empty() {
        true => Ok(added),
        false => Err(problems),
    }
}

/// Readers follow events by a number; where `id` is none, another column is.
/// Rows that are there already stay without, so that nothing is rewritten.
fn number_events(relation: &Relation, name: &str) -> Vec<Step> {
    let numbered = relation
        .columns
        .get("id")
        .is_some_and(|id| ["bigint", "integer", "smallint"].contains(&id.kind.as_str()));
    if numbered || relation.columns.contains_key(EVENT_SEQ) {
        return Vec::new();
    }
    let sequence = format!("{}.bus_events_event_seq", relation.schema);
    let together = |sql| Step::Together(BUS_EVENTS.name, sql);
    vec![
        together(format!("ALTER TABLE {name} ADD COLUMN {EVENT_SEQ} bigint")),
        together(format!(
            "CREATE SEQUENCE {sequence} OWNED BY {name}.{EVENT_SEQ}"
        )),
        // Whoever may insert events must be able to number them.
        together(format!("GRANT USAGE ON SEQUENCE {sequence} TO PUBLIC")),
        together(format!(
            "ALTER TABLE {name} ALTER COLUMN {EVENT_SEQ} SET DEFAULT nextval('{sequence}')"
        )),
        Step::Alone(index_sql(
            "",
            "cogo_events_seq",
            name,
            &format!("({EVENT_SEQ}) WHERE {EVENT_SEQ} IS NOT NULL"),
        )),
    ]
}

fn index_sql(unique: &str, index: &str, table: &str, on: &str) -> String {
    format!("CREATE {unique}INDEX CONCURRENTLY {index} ON {table} {on}")
}

/// An index that is missing, or that was left invalid when its making broke off.
fn index_steps(relation: &Relation, index: &str, create: String) -> Vec<Step> {
    match relation.indexes.get(index) {
        Some(true) => Vec::new(),
        None => vec![Step::Alone(create)],
        Some(false) => vec![drop_index(relation, index), Step::Alone(create)],
    }
}

fn drop_index(relation: &Relation, index: &str) -> Step {
    let sql = format!("DROP INDEX CONCURRENTLY {}.{index}", relation.schema);
    Step::Alone(sql)
}

fn not_owned(table: &Table, relation: &Relation, catalog: &Catalog, missing: &[Step]) -> String {
    let first = missing.iter().find(|step| !step.is_advice());
    format!(
        "{}.{} belongs to `{}`, and `{}` may not change it: let its owner run `cogo-host migrate`, \
         which begins with {}",
        relation.schema,
        table.name,
        relation.owner,
        catalog.user,
        first.map_or("", |step| step.sql())
    )
}
