use super::*;
use crate::attempt::Kind;
use crate::config::Layers;

struct Fixed(Vec<LoadedPlugin>);

impl LoadedPlugins for Fixed {
    fn get(&self, name: &PluginName, _: Option<Digest>) -> Option<LoadedPlugin> {
        self.0.iter().find(|p| p.version.name == *name).cloned()
    }

    fn all(&self) -> Vec<LoadedPlugin> {
        self.0.clone()
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
        hold: Hold::default(),
    }
}

fn build(environment: &[(&str, &str)], missing: &[&str]) -> Result<RouteTable, ConfigError> {
    let roles = ["code/build-test", "codegen/generate"];
    let plugins = Fixed(vec![
        plugin("mock", Kind::Mock, &roles, &[]),
        plugin("cogo-worker", Kind::Real, &roles, missing),
        plugin("render", Kind::Mock, &["docs/render"], &[]),
    ]);
    let layers = Layers::new(
        environment
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
    );
    RouteTable::build(
        &Config::from_layers(&layers)?,
        Arc::new(plugins),
        &BusFlags::default(),
    )
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
