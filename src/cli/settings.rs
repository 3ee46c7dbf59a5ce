//! `config show`, `config validate` and `config schema`.

use clap::Subcommand;

use super::output::{Exit, Outcome};
use super::{Config, Context, table};
use crate::config::{ShownSetting, schema, show};

#[derive(Subcommand)]
pub enum ConfigCommand {
    /// Print every setting that is set, with its value.
    Show {
        /// Also print where each value comes from, and what it shadows.
        #[arg(long)]
        origin: bool,
        /// Print the settings that are left at their default, too.
        #[arg(long)]
        all: bool,
    },
    /// Check all settings without starting anything.
    Validate,
    /// Print the JSON Schema of cogo.toml, for editors.
    Schema,
}

pub fn config(context: &Context, command: &ConfigCommand) -> Outcome {
    match command {
        ConfigCommand::Show { origin, all } => {
            let settings = show(&context.layers);
            context
                .output
                .answer("config", &settings, || listing(&settings, *origin, *all))?;
            // Shown even if wrong, so that the mistake can be seen.
            Config::from_layers(&context.layers)?;
        }
        ConfigCommand::Schema => {
            let schema = schema();
            context
                .output
                .answer("config-schema", &schema, || format!("{schema:#}"))?;
        }
        ConfigCommand::Validate => {
            let config = context.config()?;
            let data = serde_json::json!({ "stage": config.stage });
            context.output.answer("config-validate", &data, || {
                format!("the configuration is valid; stage {}", config.stage)
            })?;
        }
    }
    Ok(Exit::Ok)
}

fn listing(settings: &[ShownSetting], with_origin: bool, all: bool) -> String {
    let mut rows = Vec::new();
    for setting in settings {
        let is_set = setting.origin != crate::config::Origin::Default;
        let worth_showing = is_set || all || (with_origin && setting.value.is_some());
        if !worth_showing {
            continue;
        }
        let value = setting.value.as_deref().unwrap_or("(unset)");
        let shadowed: Vec<String> = setting.shadowed.iter().map(ToString::to_string).collect();
        let note = match (with_origin, shadowed.is_empty()) {
            (true, true) => setting.origin.to_string(),
            (true, false) => format!("{} (shadows {})", setting.origin, shadowed.join(", ")),
            (false, _) => setting.help.to_owned(),
        };
        rows.push([setting.key.clone(), value.replace('\n', ", "), note]);
    }
    if rows.is_empty() {
        return "nothing is set; `cogo-host config show --all` lists the defaults".to_owned();
    }
    table::columns(rows)
}
