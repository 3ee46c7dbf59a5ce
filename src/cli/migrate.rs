//! `migrate`: brings the schema up to this build's version, or shows how.

use clap::Args;

use super::Context;
use super::output::{Exit, Failure, Outcome};
use crate::store::{self, OpenMode, StoreError};

#[derive(Args)]
pub struct MigrateArgs {
    /// Print the statements instead of running them.
    #[arg(long)]
    dry_run: bool,
    /// Also grant `service_role` its rights and publish the tasks for Realtime.
    #[arg(long)]
    supabase: bool,
}

pub async fn migrate(context: Context, args: MigrateArgs) -> Outcome {
    let config = context.config()?;
    config.make_state_dir()?;
    let store = store::open(&config.bus, OpenMode::Create).await?;
    // Refused before anything is changed.
    if args.supabase {
        store.open_to_supabase(true).await.map_err(not_supabase)?;
    }
    let mut migration = store.migrate(args.dry_run).await?;
    let mut unchanged = migration.from == migration.to;
    if args.supabase {
        let opened = store.open_to_supabase(args.dry_run).await;
        let opened = opened.map_err(not_supabase)?;
        unchanged &= opened.is_empty();
        migration.statements.extend(opened);
    }
    context.output.answer("migrate", &migration, || {
        let (from, to) = (migration.from, migration.to);
        match (args.dry_run, unchanged) {
            (_, true) => format!("{} has schema version {to}; nothing to do", config.bus),
            (false, false) if from == to => {
                format!(
                    "{} is open to Supabase now; schema version {to}",
                    config.bus
                )
            }
            (false, false) => format!("{} went from schema version {from} to {to}", config.bus),
            (true, false) => {
                let statements = migration.statements.join(";\n\n");
                format!("-- from schema version {from} to {to}\n{statements};")
            }
        }
    })?;
    store.close().await?;
    Ok(Exit::Ok)
}

/// What the operator asked for cannot be: no fault of the database.
fn not_supabase(error: StoreError) -> Failure {
    match error {
        StoreError::Refused(problem) => {
            Failure::message(Exit::Usage, "database_not_supabase", problem)
        }
        other => other.into(),
    }
}
