//! Attempts in a shadow: what they may do to the world, and what they leave.

use cogo_host::attempt::{Attempt, AttemptReport, InShadow, SideEffects};
use cogo_host::plugin::limits::Limits;
use cogo_host::plugin::load::Settings;
use cogo_host::report::Report;
use cogo_host::shadow::difference::{EFFECTS_REFUSED, End, Seen};

use super::harness::{Bench, attempt, completed, limited, load};
use super::server::{Answer, Server};
use crate::guest::fetch::Fetch;
use crate::guest::{Guest, Returns};

/// `error-code` number 16, as the guest tells it.
const DENIED: i32 = -16;

fn in_shadow(attempt: Attempt, side_effects: SideEffects) -> Attempt {
    Attempt {
        shadow: Some(InShadow {
            id: "sh-1".parse().unwrap(),
            side_effects,
        }),
        ..attempt
    }
}

/// Sends one request from a shadow; what the server got.
async fn sent(body: Option<u32>, side_effects: SideEffects) -> (AttemptReport, Vec<String>) {
    let server = Server::start(Answer::ok("")).await;
    let mut fetch = Fetch::get(&server.authority(), "/");
    fetch.body = body;
    let settings = Settings {
        allow: vec![server.origin()],
        ..Settings::default()
    };
    let plugin = load(&fetch.guest().egress(&[&server.origin()]), settings).await;
    let task = in_shadow(attempt(&plugin), side_effects);
    let report = Bench::new().run_attempt(&plugin, task).await;
    let requests = server.requests.lock().clone();
    (report, requests)
}

fn status(report: &AttemptReport) -> i32 {
    match &completed(report).report {
        Report::Sandbox { exit_code, .. } => *exit_code,
        other => panic!("expected a sandbox report, got {other:?}"),
    }
}

#[tokio::test]
async fn what_only_reads_goes_out_and_names_the_shadow() {
    let (report, requests) = sent(None, SideEffects::Refuse).await;
    assert_eq!(
        (status(&report), report.measured.effects_refused()),
        (200, 0)
    );
    let request = requests[0].to_ascii_lowercase();
    assert!(request.contains("\r\nx-cogo-shadow: sh-1\r\n"), "{request}");
}

#[tokio::test]
async fn what_would_have_an_effect_is_refused_and_counted() {
    let (report, requests) = sent(Some(3), SideEffects::Refuse).await;
    assert_eq!(
        (status(&report), report.measured.effects_refused()),
        (DENIED, 1)
    );
    assert!(requests.is_empty(), "{requests:?}");
    let told = report.measured.log.iter();
    assert!(
        told.map(|line| &line.message)
            .any(|line| line.contains("shadow"))
    );
}

#[tokio::test]
async fn effects_that_are_allowed_happen() {
    let (report, requests) = sent(Some(3), SideEffects::Allow).await;
    assert_eq!(
        (status(&report), report.measured.effects_refused()),
        (200, 0)
    );
    assert_eq!(requests.len(), 1);
}

/// A guest that fails unless the first byte of its idempotency key's length is
/// this: the key's length lies behind id and row of the task.
fn with_key_of(length: u32) -> Guest {
    Guest::new(&format!(
        "(if (i32.ne (i32.load offset=20 (local.get 0)) (i32.const {length})) (then unreachable))
         (i32.const 2048)"
    ))
}

#[tokio::test]
async fn a_shadow_has_an_idempotency_key_of_its_own() {
    // A UUID, and the same with `:sh-1`.
    let plain = load(&with_key_of(36), Settings::default()).await;
    completed(&Bench::new().run(&plain).await);
    let other = load(&with_key_of(41), Settings::default()).await;
    let task = in_shadow(attempt(&other), SideEffects::Allow);
    completed(&Bench::new().run_attempt(&other, task).await);
}

#[tokio::test]
async fn a_shadow_takes_no_place_of_its_plugin() {
    let limits = Limits {
        concurrency: 0,
        ..Limits::DEFAULT
    };
    let guest = Guest::returning(Returns::Sandbox {
        exit_code: 0,
        stdout: String::new(),
    });
    let plugin = load(&guest, limited(limits)).await;
    // Where an attempt would wait until its deadline, a shadow does not.
    let task = in_shadow(attempt(&plugin), SideEffects::Refuse);
    completed(&Bench::new().run_attempt(&plugin, task).await);
}

#[tokio::test]
async fn a_version_that_needs_effects_says_nothing_without_them() {
    let server = Server::start(Answer::ok("")).await;
    let mut fetch = Fetch::get(&server.authority(), "/");
    fetch.body = Some(3);
    let guest = fetch.guest().egress(&[&server.origin()]);
    let guest = Guest {
        // As an adapter does that cannot reach its worker.
        execute: guest.execute.clone() + " drop unreachable",
        ..guest
    };
    let settings = Settings {
        allow: vec![server.origin()],
        ..Settings::default()
    };
    let plugin = load(&guest, settings).await;
    let task = in_shadow(attempt(&plugin), SideEffects::Refuse);
    let report = Bench::new().run_attempt(&plugin, task).await;
    let seen = Seen::of(&report).end;
    assert!(
        matches!(&seen, End::Nothing { code, .. } if code == EFFECTS_REFUSED),
        "{seen:?}"
    );
    assert!(server.requests.lock().is_empty());
}
