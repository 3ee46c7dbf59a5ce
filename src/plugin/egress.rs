//! Where a plugin's requests may go: grants, and what addresses they cover.
//!
//! Pure: it decides over values and never resolves a name. A request goes out
//! if a grant of the operator *and* an entry of the plugin's own list cover its
//! origin. Only an origin that the operator names exactly may lie at a private
//! or loopback address; addresses that hand out a machine's credentials are
//! reached by nobody.

use std::fmt;

use url::{Host, Url};

use crate::attempt::Denial;

mod address;
mod grant;

pub use address::{Reach, reach_of};
pub use grant::{Grant, InvalidGrant, Pattern};

/// The origin of a request, as grants name it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Origin {
    scheme: Scheme,
    host: Host<String>,
    port: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scheme {
    Http,
    Https,
}

impl Scheme {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "http" => Some(Self::Http),
            "https" => Some(Self::Https),
            _ => None,
        }
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    const fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// Why a URL has no origin that a request may go to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidOrigin {
    #[error("its scheme is `{0}`; expected `http` or `https`")]
    Scheme(String),
    #[error("it holds a user name or a password")]
    Userinfo,
    #[error("it names no host")]
    NoHost,
}

impl Origin {
    /// The origin of a URL. The URL's parser has already brought spellings such
    /// as `0x7f.1` or full-width digits into one form.
    ///
    /// # Errors
    /// When the scheme is no HTTP, or the URL carries credentials.
    pub fn of(url: &Url) -> Result<Self, InvalidOrigin> {
        let scheme = Scheme::parse(url.scheme())
            .ok_or_else(|| InvalidOrigin::Scheme(url.scheme().chars().take(20).collect()))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(InvalidOrigin::Userinfo);
        }
        let host = match url.host() {
            // A trailing dot names the same host, and must match the same grant.
            Some(Host::Domain(name)) => {
                let name = name.strip_suffix('.').unwrap_or(name);
                if name.is_empty() {
                    return Err(InvalidOrigin::NoHost);
                }
                Host::Domain(name.to_owned())
            }
            Some(address) => address.to_owned(),
            None => return Err(InvalidOrigin::NoHost),
        };
        Ok(Self {
            scheme,
            host,
            port: url.port().unwrap_or(scheme.default_port()),
        })
    }

    pub const fn host(&self) -> &Host<String> {
        &self.host
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme.as_str(), self.host)?;
        if self.port != self.scheme.default_port() {
            write!(f, ":{}", self.port)?;
        }
        Ok(())
    }
}

/// What one plugin may reach: the operator's grants and the plugin's own list.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    operator: Vec<Grant>,
    plugin: Vec<Grant>,
}

/// What the policy says of a request that may go out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allowed {
    /// The operator named the origin: private addresses are fine.
    Named,
    /// A pattern covers it: public addresses only.
    Public,
}

impl Allowed {
    /// Whether an address of this kind may be connected to.
    pub const fn covers(self, reach: Reach) -> bool {
        match reach {
            Reach::Public => true,
            Reach::Private => matches!(self, Self::Named),
            Reach::Never => false,
        }
    }
}

/// What a plugin's own list lacks for an origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Undeclared<'a> {
    /// These keys of its configuration say what it calls, and have no value.
    Unset(Vec<&'a str>),
    /// Nothing that could cover it.
    Missing,
}

/// Why a request must not go out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error(transparent)]
    Origin(#[from] InvalidOrigin),
    #[error("no grant of the operator covers `{0}`")]
    NotGranted(Origin),
    #[error("the plugin does not declare `{0}` in its `egress`")]
    NotDeclared(Origin),
    #[error("`{0}` is a private address, which only a grant of exactly this origin opens")]
    Private(Origin),
    #[error("`{0}` is an address that no plugin may reach")]
    Never(Origin),
}

impl Refusal {
    /// The same, without where it was to go.
    pub const fn denial(&self) -> Denial {
        match self {
            Self::Origin(_) => Denial::NoOrigin,
            Self::NotGranted(_) => Denial::NotGranted,
            Self::NotDeclared(_) => Denial::NotDeclared,
            Self::Private(_) => Denial::PrivateAddress,
            Self::Never(_) => Denial::ForbiddenAddress,
        }
    }
}

impl Policy {
    pub const fn new(operator: Vec<Grant>, plugin: Vec<Grant>) -> Self {
        Self { operator, plugin }
    }

    /// Judges a request by its URL. Where the host is a name, its addresses
    /// still have to be judged by [`Allowed::covers`] when they are known.
    ///
    /// # Errors
    /// [`Refusal`] says what is missing.
    pub fn judge(&self, url: &Url) -> Result<Allowed, Refusal> {
        let origin = Origin::of(url)?;
        let allowed = if self.operator.iter().any(|g| g.names(&origin)) {
            Allowed::Named
        } else if self.operator.iter().any(|g| g.covers(&origin)) {
            Allowed::Public
        } else {
            return Err(Refusal::NotGranted(origin));
        };
        if !self.plugin.iter().any(|g| g.covers(&origin)) {
            return Err(Refusal::NotDeclared(origin));
        }
        let reach = match origin.host {
            Host::Domain(_) => return Ok(allowed),
            Host::Ipv4(ip) => reach_of(ip.into()),
            Host::Ipv6(ip) => reach_of(ip.into()),
        };
        match reach {
            _ if allowed.covers(reach) => Ok(allowed),
            Reach::Private => Err(Refusal::Private(origin)),
            Reach::Public | Reach::Never => Err(Refusal::Never(origin)),
        }
    }

    /// What the plugin's own list lacks for an origin; nothing where it covers it.
    pub fn undeclared(&self, origin: &Origin) -> Option<Undeclared<'_>> {
        if self.plugin.iter().any(|g| g.covers(origin)) {
            return None;
        }
        let unset: Vec<&str> = self.plugin.iter().filter_map(Grant::unset_key).collect();
        Some(match unset.is_empty() {
            true => Undeclared::Missing,
            false => Undeclared::Unset(unset),
        })
    }

    /// The operator's grants as configuration spells them, with one more.
    pub fn with_grant(&self, origin: &Origin) -> String {
        let mut grants: Vec<String> = self.operator.iter().map(|g| g.text().to_owned()).collect();
        grants.push(origin.to_string());
        let grants: Vec<String> = grants.iter().map(|g| toml_string(g)).collect();
        format!("[{}]", grants.join(", "))
    }
}

/// A basic string of TOML.
pub(crate) fn toml_string(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

#[cfg(test)]
mod tests;
