//! The wire between a host and the server breaks.

use std::time::{Duration, Instant};

use rand::Rng as _;
use rand::seq::SliceRandom as _;

use super::fleet::{Bus, LONG_LEASE_MS, Member, SHORT_LEASE_MS};
use super::load::{Hosts, Load, taking};
use super::{CLAIM, SETTLE, chance, times};
use crate::support::postgres::cluster;
use crate::support::process::until;
use crate::support::proxy::{Fate, Proxy, Wire};

/// One task by way of one wire on which one statement meets its fate; how its
/// attempts ended.
fn one_fate(statement: &'static str, fate: Fate) -> Vec<String> {
    let bus = Bus::crowded();
    let wire = Proxy::start(cluster().port());
    let mut host = Member::new("wired", &bus.url_by(wire.port()), LONG_LEASE_MS).started();
    wire.doom(statement, fate);
    let task = taking(0);
    bus.submit(std::slice::from_ref(&task));
    until("the statement is lost", &mut || {
        (wire.met() > 0).then_some(())
    });
    bus.until_ended(std::slice::from_ref(&task));
    // What it sends again has been answered when it ends.
    host.drain();
    bus.check();
    assert_eq!(bus.count_events("execute_done", Some(task.id)), 1);
    assert_eq!(bus.count_events("lease_lost", None), 0);
    bus.outcomes(task.id)
}

#[test]
fn a_settlement_whose_answer_is_lost_counts_once() {
    assert_eq!(one_fate(SETTLE, Fate::AnswerLost), ["done"]);
}

#[test]
fn a_settlement_that_is_lost_is_sent_again() {
    assert_eq!(one_fate(SETTLE, Fate::Lost), ["done"]);
}

#[test]
fn a_claim_that_is_lost_is_made_again() {
    assert_eq!(one_fate(CLAIM, Fate::Lost), ["done"]);
}

/// Its lease is ten minutes, which nobody waits for.
#[test]
fn a_task_whose_claim_lost_its_answer_is_given_back_at_once() {
    assert_eq!(one_fate(CLAIM, Fate::AnswerLost), ["host-fault", "done"]);
}

#[derive(Debug, Clone, Copy)]
enum Fault {
    Wire(Wire),
    /// The connections there are, several times.
    Cuts,
    Fate(&'static str, Fate),
}

const FAULTS: [Fault; 11] = [
    Fault::Wire(Wire::Refusing),
    Fault::Wire(Wire::BlackHole),
    Fault::Wire(Wire::Slow(Duration::from_millis(100))),
    // Slower than a lease: what is done over it comes too late.
    Fault::Wire(Wire::Slow(Duration::from_secs(2))),
    Fault::Cuts,
    Fault::Fate(SETTLE, Fate::AnswerLost),
    Fault::Fate(SETTLE, Fate::AnswerLost),
    Fault::Fate(SETTLE, Fate::Lost),
    Fault::Fate(CLAIM, Fate::AnswerLost),
    Fault::Fate(CLAIM, Fate::Lost),
    // The first claim of rows by other programs and a rescue are transactions.
    Fault::Fate("COMMIT", Fate::AnswerLost),
];

/// 22 faults on the wires of two hosts at work.
#[test]
fn broken_wires_lose_nothing() {
    let mut chance = chance("broken_wires_lose_nothing");
    let bus = Bus::crowded();
    let wires = [(); 2].map(|()| Proxy::start(cluster().port()));
    let names = ["left", "right"];
    let mut hosts = [0, 1]
        .map(|n| Member::new(names[n], &bus.url_by(wires[n].port()), SHORT_LEASE_MS).started());
    let mut load = Load::default();
    for _ in 0..times(2) {
        let mut faults = FAULTS;
        faults.shuffle(&mut chance);
        for fault in faults {
            let wire = &wires[chance.random_range(0..wires.len())];
            let tasks = load.mixed(&mut chance, 40);
            bus.submit(&tasks);
            match fault {
                Fault::Wire(broken) => {
                    wire.set(broken);
                    // The other host does it all, or this one in its time.
                    bus.until_ended(&tasks);
                    wire.set(Wire::Open);
                }
                Fault::Cuts => (0..5).for_each(|_| {
                    wire.cut();
                    let more = load.mixed(&mut chance, 10);
                    bus.submit(&more);
                    bus.until_ended(&more);
                }),
                Fault::Fate(statement, fate) => {
                    let before = wire.met();
                    wire.doom(statement, fate);
                    until("the statement is lost", &mut || {
                        if bus.is_idle() {
                            let row = load.done(taking(0));
                            bus.insert_foreign(&row);
                        }
                        (wire.met() > before).then_some(())
                    });
                    bus.until_ended(&tasks);
                }
            }
            hosts.iter_mut().for_each(Member::must_run);
        }
    }
    load.verdict(&bus, Hosts::Lived);
    let done_by = |holder: &str| {
        let sql = format!("SELECT count(*) FROM executor_attempts WHERE host = '{holder}'");
        bus.numbers(&sql)[0]
    };
    for host in &mut hosts {
        let holder = host.holder();
        assert!(done_by(&holder) > 0, "{holder} did nothing");
        host.drain();
        bus.check_drained(&holder);
    }
}

/// No error tells that such a wire is dead: what is under way ends because the
/// host stops waiting for it.
#[test]
fn a_wire_that_swallows_everything_for_long_is_outlived() {
    const LONG: Duration = Duration::from_secs(30);
    let bus = Bus::crowded();
    let wire = Proxy::start(cluster().port());
    let mut host = Member::new("swallowed", &bus.url_by(wire.port()), SHORT_LEASE_MS).started();
    let mut load = Load::default();
    // Something runs when it begins, and something comes while it lasts.
    let mut tasks = vec![load.done(taking(2_000))];
    bus.submit(&tasks);
    let holder = host.holder();
    until("a task runs", &mut || {
        (bus.held_by(&holder) == 1).then_some(())
    });
    wire.set(Wire::BlackHole);
    let begun = Instant::now();
    let waiting = load.done(taking(0));
    bus.submit(std::slice::from_ref(&waiting));
    until("the host says that nobody answers", &mut || {
        host.log().contains("did not answer within").then_some(())
    });
    until("it has lasted long enough", &mut || {
        host.must_run();
        (begun.elapsed() >= LONG).then_some(())
    });
    assert!(!bus.task(waiting.id).status.is_terminal());
    wire.set(Wire::Open);
    tasks.push(waiting);
    bus.until_ended(&tasks);
    load.verdict(&bus, Hosts::Lived);
    host.drain();
    bus.check_drained(&holder);
}

/// What a host sent long ago must not count when it arrives.
#[test]
fn a_settlement_that_arrives_after_its_lease_is_refused() {
    let bus = Bus::crowded();
    let wire = Proxy::start(cluster().port());
    let mut late = Member::new("late", &bus.url_by(wire.port()), LONG_LEASE_MS).started();
    let holder = late.holder();
    wire.doom(SETTLE, Fate::Late);
    let task = taking(0);
    bus.submit(std::slice::from_ref(&task));
    until("the settlement is on its way", &mut || {
        (wire.met() > 0).then_some(())
    });
    // So that only the other host can take the task again, and keeps it.
    late.process().signal("STOP");
    bus.execute(
        "UPDATE agent_messages
         SET payload = '{\"repo\": \"r\", \"mock\": {\"behaviour\": \"stall\"}}'
         WHERE lease_expires_at IS NOT NULL",
    );
    bus.end_leases(&holder);
    let other = Member::new("other", &bus.url, LONG_LEASE_MS).started();
    let other_holder = other.holder();
    until("the other host holds the task", &mut || {
        (bus.held_by(&other_holder) == 1).then_some(())
    });
    wire.release();
    late.process().signal("CONT");
    until("the late settlement is refused", &mut || {
        let refused = bus.count_events("lease_lost", Some(task.id));
        (refused == 1).then_some(())
    });
    bus.cancel(task.id);
    bus.until_ended(std::slice::from_ref(&task));
    assert_eq!(bus.outcomes(task.id), ["lost", "cancelled"]);
    let hosts: Vec<String> = bus.attempts(task.id).into_iter().map(|a| a.host).collect();
    assert_eq!(hosts, [holder, other_holder]);
    bus.check();
    late.must_run();
}
