//! The server of Postgres goes away under load and comes back. Hosts stay.

use super::chance;
use super::fleet::{Bus, Member, SHORT_LEASE_MS};
use super::load::{Hosts, Load, taking};
use super::times;
use crate::support::postgres::cluster::Cluster;

/// Tears the server down and starts it again, so often, with two hosts at work.
fn hosts_survive(test: &str, end: impl Fn(&Cluster)) {
    let mut chance = chance(test);
    let cluster = Cluster::start();
    let bus = Bus::alone(&cluster).with_bystanders();
    let mut hosts =
        ["one", "two"].map(|name| Member::new(name, &bus.url, SHORT_LEASE_MS).started());
    let mut load = Load::default();
    for _ in 0..times(5) {
        let mut tasks = load.mixed(&mut chance, 150);
        tasks.extend((0..10).map(|_| load.done(taking(400))));
        bus.submit(&tasks);
        bus.until("both hosts are at work", |tasks| {
            let held = |host: &Member| {
                let holder = host.holder();
                tasks
                    .iter()
                    .any(|task| task.claimed_by.as_ref() == Some(&holder))
            };
            hosts.iter().all(held)
        });
        end(&cluster);
        cluster.start_again();
        // They go on with what there was and with what comes.
        let tasks = load.mixed(&mut chance, 20);
        bus.submit(&tasks);
        bus.until_ended(&tasks);
        hosts.iter_mut().for_each(Member::must_run);
    }
    load.verdict(&bus, Hosts::Lived);
    for host in &mut hosts {
        let holder = host.holder();
        host.drain();
        bus.check_drained(&holder);
    }
}

#[test]
fn hosts_outlive_a_server_that_is_killed() {
    hosts_survive(
        "hosts_outlive_a_server_that_is_killed",
        Cluster::kill_postmaster,
    );
}

#[test]
fn hosts_outlive_a_server_that_is_restarted() {
    hosts_survive(
        "hosts_outlive_a_server_that_is_restarted",
        Cluster::stop_fast,
    );
}
