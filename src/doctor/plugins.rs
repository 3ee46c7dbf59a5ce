//! What the configuration says of plugins and routes, against the plugins that
//! there are. Nothing of a plugin is executed.

use std::collections::BTreeMap;
use std::path::Path;

use crate::config::Config;
use crate::finding::{Check, Finding, Severity};
use crate::ids::{Digest, PluginName};
use crate::plugin::bundled;
use crate::plugin::egress::Grant;
use crate::plugin::inspect;
use crate::stage::Stage;

const COMPONENTS: Check = Check {
    id: "plugins.components",
    title: "plugins that fit",
    severity: Severity::Error,
    fix: "`cogo-host plugin inspect FILE` says what is wrong with it, and the cure",
};

const NAMES: Check = Check {
    id: "plugins.names",
    title: "names of plugin files",
    severity: Severity::Error,
    fix: "call the file NAME.wasm, NAME being what the plugin calls itself",
};

const CONFIGURED: Check = Check {
    id: "plugins.configured",
    title: "plugins with settings",
    severity: Severity::Warning,
    fix: "correct the name in `[plugin.NAME]`, or put NAME.wasm into the plugins directory",
};

const PINS: Check = Check {
    id: "plugins.pins",
    title: "pins",
    severity: Severity::Error,
    fix: "put the pinned component into the plugins directory, or pin the one that lies there: `cogo-host plugin inspect FILE` shows its digest",
};

const UNPINNED: Check = Check {
    id: "plugins.unpinned",
    title: "plugins without a pin",
    severity: Severity::Warning,
    fix: "pin it: `[plugin.NAME] digest = \"sha256:…\"`, as `cogo-host plugin inspect FILE` shows it",
};

const ROUTES: Check = Check {
    id: "routes.plugins",
    title: "plugins of routes",
    severity: Severity::Error,
    fix: "correct the name in `[route.\"SERVICE/ROLE\"]`, or put NAME.wasm into the plugins directory",
};

const GRANTS: Check = Check {
    id: "egress.grants",
    title: "grants of outbound calls",
    severity: Severity::Error,
    fix: "write `http://host[:port]`, `https://*.example.com`, `https://203.0.113.0/24` or `config:KEY` in `allow`",
};

const UNSET: Check = Check {
    id: "egress.config",
    title: "grants by configuration",
    severity: Severity::Warning,
    fix: "set the key in `[plugin.NAME] config`, or drop the grant: it lets nothing out",
};

/// What lies in the plugins directory, by name without the extension.
type Files = BTreeMap<String, Vec<u8>>;

pub(super) fn examine(config: &Config) -> Vec<Finding> {
    let files = config.plugins_dir.as_deref().map(files).unwrap_or_default();
    let known = Known::new(&files);
    vec![
        components(&files),
        names(&files),
        configured(config, &known),
        pins(config, &files),
        unpinned(config, &files),
        routes(config, &known),
        grants(config),
        unset(config),
    ]
}

/// What cannot be read is another check's business.
fn files(dir: &Path) -> Files {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "wasm")
        })
        .filter_map(|path| {
            let name = path.file_stem()?.to_str()?.to_owned();
            Some((name, std::fs::read(&path).ok()?))
        })
        .filter(|(name, _)| !name.starts_with('.'))
        .collect()
}

fn components(files: &Files) -> Finding {
    let wrong = files.iter().filter_map(|(name, bytes)| {
        let found = inspect::inspect(bytes);
        let problem = found.problems.first()?;
        Some(format!(
            "{name}.wasm: {}: {}",
            problem.code, problem.message
        ))
    });
    all(COMPONENTS, wrong, format!("{}", files.len()))
}

fn names(files: &Files) -> Finding {
    let wrong = files.keys().filter_map(|name| {
        let invalid = name.parse::<PluginName>().err()?;
        Some(format!("{name}.wasm: {invalid}"))
    });
    all(NAMES, wrong, format!("{}", files.len()))
}

fn configured(config: &Config, known: &Known) -> Finding {
    let names = config.plugins.keys();
    let wrong = names.filter_map(|name| known.missing(name, &format!("[plugin.{name}]")));
    all(CONFIGURED, wrong, format!("{}", config.plugins.len()))
}

fn pins(config: &Config, files: &Files) -> Finding {
    let pinned = || {
        let plugins = config.plugins.iter();
        plugins.filter_map(|(name, plugin)| Some((name, plugin.digest?)))
    };
    let wrong = pinned().filter_map(|(name, pin)| match files.get(name.as_str()) {
        Some(bytes) if Digest::of(bytes) == pin => None,
        Some(bytes) => Some(format!("{name}.wasm is {}, not {pin}", Digest::of(bytes))),
        None => Some(format!("{name} is pinned, and there is no {name}.wasm")),
    });
    all(PINS, wrong, format!("{}", pinned().count()))
}

fn unpinned(config: &Config, files: &Files) -> Finding {
    if config.stage == Stage::Development {
        return UNPINNED.pass("development runs what it finds");
    }
    let is_pinned = |name: &str| {
        let mut plugins = config.plugins.iter();
        plugins.any(|(own, plugin)| own.as_str() == name && plugin.digest.is_some())
    };
    let names = files.keys().filter(|name| !is_pinned(name));
    let wrong = names.map(|name| format!("{} does not run {name}.wasm", config.stage));
    all(UNPINNED, wrong, "none".to_owned())
}

fn routes(config: &Config, known: &Known) -> Finding {
    let wrong = config.routes.iter().flat_map(|(key, route)| {
        let names = [&route.real, &route.mock, &route.plugin];
        let names = names.into_iter().flatten();
        names.filter_map(move |name| known.missing(name, &format!("[route.\"{key}\"]")))
    });
    all(ROUTES, wrong, format!("{}", config.routes.len()))
}

fn grants(config: &Config) -> Finding {
    let wrong = config.plugins.iter().flat_map(|(name, plugin)| {
        let grants = plugin.allow.iter();
        grants.filter_map(move |text| {
            let invalid = Grant::parse(text, &plugin.config).err()?;
            Some(format!("[plugin.{name}]: {invalid}"))
        })
    });
    let all_of_them = config.plugins.values().map(|plugin| plugin.allow.len());
    all(GRANTS, wrong, format!("{}", all_of_them.sum::<usize>()))
}

fn unset(config: &Config) -> Finding {
    let wrong = config.plugins.iter().flat_map(|(name, plugin)| {
        let grants = plugin.allow.iter();
        let keys = grants.filter_map(|text| text.strip_prefix("config:"));
        // The worker's adapter gets its URL from the host's own setting.
        keys.filter(|key| !(plugin.config.contains_key(*key) || *key == "COGO_WORKER_URL"))
            .map(move |key| format!("[plugin.{name}]: {key} has no value"))
    });
    all(UNSET, wrong, "none that is empty".to_owned())
}

/// Holds where nothing is wrong.
fn all(check: Check, wrong: impl Iterator<Item = String>, detail: String) -> Finding {
    let wrong: Vec<String> = wrong.collect();
    match wrong.is_empty() {
        true => check.pass(detail),
        false => check.bad(wrong.join("; ")),
    }
}

/// The names of the plugins that there are.
struct Known(Vec<String>);

impl Known {
    fn new(files: &Files) -> Self {
        let bundled = bundled::candidates().filter_map(|candidate| candidate.name);
        let bundled = bundled.map(|name| name.to_string());
        Self(files.keys().cloned().chain(bundled).collect())
    }

    /// What to say of a name that is none of them.
    fn missing(&self, name: &PluginName, place: &str) -> Option<String> {
        if self.0.iter().any(|known| known == name.as_str()) {
            return None;
        }
        let near = self
            .0
            .iter()
            .map(|known| (strsim::damerau_levenshtein(known, name.as_str()), known))
            .filter(|(distance, _)| *distance <= 2)
            .min();
        Some(match near {
            Some((_, near)) => {
                format!("{place}: there is no plugin `{name}`; did you mean `{near}`?")
            }
            None => format!("{place}: there is no plugin `{name}`"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Layers;
    use crate::finding::State;

    /// The state of a check and what it saw, with these settings, where a mock
    /// lies in the directory as `own.wasm`.
    fn look(id: &str, stage: &str, toml: &str) -> (State, String) {
        let dir = tempfile::tempdir().unwrap();
        let mock = bundled::candidates().next().unwrap();
        std::fs::write(dir.path().join("own.wasm"), &mock.bytes).unwrap();
        let toml = toml.replace("DIGEST", &Digest::of(&mock.bytes).to_string());
        let file = dir.path().join("cogo.toml");
        std::fs::write(&file, toml).unwrap();
        let set = [
            ("COGO_PLUGINS_DIR", dir.path().to_str().unwrap()),
            ("COGO_STAGE", stage),
            ("AGENT_SERVICE", "code"),
        ];
        let mut layers = Layers::new(set.map(|(k, v)| (k.to_owned(), v.to_owned())));
        layers.read_explicit(&file).unwrap();
        let config = Config::from_layers(&layers).unwrap();
        let findings = examine(&config);
        let found = findings.into_iter().find(|found| found.check.id == id);
        let found = found.unwrap();
        (found.state, found.detail)
    }

    #[test]
    fn what_the_settings_name_must_be_there() {
        let zeros = "0".repeat(64);
        for (id, stage, toml, state, said) in [
            (
                "plugins.configured",
                "development",
                "[plugin.own]\nallow = []",
                State::Pass,
                "",
            ),
            (
                "plugins.configured",
                "development",
                "[plugin.mok]\nallow = []",
                State::Warn,
                "did you mean `mock`?",
            ),
            (
                "plugins.pins",
                "staging",
                "[plugin.own]\ndigest = \"DIGEST\"",
                State::Pass,
                "1",
            ),
            (
                "plugins.pins",
                "staging",
                &format!("[plugin.own]\ndigest = \"sha256:{zeros}\""),
                State::Fail,
                "own.wasm is sha256:",
            ),
            (
                "plugins.pins",
                "staging",
                "[plugin.gone]\ndigest = \"DIGEST\"",
                State::Fail,
                "there is no gone.wasm",
            ),
            ("plugins.unpinned", "development", "", State::Pass, ""),
            (
                "plugins.unpinned",
                "staging",
                "",
                State::Warn,
                "does not run own.wasm",
            ),
            (
                "plugins.unpinned",
                "staging",
                "[plugin.own]\ndigest = \"DIGEST\"",
                State::Pass,
                "",
            ),
            (
                "routes.plugins",
                "development",
                "[route.\"code/build-test\"]\nreal = \"cogo-wroker\"\nmock = \"mock\"",
                State::Fail,
                "did you mean `cogo-worker`?",
            ),
            (
                "egress.grants",
                "development",
                "[plugin.own]\nallow = [\"worker:80\"]",
                State::Fail,
                "`worker:80` is no grant",
            ),
            (
                "egress.config",
                "development",
                "[plugin.own]\nallow = [\"config:URL\"]",
                State::Warn,
                "URL has no value",
            ),
            ("plugins.components", "development", "", State::Pass, "1"),
            ("plugins.names", "development", "", State::Pass, "1"),
        ] {
            let (found, detail) = look(id, stage, toml);
            assert_eq!(found, state, "{id}: {toml}: {detail}");
            assert!(detail.contains(said), "{id}: {detail}");
        }
    }

    #[test]
    fn a_file_that_is_no_plugin_is_named() {
        let files = Files::from([("Bad_Name".to_owned(), b"text".to_vec())]);
        let wrong = components(&files);
        assert_eq!(wrong.state, State::Fail);
        assert!(
            wrong.detail.contains("Bad_Name.wasm: P110"),
            "{}",
            wrong.detail
        );
        assert_eq!(names(&files).state, State::Fail);
    }
}
