//! The API: whether it can listen, and who may use it.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::api::Tokens;
use crate::config::Config;
use crate::finding::{Check, Finding, Remedy, Severity};
use crate::stage::Stage;
use crate::store::{self, BusUrl};

const PORT: Check = Check {
    id: "api.port",
    title: "port of the API",
    severity: Severity::Error,
    fix: "end what listens there, or choose another port with PORT",
};

const TOKEN: Check = Check {
    id: "api.token",
    title: "who may write through the API",
    severity: Severity::Error,
    fix: "set COGO_HOST_TOKEN_FILE to a file of `name:token` lines, the token from `openssl rand -hex 32`",
};

const TOKEN_FILE: Check = Check {
    id: "api.token_file",
    title: "token file",
    severity: Severity::Error,
    fix: "one `name:token` a line, the token at least 16 visible ASCII characters",
};

const TOKEN_RIGHTS: Check = Check {
    id: "api.token_rights",
    title: "who may read the token file",
    severity: Severity::Warning,
    fix: "chmod 600 it",
};

pub(super) fn examine(config: &Config) -> Vec<Finding> {
    let file = config.listen.token_file.as_deref();
    vec![
        port(config),
        token(config),
        file.map_or_else(|| TOKEN_FILE.pass("none is named"), token_file),
        file.map_or_else(|| TOKEN_RIGHTS.pass("none is named"), token_rights),
    ]
}

fn port(config: &Config) -> Finding {
    let address = SocketAddr::new(config.listen.bind, config.listen.port);
    if config.listen.port == 0 {
        return PORT.pass("a free one is taken");
    }
    match TcpListener::bind(address) {
        Ok(_) => PORT.pass(format!("{address} is free")),
        Err(cause) if cause.kind() == io::ErrorKind::AddrInUse => match own_host(config) {
            Some(api) if api.ends_with(&address.to_string()) => {
                PORT.pass(format!("this bus's host listens on {address}"))
            }
            _ if matches!(config.bus, BusUrl::Postgres(_)) => {
                PORT.unknown(format!("something listens on {address}, perhaps a host"))
            }
            _ => PORT.bad(format!("something else listens on {address}")),
        },
        Err(cause) => PORT.bad(format!("{address}: {cause}")),
    }
}

fn own_host(config: &Config) -> Option<String> {
    match &config.bus {
        BusUrl::Sqlite(path) => store::read_owner(path).ok()??.api,
        BusUrl::Postgres(_) => None,
    }
}

fn token(config: &Config) -> Finding {
    let listen = &config.listen;
    let named = listen.token.is_some() || listen.token_file.is_some();
    let needed = !listen.bind.is_loopback() || config.stage != Stage::Development;
    match (named, needed) {
        (true, _) => TOKEN.pass("holders of a token"),
        (false, false) => TOKEN.pass("everybody on this machine, in development"),
        (false, true) if listen.bind.is_loopback() => Check {
            severity: Severity::Warning,
            ..TOKEN
        }
        .bad(format!("nobody: no token is set in {}", config.stage)),
        (false, true) => TOKEN.bad(format!(
            "no token is set, and {} is not loopback",
            listen.bind
        )),
    }
}

fn token_file(path: &Path) -> Finding {
    let shown = path.display();
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(cause) => return TOKEN_FILE.bad(format!("`{shown}`: {cause}")),
    };
    match Tokens::parse(&text) {
        Ok(tokens) => TOKEN_FILE.holds(!tokens.is_empty(), format!("`{shown}`")),
        Err(invalid) => TOKEN_FILE.bad(format!("`{shown}`: {invalid}")),
    }
}

fn token_rights(path: &Path) -> Finding {
    let shown = path.display();
    match std::fs::metadata(path) {
        Err(cause) => TOKEN_RIGHTS.unknown(format!("`{shown}`: {cause}")),
        Ok(found) => {
            let mode = found.permissions().mode() & 0o777;
            TOKEN_RIGHTS
                .holds(mode & 0o077 == 0, format!("`{shown}`, mode {mode:o}"))
                .mended_by(Remedy::Restrict(path.to_path_buf()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Layers;
    use crate::finding::State;

    fn config(set: &[(&str, &str)]) -> Config {
        let set = set.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        Config::from_layers(&Layers::new(set)).unwrap()
    }

    #[test]
    fn a_token_is_missed_where_it_is_needed() {
        let served = ("AGENT_SERVICE", "code");
        for (set, state) in [
            (&[][..], State::Pass),
            (&[("COGO_BIND", "0.0.0.0")][..], State::Fail),
            (&[("COGO_STAGE", "staging"), served][..], State::Warn),
            (
                &[
                    ("COGO_STAGE", "staging"),
                    served,
                    ("COGO_HOST_TOKEN", "0123456789abcdef"),
                ][..],
                State::Pass,
            ),
        ] {
            assert_eq!(token(&config(set)).state, state, "{set:?}");
        }
    }

    #[test]
    fn a_port_that_somebody_has_is_named() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let port_text = taken.local_addr().unwrap().port().to_string();
        let finding = port(&config(&[("PORT", &port_text)]));
        assert_eq!(finding.state, State::Fail);
        assert!(finding.detail.contains(&port_text));
        assert_eq!(port(&config(&[("PORT", "0")])).state, State::Pass);
    }

    #[test]
    fn a_token_file_is_read_and_kept_from_others() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens");
        for (text, state) in [
            ("ann:0123456789abcdef", State::Pass),
            ("", State::Fail),
            ("ann:short", State::Fail),
        ] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(token_file(&path).state, state, "{text}");
        }
        for (mode, state) in [(0o600, State::Pass), (0o644, State::Warn)] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(token_rights(&path).state, state, "{mode:o}");
        }
    }
}
