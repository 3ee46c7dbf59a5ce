//! `doctor` on planted faults: each is found by its check, with its cure, and on a
//! clean installation nothing is.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::Value;

use crate::support::process::Installation;

fn checks(here: &Installation, exit: i32) -> Vec<Value> {
    let report = here.run(&["doctor", "--json"]).expect(exit).data();
    report["checks"].as_array().unwrap().clone()
}

fn check<'a>(checks: &'a [Value], id: &str) -> &'a Value {
    let found = checks.iter().find(|check| check["id"] == id);
    found.unwrap_or_else(|| panic!("there is no check {id}"))
}

/// An installation with a bus, a plugins directory and nothing wrong.
fn clean() -> Installation {
    let here = Installation::new().with("PORT", "0");
    let _ = here.run(&["migrate"]).expect(0);
    fs::create_dir(here.path().join("plugins")).unwrap();
    fs::write(here.path().join("cogo.toml"), "plugins_dir = \"plugins\"\n").unwrap();
    here
}

#[test]
fn a_clean_installation_has_no_findings() {
    let checks = checks(&clean(), 0);
    assert!(checks.len() >= 30, "{}", checks.len());
    let mut ids = Vec::new();
    for check in &checks {
        let state = check["state"].as_str().unwrap();
        assert!(["pass", "unknown"].contains(&state), "{check}");
        assert!(!check["fix"].as_str().unwrap().is_empty(), "{check}");
        ids.push(check["id"].as_str().unwrap());
    }
    let all = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), all, "an id is used twice");
}

/// A fault: what is set, what is written into cogo.toml, what is done to the
/// directory; and the check that finds it, how bad it is, and what it says.
struct Fault<'a> {
    set: &'a [(&'a str, &'a str)],
    toml: &'a str,
    done: fn(&Installation),
    id: &'a str,
    state: &'a str,
    said: &'a str,
}

const FAULT: Fault<'_> = Fault {
    set: &[],
    toml: "",
    done: |_| {},
    id: "",
    state: "fail",
    said: "",
};

fn chmod(here: &Installation, path: &str, mode: u32) {
    let path = here.path().join(path);
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

const FAULTS: &[Fault<'_>] = &[
    Fault {
        set: &[("COGO_PLUGINS_DIR", "nowhere")],
        id: "plugins.dir",
        said: "nowhere",
        ..FAULT
    },
    Fault {
        done: |here| fs::write(here.path().join("plugins/text.wasm"), "text").unwrap(),
        id: "plugins.components",
        said: "text.wasm: P110",
        ..FAULT
    },
    Fault {
        done: |here| fs::write(here.path().join("plugins/No_Name.wasm"), "").unwrap(),
        id: "plugins.names",
        said: "No_Name.wasm",
        ..FAULT
    },
    Fault {
        toml: "[plugin.mok]\nallow = []",
        id: "plugins.configured",
        state: "warn",
        said: "did you mean `mock`?",
        ..FAULT
    },
    Fault {
        toml: "[plugin.gone]\ndigest = \"sha256:0000000000000000000000000000000000000000000000000000000000000000\"",
        id: "plugins.pins",
        said: "there is no gone.wasm",
        ..FAULT
    },
    Fault {
        set: &[("COGO_STAGE", "staging"), ("AGENT_SERVICE", "sandbox")],
        done: |here| {
            let mock = Path::new(env!("CARGO_MANIFEST_DIR")).join("plugins/prebuilt/mock.wasm");
            fs::copy(mock, here.path().join("plugins/free.wasm")).unwrap();
        },
        id: "plugins.unpinned",
        state: "warn",
        said: "free.wasm",
        ..FAULT
    },
    Fault {
        toml: "[route.\"docs/render\"]\nplugin = \"rendrer\"",
        id: "routes.plugins",
        said: "there is no plugin `rendrer`",
        ..FAULT
    },
    Fault {
        toml: "[plugin.mock]\nallow = [\"worker:80\"]",
        id: "egress.grants",
        said: "worker:80",
        ..FAULT
    },
    Fault {
        toml: "[plugin.mock]\nallow = [\"config:NOWHERE\"]",
        id: "egress.config",
        state: "warn",
        said: "NOWHERE",
        ..FAULT
    },
    Fault {
        set: &[("COGO_BIND", "0.0.0.0")],
        id: "api.token",
        said: "not loopback",
        ..FAULT
    },
    Fault {
        set: &[("COGO_HOST_TOKEN_FILE", "tokens")],
        id: "api.token_file",
        said: "tokens",
        ..FAULT
    },
    Fault {
        set: &[("COGO_HOST_TOKEN_FILE", "tokens")],
        done: |here| {
            fs::write(here.path().join("tokens"), "ann:0123456789abcdef").unwrap();
            chmod(here, "tokens", 0o644);
        },
        id: "api.token_rights",
        state: "warn",
        said: "mode 644",
        ..FAULT
    },
    Fault {
        set: &[("COGO_CACHE_DIR", "open-cache")],
        done: |here| {
            fs::create_dir(here.path().join("open-cache")).unwrap();
            chmod(here, "open-cache", 0o777);
        },
        id: "plugins.cache_rights",
        said: "mode 777",
        ..FAULT
    },
    Fault {
        set: &[("COGO_WORKER_URL", "http://127.0.0.1:1")],
        id: "worker.reachable",
        said: "127.0.0.1:1",
        ..FAULT
    },
];

#[test]
fn planted_faults_are_found_by_their_checks() {
    for fault in FAULTS {
        let here = clean();
        let here = fault
            .set
            .iter()
            .fold(here, |here, (name, value)| here.with(name, value));
        let toml = here.path().join("cogo.toml");
        let before = fs::read_to_string(&toml).unwrap();
        fs::write(&toml, before + fault.toml).unwrap();
        (fault.done)(&here);
        let found = checks(&here, i32::from(fault.state == "fail"));
        let check = check(&found, fault.id);
        assert_eq!(check["state"], fault.state, "{check}");
        assert!(
            check["detail"].as_str().unwrap().contains(fault.said),
            "{check}"
        );
    }
}

#[test]
fn a_port_that_is_taken_is_told_from_the_host_of_this_bus() {
    let here = clean();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let here = here.with("PORT", &port);
    assert_eq!(check(&checks(&here, 1), "api.port")["state"], "fail");
    drop(taken);
    let host = here.host(&["--port", &port]);
    let found = checks(&here, 0);
    let own = check(&found, "api.port");
    assert_eq!(own["state"], "pass", "{own}");
    assert!(
        own["detail"].as_str().unwrap().contains("this bus's host"),
        "{own}"
    );
    drop(host);
}

#[test]
fn fixing_shows_first_and_mends_only_what_needs_no_decision() {
    let here = clean()
        .with("COGO_PLUGINS_DIR", "new-plugins")
        .with("COGO_CACHE_DIR", "open-cache")
        .with("COGO_WORKER_URL", "http://127.0.0.1:1");
    let cache = here.path().join("open-cache");
    fs::create_dir(&cache).unwrap();
    chmod(&here, "open-cache", 0o777);
    let mode = || fs::metadata(&cache).unwrap().permissions().mode() & 0o777;

    let told = here.run(&["doctor"]).expect(1);
    assert!(
        told.stderr.contains("2 of these can be mended"),
        "{}",
        told.stderr
    );
    let shown = here.run(&["doctor", "--fix"]).expect(1);
    for part in [
        "would make the directory new-plugins",
        "nothing was changed",
        "--yes",
    ] {
        assert!(shown.stderr.contains(part), "{}", shown.stderr);
    }
    assert!(!here.path().join("new-plugins").exists());
    assert_eq!(mode(), 0o777);

    // The worker is still down: nobody here can decide about that.
    let mended = here
        .run(&["doctor", "--fix", "--yes", "--json"])
        .expect(1)
        .data();
    let done = mended["mended"].as_array().unwrap();
    assert_eq!(done.len(), 2, "{mended}");
    assert!(done.iter().all(|mended| mended["done"] == true), "{mended}");
    assert!(here.path().join("new-plugins").is_dir());
    assert_eq!(mode(), 0o700);
    let still = mended["checks"].as_array().unwrap().iter();
    let still: Vec<_> = still.filter(|check| check["state"] == "fail").collect();
    assert_eq!(still.len(), 1, "{still:?}");
    assert_eq!(still[0]["id"], "worker.reachable");
}

#[test]
fn an_old_schema_is_mended() {
    let here = Installation::new();
    let database = here.path().join("empty.db");
    fs::write(&database, "").unwrap();
    let here = here.with("DATABASE_URL", "sqlite://empty.db");
    let found = checks(&here, 1);
    assert_eq!(check(&found, "bus.schema")["state"], "fail");
    let _ = here.run(&["doctor", "--fix", "--yes"]).expect(0);
    assert_eq!(check(&checks(&here, 0), "bus.schema")["state"], "pass");
}
