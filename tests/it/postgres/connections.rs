//! Ways to the database, and what is said where there is none.

use cogo_host::attempt::{Fence, LeaseEpoch};
use cogo_host::store::{PostgresStore, Store, StoreError};

use crate::support::hand::{DOCS, Hand, done, settlement, tasks};
use crate::support::postgres::cluster::Cluster;
use crate::support::postgres::{bed, cluster, connect, execute, migrated, open, pooled, texts};
use crate::support::process::Installation;

async fn refusal(url: &str) -> StoreError {
    PostgresStore::open(&url.parse().unwrap())
        .await
        .unwrap_err()
}

#[tokio::test]
async fn a_way_that_leads_nowhere_is_named_without_its_password() {
    let port = cluster().port();
    let error = refusal(&format!("postgres://cogo:s3cret@127.0.0.1:{port}/nowhere")).await;
    assert!(matches!(error, StoreError::Missing(_)), "{error}");
    assert!(error.to_string().contains("`nowhere`"), "{error}");
    let free = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let closed = free.local_addr().unwrap().port();
    drop(free);
    let error = refusal(&format!("postgres://cogo:s3cret@127.0.0.1:{closed}/bus")).await;
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    assert!(error.to_string().contains("`bus` at 127.0.0.1"), "{error}");
    assert!(!error.to_string().contains("s3cret"));
    let error = refusal(&format!("postgres://nobody:s3cret@127.0.0.1:{port}/bus")).await;
    assert!(matches!(error, StoreError::Denied(_)), "{error}");
    assert!(!format!("{error:?}").contains("s3cret"));
}

#[tokio::test]
async fn a_socket_is_a_way_too() {
    let url = migrated().await;
    let database = url.rsplit('/').next().unwrap();
    let dir = cluster().socket_dir().display().to_string();
    let port = cluster().port();
    let url = format!("postgres://cogo@localhost:{port}/{database}?host={dir}");
    open(&url).await.check_schema().await.unwrap();
}

#[tokio::test]
async fn a_server_that_went_away_and_came_back_is_used_again() {
    let cluster = Cluster::start();
    cluster.create("bus", "template1").await;
    let store = open(&cluster.url("bus")).await;
    store.migrate(false).await.unwrap();
    store.enqueue(&tasks(DOCS, 1)).await.unwrap();
    cluster.kill();
    let hand = Hand::new();
    let request = cogo_host::store::ClaimRequest {
        holder: &hand.id,
        lease: crate::support::hand::LEASE,
        wants: vec![crate::support::hand::want(DOCS)],
        limit: 1,
    };
    let error = store.claim(&request).await.unwrap_err();
    assert!(error.is_transient(), "{error}");
    assert!(cluster.try_start());
    // A pool of connections to a server that is gone drains by its errors.
    let claims = loop {
        match store.claim(&request).await {
            Ok(claims) => break claims,
            Err(error) => assert!(error.is_transient(), "{error}"),
        }
    };
    hand.end(&store, &claims[0], done()).await;
}

/// With whatever code the server turns a host away at the door, the writing is
/// not to blame: it is kept, and goes through once the door is open again.
#[tokio::test]
async fn a_door_that_is_closed_for_a_while_is_no_refusal_of_what_is_written() {
    let url = migrated().await;
    let database = url.rsplit('/').next().unwrap();
    let store = open(&url).await;
    store.enqueue(&tasks(DOCS, 1)).await.unwrap();
    let hand = Hand::new();
    let claim = hand.claim_one(&store, DOCS).await;
    let ends = [settlement(&claim, done())];
    let mut porter = connect(&cluster().url("postgres")).await;
    let close = format!("ALTER DATABASE {database} ALLOW_CONNECTIONS false");
    execute(&mut porter, &close).await;
    let send_away = format!(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}'"
    );
    execute(&mut porter, &send_away).await;
    loop {
        let error = store.settle(&hand.id, &ends).await.unwrap_err();
        assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
        // First, those who were sent away are noticed.
        if error.to_string().contains("not currently accepting") {
            break;
        }
    }
    let reopen = format!("ALTER DATABASE {database} ALLOW_CONNECTIONS true");
    execute(&mut porter, &reopen).await;
    hand.end(&store, &claim, done()).await;
}

/// Somebody's doing, and passes by somebody's doing.
#[tokio::test]
async fn a_right_that_is_missing_is_no_refusal_of_what_is_written() {
    let url = migrated().await;
    let store = open(&url).await;
    store.enqueue(&tasks(DOCS, 1)).await.unwrap();
    let hand = Hand::new();
    let claim = hand.claim_one(&store, DOCS).await;
    let ends = [settlement(&claim, done())];
    let mut conn = connect(&url).await;
    let deny = "CREATE FUNCTION deny() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE 'permission denied' USING ERRCODE = '42501'; END $$;
        CREATE TRIGGER deny BEFORE INSERT ON bus_events EXECUTE FUNCTION deny()";
    execute(&mut conn, deny).await;
    let error = store.settle(&hand.id, &ends).await.unwrap_err();
    assert!(matches!(error, StoreError::Denied(_)), "{error}");
    execute(&mut conn, "DROP TRIGGER deny ON bus_events").await;
    hand.end(&store, &claim, done()).await;
}

#[tokio::test]
async fn a_lock_that_somebody_keeps_is_not_waited_for_long() {
    let url = migrated().await;
    let store = open(&url).await;
    store.enqueue(&tasks(DOCS, 2)).await.unwrap();
    let hand = Hand::new();
    let claims = hand.claim(&store, DOCS, 1).await;
    let mut keeper = connect(&url).await;
    let lock = format!(
        "BEGIN; SELECT FROM agent_messages WHERE id = '{}' FOR UPDATE",
        claims[0].id
    );
    execute(&mut keeper, &lock).await;
    let ends = [settlement(&claims[0], done())];
    let error = store.settle(&hand.id, &ends).await.unwrap_err();
    assert!(error.is_transient(), "{error}");
    // A claim takes what is free.
    assert_eq!(hand.claim(&store, DOCS, 5).await.len(), 1);
    execute(&mut keeper, "COMMIT").await;
    hand.end(&store, &claims[0], done()).await;
    let open = "SELECT count(*) FROM agent_messages WHERE status = 'claimed'";
    assert_eq!(texts(&mut keeper, open).await, [Some("1".to_owned())]);
}

#[tokio::test]
async fn a_pooler_is_no_way_to_migrate() {
    let url = crate::support::postgres::empty().await;
    let store = open(&pooled(&url)).await;
    assert!(store.is_pooled());
    let error = store.migrate(false).await.unwrap_err().to_string();
    assert!(error.contains("5432"), "{error}");
    assert!(!store.migrate(true).await.unwrap().statements.is_empty());
}

/// The whole host, and the commands beside it, where nothing can be prepared and
/// no hint comes.
#[tokio::test]
async fn a_host_works_through_a_pooler() {
    let url = pooled(&migrated().await);
    let here = Installation::new().with("DATABASE_URL", &url);
    let mut host = here.host(&["--port", "0"]);
    for _ in 0..3 {
        let done = here.submit("code/build-test", &["--repo", ".", "--wait"]);
        assert_eq!(done["status"], "done", "{done}");
        let trace = done["trace_id"].as_str().unwrap();
        let trace = here.run(&["trace", trace, "--json"]).expect(0).stdout;
        assert!(trace.contains("buildtest_done"), "{trace}");
    }
    host.process.signal("TERM");
    assert_eq!(host.process.wait(), Some(0));
}

#[tokio::test]
async fn a_claim_whose_answer_was_lost_is_told_to_its_holder() {
    let bed = bed().await;
    bed.store.enqueue(&tasks(DOCS, 3)).await.unwrap();
    let (hand, other) = (Hand::new(), Hand::new());
    let known = hand.claim_one(&*bed.store, DOCS).await;
    let lost = hand.claim_one(&*bed.store, DOCS).await;
    other.claim_one(&*bed.store, DOCS).await;
    // An earlier claim of the same task is not the one that is held.
    let stale = Fence {
        id: lost.id,
        epoch: LeaseEpoch(0),
    };
    let fences = [known.fence(), stale];
    let unanswered = bed.store.unanswered(&hand.id, &fences).await.unwrap();
    let told: Vec<_> = unanswered
        .iter()
        .map(|claim| (claim.fence(), claim.attempt, &claim.trace_id))
        .collect();
    assert_eq!(told, [(lost.fence(), 1, &lost.trace_id)]);
    hand.end(&*bed.store, &unanswered[0], done()).await;
    let unanswered = bed.store.unanswered(&hand.id, &fences[..1]).await.unwrap();
    assert!(unanswered.is_empty());
    // Nor does one that cannot be read keep its holder from the rest.
    let garbled = format!(
        "UPDATE agent_messages SET service = 'no route' WHERE id = '{}'",
        known.id
    );
    bed.door.execute(&garbled).await;
    assert!(
        bed.store
            .unanswered(&hand.id, &[])
            .await
            .unwrap()
            .is_empty()
    );
}
