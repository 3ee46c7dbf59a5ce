//! `plugin new`: the sources of a plugin to start from.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::super::Context;
use super::super::output::{Exit, Failure, Outcome};
use crate::ids::PluginName;
use crate::packaging::template::{self, NewError};
use crate::packaging::{Language, toolchain};

#[derive(Args)]
#[command(
    after_help = "Examples:\n  cogo-host plugin new my-runner\n  cogo-host plugin new my-double --lang wat\n  cogo-host plugin new my-tool --lang python --dir tools/my-tool"
)]
pub struct NewArgs {
    /// Lower-case letters, digits and hyphens; the configuration refers to it.
    name: PluginName,
    /// rust, javascript, python or wat.
    #[arg(long, value_name = "LANGUAGE", default_value = "rust")]
    lang: Language,
    /// Where it goes; a directory of its name here by default.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub fn new(context: &Context, args: NewArgs) -> Outcome {
    let NewArgs { name, lang, dir } = args;
    let dir = dir.unwrap_or_else(|| name.as_str().into());
    let files = template::create(&dir, &name, lang).map_err(refused)?;
    let directory = std::path::absolute(&dir).unwrap_or_else(|_| dir.clone());
    let missing = toolchain::examine(lang, &directory).err();
    let cure = missing.as_ref().map(toolchain::ToolchainError::cure);
    let data = json!({
        "name": name,
        "language": lang.as_str(),
        "directory": dir,
        "files": files,
        "toolchain": { "ready": missing.is_none(), "fix": cure },
    });
    let shown = dir.display();
    context.output.answer("plugin-new", &data, || {
        format!("made {shown}, a plugin in {lang}; begin with its README.md")
    })?;
    if let Some((missing, cure)) = missing.zip(cure) {
        context
            .output
            .note(format_args!("to build it: {missing}\n hint: {cure}"));
    }
    context.output.note(format_args!(
        "next: cogo-host plugin build {shown} && cogo-host plugin test {shown}"
    ));
    Ok(Exit::Ok)
}

fn refused(error: NewError) -> Failure {
    let hint = match error {
        NewError::NotEmpty { .. } | NewError::NoDirectory { .. } => {
            "choose another name, or another place with --dir"
        }
        NewError::Write { .. } => "see that this user may write there, and that the disk has space",
    };
    Failure::new(Exit::Usage, "new_refused", error).hint(hint)
}
