//! The names under which this host may be called.

use std::collections::HashSet;
use std::net::IpAddr;

/// The names by which a request may call this host, against web pages that
/// point a name of theirs at it (DNS rebinding).
pub struct HostNames {
    names: HashSet<String>,
    bind: IpAddr,
}

impl HostNames {
    /// Loopback names, the bind address, and further names.
    pub fn new(bind: IpAddr, names: impl IntoIterator<Item = String>) -> Self {
        let mut all: HashSet<String> = names.into_iter().map(|n| normal(&n)).collect();
        all.insert("localhost".to_owned());
        Self { names: all, bind }
    }

    /// Whether a name without its port is one of ours.
    pub(super) fn allow(&self, host: &str) -> bool {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        match bare.parse::<IpAddr>() {
            // An address cannot be pointed elsewhere; one that reached a host
            // which listens on all of them is its own.
            Ok(address) => {
                address.to_canonical().is_loopback()
                    || self.bind.is_unspecified()
                    || address == self.bind
            }
            Err(_) => self.names.contains(&normal(host)),
        }
    }
}

fn normal(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_this_host() {
        let names = HostNames::new("192.0.2.7".parse().unwrap(), ["Bus.Example.".to_owned()]);
        for ours in [
            "localhost",
            "LOCALHOST",
            "127.0.0.1",
            "[::1]",
            "192.0.2.7",
            "bus.example",
        ] {
            assert!(names.allow(ours), "{ours}");
        }
        for foreign in [
            "evil.example",
            "localhost.evil.example",
            "192.0.2.8",
            "",
            "127.0.0.1.nip.io",
        ] {
            assert!(!names.allow(foreign), "{foreign}");
        }
        let any = HostNames::new("0.0.0.0".parse().unwrap(), []);
        assert!(any.allow("192.0.2.8") && !any.allow("evil.example"));
    }
}
