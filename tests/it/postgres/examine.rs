//! What `doctor` finds out about a server, each check seen in both states.

use cogo_host::finding::{Finding, State};
use cogo_host::store::Store;

use crate::support::hand::{DOCS, Hand, task};
use crate::support::postgres::{cluster, connect, execute, migrated, open, pooled};
use crate::support::process::Installation;

pub(super) async fn examine(store: &dyn Store) -> Vec<Finding> {
    store.examine().await.unwrap()
}

pub(super) fn state(findings: &[Finding], id: &str) -> (State, String) {
    let finding = findings.iter().find(|finding| finding.check.id == id);
    let finding = finding.unwrap_or_else(|| panic!("nothing is said of {id}"));
    (finding.state, finding.detail.clone())
}

#[tokio::test]
async fn a_bus_that_is_well_passes() {
    let store = open(&migrated().await).await;
    let bad: Vec<Finding> = examine(&store)
        .await
        .into_iter()
        .filter(|finding| finding.state != State::Pass)
        // Other tests of this cluster keep transactions open.
        .filter(|finding| finding.check.id != "postgres.snapshots")
        .collect();
    assert!(bad.is_empty(), "{bad:#?}");
}

#[tokio::test]
async fn what_is_wrong_is_found_and_named() {
    let url = migrated().await;
    let store = open(&url).await;
    store.enqueue(&[task(DOCS)]).await.unwrap();
    let claim = Hand::new().claim_one(&store, DOCS).await;
    let mut conn = connect(&url).await;
    execute(
        &mut conn,
        &format!(
            "DROP INDEX cogo_messages_unclaimed_trace;
             ALTER TABLE agent_messages SET (autovacuum_enabled = false);
             INSERT INTO executor_waiters (holder, until)
               SELECT 'h' || i, now() FROM generate_series(1, 60000) AS i;
             DELETE FROM executor_waiters;
             UPDATE agent_messages SET lease_expires_at = now() - interval '1 hour'
               WHERE id = '{}'",
            claim.id
        ),
    )
    .await;
    // What a session did is reported when it ends, at the latest.
    sqlx::Connection::close(conn).await.unwrap();
    let findings = loop {
        let findings = examine(&store).await;
        if state(&findings, "postgres.bloat").0 == State::Warn {
            break findings;
        }
    };
    for (id, wanted, part) in [
        (
            "postgres.schema",
            State::Fail,
            "cogo_messages_unclaimed_trace",
        ),
        ("postgres.autovacuum", State::Warn, "off for agent_messages"),
        ("postgres.bloat", State::Warn, "executor_waiters"),
        ("postgres.leases", State::Warn, "1 not rescued"),
    ] {
        let (state, detail) = state(&findings, id);
        assert_eq!(state, wanted, "{id}: {detail}");
        assert!(detail.contains(part), "{id}: {detail}");
    }
}

#[tokio::test]
async fn a_role_that_lacks_rights_or_sees_only_some_rows_is_told_so() {
    let url = migrated().await;
    let database = url.rsplit('/').next().unwrap();
    let role = format!("reader_of_{database}");
    let mut conn = connect(&url).await;
    execute(
        &mut conn,
        &format!(
            "CREATE ROLE {role} LOGIN;
             GRANT SELECT ON agent_messages, bus_events, executor_attempts, executor_artifacts,
               executor_hosts, executor_waiters, cogo_host_schema TO {role}"
        ),
    )
    .await;
    let store = open(&cluster().url_as(&role, database)).await;
    let findings = examine(&store).await;
    let (rights, detail) = state(&findings, "postgres.rights");
    assert_eq!(rights, State::Fail);
    assert!(detail.contains("INSERT on agent_messages"), "{detail}");
    let (guarded, detail) = state(&findings, "postgres.rls");
    assert_eq!(guarded, State::Fail);
    assert!(detail.contains("bus_events"), "{detail}");
    // Every table of the schema counts, and what is granted is enough.
    execute(
        &mut conn,
        &format!(
            "ALTER ROLE {role} BYPASSRLS;
             GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role};
             REVOKE INSERT ON executor_shadows FROM {role};
             REVOKE ALL ON cogo_host_schema FROM {role}"
        ),
    )
    .await;
    let (rights, detail) = state(&examine(&store).await, "postgres.rights");
    assert_eq!(rights, State::Fail);
    let lacks = format!("{role} lacks INSERT on executor_shadows, SELECT on cogo_host_schema");
    assert_eq!(detail, lacks);
    let (guarded, detail) = state(&examine(&store).await, "postgres.rls");
    assert_eq!(guarded, State::Pass, "{detail}");
    let granted = format!(
        "GRANT INSERT ON executor_shadows TO {role}; GRANT SELECT ON cogo_host_schema TO {role};
         ALTER ROLE {role} NOBYPASSRLS;
         ALTER TABLE agent_messages DISABLE ROW LEVEL SECURITY"
    );
    execute(&mut conn, &granted).await;
    let findings = examine(&store).await;
    let (rights, detail) = state(&findings, "postgres.rights");
    assert_eq!(rights, State::Pass, "{detail}");
    let (_, detail) = state(&findings, "postgres.rls");
    assert!(!detail.contains("agent_messages"), "{detail}");
    assert!(detail.contains("executor_flags"), "{detail}");
}

#[tokio::test]
async fn a_clock_that_is_wrong_is_told_by_how_much() {
    let url = migrated().await;
    for (offset, said) in [("+1h", "ahead of"), ("-1h", "behind")] {
        let here = Installation::new().with("DATABASE_URL", &url);
        let report = here.at_clock(offset).run(&["doctor", "--json"]);
        let report = report.data();
        let checks = report["checks"].as_array().unwrap();
        let clock = checks.iter().find(|check| check["id"] == "postgres.clock");
        let clock = clock.unwrap();
        assert_eq!(clock["state"], "warn", "{clock}");
        let detail = clock["detail"].as_str().unwrap();
        let (skew, whose) = detail.split_once(" ms ").unwrap();
        assert_eq!(whose, format!("{said} the database's"));
        let skew: u64 = skew.parse().unwrap();
        assert!((3_590_000..=3_610_000).contains(&skew), "{detail}");
    }
}

#[tokio::test]
async fn a_pooler_that_the_url_does_not_name_is_detected() {
    let url = migrated().await;
    let named = pooled(&url);
    let (of_named, _) = state(&examine(&open(&named).await).await, "postgres.pooler");
    assert_eq!(of_named, State::Pass);
    let unnamed = named.replace("pgbouncer=true", "pgbouncer=false");
    let store = open(&unnamed).await;
    // Other clients of the pooler may come in between.
    let (detected, detail) = loop {
        let findings = examine(&store).await;
        let found = state(&findings, "postgres.pooler");
        if found.0 == State::Fail {
            assert_eq!(findings.len(), 1, "asked on: {findings:?}");
            break found;
        }
    };
    assert_eq!(detected, State::Fail, "{detail}");
}

#[tokio::test]
async fn the_command_tells_state_and_cure_and_ends_accordingly() {
    let url = migrated().await;
    let here = Installation::new().with("DATABASE_URL", &url);
    let report = here.run(&["doctor", "--json"]).expect(0).data();
    let ids: Vec<&str> = report["checks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|check| check["id"].as_str().unwrap())
        .collect();
    for id in [
        "config.valid",
        "bus.connection",
        "bus.schema",
        "postgres.clock",
    ] {
        assert!(ids.contains(&id), "{ids:?}");
    }
    for id in [
        "bus.hosts",
        "bus.routes",
        "plugins.cache",
        "worker.reachable",
    ] {
        assert!(ids.contains(&id), "{ids:?}");
    }
    let store = open(&url).await;
    store.enqueue(&[task("nobody/knows")]).await.unwrap();
    execute(&mut connect(&url).await, "DROP INDEX cogo_messages_turn").await;
    let finished = here.run(&["doctor"]).expect(1);
    for part in [
        "fail",
        "cogo_messages_turn",
        "cogo-host migrate",
        "nobody/knows",
    ] {
        assert!(finished.stdout.contains(part), "{}", finished.stdout);
    }
    let gone = here.with("DATABASE_URL", "postgres://127.0.0.1:1/bus");
    let report = gone.run(&["doctor", "--json"]).expect(6);
    assert_eq!(report.data()["state"], "fail");
}
