//! Precedence, origins and the wording of mistakes.

use std::io::Write as _;

use super::*;

fn layers(environment: &[(&str, &str)]) -> Layers {
    Layers::new(
        environment
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
    )
}

fn with_file(text: &str) -> Result<Layers, ConfigError> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    let mut layers = layers(&[]);
    layers.read_explicit(file.path())?;
    Ok(layers)
}

fn refusal(layers: &Layers) -> String {
    let error = Config::from_layers(layers).unwrap_err();
    format!("{error} | {}", error.hint.as_deref().unwrap_or_default())
}

#[test]
fn nothing_set_is_development_on_the_embedded_bus() {
    let config = Config::from_layers(&layers(&[])).unwrap();
    assert_eq!(config.stage, Stage::Development);
    assert_eq!(config.bus.to_string(), "sqlite://.cogo/bus.db");
    assert_eq!(config.flag.value, None);
    assert_eq!(config.served, Served::Handled);
    assert_eq!(config.worker_timeout, Duration::from_secs(60));
    assert_eq!(config.gate.thresholds, Thresholds::default());
}

#[test]
fn flag_goes_before_file_before_environment_before_project() {
    let dir = tempfile::tempdir().unwrap();
    let project = dir.path().join("cogo.toml");
    let explicit = dir.path().join("other.toml");
    std::fs::write(&project, "bus_poll_ms = 1\n").unwrap();
    std::fs::write(&explicit, "\nbus_poll_ms = 3\n").unwrap();

    let mut layers = layers(&[]);
    layers.read_project(&project).unwrap();
    let poll = |layers: &Layers| Config::from_layers(layers).unwrap().poll.as_millis();
    assert_eq!(poll(&layers), 1);

    let mut layers = Layers::new([("BUS_POLL_MS".to_owned(), "2".to_owned())]);
    layers.read_project(&project).unwrap();
    assert_eq!(poll(&layers), 2);
    layers.read_explicit(&explicit).unwrap();
    assert_eq!(poll(&layers), 3);
    layers.set_flag("bus_poll_ms", "poll-ms", "4");
    assert_eq!(poll(&layers), 4);

    let shown = show(&layers);
    let poll = shown.iter().find(|s| s.key == "bus_poll_ms").unwrap();
    assert_eq!(poll.origin.to_string(), "flag --poll-ms");
    let shadowed: Vec<String> = poll.shadowed.iter().map(ToString::to_string).collect();
    assert!(shadowed[0].ends_with("other.toml:2"), "{shadowed:?}");
    assert_eq!(shadowed[1], "environment BUS_POLL_MS");
    assert!(shadowed[2].ends_with("cogo.toml:1"), "{shadowed:?}");
}

#[test]
fn the_design_example_is_understood() {
    let layers = with_file(
        r#"
        stage = "staging"
        [route."code/build-test"]
        real = "cogo-worker"
        mock = "mock"
        policy = "required"
        deadline = "90s"
        [plugin.cogo-worker]
        config = { COGO_WORKER_URL = "http://w:8080" }
        allow  = ["config:COGO_WORKER_URL"]
        kind = "real"
        digest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        limits = { memory_mb = 128, deadline_ms = 70000, concurrency = 16 }
        "#,
    )
    .unwrap();
    let config = Config::from_layers(&layers).unwrap();
    let route = &config.routes[&"code/build-test".parse().unwrap()];
    assert_eq!(route.policy, Some(Policy::Required));
    assert_eq!(route.deadline, Some(Duration::from_secs(90)));
    let plugin = &config.plugins[&"cogo-worker".parse().unwrap()];
    assert_eq!(plugin.config["COGO_WORKER_URL"], "http://w:8080");
    assert_eq!(plugin.allow, ["config:COGO_WORKER_URL"]);
    assert_eq!(plugin.kind, Some(Kind::Real));
    assert_eq!(plugin.limits.concurrency, Some(16));
    assert!(plugin.digest.is_some());
}

#[test]
fn mistakes_name_place_cause_and_fix() {
    let cases = [
        (
            layers(&[("COGO_STAGE", "prod")]),
            "environment COGO_STAGE: `stage` = `prod`: `prod` is not a stage",
        ),
        (
            layers(&[("BUS_POLL_MS", "soon")]),
            "expected a number from 1 to",
        ),
        (
            layers(&[("ENABLE_COGO_WORKER", "maybe")]),
            "expected true or false",
        ),
        (
            layers(&[("SUPABASE_URL", "https://x.supabase.co")]),
            "set DATABASE_URL",
        ),
        (
            layers(&[("DATABASE_URL", "mysql://u:hunter2@h/d")]),
            "`sqlite://PATH`",
        ),
        (
            layers(&[("COGO_WORKER_URL", "worker:8080")]),
            "expected a URL such as",
        ),
        (layers(&[("HOLDER_ID", "a:b")]), "without a colon"),
        (
            layers(&[("RECLAIM_AFTER_MS", "10")]),
            "expected a number from 500",
        ),
        (
            with_file("[route.\"code/build-test\"]\nconcurency = 3\n").unwrap(),
            "did you mean `concurrency`?",
        ),
        (
            with_file("[route.nonsense]\nreal = \"x\"\n").unwrap(),
            "is not a route",
        ),
        (
            with_file("[plugin.mock]\nkind = \"fake\"\n").unwrap(),
            "expected `real` or `mock`",
        ),
    ];
    for (layers, part) in cases {
        let message = refusal(&layers);
        assert!(message.contains(part), "{message}");
        assert!(!message.contains("hunter2"), "{message}");
    }
}

#[test]
fn a_file_that_makes_no_sense_is_refused_with_its_line() {
    let error = with_file("stage = \"staging\"\nbus_pol_ms = 5\n").unwrap_err();
    assert!(error.place.ends_with(":2"), "{error}");
    assert_eq!(error.hint.as_deref(), Some("did you mean `bus_poll_ms`?"));
    let error = with_file("stage = \n").unwrap_err();
    assert!(error.place.ends_with(":1"), "{error}");
}

#[test]
fn secrets_are_never_shown() {
    let layers = layers(&[
        ("DATABASE_URL", "postgres://u:hunter2@h/d"),
        ("COGO_HOST_TOKEN", "hunter2"),
    ]);
    let shown = format!("{:?}", show(&layers));
    let config = format!("{:?}", Config::from_layers(&layers).unwrap());
    assert!(!shown.contains("hunter2") && !config.contains("hunter2"));
}
