//! `plugin publish` and `plugin retract`: through the host that owns the bus,
//! else straight to the database, after the same checks.

use std::path::{Path, PathBuf};

use serde_json::json;
use url::form_urlencoded;

use super::super::connection::Connection;
use super::super::output::{Exit, Failure, Outcome};
use super::super::{Context, run};
use super::{refused, subject};
use crate::api::{PublishRefused, PublishView, RetractRefused, RetractView};
use crate::config::Config;
use crate::control::{Decider, Decision, Reason};
use crate::host;
use crate::ids::Digest;
use crate::plugin::load::{Candidate, Settings, Source};
use crate::stage::Stage;

pub fn publish(
    context: &Context,
    file: &Path,
    signature: Option<PathBuf>,
    reason: Option<Reason>,
) -> Outcome {
    let config = context.config()?;
    let within = file
        .is_dir()
        .then(|| subject::component_of(file))
        .transpose()?;
    let file = within.as_deref().unwrap_or(file);
    let candidate = Candidate::read(file, None).map_err(|error| {
        let exit = if file.exists() {
            Exit::Usage
        } else {
            Exit::NotFound
        };
        refused(exit, error)
    })?;
    let signature = read_signature(file, signature)?;
    let done = run::with_guests(&config, async |guests| {
        let connection = Connection::write(&config).await?;
        if let Some(host) = &connection.host {
            let mut query = form_urlencoded::Serializer::new(String::new());
            if let Some(signature) = &signature {
                query.append_pair("signature", signature);
            }
            if let Some(reason) = &reason {
                query.append_pair("reason", reason.as_str());
            }
            let path = format!("/api/plugins/published?{}", query.finish());
            let bytes = candidate.bytes.to_vec();
            let view: PublishView = host.post_bytes(&path, "application/wasm", bytes).await?;
            return Ok(view);
        }
        let signature = signature.as_deref();
        let checked = host::trust(&config)?.check(&candidate.bytes, signature);
        let place = candidate.place.clone();
        let signer = checked.map_err(|error| {
            refused(
                Exit::Usage,
                crate::plugin::load::LoadError::new(place, error.into()),
            )
        })?;
        let bytes = candidate.bytes.clone();
        let candidate = Candidate {
            source: Source::Published,
            signer,
            ..candidate
        };
        let loader = host::plugin_loader(&config, guests)?;
        let loaded = loader.load(candidate, &Settings::default()).await;
        let plugin = loaded.map_err(|error| refused(Exit::Usage, error))?;
        let decision = Decision {
            by: Decider::DatabaseRole,
            reason,
        };
        let published =
            host::publish(&*connection.store, &plugin, &bytes, signature, &decision).await;
        published.map_err(not_published)
    })?;
    context
        .output
        .answer("plugin-publish", &done, || shown(&done, &config))?;
    Ok(Exit::Ok)
}

pub async fn retract(context: Context, digest: Digest, reason: Option<Reason>) -> Outcome {
    let config = context.config()?;
    let connection = Connection::write(&config).await?;
    let done = match &connection.host {
        Some(host) => {
            let path = format!("/api/plugins/published/{digest}/retract");
            host.post(&path, &json!({ "reason": reason })).await?
        }
        None => {
            let decision = Decision {
                by: Decider::DatabaseRole,
                reason,
            };
            let retracted = connection.store.retract(digest, &decision).await?;
            RetractView::of(digest, retracted).map_err(not_retracted)?
        }
    };
    context
        .output
        .answer("plugin-retract", &done, || match done.changed {
            true => format!("{digest} is for no host any more; publishing it again brings it back"),
            false => format!("{digest} was retracted before"),
        })?;
    Ok(Exit::Ok)
}

/// The signature that is named, else the one beside the file.
fn read_signature(file: &Path, named: Option<PathBuf>) -> Outcome<Option<String>> {
    let path = match &named {
        Some(path) => path.clone(),
        None => file.with_extension("wasm.minisig"),
    };
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if named.is_none() && error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => {
            let error =
                anyhow::Error::new(error).context(format!("cannot read {}", path.display()));
            Err(Failure::new(Exit::Usage, "signature_unreadable", error))
        }
    }
}

fn not_published(error: PublishRefused) -> Failure {
    let (code, hint) = (error.code(), error.hint());
    let exit = match error {
        PublishRefused::Store(error) => return error.into(),
        PublishRefused::Load(_) | PublishRefused::Taken { .. } => Exit::Usage,
    };
    Failure::new(exit, code, error).hint(hint)
}

fn not_retracted(error: RetractRefused) -> Failure {
    let exit = match error {
        RetractRefused::Serves(_) => Exit::Usage,
        RetractRefused::Unknown(_) => Exit::NotFound,
    };
    let (code, hint) = (error.code(), error.hint());
    Failure::new(exit, code, error).hint(hint)
}

fn shown(done: &PublishView, config: &Config) -> String {
    let PublishView {
        plugin,
        version,
        digest,
        ..
    } = done;
    if !done.changed {
        return format!("{plugin} {version} ({digest}) is published already");
    }
    let next = match config.stage {
        Stage::Development => {
            format!(
                "hosts in development serve it at once, but for those with a file of {plugin} in their plugins directory; \
                 `cogo-host plugin list` shows which"
            )
        }
        Stage::Staging => {
            format!("hosts in staging have it as a candidate of {plugin}, for a rollout")
        }
        Stage::Production => format!(
            "hosts in production have it as a candidate if a trusted key signed it; with `digest = \"{digest}\"` under `[plugin.{plugin}]` it serves"
        ),
    };
    format!("{plugin} {version} ({digest}) is published\n{next}")
}
