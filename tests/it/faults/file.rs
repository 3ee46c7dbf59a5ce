//! `kill -9` of the host that owns a file.

use std::time::Duration;

use rand::Rng as _;

use super::fleet::{Bus, Member, SHORT_LEASE_MS};
use super::load::{Hosts, Load};
use super::{chance, times};

#[test]
fn a_file_survives_the_kills_of_its_host() {
    let mut chance = chance("a_file_survives_the_kills_of_its_host");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bus.db");
    let bus = Bus::file(&path).with_bystanders();
    let mut host = Member::new("owner", &bus.url, SHORT_LEASE_MS);
    let mut load = Load::default();
    for _ in 0..times(10) {
        bus.submit(&load.mixed(&mut chance, 60));
        let before = bus.tasks();
        let ended = before.iter().filter(|t| t.status.is_terminal()).count();
        host.start();
        bus.until("the host has ended some task", |tasks| {
            tasks.iter().filter(|t| t.status.is_terminal()).count() > ended
        });
        bus.submit(&load.mixed(&mut chance, 40));
        // The fault itself: any moment is as good as another.
        std::thread::sleep(Duration::from_millis(chance.random_range(0..40)));
        host.kill();
    }
    host.start();
    load.verdict(&bus, Hosts::Died);
    let holder = host.holder();
    host.drain();
    bus.check_drained(&holder);
    assert_eq!(bus.integrity(&path), "ok");
}
