//! A host that is stopped for longer than its leases and then goes on, not
//! knowing that any time has passed.

use super::SETTLE;
use super::fleet::{Bus, Member, SHORT_LEASE_MS};
use super::load::taking;
use crate::support::process::until;

#[test]
fn what_a_stopped_host_writes_late_is_refused() {
    const TASKS: usize = 6;
    let bus = Bus::crowded();
    bus.install_gate();
    let mut sleeper = Member::new("sleeper", &bus.url, SHORT_LEASE_MS).started();
    let holder = sleeper.holder();
    let tasks: Vec<_> = (0..TASKS).map(|_| taking(300)).collect();
    bus.submit(&tasks);
    until("the host holds the tasks", &mut || {
        (bus.held_by(&holder) == TASKS as i64).then_some(())
    });
    // What it writes waits in the server until it is stopped, and is undone:
    // it will have to write that again.
    let gate = bus.close_gate();
    let pid = until("a settlement waits at the gate", &mut || {
        gate.waiting(&sleeper.name, SETTLE)
    });
    sleeper.process().signal("STOP");
    bus.undo(pid);
    drop(gate);
    let stopped = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint";
    let since = bus.numbers(stopped)[0];
    let awake = Member::new("awake", &bus.url, SHORT_LEASE_MS).started();
    bus.until_ended(&tasks);
    until("three leases have passed", &mut || {
        let now = bus.numbers(stopped)[0];
        (now - since > 3 * SHORT_LEASE_MS as i64).then_some(())
    });
    sleeper.process().signal("CONT");
    until("the late settlement is refused", &mut || {
        (bus.count_events("lease_lost", None) > 0).then_some(())
    });
    for task in &tasks {
        assert_eq!(bus.outcomes(task.id), ["lost", "done"]);
        let attempts = bus.attempts(task.id);
        assert_eq!(attempts[0].host, holder);
        assert_eq!(attempts[1].host, awake.holder());
        assert_eq!(bus.count_events("execute_done", Some(task.id)), 1);
        assert_eq!(bus.count_events("task_rescued", Some(task.id)), 1);
    }
    bus.check();
    // It is a host like any other again.
    drop(awake);
    let more: Vec<_> = (0..TASKS).map(|_| taking(5)).collect();
    bus.submit(&more);
    bus.until_ended(&more);
    bus.check();
}
