//! The HTTP clients of one plugin, and the resolver that judges addresses.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::redirect::Policy as Redirects;
use wasmtime_wasi_http::Error;

use crate::attempt::Denial;
use crate::plugin::egress::{Allowed, Reach, reach_of};
use crate::plugin::limits::OutboundLimits;

/// Two clients, each with a pool of connections of its own: one may reach the
/// operator's networks, the other only the public internet. A connection that
/// was opened for the one is never used for the other.
pub(super) struct Clients {
    limits: OutboundLimits,
    named: OnceLock<reqwest::Client>,
    public: OnceLock<reqwest::Client>,
}

impl Clients {
    pub(super) const fn new(limits: OutboundLimits) -> Self {
        Self {
            limits,
            named: OnceLock::new(),
            public: OnceLock::new(),
        }
    }

    /// The client for requests that were allowed so; made at the first one.
    pub(super) fn get(&self, allowed: Allowed) -> Result<&reqwest::Client, Error> {
        let slot = match allowed {
            Allowed::Named => &self.named,
            Allowed::Public => &self.public,
        };
        if let Some(client) = slot.get() {
            return Ok(client);
        }
        let client = client(&self.limits, allowed).map_err(|cause| {
            tracing::error!("no HTTP client can be made: {cause}");
            Error::ConfigurationError
        })?;
        Ok(slot.get_or_init(|| client))
    }
}

fn client(limits: &OutboundLimits, allowed: Allowed) -> reqwest::Result<reqwest::Client> {
    // The whole program uses one provider; a second installation is a no-op.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = || {
        reqwest::Client::builder()
            .no_proxy()
            .redirect(Redirects::none())
            .referer(false)
            .retry(reqwest::retry::never())
            .connect_timeout(limits.connect)
            .http1_max_headers(limits.headers)
            .http2_max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
            .pool_max_idle_per_host(limits.concurrency)
            .dns_resolver(Arc::new(Judging { allowed }))
    };
    match builder().build() {
        Ok(client) => Ok(client),
        // A machine without certificate authorities can still speak plain HTTP;
        // with an empty list every HTTPS request fails as untrusted.
        Err(cause) => {
            tracing::warn!("no certificate authorities of the system, so HTTPS will fail: {cause}");
            builder().tls_certs_only([]).build()
        }
    }
}

/// Resolves with the system's resolver and lets through only addresses that may
/// be connected to. The connection goes to one of these: a name cannot mean
/// something else a moment later.
struct Judging {
    allowed: Allowed,
}

impl Resolve for Judging {
    fn resolve(&self, name: Name) -> Resolving {
        let allowed = self.allowed;
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let usable = judge(name.as_str(), found.collect(), allowed)?;
            Ok(Box::new(usable.into_iter()) as Addrs)
        })
    }
}

/// All addresses of a name were refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{name}` resolves to {address}, {}", self.why())]
pub(super) struct AddressRefused {
    name: String,
    address: IpAddr,
    private: bool,
}

impl AddressRefused {
    pub(super) const fn denial(&self) -> Denial {
        match self.private {
            true => Denial::PrivateAddress,
            false => Denial::ForbiddenAddress,
        }
    }

    const fn why(&self) -> &'static str {
        match self.private {
            true => "a private address, which only a grant of exactly this origin opens",
            false => "an address that no plugin may reach",
        }
    }
}

fn judge(
    name: &str,
    found: Vec<SocketAddr>,
    allowed: Allowed,
) -> Result<Vec<SocketAddr>, AddressRefused> {
    let (usable, refused): (Vec<_>, Vec<_>) = found
        .into_iter()
        .partition(|address| allowed.covers(reach_of(address.ip())));
    match refused.first() {
        Some(address) if usable.is_empty() => Err(AddressRefused {
            name: name.to_owned(),
            address: address.ip(),
            private: reach_of(address.ip()) == Reach::Private,
        }),
        _ => Ok(usable),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn a_name_is_judged_by_what_it_resolves_to() {
        let mixed = || addresses(&["10.0.0.1:0", "8.8.8.8:0", "169.254.169.254:0"]);
        let public = judge("a.test", mixed(), Allowed::Public).unwrap();
        assert_eq!(public, addresses(&["8.8.8.8:0"]));
        let named = judge("a.test", mixed(), Allowed::Named).unwrap();
        assert_eq!(named, addresses(&["10.0.0.1:0", "8.8.8.8:0"]));
    }

    #[test]
    fn a_name_for_a_metadata_address_is_refused_even_when_named() {
        let found = addresses(&["169.254.169.254:0"]);
        let refused = judge("metadata.test", found, Allowed::Named).unwrap_err();
        assert!(refused.to_string().contains("169.254.169.254"), "{refused}");
        let private = judge("a.test", addresses(&["[::1]:0"]), Allowed::Public).unwrap_err();
        assert!(private.to_string().contains("private"), "{private}");
    }
}
