//! `kill -9` of hosts, at each point of a task's way and at any time.
//!
//! No fail points in the host: the database shows when the moment has come. A
//! gate in the server keeps a statement half done until its host is dead; then
//! it is undone, or goes through with nobody there to hear of it.

use std::time::Duration;

use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::{IndexedMutRandom as _, IndexedRandom as _};

use super::fleet::{Bus, CONCURRENCY, ClosedGate, LONG_LEASE_MS, Member, SHORT_LEASE_MS};
use super::load::{Hosts, Load, stalled, taking};
use super::{CLAIM, SETTLE, chance, times};
use crate::support::process::until;

/// Where a task is when its host dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    /// The claim was sent and is not committed.
    BeforeTheClaim,
    /// The claim commits and its host does not hear of it.
    AfterTheClaim,
    InTheGuest,
    /// The settlement was sent and is not committed.
    BeforeTheSettlement,
    /// The settlement commits and its host does not hear of it.
    AfterTheSettlement,
}

const MOMENTS: [Moment; 5] = [
    Moment::BeforeTheClaim,
    Moment::AfterTheClaim,
    Moment::InTheGuest,
    Moment::BeforeTheSettlement,
    Moment::AfterTheSettlement,
];

/// Kills a host at that moment of some task. `feed` gives it work, and is called
/// for as long as it has none.
fn kill_at(moment: Moment, bus: &Bus, member: &mut Member, feed: &mut dyn FnMut()) {
    let holder = member.holder();
    match moment {
        Moment::InTheGuest => {
            until("the host holds a task", &mut || holds(bus, &holder, feed));
            member.kill();
        }
        Moment::BeforeTheClaim | Moment::AfterTheClaim => {
            let gate = bus.close_gate();
            let pid = until("a claim waits at the gate", &mut || {
                let pid = gate.waiting(&member.name, CLAIM);
                pid.is_none().then(&mut *feed);
                pid
            });
            kill_behind(gate, pid, moment == Moment::BeforeTheClaim, bus, member);
        }
        Moment::BeforeTheSettlement | Moment::AfterTheSettlement => {
            let (gate, pid) = until("a settlement waits at the gate", &mut || {
                holds(bus, &holder, feed)?;
                let gate = bus.close_gate();
                let caught = until("it waits, or will not come", &mut || {
                    let pid = gate.waiting(&member.name, SETTLE);
                    // What the host held may have been settled just before.
                    let settled = bus.held_by(&holder) == 0;
                    (pid.is_some() || settled).then_some(pid)
                });
                Some((gate, caught?))
            });
            kill_behind(
                gate,
                pid,
                moment == Moment::BeforeTheSettlement,
                bus,
                member,
            );
        }
    }
}

fn holds(bus: &Bus, holder: &str, feed: &mut dyn FnMut()) -> Option<()> {
    let some = bus.held_by(holder) > 0;
    (!some).then(feed);
    some.then_some(())
}

/// Kills a host whose statement waits, and has that undone or lets it through.
fn kill_behind(gate: ClosedGate<'_>, pid: i64, undo: bool, bus: &Bus, member: &mut Member) {
    member.kill();
    if undo {
        bus.undo(pid);
    }
    drop(gate);
    bus.until_gone(pid);
}

fn one_task_survives_a_kill(moment: Moment, outcomes: &[&str]) {
    let bus = Bus::crowded();
    bus.install_gate();
    let mut member = Member::new("first", &bus.url, LONG_LEASE_MS).started();
    let task = match moment {
        Moment::InTheGuest => stalled(),
        _ => taking(50),
    };
    let holder = member.holder();
    let mut unsent = Some(task.clone());
    kill_at(moment, &bus, &mut member, &mut || {
        unsent
            .take()
            .into_iter()
            .for_each(|task| bus.submit(&[task]));
    });
    if moment == Moment::InTheGuest {
        bus.execute(
            "UPDATE agent_messages SET payload = '{\"repo\": \"r\"}'
             WHERE lease_expires_at IS NOT NULL",
        );
    }
    bus.end_leases(&holder);
    let _second = Member::new("second", &bus.url, LONG_LEASE_MS).started();
    bus.until_ended(std::slice::from_ref(&task));
    assert_eq!(bus.outcomes(task.id), outcomes);
    assert_eq!(bus.count_events("execute_done", Some(task.id)), 1);
    assert_eq!(bus.count_events("lease_lost", None), 0);
    bus.check();
}

#[test]
fn a_claim_that_did_not_commit_never_was() {
    one_task_survives_a_kill(Moment::BeforeTheClaim, &["done"]);
}

#[test]
fn a_claim_that_nobody_heard_of_is_rescued() {
    one_task_survives_a_kill(Moment::AfterTheClaim, &["lost", "done"]);
}

#[test]
fn a_guest_that_died_with_its_host_runs_again() {
    one_task_survives_a_kill(Moment::InTheGuest, &["lost", "done"]);
}

#[test]
fn a_settlement_that_did_not_commit_is_made_again() {
    one_task_survives_a_kill(Moment::BeforeTheSettlement, &["lost", "done"]);
}

#[test]
fn a_settlement_that_nobody_heard_of_stands() {
    one_task_survives_a_kill(Moment::AfterTheSettlement, &["done"]);
}

/// 50 kills over 3 hosts and 2,000 tasks.
#[test]
fn a_storm_of_kills_loses_nothing() {
    const TASKS_A_KILL: usize = 40;
    let mut chance = chance("a_storm_of_kills");
    let bus = Bus::crowded();
    bus.install_gate();
    let mut hosts: Vec<Member> = ["one", "two", "three"]
        .iter()
        .map(|name| Member::new(name, &bus.url, SHORT_LEASE_MS).started())
        .collect();
    let mut load = Load::default();
    let kills = times(50);
    for _ in 0..kills {
        bus.submit(&load.mixed(&mut chance, TASKS_A_KILL));
        let victim = hosts.choose_mut(&mut chance).unwrap();
        storm(&mut chance, &bus, &mut load, victim);
        victim.start();
        // What ended stays as it is.
        let _ = bus.tasks();
    }
    let lost: usize = load.verdict(&bus, Hosts::Died).values().sum();
    let bound = kills * CONCURRENCY;
    assert!(
        lost as u64 <= bound,
        "{lost} lost attempts in {kills} kills"
    );
    for host in &mut hosts {
        let holder = host.holder();
        host.drain();
        bus.check_drained(&holder);
    }
}

/// One kill, at a moment that the bus shows or at any time.
fn storm(chance: &mut StdRng, bus: &Bus, load: &mut Load, victim: &mut Member) {
    if chance.random_bool(0.5) {
        // The fault itself: any moment is as good as another.
        std::thread::sleep(Duration::from_millis(chance.random_range(0..60)));
        return victim.kill();
    }
    let moment = *MOMENTS.choose(chance).unwrap();
    let for_a_claim = matches!(moment, Moment::BeforeTheClaim | Moment::AfterTheClaim);
    kill_at(moment, bus, victim, &mut || {
        // Each of the others keeps at most one claim's worth from the victim.
        if for_a_claim || bus.is_idle() {
            bus.submit(&[load.done(taking(200))]);
        }
    });
}
