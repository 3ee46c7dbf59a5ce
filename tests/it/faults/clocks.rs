//! Hosts whose clocks are wrong by an hour. Leases, retries and waits go by the
//! database's clock alone.

use chrono::{DateTime, Utc};
use serde_json::Value;

use super::chance;
use super::fleet::{Bus, Member};
use super::load::{Hosts, Load, taking};

/// Far longer than any test, far shorter than the clocks are apart: a host that
/// judged by its own clock would take or lose every lease at once.
const LEASE_MS: u64 = 120_000;

/// How far the clock of a host is ahead, by its own log.
fn hours_ahead(member: &Member) -> i64 {
    let log = member.log();
    let line = log.lines().find(|line| line.contains("serving")).unwrap();
    let line: Value = serde_json::from_str(line).unwrap();
    let said: DateTime<Utc> = line["timestamp"].as_str().unwrap().parse().unwrap();
    let ahead = said - Utc::now();
    (ahead.num_minutes() + 60 * 24 + 30) / 60 - 24
}

#[test]
fn clocks_an_hour_apart_steal_nothing() {
    let mut chance = chance("clocks_an_hour_apart_steal_nothing");
    let bus = Bus::crowded();
    let host = |name: &str, offset: &str| {
        let member = Member::new(name, &bus.url, LEASE_MS);
        member.at_clock(offset).started()
    };
    let ahead = host("ahead", "+1h");
    let behind = host("behind", "-1h");
    let right = Member::new("right", &bus.url, LEASE_MS).started();
    assert_eq!(hours_ahead(&ahead), 1);
    assert_eq!(hours_ahead(&behind), -1);
    assert_eq!(hours_ahead(&right), 0);
    let mut hosts = [ahead, behind, right];
    let mut load = Load::default();
    // Several sweeps for expired leases pass while these run; some fail at
    // first and are due again within the second, not within the hour.
    let mut tasks = load.mixed(&mut chance, 200);
    tasks.extend((0..24).map(|_| load.done(taking(3_000))));
    bus.submit(&tasks);
    let lost = load.verdict(&bus, Hosts::Lived);
    assert!(lost.is_empty(), "stolen from {lost:?}");
    assert_eq!(bus.count_events("task_rescued", None), 0);
    assert_eq!(bus.count_events("lease_lost", None), 0);
    for host in &mut hosts {
        let holder = host.holder();
        let sql = format!("SELECT count(*) FROM executor_attempts WHERE host = '{holder}'");
        assert!(bus.numbers(&sql)[0] > 0, "{holder} did nothing");
        host.drain();
        bus.check_drained(&holder);
    }
}
