//! One entry of an operator's `allow` or of a plugin's `egress`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use url::{Host, Url};

use super::{Origin, Scheme};

/// One grant: what it covers, and how it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    text: String,
    /// Nothing where a configuration key that it refers to has no value.
    pattern: Option<Pattern>,
}

/// What a grant covers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pattern {
    /// One origin.
    Exact(Origin),
    /// All names below a domain, not the domain itself.
    Below {
        scheme: Scheme,
        domain: String,
        port: u16,
    },
    /// Addresses written as numbers; a name that resolves to one is not meant.
    Network {
        scheme: Scheme,
        network: IpNet,
        port: u16,
    },
}

/// Why a text is no grant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no grant: {why}")]
pub struct InvalidGrant {
    text: String,
    why: &'static str,
}

const SHAPE: &str = "expected `http://host[:port]`, `https://*.example.com`, `https://203.0.113.0/24` or `config:KEY`";

impl Grant {
    /// Parses a grant; `config` resolves `config:KEY` to the origin of the URL
    /// that the key holds.
    ///
    /// # Errors
    /// [`InvalidGrant`] quotes the text and says what would be right.
    pub fn parse(text: &str, config: &BTreeMap<String, String>) -> Result<Self, InvalidGrant> {
        let invalid = |why| InvalidGrant {
            text: text.chars().take(200).collect(),
            why,
        };
        let pattern = match text.strip_prefix("config:") {
            Some("") => return Err(invalid("it names no key")),
            Some(key) => match config.get(key) {
                None => None,
                Some(value) => Some(Pattern::Exact(origin_of_value(value).map_err(invalid)?)),
            },
            None => Some(parse_pattern(text).map_err(invalid)?),
        };
        Ok(Self {
            text: text.to_owned(),
            pattern,
        })
    }

    /// The grant as it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The configuration key that it refers to, where that has no value.
    pub fn unset_key(&self) -> Option<&str> {
        match self.pattern {
            None => self.text.strip_prefix("config:"),
            Some(_) => None,
        }
    }

    /// Whether it names exactly this origin.
    pub fn names(&self, origin: &Origin) -> bool {
        matches!(&self.pattern, Some(Pattern::Exact(named)) if named == origin)
    }

    /// Whether it covers this origin, by name or by pattern.
    pub fn covers(&self, origin: &Origin) -> bool {
        match &self.pattern {
            None => false,
            Some(Pattern::Exact(named)) => named == origin,
            Some(Pattern::Below {
                scheme,
                domain,
                port,
            }) => {
                let Host::Domain(name) = &origin.host else {
                    return false;
                };
                let below = name
                    .strip_suffix(domain.as_str())
                    .is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'));
                below && *scheme == origin.scheme && *port == origin.port
            }
            Some(Pattern::Network {
                scheme,
                network,
                port,
            }) => {
                let ip: IpAddr = match origin.host {
                    Host::Domain(_) => return false,
                    Host::Ipv4(ip) => ip.into(),
                    Host::Ipv6(ip) => ip.into(),
                };
                network.contains(&ip) && *scheme == origin.scheme && *port == origin.port
            }
        }
    }
}

/// The origin of a configured URL; its path and query are the plugin's affair.
fn origin_of_value(value: &str) -> Result<Origin, &'static str> {
    let url = Url::parse(value).map_err(|_| "its key holds no URL")?;
    Origin::of(&url).map_err(|_| "its key holds a URL that is not `http://host` or `https://host`")
}

fn parse_pattern(text: &str) -> Result<Pattern, &'static str> {
    let (scheme, rest) = text.split_once("://").ok_or(SHAPE)?;
    let scheme = Scheme::parse(scheme).ok_or("its scheme is neither `http` nor `https`")?;
    if rest.contains(['?', '#', '@']) {
        return Err("a grant is an origin: no user name, query or fragment");
    }
    if let Some(network) = parse_network(rest)? {
        let (network, port) = network;
        return Ok(Pattern::Network {
            scheme,
            network,
            port: port.unwrap_or(scheme.default_port()),
        });
    }
    if rest.contains('/') {
        return Err("a grant is an origin: no path");
    }
    let (wildcard, rest) = match rest.strip_prefix("*.") {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    if rest.contains('*') {
        return Err("a wildcard may only be the leftmost label: `*.example.com`");
    }
    let url = Url::parse(&format!("{}://{rest}", scheme.as_str())).map_err(|_| SHAPE)?;
    let origin = Origin::of(&url).map_err(|_| SHAPE)?;
    if !wildcard {
        return Ok(Pattern::Exact(origin));
    }
    match origin.host {
        Host::Domain(domain) if domain.contains('.') => Ok(Pattern::Below {
            scheme,
            domain,
            port: origin.port,
        }),
        _ => Err("a wildcard needs a domain of at least two labels below it"),
    }
}

/// `192.0.2.0/24`, `192.0.2.0/24:8080`, `[2001:db8::/32]:443`.
fn parse_network(rest: &str) -> Result<Option<(IpNet, Option<u16>)>, &'static str> {
    let (network, port) = match rest.strip_prefix('[') {
        Some(rest) => {
            let (inside, after) = rest.split_once(']').ok_or(SHAPE)?;
            if !inside.contains('/') {
                return Ok(None);
            }
            match after.strip_prefix(':') {
                Some(port) => (inside, Some(port)),
                None if after.is_empty() => (inside, None),
                None => return Err(SHAPE),
            }
        }
        None => match rest.split_once('/') {
            None => return Ok(None),
            Some((_, length)) => match length.split_once(':') {
                None => (rest, None),
                Some((_, port)) => (
                    rest.strip_suffix(port)
                        .and_then(|r| r.strip_suffix(':'))
                        .ok_or(SHAPE)?,
                    Some(port),
                ),
            },
        },
    };
    let port = match port.map(str::parse) {
        None => None,
        Some(Ok(port)) => Some(port),
        Some(Err(_)) => return Err("its port is no number from 0 to 65535"),
    };
    let network: IpNet = network
        .parse()
        .map_err(|_| "a grant is an origin: no path")?;
    if network.trunc() != network {
        return Err("its network has bits set behind its prefix");
    }
    Ok(Some((network, port)))
}
