//! Whose turn it is: the tenants of a route take turns within each priority,
//! so that one tenant's flood makes no other tenant wait behind it.
//!
//! The rule: a claim serves priorities from high to low. Within one it visits
//! the tenants that have due tasks in the order of their names, rows without a
//! tenant first, beginning after the tenant that was served last, and takes of
//! each its share of the room (at least one), oldest first; what room is left
//! then goes to them in the same order. So with `t` tenants waiting, a tenant
//! is served at the latest by the `t`-th claim that takes anything of its
//! priority, however much the others have queued. Each host remembers for
//! itself whom it served.
//!
//! Pure: what waits in, an order of stops out. No clock, no database.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;

use super::Want;
use crate::route::RouteKey;

/// What the index on waiting tasks keeps together, ordered by due time.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Lane {
    pub(super) priority: i64,
    /// Empty where there is none.
    pub(super) tenant: String,
    pub(super) shard: i32,
}

/// Rows to take of one tenant and priority, from all of its shards as one queue.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stop<'a> {
    /// Which want it answers.
    pub(super) place: usize,
    pub(super) priority: i64,
    pub(super) tenant: &'a str,
    pub(super) lanes: Vec<&'a Lane>,
    /// Rows that an earlier stop took already.
    pub(super) skip: u32,
    pub(super) take: u32,
}

/// Who was served last, for each route and priority.
#[derive(Debug, Default)]
pub(super) struct Turns {
    last: HashMap<(RouteKey, i64), String>,
}

impl Turns {
    /// More priorities than anybody uses; beyond it, all turns begin anew.
    const REMEMBERED: usize = 4096;

    /// Notes that a row of this tenant was handed out.
    pub(super) fn served(&mut self, route: &RouteKey, priority: i64, tenant: &str) {
        if self.last.len() >= Self::REMEMBERED {
            self.last.clear();
        }
        let key = (route.clone(), priority);
        self.last.insert(key, tenant.to_owned());
    }

    /// The stops of a claim of one want, which has these lanes and so much room.
    pub(super) fn stops<'a>(
        &self,
        place: usize,
        want: &Want,
        room: u32,
        lanes: &'a [Lane],
    ) -> Vec<Stop<'a>> {
        let mut steps: BTreeMap<i64, BTreeMap<&str, Vec<&Lane>>> = BTreeMap::new();
        for lane in lanes {
            let tenants = steps.entry(lane.priority).or_default();
            tenants.entry(&lane.tenant).or_default().push(lane);
        }
        let mut stops = Vec::new();
        for (priority, tenants) in steps.iter().rev() {
            let last = self.last.get(&(want.key.clone(), *priority));
            visit(place, *priority, tenants, last, room, &mut stops);
        }
        stops
    }
}

/// Adds the stops of one priority.
fn visit<'a>(
    place: usize,
    priority: i64,
    tenants: &BTreeMap<&'a str, Vec<&'a Lane>>,
    last: Option<&String>,
    room: u32,
    stops: &mut Vec<Stop<'a>>,
) {
    let waiting = u32::try_from(tenants.len()).unwrap_or(u32::MAX).max(1);
    let share = (room / waiting).max(1);
    let begin = last.map_or(Bound::Unbounded, |last| Bound::Excluded(last.as_str()));
    let after = tenants.range::<str, _>((begin, Bound::Unbounded));
    let mut turn: Vec<(&'a str, &Vec<&'a Lane>)> = after.map(|(name, own)| (*name, own)).collect();
    if let Some(last) = last {
        let until = tenants
            .iter()
            .take_while(|(name, _)| **name <= last.as_str());
        turn.extend(until.map(|(name, own)| (*name, own)));
    }
    // No more than there is room for, however many wait.
    turn.truncate(usize::try_from(room).unwrap_or(usize::MAX));
    let stop = |&(tenant, lanes): &(&'a str, &Vec<&'a Lane>), skip, take| Stop {
        place,
        priority,
        tenant,
        lanes: lanes.clone(),
        skip,
        take,
    };
    stops.extend(turn.iter().map(|own| stop(own, 0, share)));
    if waiting > 1 && share < room {
        stops.extend(turn.iter().map(|own| stop(own, share, room)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn want() -> Want {
        Want {
            key: "docs/render".parse().unwrap(),
            shard: None,
            tenant: None,
            limit: 100,
            reclaim_foreign_after: None,
            draw: None,
        }
    }

    fn lane(priority: i64, tenant: &str) -> Lane {
        Lane {
            priority,
            tenant: tenant.to_owned(),
            shard: 0,
        }
    }

    /// Each stop as tenant, rows skipped and rows taken.
    fn shown(turns: &Turns, room: u32, lanes: &[Lane]) -> Vec<(String, u32, u32)> {
        let stops = turns.stops(0, &want(), room, lanes);
        let each = stops.iter();
        each.map(|s| (s.tenant.to_owned(), s.skip, s.take))
            .collect()
    }

    fn stop(tenant: &str, skip: u32, take: u32) -> (String, u32, u32) {
        (tenant.to_owned(), skip, take)
    }

    #[test]
    fn one_tenant_has_all_the_room_at_one_stop() {
        let turns = Turns::default();
        assert_eq!(shown(&turns, 9, &[lane(0, "")]), [stop("", 0, 9)]);
        assert_eq!(shown(&turns, 9, &[]), []);
    }

    #[test]
    fn tenants_share_the_room_and_what_is_left_of_it() {
        let lanes = [lane(0, "b"), lane(0, "a")];
        let expected = [
            stop("a", 0, 4),
            stop("b", 0, 4),
            stop("a", 4, 9),
            stop("b", 4, 9),
        ];
        assert_eq!(shown(&Turns::default(), 9, &lanes), expected);
    }

    #[test]
    fn a_turn_begins_after_whom_was_served_last() {
        let mut turns = Turns::default();
        let lanes = [lane(0, ""), lane(0, "a"), lane(0, "b"), lane(7, "b")];
        let key = want().key;
        let mut served = Vec::new();
        for _ in 0..4 {
            // The higher priority goes first and keeps a turn of its own.
            let stops = shown(&turns, 1, &lanes);
            assert_eq!(stops[0], stop("b", 0, 1));
            served.push(stops[1].0.clone());
            turns.served(&key, 0, &stops[1].0);
        }
        assert_eq!(served, ["", "a", "b", ""]);
        // One who has nothing any more is passed by.
        turns.served(&key, 0, "azure");
        assert_eq!(shown(&turns, 1, &lanes)[1], stop("b", 0, 1));
    }

    #[test]
    fn shards_of_a_tenant_are_one_stop() {
        let other = Lane {
            shard: 4,
            ..lane(0, "a")
        };
        let lanes = [lane(0, "a"), other];
        let turns = Turns::default();
        let stops = turns.stops(3, &want(), 2, &lanes);
        assert_eq!(stops.len(), 1);
        assert_eq!((stops[0].place, stops[0].lanes.len()), (3, 2));
    }

    #[test]
    fn nobody_waits_longer_than_the_others_are_many() {
        // Any tenant's worst case: just passed by, and everybody has plenty.
        for n in 1..20_usize {
            let lanes: Vec<Lane> = (0..n).map(|i| lane(0, &format!("t{i:02}"))).collect();
            let mut turns = Turns::default();
            turns.served(&want().key, 0, "t00");
            let mut claims = 0;
            loop {
                claims += 1;
                let stops = shown(&turns, 1, &lanes);
                turns.served(&want().key, 0, &stops[0].0);
                if stops[0].0 == "t00" {
                    break;
                }
            }
            assert_eq!(claims, n);
        }
    }
}
