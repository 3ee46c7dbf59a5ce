//! `migrate`: brings the schema up to this build's version, or shows how.

use clap::Args;

use super::Context;
use super::output::{Exit, Outcome};
use crate::store::{self, OpenMode};

#[derive(Args)]
pub struct MigrateArgs {
    /// Print the statements instead of running them.
    #[arg(long)]
    dry_run: bool,
}

pub async fn migrate(context: Context, args: MigrateArgs) -> Outcome {
    let config = context.config()?;
    config.make_state_dir()?;
    let store = store::open(&config.bus, OpenMode::Create).await?;
    let migration = store.migrate(args.dry_run).await?;
    context.output.answer("migrate", &migration, || {
        let (from, to) = (migration.from, migration.to);
        match (args.dry_run, from == to) {
            (_, true) => format!("{} has schema version {to}; nothing to do", config.bus),
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
