use super::*;
use crate::attempt::Kind;
use crate::config::Layers;
use crate::rollout::{self, State};
use crate::selection::{FixedSide, Side};

struct Fixed(Vec<LoadedPlugin>);

impl LoadedPlugins for Fixed {
    fn get(&self, name: &PluginName, digest: Option<Digest>) -> Option<LoadedPlugin> {
        let mut named = self.0.iter().filter(|p| p.version.name == *name);
        let found = named.find(|p| digest.is_none_or(|digest| p.version.digest == digest));
        found.cloned()
    }

    fn own(&self, name: &PluginName) -> Option<LoadedPlugin> {
        // A published version stands before the bundled one that it replaced.
        let mut named = self.0.iter().filter(|p| p.version.name == *name);
        named.find(|p| p.source != Source::Published).cloned()
    }

    fn all(&self) -> Vec<LoadedPlugin> {
        let first = |(at, plugin): &(usize, &LoadedPlugin)| {
            let name = &plugin.version.name;
            self.0[..*at]
                .iter()
                .all(|before| before.version.name != *name)
        };
        let all = self.0.iter().enumerate().filter(first);
        all.map(|(_, plugin)| plugin.clone()).collect()
    }

    fn others(&self, _: &PluginName) -> Vec<Digest> {
        Vec::new()
    }
}

fn plugin(name: &str, kind: Kind, handles: &[&str], missing: &[&str]) -> LoadedPlugin {
    LoadedPlugin {
        version: PluginVersion {
            name: name.parse().unwrap(),
            version: "1.0.0".to_owned(),
            digest: Digest::of(name.as_bytes()),
            kind,
        },
        handles: handles.iter().map(|h| h.parse().unwrap()).collect(),
        deadline: Duration::from_secs(70),
        concurrency: 4,
        missing_config: missing.iter().map(|m| (*m).to_owned()).collect(),
        source: Source::Directory,
        hold: Hold::default(),
    }
}

fn build(environment: &[(&str, &str)], missing: &[&str]) -> Result<RouteTable, ConfigError> {
    build_with(environment, missing, &BusFlags::default())
}

fn build_with(
    environment: &[(&str, &str)],
    missing: &[&str],
    flags: &BusFlags,
) -> Result<RouteTable, ConfigError> {
    let (table, problems) = start(environment, own(missing), &[], flags)?;
    assert_eq!(problems, []);
    Ok(table)
}

const ROLES: [&str; 2] = ["code/build-test", "codegen/generate"];

/// What a host has by itself.
fn own(missing: &[&str]) -> Vec<LoadedPlugin> {
    vec![
        plugin("mock", Kind::Mock, &ROLES, &[]),
        plugin("cogo-worker", Kind::Real, &ROLES, missing),
        plugin("render", Kind::Mock, &["docs/render"], &[]),
    ]
}

fn start(
    environment: &[(&str, &str)],
    plugins: Vec<LoadedPlugin>,
    published: &[&str],
    flags: &BusFlags,
) -> Result<(RouteTable, Vec<RouteProblem>), ConfigError> {
    let layers = Layers::new(
        environment
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
    );
    let config = Config::from_layers(&layers)?;
    let published: Vec<PluginName> = published.iter().map(|name| name.parse().unwrap()).collect();
    RouteTable::start(&config, Arc::new(Fixed(plugins)), &published, flags)
}

fn served(table: &RouteTable) -> Vec<ServedRoute> {
    let now = RouteNow::default();
    let served = table.entries().filter_map(|entry| table.serve(entry, &now));
    served.collect()
}

fn runs(table: &RouteTable) -> String {
    let served = served(table);
    let lines = served.iter().map(|s| format!("{}={}", s.key, s.plugin));
    lines.collect::<Vec<_>>().join(" ")
}

#[test]
fn development_serves_all_that_is_handled_on_the_mock() {
    let table = build(&[], &["COGO_WORKER_URL"]).unwrap();
    assert_eq!(
        runs(&table),
        "code/build-test=mock codegen/generate=mock docs/render=render"
    );
}

#[test]
fn the_flag_moves_required_routes_only() {
    let table = build(&[("ENABLE_COGO_WORKER", "true")], &[]).unwrap();
    assert_eq!(
        runs(&table),
        "code/build-test=cogo-worker codegen/generate=mock docs/render=render"
    );
}

#[test]
fn what_cannot_run_is_refused_at_start() {
    type Case<'a> = (&'a [(&'a str, &'a str)], &'a [&'a str], &'a str);
    let cases: [Case<'_>; 4] = [
        (
            &[("ENABLE_COGO_WORKER", "1")],
            &["COGO_WORKER_URL"],
            "COGO_WORKER_URL is not set",
        ),
        (
            &[
                ("COGO_STAGE", "production"),
                ("ENABLE_COGO_WORKER", "0"),
                ("AGENT_SERVICE", "code"),
            ],
            &[],
            "production runs `code/build-test` only on its real executor",
        ),
        (&[("COGO_STAGE", "staging")], &[], "no route is listed"),
        (
            &[("AGENT_SERVICE", "nothing")],
            &[],
            "nobody handles `nothing/*`",
        ),
    ];
    for (environment, missing, part) in cases {
        let error = build(environment, missing).err().unwrap();
        assert!(error.to_string().contains(part), "{error}");
        assert!(error.hint.is_some(), "{error}");
    }
}

#[test]
fn an_agent_serves_its_role_and_shard() {
    let environment = [("AGENT_SERVICE", "code"), ("AGENT_SHARD", "3")];
    let table = build(&environment, &[]).unwrap();
    let served = served(&table);
    assert_eq!(served.len(), 1);
    assert_eq!(served[0].shard, Some(3));
}

const PRODUCTION: [(&str, &str); 2] = [("COGO_STAGE", "production"), ("AGENT_SERVICE", "code")];

/// What is served of `code/build-test`, as `plugin` or `plugin probe`.
fn served_now(table: &RouteTable, now: &RouteNow<'_>) -> Option<String> {
    let entry = table.get(&KnownRole::BuildTest.key()).unwrap();
    let served = table.serve(entry, now)?;
    let probe = if served.only_probe { " probe" } else { "" };
    Some(format!("{}{probe}", served.plugin))
}

#[test]
fn what_is_decided_on_the_bus_decides_over_what_is_served() {
    let flagged = |flag| RouteNow {
        flag: Some(flag),
        ..RouteNow::default()
    };
    let paused = RouteNow {
        paused: true,
        ..RouteNow::default()
    };
    let table = build(&[], &["COGO_WORKER_URL"]).unwrap();
    let served = |now: &RouteNow<'_>| served_now(&table, now);
    assert_eq!(served(&RouteNow::default()).as_deref(), Some("mock"));
    assert_eq!(served(&paused), None);
    // Set by somebody who could not know what this host lacks.
    assert_eq!(served(&flagged(true)), None);
    let table = build(&[("ENABLE_COGO_WORKER", "true")], &[]).unwrap();
    assert_eq!(served_now(&table, &flagged(false)).as_deref(), Some("mock"));

    let table = build(&PRODUCTION, &[]).unwrap();
    let served = |now: &RouteNow<'_>| served_now(&table, now);
    assert_eq!(served(&RouteNow::default()).as_deref(), Some("cogo-worker"));
    assert_eq!(served(&flagged(false)), None);
    let down = RouteNow {
        breaker: Breaker::Open,
        ..RouteNow::default()
    };
    assert_eq!(served(&down), None);
    let probing = RouteNow {
        probe_ready: true,
        ..down
    };
    assert_eq!(served(&probing).as_deref(), Some("cogo-worker probe"));
    let stopped = RouteNow {
        paused: true,
        ..probing
    };
    assert_eq!(served(&stopped), None);
    let id = crate::selection::ApprovalId("fa-1".to_owned());
    let approved = RouteNow {
        approval: Some(&id),
        ..probing
    };
    assert_eq!(served(&approved).as_deref(), Some("mock"));
}

#[test]
fn flags_on_the_bus_count_at_the_start() {
    let flags = |flag| BusFlags::from([(KnownRole::BuildTest.key(), flag)]);
    let off = [PRODUCTION[0], PRODUCTION[1], ("ENABLE_COGO_WORKER", "0")];
    assert!(build_with(&off, &[], &flags(true)).is_ok());
    // Held, as somebody decided while hosts ran.
    assert!(build_with(&PRODUCTION, &[], &flags(false)).is_ok());
    let missing = build_with(&[], &["COGO_WORKER_URL"], &flags(true));
    let error = missing.err().unwrap();
    assert!(error.to_string().contains("COGO_WORKER_URL is not set"));
    let hint = error.hint.unwrap();
    assert!(
        hint.contains("`cogo-host flag set code/build-test off`"),
        "{hint}"
    );
}

fn published(plugin: LoadedPlugin) -> LoadedPlugin {
    LoadedPlugin {
        source: Source::Published,
        ..plugin
    }
}

/// The routes and what is wrong with them, of a host that starts while the bus
/// has these plugins, in the order in which they were published.
fn starts_with(environment: &[(&str, &str)], on_bus: Vec<LoadedPlugin>) -> String {
    let names: Vec<String> = on_bus.iter().map(|p| p.version.name.to_string()).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut plugins: Vec<LoadedPlugin> = on_bus.into_iter().map(published).collect();
    plugins.extend(own(&["COGO_WORKER_URL"]));
    let started = start(environment, plugins, &names, &BusFlags::default());
    let (table, problems) = started.unwrap();
    let problems = problems.iter().map(|problem| format!("\n{problem}"));
    runs(&table) + &problems.collect::<String>()
}

#[test]
fn the_plugins_of_the_bus_keep_no_host_from_starting() {
    let mock = |name, handles: &[&str]| plugin(name, Kind::Mock, handles, &[]);
    // This host's own come first, then those that were published first.
    let rivals = vec![
        mock("zeta", &["docs/check", "code/build-test"]),
        mock("alpha", &["docs/check", "docs/render"]),
    ];
    insta::assert_snapshot!(starts_with(&[], rivals), @r"
    code/build-test=mock codegen/generate=mock docs/check=zeta docs/render=render
    route `code/build-test`: several plugins handle it: cogo-worker, zeta, mock; it stays with cogo-worker and mock
    route `docs/check`: several plugins handle it: zeta, alpha; it stays with zeta
    route `docs/render`: several plugins handle it: alpha, render; it stays with render
    ");
    // What replaces a plugin of this host gives up a route, and takes another.
    let mock = mock("mock", &["code/build-test", "docs/render"]);
    insta::assert_snapshot!(starts_with(&[], vec![mock]), @r"
    code/build-test=mock docs/render=render
    route `codegen/generate`: plugin `cogo-worker` is to run, but COGO_WORKER_URL is not set; its tasks wait
    route `docs/render`: several plugins handle it: mock, render; it stays with render
    ");
    // It needs what this host has not.
    let needy = plugin("mock", Kind::Mock, &ROLES, &["TOKEN"]);
    insta::assert_snapshot!(starts_with(&[], vec![needy]), @r"
    docs/render=render
    route `code/build-test`: plugin `mock` is to run, but TOKEN is not set; its tasks wait
    route `codegen/generate`: plugin `mock` is to run, but TOKEN is not set; its tasks wait
    ");
}

#[test]
fn what_is_wrong_without_the_bus_keeps_a_host_from_starting_with_it() {
    let mut plugins = own(&[]);
    plugins.push(plugin("other", Kind::Mock, &["docs/render"], &[]));
    plugins.push(published(plugin("extra", Kind::Mock, &["docs/check"], &[])));
    let refused = start(&[], plugins, &["extra"], &BusFlags::default());
    let error = refused.err().unwrap().to_string();
    assert!(
        error.ends_with("several plugins handle it: render, other"),
        "{error}"
    );
}

#[test]
fn a_candidate_that_is_not_loaded_here_leaves_its_tasks_to_stable() {
    let table = build(&[("ENABLE_COGO_WORKER", "true")], &[]).unwrap();
    let entry = table.get(&"code/build-test".parse().unwrap()).unwrap();
    let step = State::Step { step: 0, for_ms: 0 };
    let elsewhere = rollout::tests::row(step.clone());
    let here = RolloutRow {
        candidate: Digest::of(b"cogo-worker"),
        ..rollout::tests::row(step)
    };
    let drawn = FixedSide {
        side: Side::Candidate,
        rollout: here.id.clone(),
    };
    let runs = |row, side, last_attempt| {
        let now = RouteNow {
            rollout: Some(row),
            ..RouteNow::default()
        };
        match table.choose_runnable(entry, now.drawn(side), last_attempt) {
            Choice::Run { digest, why, .. } => (digest.is_some(), why.side().map(|s| s.side)),
            Choice::Hold(reason) => panic!("{reason:?}"),
        }
    };
    let drawn = Some(&drawn);
    assert_eq!(runs(&here, drawn, false), (true, Some(Side::Candidate)));
    assert_eq!(runs(&here, drawn, true), (false, Some(Side::Stable)));
    assert_eq!(runs(&elsewhere, drawn, false), (false, Some(Side::Stable)));
    // Drawn in another rollout, or not at all.
    let other = FixedSide {
        side: Side::Candidate,
        rollout: "ro-other".parse().unwrap(),
    };
    assert_eq!(runs(&here, Some(&other), false), (false, None));
    assert_eq!(runs(&here, None, false), (false, None));
}

#[test]
fn tasks_draw_while_a_share_gets_the_candidate() {
    let table = build(&[], &[]).unwrap();
    let entry = table.get(&"code/build-test".parse().unwrap()).unwrap();
    let draw = |state| {
        let row = rollout::tests::row(state);
        let now = RouteNow {
            rollout: Some(&row),
            ..RouteNow::default()
        };
        let draw = table.serve(entry, &now).unwrap().draw;
        draw.map(|draw| draw.share.percent())
    };
    assert_eq!(draw(State::Waiting), None);
    assert_eq!(draw(State::Step { step: 1, for_ms: 0 }), Some(25));
    let why = String::new();
    assert_eq!(draw(State::RolledBack { step: 1, why }), None);
}
