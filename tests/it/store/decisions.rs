//! What operators decide about routes: flags, pauses, approvals.

use std::time::Duration;

use cogo_host::control::{
    Controls, Decided, Decider, Decision, Published, Retracted, Revoked, ServingCause, ServingOrder,
};
use cogo_host::event::Event;
use cogo_host::ids::Digest;
use cogo_host::selection::ApprovalId;
use cogo_host::store::{EventFilter, NewApproval, NewPublished};
use serde_json::json;

use crate::support::bed::Bed;
use crate::support::hand::{BUILD_TEST, DOCS, key};

conformance!(
    nothing_is_decided_at_first,
    a_flag_is_set_changed_and_left_alone_again,
    a_version_serves_until_another_is_decided,
    what_is_published_stays_as_it_is,
    a_pause_lasts_until_it_is_taken_back,
    an_approval_is_in_force_until_it_is_over,
    an_approval_is_revoked_once,
    the_longest_approval_comes_first,
    who_comes_by_the_database_is_named_by_its_role,
    what_cannot_be_read_hides_nothing_else,
);

fn by(name: &str, reason: &str) -> Decision {
    Decision {
        by: Decider::Named(name.to_owned()),
        reason: (!reason.is_empty()).then(|| reason.parse().unwrap()),
    }
}

fn approval(route: &str, ttl: Duration) -> NewApproval {
    NewApproval {
        route: key(route),
        reason: "the worker is down".parse().unwrap(),
        by: Decider::Named("anna".to_owned()),
        ttl,
    }
}

async fn controls(bed: &Bed) -> Controls {
    bed.store.controls().await.unwrap()
}

/// The events of a type, each without a task and on its route, oldest first.
async fn events(bed: &Bed, event_type: &str) -> Vec<Event> {
    let filter = EventFilter {
        event_type: Some(event_type.to_owned()),
        limit: 100,
        ..EventFilter::default()
    };
    let events = bed.store.events(&filter).await.unwrap();
    for event in &events {
        assert_eq!(event.message_id, None);
        assert_eq!(event.service.as_deref(), Some("code"));
        assert_eq!(event.role.as_deref(), Some("build-test"));
    }
    events
}

async fn nothing_is_decided_at_first(bed: &Bed) {
    assert_eq!(controls(bed).await, Controls::default());
    assert!(bed.store.approvals(10).await.unwrap().is_empty());
}

async fn a_flag_is_set_changed_and_left_alone_again(bed: &Bed) {
    let (store, route) = (&bed.store, key(BUILD_TEST));
    let set = async |to, who: &Decision| store.set_flag(&route, to, who).await.unwrap();
    let Decided::Changed { trace_id } = set(Some(true), &by("anna", "try it")).await else {
        panic!("nothing changed");
    };
    let flag = controls(bed).await.flags.remove(&route).unwrap();
    assert!(flag.enabled);
    assert_eq!(
        (flag.actor.as_str(), flag.reason.as_deref()),
        ("anna", Some("try it"))
    );
    assert_eq!(set(Some(true), &by("ben", "")).await, Decided::Already);
    set(Some(false), &by("ben", "")).await;
    let flag = controls(bed).await.flags.remove(&route).unwrap();
    assert_eq!(
        (flag.enabled, flag.actor.as_str(), flag.reason),
        (false, "ben", None)
    );
    set(None, &by("anna", "back to normal")).await;
    assert_eq!(set(None, &by("anna", "")).await, Decided::Already);
    assert_eq!(controls(bed).await, Controls::default());

    let events = events(bed, "flag_changed").await;
    let told: Vec<_> = events
        .iter()
        .map(|e| {
            (
                e.payload["actor"].as_str().unwrap(),
                &e.payload["from"],
                &e.payload["to"],
            )
        })
        .collect();
    let [on, off, unset] = [Some(true), Some(false), None].map(serde_json::Value::from);
    assert_eq!(
        told,
        [
            ("anna", &unset, &on),
            ("ben", &on, &off),
            ("anna", &off, &unset)
        ]
    );
    assert_eq!(events[0].trace_id.as_deref(), Some(trace_id.as_str()));
    assert_eq!(events[0].reason.as_deref(), Some("try it"));
}

async fn a_version_serves_until_another_is_decided(bed: &Bed) {
    let store = &bed.store;
    let [one, two] = [b"one", b"two"].map(|bytes| Digest::of(bytes));
    let order = |to| ServingOrder {
        plugin: "cogo-worker".parse().unwrap(),
        to,
        facts: serde_json::from_value(json!({ "host": "h" })).unwrap(),
    };
    let set = async |to, who: &Decision| store.set_serving(&order(to), who).await.unwrap();
    let promoted = (one, ServingCause::Promotion);
    let Decided::Changed { trace_id } = set(Some(promoted), &by("anna", "it is good")).await else {
        panic!("nothing changed");
    };
    let row = controls(bed).await.serving.into_values().next().unwrap();
    assert_eq!((row.digest, row.cause), promoted);
    assert_eq!((row.actor.as_str(), row.trace_id), ("anna", trace_id));
    assert_eq!(row.reason.as_deref(), Some("it is good"));
    assert_eq!(set(Some(promoted), &by("bo", "")).await, Decided::Already);

    let back = (two, ServingCause::Rollback);
    assert_ne!(set(Some(back), &by("bo", "")).await, Decided::Already);
    let after = controls(bed).await.serving.into_values().next().unwrap();
    assert_eq!((after.digest, after.cause), back);
    assert!(after.changed_at >= row.changed_at);
    assert_ne!(set(None, &by("bo", "")).await, Decided::Already);
    assert_eq!(set(None, &by("bo", "")).await, Decided::Already);
    assert!(controls(bed).await.serving.is_empty());

    let mut seen = Vec::new();
    for event_type in ["plugin_promoted", "plugin_rolled_back", "plugin_released"] {
        let filter = EventFilter {
            event_type: Some(event_type.to_owned()),
            limit: 100,
            ..EventFilter::default()
        };
        let events = store.events(&filter).await.unwrap();
        assert_eq!(events.len(), 1, "{event_type}");
        let payload = &events[0].payload;
        assert_eq!(
            (&payload["name"], &payload["host"]),
            (&json!("cogo-worker"), &json!("h"))
        );
        seen.push((payload["from"].clone(), payload["to"].clone()));
    }
    let of = |digest: Digest| json!({ "digest": digest });
    assert_eq!(
        seen,
        [
            (json!(null), of(one)),
            (of(one), of(two)),
            (of(two), json!(null)),
        ]
    );
}

async fn what_is_published_stays_as_it_is(bed: &Bed) {
    let store = &bed.store;
    // Every byte there is, and a large one.
    let bytes: Vec<u8> = (0..=255).cycle().take(3 << 20).collect();
    let (name, who) = ("guest".parse().unwrap(), by("anna", "it is good"));
    let publish = async |version: &str, bytes: &[u8], signature: Option<&str>| {
        let new = NewPublished {
            name: &name,
            version,
            digest: Digest::of(bytes),
            bytes,
            signature,
            decision: &who,
        };
        store.publish(&new).await.unwrap()
    };
    let digest = Digest::of(&bytes);
    assert!(matches!(
        publish("1.0.0", &bytes, None).await,
        Published::Now { .. }
    ));
    assert_eq!(publish("1.0.0", &bytes, None).await, Published::Already);
    let taken = Published::Taken { by: digest };
    assert_eq!(publish("1.0.0", b"other", None).await, taken);
    assert!(matches!(
        publish("1.0.1", b"other", None).await,
        Published::Now { .. }
    ));

    let listed = controls(bed).await.published;
    assert_eq!(listed.len(), 2);
    assert_eq!(listed[0].version, "1.0.1");
    assert_eq!((listed[1].digest, listed[1].bytes), (digest, 3 << 20));
    assert_eq!(listed[1].actor, "anna");
    let component = store.component(digest).await.unwrap().unwrap();
    assert!(component.bytes == bytes && component.signature.is_none());
    assert_eq!(store.component(Digest::of(b"?")).await.unwrap(), None);

    // A signature may come later, once.
    assert!(matches!(
        publish("1.0.0", &bytes, Some("s")).await,
        Published::Now { .. }
    ));
    assert_eq!(
        publish("1.0.0", &bytes, Some("s")).await,
        Published::Already
    );
    let component = store.component(digest).await.unwrap().unwrap();
    assert_eq!(component.signature.as_deref(), Some("s"));

    let retract = async |digest| store.retract(digest, &who).await.unwrap();
    let serves = ServingOrder {
        plugin: name.clone(),
        to: Some((digest, ServingCause::Promotion)),
        facts: serde_json::Map::new(),
    };
    store.set_serving(&serves, &who).await.unwrap();
    assert_eq!(retract(digest).await, Retracted::Serves);
    store
        .set_serving(&ServingOrder { to: None, ..serves }, &who)
        .await
        .unwrap();
    assert!(matches!(retract(digest).await, Retracted::Now { .. }));
    assert_eq!(retract(digest).await, Retracted::Already);
    assert_eq!(retract(Digest::of(b"?")).await, Retracted::Unknown);
    assert_eq!(controls(bed).await.published.len(), 1);
    let all = store.published(10).await.unwrap();
    assert_eq!(all.len(), 2);
    assert_eq!(
        all.iter().filter(|row| row.retracted_by.is_some()).count(),
        1
    );
    // It never was anything else, and comes back as it was.
    assert_eq!(publish("1.0.0", b"third", None).await, taken);
    assert!(matches!(
        publish("1.0.0", &bytes, None).await,
        Published::Now { .. }
    ));
    assert_eq!(controls(bed).await.published.len(), 2);

    for (event_type, n) in [("plugin_published", 4), ("plugin_retracted", 1)] {
        let filter = EventFilter {
            event_type: Some(event_type.to_owned()),
            limit: 100,
            ..EventFilter::default()
        };
        let events = store.events(&filter).await.unwrap();
        assert_eq!(events.len(), n, "{event_type}");
        assert_eq!(events[0].reason.as_deref(), Some("it is good"));
        assert_eq!(events[0].payload["actor"], "anna");
    }
}

async fn a_pause_lasts_until_it_is_taken_back(bed: &Bed) {
    let (store, route) = (&bed.store, key(BUILD_TEST));
    let anna = by("anna", "the disk is full");
    assert_ne!(store.pause(&route, &anna).await.unwrap(), Decided::Already);
    assert_eq!(
        store.pause(&route, &by("ben", "")).await.unwrap(),
        Decided::Already
    );
    let paused = controls(bed).await.pauses;
    let row = &paused[&route];
    assert_eq!(
        (row.actor.as_str(), row.reason.as_deref()),
        ("anna", Some("the disk is full"))
    );
    assert_eq!(
        store.resume(&key(DOCS), &anna).await.unwrap(),
        Decided::Already
    );
    assert_ne!(
        store.resume(&route, &by("ben", "")).await.unwrap(),
        Decided::Already
    );
    assert!(controls(bed).await.pauses.is_empty());
    let held = events(bed, "route_held").await;
    assert_eq!(held.len(), 1);
    assert_eq!(held[0].payload["cause"], "paused");
    assert_eq!(held[0].payload["actor"], "anna");
    let released = events(bed, "route_released").await;
    assert_eq!(released.len(), 1);
    assert_eq!(released[0].payload["actor"], "ben");
}

async fn an_approval_is_in_force_until_it_is_over(bed: &Bed) {
    let hour = Duration::from_secs(3600);
    let row = bed
        .store
        .approve(&approval(BUILD_TEST, hour))
        .await
        .unwrap();
    assert!((3_500_000..=3_600_000).contains(&row.left_ms), "{row:?}");
    assert_eq!(row.expires_at - row.created_at, chrono::Duration::hours(1));
    let known = controls(bed).await.approvals;
    assert_eq!(known.len(), 1);
    assert_eq!(known[0].id, row.id);
    assert!(
        (3_500_000..=3_600_000).contains(&known[0].left_ms),
        "{known:?}"
    );
    let told = events(bed, "fallback_approved").await;
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].payload["approval"], row.id.0);
    assert_eq!(told[0].payload["actor"], "anna");
    assert_eq!(told[0].reason.as_deref(), Some("the worker is down"));

    let which = format!("id = '{}'", row.id);
    bed.door
        .age("executor_approvals", "expires_at", hour, &which)
        .await;
    assert!(controls(bed).await.approvals.is_empty());
    // It is remembered, and cannot be revoked any more.
    let all = bed.store.approvals(10).await.unwrap();
    assert_eq!((all.len(), all[0].left_ms, all[0].revoked_at), (1, 0, None));
    let over = bed.store.revoke(&row.id, &by("ben", "")).await.unwrap();
    assert_eq!(over, Revoked::Over);
}

async fn an_approval_is_revoked_once(bed: &Bed) {
    let hour = Duration::from_secs(3600);
    let row = bed
        .store
        .approve(&approval(BUILD_TEST, hour))
        .await
        .unwrap();
    let unknown = ApprovalId("fa-0".to_owned());
    let ben = by("ben", "it is back");
    assert_eq!(
        bed.store.revoke(&unknown, &ben).await.unwrap(),
        Revoked::Unknown
    );
    let Revoked::Now { trace_id } = bed.store.revoke(&row.id, &ben).await.unwrap() else {
        panic!("it was in force");
    };
    assert!(controls(bed).await.approvals.is_empty());
    assert_eq!(
        bed.store.revoke(&row.id, &ben).await.unwrap(),
        Revoked::Over
    );
    let all = bed.store.approvals(10).await.unwrap();
    assert_eq!(all[0].revoked_by.as_deref(), Some("ben"));
    assert_eq!(all[0].left_ms, 0);
    let told = events(bed, "fallback_revoked").await;
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].trace_id.as_deref(), Some(trace_id.as_str()));
    assert_eq!(told[0].payload["approval"], row.id.0);
}

async fn the_longest_approval_comes_first(bed: &Bed) {
    let mut ids = Vec::new();
    for minutes in [10, 30, 20] {
        let ttl = Duration::from_secs(minutes * 60);
        ids.push(
            bed.store
                .approve(&approval(BUILD_TEST, ttl))
                .await
                .unwrap()
                .id,
        );
    }
    let known = controls(bed).await.approvals.into_iter();
    let order: Vec<ApprovalId> = known.map(|approval| approval.id).collect();
    assert_eq!(order, [ids[1].clone(), ids[2].clone(), ids[0].clone()]);
    let newest = bed.store.approvals(1).await.unwrap();
    assert_eq!(newest.len(), 1);
}

async fn who_comes_by_the_database_is_named_by_its_role(bed: &Bed) {
    let role = Decision {
        by: Decider::DatabaseRole,
        reason: None,
    };
    bed.store.pause(&key(BUILD_TEST), &role).await.unwrap();
    let paused = controls(bed).await.pauses;
    let actor = &paused[&key(BUILD_TEST)].actor;
    assert!(["local", "cogo"].contains(&actor.as_str()), "{actor}");
    assert_eq!(events(bed, "route_held").await[0].payload["actor"], **actor);
}

async fn what_cannot_be_read_hides_nothing_else(bed: &Bed) {
    let anna = by("anna", "");
    bed.store.pause(&key(BUILD_TEST), &anna).await.unwrap();
    bed.door
        .execute("INSERT INTO executor_pauses (route, actor) VALUES ('no route', 'by hand')")
        .await;
    let known = controls(bed).await;
    assert_eq!(known.pauses.len(), 1);
    assert_eq!(known.unreadable.len(), 1);
    assert!(
        known.unreadable[0].starts_with("table `executor_pauses`, row \"no route\": "),
        "{:?}",
        known.unreadable
    );
}
