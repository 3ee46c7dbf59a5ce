//! Brings a plugin from bytes to something that can run, step by step.
//!
//! [`Admitted`] → [`Fitting`] → [`Linked`] → [`Plugin`]: each step consumes the
//! one before, so nothing runs that was not checked, and an instance can only be
//! made of what was linked. Cheap checks come first; nothing of the plugin is
//! executed before the last step, which asks it what it is.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use crate::attempt::{Kind, PluginVersion};
use crate::ids::{Digest, PluginName};
use crate::plugin::bindings::ExecutorPluginPre;
use crate::plugin::compile::{Compiler, Fitted};
use crate::plugin::egress::{Grant, Policy};
use crate::plugin::engine::{Allocation, Engines};
use crate::plugin::host::State;
use crate::plugin::limits::Limits;
use crate::plugin::outbound::{GrantsFrom, OutboundPermits, Outlet, Wire};
use crate::plugin::signature::Signer;
use crate::plugin::wasi::{self, Profile};
use crate::plugin::world::{FileKind, Outline};

mod descriptor;
mod error;
mod file;
mod probe;

pub use descriptor::Descriptor;
pub use error::{LoadCause, LoadError};

/// The largest component, in bytes.
pub const MAX_BYTES: u64 = 32 * 1024 * 1024;

/// Where a plugin's bytes come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    Bundled,
    /// The operator's directory of plugins.
    Directory,
    /// The bus.
    Published,
}

/// A plugin as it is handed in.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// What the operator calls it; its descriptor must agree. `None` takes the
    /// descriptor's word.
    pub name: Option<PluginName>,
    pub bytes: Bytes,
    pub source: Source,
    /// For messages: a path, or `bundled mock`.
    pub place: String,
    /// Who is known to vouch for these bytes.
    pub signer: Option<Signer>,
}

/// What the operator set for one plugin.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// The values behind `host.config`.
    pub config: BTreeMap<String, String>,
    /// Grants as they were written.
    pub allow: Vec<String>,
    pub kind: Option<Kind>,
    /// The only digest that may run.
    pub pin: Option<Digest>,
    pub limits: Limits,
    pub wire: Wire,
    pub grants_from: GrantsFrom,
}

/// Loads plugins. Cheap to clone.
#[derive(Clone)]
pub struct Loader {
    pub(crate) engines: Arc<Engines>,
    compiler: Compiler,
    /// Where guests run, also the one that only says what it is.
    guest: Handle,
    outbound: OutboundPermits,
}

/// A plugin that can run.
pub struct Plugin {
    descriptor: Descriptor,
    digest: Digest,
    bytes: u64,
    source: Source,
    signer: Option<Signer>,
    kind: Kind,
    profile: Profile,
    allocation: Allocation,
    source_digest: Option<String>,
    limits: Arc<Limits>,
    pub(crate) config: Arc<BTreeMap<String, String>>,
    pub(crate) outlet: Arc<Outlet>,
    pub(crate) permits: Arc<Semaphore>,
    pre: ExecutorPluginPre<State>,
}

impl Loader {
    pub fn new(engines: Arc<Engines>, compiler: Compiler, guest: Handle) -> Self {
        Self {
            engines,
            compiler,
            guest,
            outbound: OutboundPermits::default(),
        }
    }

    /// Loads a plugin, or says why not. Executes nothing of it but `describe`.
    ///
    /// # Errors
    /// [`LoadError`] names place, cause and cure, under a stable code.
    pub async fn load(
        &self,
        candidate: Candidate,
        settings: &Settings,
    ) -> Result<Plugin, LoadError> {
        let place = candidate.place.clone();
        let loaded = self.load_here(candidate, settings).await;
        loaded.map_err(|cause| LoadError::new(place, cause))
    }

    async fn load_here(
        &self,
        candidate: Candidate,
        settings: &Settings,
    ) -> Result<Plugin, LoadCause> {
        let admitted = Admitted::admit(candidate, settings.pin)?;
        let fitting = admitted.check_world()?;
        let linked = fitting.link(self, &settings.limits).await?;
        linked.describe(self, settings).await
    }
}

/// Bytes of the right size and digest.
struct Admitted {
    candidate: Candidate,
    digest: Digest,
}

impl Admitted {
    fn admit(candidate: Candidate, pin: Option<Digest>) -> Result<Self, LoadCause> {
        let bytes = candidate.bytes.len() as u64;
        if bytes > MAX_BYTES {
            return Err(LoadCause::TooLarge { bytes });
        }
        let digest = Digest::of(&candidate.bytes);
        match pin {
            Some(pin) if pin != digest => Err(LoadCause::NotPinned { pin, found: digest }),
            _ => Ok(Self { candidate, digest }),
        }
    }

    fn check_world(self) -> Result<Fitting, LoadCause> {
        let bytes = &self.candidate.bytes;
        match FileKind::of(bytes) {
            FileKind::Component => {}
            other => return Err(LoadCause::NotComponent(other.into())),
        }
        let outline = Outline::read(bytes).map_err(|cause| LoadCause::damaged(&cause))?;
        let (profile, differences) = outline.compare();
        if !differences.is_empty() {
            return Err(LoadCause::World(differences));
        }
        Ok(Fitting {
            admitted: self,
            outline,
            profile,
        })
    }
}

/// A component of the right world, by its outline.
struct Fitting {
    admitted: Admitted,
    outline: Outline,
    profile: Profile,
}

impl Fitting {
    async fn link(self, loader: &Loader, limits: &Limits) -> Result<Linked, LoadCause> {
        let preferred = if Engines::fits_pool(limits) {
            Allocation::Pooled
        } else {
            Allocation::OnDemand
        };
        let Admitted { candidate, digest } = &self.admitted;
        let Fitted {
            component,
            allocation,
        } = loader
            .compiler
            .compile(&loader.engines, preferred, *digest, &candidate.bytes)
            .await?;
        let linker = wasi::linker(component.engine(), self.profile).map_err(LoadCause::host)?;
        let pre = linker
            .instantiate_pre(&component)
            .map_err(LoadCause::link)?;
        let pre = ExecutorPluginPre::new(pre).map_err(LoadCause::link)?;
        Ok(Linked {
            fitting: self,
            allocation,
            pre,
        })
    }
}

/// A component whose every import is resolved.
struct Linked {
    fitting: Fitting,
    allocation: Allocation,
    pre: ExecutorPluginPre<State>,
}

impl Linked {
    async fn describe(self, loader: &Loader, settings: &Settings) -> Result<Plugin, LoadCause> {
        let limits = Arc::new(settings.limits.clone());
        let raw = probe::describe(&loader.guest, self.pre.clone(), Arc::clone(&limits)).await?;
        let descriptor = Descriptor::check(raw)?;
        let Self {
            fitting,
            allocation,
            pre,
        } = self;
        let Admitted { candidate, digest } = fitting.admitted;
        if let Some(name) = &candidate.name
            && *name != descriptor.name
        {
            return Err(LoadCause::OtherName {
                expected: name.clone(),
                found: descriptor.name,
            });
        }
        let policy = policy(&descriptor, settings)?;
        let outlet = Outlet::new(
            descriptor.name.clone(),
            policy,
            (settings.wire.clone(), settings.grants_from),
            limits.outbound.clone(),
            &loader.outbound,
        );
        let kind = settings.kind.or_else(|| super::bundled::kind_of(digest));
        Ok(Plugin {
            kind: kind.unwrap_or(Kind::Mock),
            bytes: candidate.bytes.len() as u64,
            source: candidate.source,
            signer: candidate.signer,
            digest,
            profile: fitting.profile,
            allocation,
            source_digest: fitting.outline.source_digest,
            config: Arc::new(settings.config.clone()),
            outlet: Arc::new(outlet),
            permits: Arc::new(Semaphore::new(limits.concurrency)),
            limits,
            descriptor,
            pre,
        })
    }
}

fn policy(descriptor: &Descriptor, settings: &Settings) -> Result<Policy, LoadCause> {
    let parse = |list: &[String]| -> Result<Vec<Grant>, _> {
        let parse = |text: &String| Grant::parse(text, &settings.config);
        list.iter().map(parse).collect()
    };
    let plugin = parse(&descriptor.egress).map_err(LoadCause::Egress)?;
    let operator = match settings.wire {
        Wire::Network => parse(&settings.allow).map_err(LoadCause::Allow)?,
        // Nothing goes out, so nothing has to be granted.
        Wire::Mock(_) => plugin.clone(),
    };
    Ok(Policy::new(operator, plugin))
}

impl Plugin {
    pub const fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    pub const fn name(&self) -> &PluginName {
        &self.descriptor.name
    }

    pub const fn digest(&self) -> Digest {
        self.digest
    }

    /// The size of the component, in bytes.
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    pub const fn source(&self) -> Source {
        self.source
    }

    /// Who vouched for it when it was loaded.
    pub const fn signer(&self) -> Option<&Signer> {
        self.signer.as_ref()
    }

    /// What it counts as: the operator's word, else that of the bundled digests,
    /// else a mock. Its own word counts for nothing.
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    pub const fn profile(&self) -> Profile {
        self.profile
    }

    pub const fn allocation(&self) -> Allocation {
        self.allocation
    }

    /// The digest of the sources it was built from, where its build left one.
    pub fn source_digest(&self) -> Option<&str> {
        self.source_digest.as_deref()
    }

    /// The keys whose URLs it wants to call and that nobody set: without them
    /// it could reach nothing.
    pub fn missing_config(&self) -> Vec<String> {
        let named = self.descriptor.egress.iter();
        let keys = named.filter_map(|origin| origin.strip_prefix("config:"));
        let unset = keys.filter(|key| !self.config.contains_key(*key));
        unset.map(str::to_owned).collect()
    }

    pub const fn limits(&self) -> &Arc<Limits> {
        &self.limits
    }

    /// What an attempt row keeps of it.
    pub fn version(&self) -> PluginVersion {
        PluginVersion {
            name: self.descriptor.name.clone(),
            version: self.descriptor.version.to_string(),
            digest: self.digest,
            kind: self.kind,
        }
    }

    /// The linked component, of which every attempt makes an instance.
    pub const fn pre(&self) -> &ExecutorPluginPre<State> {
        &self.pre
    }
}

impl std::fmt::Debug for Plugin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plugin")
            .field("name", &self.descriptor.name)
            .field("digest", &self.digest)
            .finish_non_exhaustive()
    }
}
