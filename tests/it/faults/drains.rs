//! SIGTERM at load: what runs ends or is given back, and costs no attempt.

use std::io::{PipeReader, Read as _, Write as _};
use std::process::Stdio;
use std::time::Duration;

use rand::Rng as _;
use rustix::fs::{OFlags, fcntl_setfl};

use super::fleet::{Bus, LONG_LEASE_MS, Member};
use super::load::{Hosts, Load, stalled};
use super::{chance, times};
use crate::support::process::until;

#[test]
fn a_drain_at_load_burns_no_attempt() {
    const STALLED: usize = 4;
    let mut chance = chance("a_drain_at_load_burns_no_attempt");
    let bus = Bus::crowded();
    // Guests are asked to stop at once: three seconds are kept for that.
    let mut host = Member::new("drained", &bus.url, LONG_LEASE_MS).with("COGO_DRAIN_MS", "3000");
    let mut load = Load::default();
    let endless: Vec<_> = (0..STALLED).map(|_| stalled()).collect();
    bus.submit(&endless);
    for round in 0..times(20) {
        host.start();
        let holder = host.holder();
        bus.submit(&load.mixed(&mut chance, 40));
        // Every other time at any moment, even before there is anything to do.
        if round % 2 == 0 {
            until("guests run that do not end", &mut || {
                (bus.held_by(&holder) >= STALLED as i64).then_some(())
            });
        }
        // The fault itself: any moment is as good as another.
        std::thread::sleep(Duration::from_millis(chance.random_range(0..40)));
        host.drain();
        bus.check_drained(&holder);
        assert_eq!(bus.count_events("task_rescued", None), 0);
        for task in &endless {
            let row = bus.task(task.id);
            assert_eq!((row.status.as_str(), row.attempts), ("queued", 0));
            assert!(
                bus.outcomes(task.id)
                    .iter()
                    .all(|outcome| outcome == "drained")
            );
        }
        bus.check();
    }
    endless.iter().for_each(|task| bus.cancel(task.id));
    host.start();
    let lost = load.verdict(&bus, Hosts::Lived);
    assert!(lost.is_empty(), "burnt by {lost:?}");
}

#[test]
fn a_second_signal_ends_the_host_at_once() {
    let bus = Bus::crowded();
    let mut host = Member::new("hasty", &bus.url, LONG_LEASE_MS)
        .with("COGO_DRAIN_MS", "3600000")
        .started();
    let holder = host.holder();
    let task = stalled();
    bus.submit(std::slice::from_ref(&task));
    until("the guest runs", &mut || {
        (bus.held_by(&holder) == 1).then_some(())
    });
    host.process().signal("TERM");
    until("the host drains", &mut || {
        host.log().contains("draining").then_some(())
    });
    host.process().signal("TERM");
    assert_eq!(host.process().wait(), Some(143));
    // As after a crash: the lease runs out, and the task is somebody else's.
    bus.end_leases(&holder);
    let _other = Member::new("other", &bus.url, LONG_LEASE_MS).started();
    until("the other host has it", &mut || {
        (bus.outcomes(task.id) == ["lost"] && bus.held_by(&holder) == 0).then_some(())
    });
    bus.cancel(task.id);
    bus.until_ended(&[task]);
    bus.check();
}

/// A pipe that takes not one byte more, for a host that is stuck with its first
/// line; what reads it.
fn full_pipe() -> (PipeReader, Stdio) {
    let (reader, mut writer) = std::io::pipe().unwrap();
    fcntl_setfl(&writer, OFlags::NONBLOCK).unwrap();
    while writer.write(b" ").is_ok() {}
    fcntl_setfl(&writer, OFlags::empty()).unwrap();
    (reader, writer.into())
}

/// A host claims before it can say that it is ready.
#[test]
fn a_signal_before_the_host_is_ready_drains_it() {
    let bus = Bus::crowded();
    let host = Member::new("early", &bus.url, LONG_LEASE_MS).with("COGO_DRAIN_MS", "3000");
    let task = stalled();
    bus.submit(std::slice::from_ref(&task));
    let (mut nobody, stdout) = full_pipe();
    let mut process = host.start_unready(stdout);
    until("the host holds the task", &mut || {
        let held = "SELECT count(*) FROM agent_messages WHERE lease_expires_at IS NOT NULL";
        (bus.numbers(held)[0] == 1).then_some(())
    });
    process.signal("TERM");
    std::thread::spawn(move || nobody.read_to_end(&mut Vec::new()));
    assert_eq!(process.wait(), Some(0), "{}", process.stderr());
    // A claim that was under way may find the task given back, and give it back
    // once more.
    let outcomes = bus.outcomes(task.id);
    assert!(!outcomes.is_empty());
    assert!(outcomes.iter().all(|one| one == "drained"), "{outcomes:?}");
    assert_eq!(bus.task(task.id).attempts, 0);
    bus.cancel(task.id);
    bus.check();
}
