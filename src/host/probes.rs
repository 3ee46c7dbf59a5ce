//! The probes of real paths that this host has taken: each is given to one task,
//! and comes back with what that task's attempt says of the worker.
//!
//! Pure bookkeeping between the bus's loop, which must not wait, and the driver
//! of the breakers, which talks to the database. That only one host has a probe
//! at a time is the database's doing.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::breaker::{RealPath, Said};

/// Kept by the attempt that has a probe, until it has ended.
pub type Token = Arc<()>;

/// How a probe stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It waits for a task, for so long.
    Ready(Duration),
    /// An attempt has it.
    UnderWay,
    Said(Said),
    /// The attempt that had it ended, so long ago, and said nothing.
    Lost(Duration),
}

enum Probe {
    Ready {
        since: Instant,
    },
    UnderWay {
        token: Weak<()>,
    },
    /// First seen without its attempt.
    Lost {
        since: Instant,
    },
    Said(Said),
}

/// The probes of this host. Never locked over an await.
#[derive(Default)]
pub struct Probes(Mutex<HashMap<RealPath, Probe>>);

impl Probes {
    /// A probe of this path is to be given to the next task.
    pub fn make_ready(&self, path: &RealPath) {
        let ready = Probe::Ready {
            since: Instant::now(),
        };
        self.0.lock().insert(path.clone(), ready);
    }

    pub fn is_ready(&self, path: &RealPath) -> bool {
        matches!(self.0.lock().get(path), Some(Probe::Ready { .. }))
    }

    /// Takes the probe, if it still waits for a task.
    pub fn take(&self, path: &RealPath) -> Option<Token> {
        let mut probes = self.0.lock();
        let probe = probes.get_mut(path)?;
        if !matches!(probe, Probe::Ready { .. }) {
            return None;
        }
        let token = Token::default();
        *probe = Probe::UnderWay {
            token: Arc::downgrade(&token),
        };
        Some(token)
    }

    /// What the attempt with the probe said.
    pub fn say(&self, path: &RealPath, said: Said) {
        if let Some(probe) = self.0.lock().get_mut(path) {
            *probe = Probe::Said(said);
        }
    }

    /// How the probe of a path stands; `None` where this host has none.
    pub fn standing(&self, path: &RealPath) -> Option<Standing> {
        let mut probes = self.0.lock();
        let probe = probes.get_mut(path)?;
        if let Probe::UnderWay { token } = probe
            && token.strong_count() == 0
        {
            // Its settlement may still be on the way.
            *probe = Probe::Lost {
                since: Instant::now(),
            };
        }
        Some(match probe {
            Probe::Ready { since } => Standing::Ready(since.elapsed()),
            Probe::UnderWay { .. } => Standing::UnderWay,
            Probe::Lost { since } => Standing::Lost(since.elapsed()),
            Probe::Said(said) => Standing::Said(*said),
        })
    }

    /// Lets go of a probe that no task took; whether none did.
    pub fn withdraw(&self, path: &RealPath) -> bool {
        let mut probes = self.0.lock();
        let ready = matches!(probes.get(path), Some(Probe::Ready { .. }));
        if ready {
            probes.remove(path);
        }
        ready
    }

    pub fn forget(&self, path: &RealPath) {
        self.0.lock().remove(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_goes_to_one_task_and_comes_back() {
        let probes = Probes::default();
        let path = RealPath {
            plugin: "cogo-worker".parse().unwrap(),
            route: "code/build-test".parse().unwrap(),
        };
        assert!(probes.take(&path).is_none());
        probes.make_ready(&path);
        let token = probes.take(&path).unwrap();
        assert!(probes.take(&path).is_none());
        assert!(!probes.withdraw(&path));
        assert_eq!(probes.standing(&path), Some(Standing::UnderWay));
        // The attempt is over before its settlement is on the bus.
        drop(token);
        assert!(matches!(probes.standing(&path), Some(Standing::Lost(_))));
        probes.say(&path, Said::Answered);
        let said = Some(Standing::Said(Said::Answered));
        assert_eq!(probes.standing(&path), said);
        probes.forget(&path);
        assert_eq!(probes.standing(&path), None);

        probes.make_ready(&path);
        assert!(probes.withdraw(&path));
        assert!(probes.take(&path).is_none());
    }
}
