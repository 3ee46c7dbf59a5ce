//! How a command reaches the bus: straight to the database, or through the
//! API of the host that owns it.
//!
//! A SQLite file has one writer process. While a host holds it, commands write
//! through that host's API; reads may always open the file.

use std::net::SocketAddr;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::client::Client;
use super::output::{Exit, Failure, Outcome};
use crate::config::Config;
use crate::host::{self, Host};
use crate::ids::{MessageId, TraceId};
use crate::intake::{self, IntakeError, RepeatError, Submission};
use crate::route::{KnownRole, RouteKey};
use crate::store::{self, BusUrl, Cancelled, HostRow, OpenMode, Store};
use crate::task::Enqueued;

/// The bus, as a command uses it.
pub struct Connection {
    pub store: Arc<dyn Store>,
    /// The host that owns the file, if one does.
    pub host: Option<Client>,
    served: Vec<RouteKey>,
}

/// A task that was put on the bus.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct Submitted {
    pub id: MessageId,
    #[serde(default)]
    pub task_id: Option<String>,
    pub trace_id: TraceId,
    #[serde(default)]
    pub existing: bool,
}

impl Connection {
    /// Opens the bus for reading only.
    pub async fn read(config: &Config) -> Outcome<Self> {
        Self::open(config, OpenMode::ReadOnly).await
    }

    /// Opens the bus for reading and writing; the embedded one is made where
    /// there is none.
    pub async fn write(config: &Config) -> Outcome<Self> {
        config.make_state_dir()?;
        Self::open(config, OpenMode::Create).await
    }

    /// The bus of a host in this process.
    pub fn to_host(config: &Config, host: &Host) -> Outcome<Self> {
        let token = config.listen.token.clone();
        Ok(Self {
            store: host.store(),
            host: Some(Client::new(host.api_url(), token)?),
            served: Vec::new(),
        })
    }

    async fn open(config: &Config, mode: OpenMode) -> Outcome<Self> {
        let host = match owner(config)? {
            Some(api) => Some(Client::new(&api, config.listen.token.clone())?),
            None => None,
        };
        // With a host on the file, this process only reads it.
        let mode = if host.is_some() {
            OpenMode::ReadOnly
        } else {
            mode
        };
        let store = store::open(&config.bus, mode).await?;
        if mode == OpenMode::Create && matches!(config.bus, BusUrl::Sqlite(_)) {
            store.migrate(false).await?;
        } else {
            store.check_schema().await?;
        }
        let known = KnownRole::ALL.into_iter().map(KnownRole::key);
        let known = known.chain([RouteKey::dispatcher()]);
        let mut served: Vec<RouteKey> = config.routes.keys().cloned().chain(known).collect();
        served.sort();
        served.dedup();
        Ok(Self {
            store,
            host,
            served,
        })
    }

    /// The routes that these settings know.
    pub fn served(&self) -> &[RouteKey] {
        &self.served
    }

    /// Whether some host shows itself on the bus.
    pub async fn has_host(&self) -> Outcome<bool> {
        let hosts = self.store.hosts().await?;
        Ok(self.host.is_some() || hosts.iter().any(HostRow::is_live))
    }

    pub async fn submit(&self, submission: Value) -> Outcome<Submitted> {
        if let Some(host) = &self.host {
            return host.post("/api/tasks", &submission).await;
        }
        let submission: Submission = serde_json::from_value(submission)
            .map_err(|error| Failure::new(Exit::Usage, "submission_invalid", error))?;
        let task = submission.accept(&self.served).map_err(refused)?;
        self.enqueue(task).await
    }

    async fn enqueue(&self, task: crate::task::NewTask) -> Outcome<Submitted> {
        let enqueued = self.store.enqueue(std::slice::from_ref(&task)).await?;
        let existing = matches!(enqueued.first(), Some(Enqueued::Existing(_)));
        Ok(Submitted {
            id: enqueued.first().map_or(task.id, |enqueued| enqueued.id()),
            task_id: task.task_id,
            trace_id: task.trace_id,
            existing,
        })
    }

    pub async fn cancel(&self, id: MessageId, actor: &str) -> Outcome<Value> {
        if let Some(host) = &self.host {
            return host
                .post(&format!("/api/tasks/{id}/cancel"), &json!({}))
                .await;
        }
        match self.store.cancel(id, actor).await? {
            None => Err(no_task(id)),
            Some(Cancelled::Ended(status)) => Err(Failure::message(
                Exit::Negative,
                "task_ended",
                format!("task {id} is `{}` already", status.as_str()),
            )),
            Some(cancelled) => Ok(json!({ "id": id, "cancelled": cancelled })),
        }
    }

    pub async fn repeat(&self, id: MessageId) -> Outcome<Submitted> {
        if let Some(host) = &self.host {
            return host
                .post(&format!("/api/tasks/{id}/retry"), &json!({}))
                .await;
        }
        let row = self.store.task(id).await?.ok_or_else(|| no_task(id))?;
        let task = intake::repeat(&row).map_err(|error| {
            let exit = match error {
                RepeatError::NotEnded(_) => Exit::Negative,
                RepeatError::Unusable { .. } => Exit::Usage,
            };
            Failure::new(exit, "task_not_repeatable", error)
        })?;
        self.enqueue(task).await
    }
}

pub fn no_task(id: MessageId) -> Failure {
    Failure::message(
        Exit::NotFound,
        "task_unknown",
        format!("there is no task {id}"),
    )
    .hint("`cogo-host task list` shows what is on the bus")
}

pub fn refused(error: IntakeError) -> Failure {
    let exit = match error {
        IntakeError::NobodyHandles { .. } => Exit::NotFound,
        _ => Exit::Usage,
    };
    let code = error.code();
    let unknown = matches!(error, IntakeError::NobodyHandles { .. });
    let failure = Failure::new(exit, code, error);
    if unknown {
        failure.hint("name one of these routes, or add a `[route.\"SERVICE/ROLE\"]` with its plugin to cogo.toml")
    } else {
        failure
    }
}

/// The host that these settings lead to: the owner of a SQLite bus, or the one
/// that listens where they say and works for this bus. It may be down.
pub async fn host_of(config: &Config) -> Outcome<Option<Client>> {
    let token = config.listen.token.clone();
    let api = match &config.bus {
        BusUrl::Sqlite(_) => owner(config)?,
        BusUrl::Postgres(_) => {
            let address = SocketAddr::new(config.listen.bind, config.listen.port);
            let api = host::url_at(address);
            works_here(config, &api).await.then_some(api)
        }
    };
    api.map(|api| Client::new(&api, token)).transpose()
}

/// Whether the host at `api`, should there be one, is of this bus: it may be that
/// of another bus which has the same address. A bus that does not answer denies
/// nothing.
async fn works_here(config: &Config, api: &str) -> bool {
    let hosts = async {
        let store = store::open(&config.bus, OpenMode::ReadOnly).await?;
        store.hosts().await
    };
    hosts.await.map_or(true, |hosts| {
        let mut live = hosts.iter().filter(|host| host.is_live());
        live.any(|host| host.api.as_deref() == Some(api))
    })
}

/// What the running host of these settings answers; nothing where none runs.
pub async fn ask_host<T: DeserializeOwned>(config: &Config, path: &str) -> Outcome<Option<T>> {
    let Some(host) = host_of(config).await? else {
        return Ok(None);
    };
    match host.get(path).await {
        Ok(answer) => Ok(Some(answer)),
        Err(failure) if failure.exit == Exit::Unavailable => Ok(None),
        Err(failure) => Err(failure),
    }
}

/// Where the host that owns a SQLite bus listens.
fn owner(config: &Config) -> Outcome<Option<String>> {
    let BusUrl::Sqlite(path) = &config.bus else {
        return Ok(None);
    };
    match store::read_owner(path) {
        Ok(owner) => Ok(owner.and_then(|owner| owner.api)),
        Err(error) => {
            let error = anyhow::Error::new(error).context("cannot tell who owns the bus");
            Err(Failure::new(Exit::Unavailable, "bus_unavailable", error))
        }
    }
}
