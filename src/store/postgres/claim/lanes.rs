//! Which lanes hold waiting tasks, and since when.
//!
//! A look finds them by hopping through the index from the head of one lane to
//! the head of the next. On its way to a head it passes the entries of rows that
//! left the lane and that no vacuum has removed, or may remove while somebody
//! keeps an old snapshot open: a million of them are a thousand pages. So what a
//! look finds is remembered, with the due time below which a lane held nothing,
//! and claims begin there.
//!
//! Where nothing waits, the lanes that did last are a guess at where the next
//! task comes in: a host that idles claims there before it looks.
//!
//! **Invariant:** what is remembered is a hint. A claim that finds nothing by it
//! looks again before it says so, and a claim that finds something looks again
//! once [`LONGEST`] is over, at the latest: a row that came into a lane nobody
//! knew, or below what is remembered, waits no longer than that.
//!
//! Shown by `tests/it/postgres/lanes.rs`.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::route::RouteKey;
use crate::store::Want;
use crate::store::postgres::columns::columns;
use crate::store::postgres::row::micros_of;
use crate::store::postgres::{PgCells, PostgresStore, Step};
use crate::store::turns::{Lane, Stop, Turns};

/// What is remembered is trusted for so long, whatever a look costs.
const LONGEST: Duration = Duration::from_secs(5);
/// A look is so cheap at best that more of them would show nothing new.
const SHORTEST: Duration = Duration::from_millis(20);
/// Looks take one part in so many of the time.
const SHARE: u32 = 50;

/// The wants and the lanes of each that hold waiting tasks, with the head of
/// each. Takes $1 to $5.
macro_rules! with_lanes {
    () => {
        "
WITH RECURSIVE want AS MATERIALIZED (
  SELECT place, service, role, tenant,
    coalesce(shard, -2147483648) AS first_shard, coalesce(shard, 2147483647) AS last_shard
  FROM unnest($1::bigint[], $2::text[], $3::text[], $4::integer[], $5::text[])
    AS want (place, service, role, shard, tenant)
),
lane AS (
  SELECT want.place, want.service, want.role, want.tenant AS wanted, want.last_shard,
    head.shard, head.priority, head.tenant, head.due
  FROM want
  CROSS JOIN LATERAL (
    SELECT coalesce(m.shard, 0) AS shard, m.priority, coalesce(m.tenant, '') AS tenant,
      coalesce(m.retry_at, m.created_at) AS due
    FROM agent_messages AS m
    WHERE m.status = 'queued' AND m.service = want.service AND m.role = want.role
      AND coalesce(m.shard, 0) >= want.first_shard
    ORDER BY coalesce(m.shard, 0), m.priority, coalesce(m.tenant, ''),
      coalesce(m.retry_at, m.created_at)
    LIMIT 1
  ) AS head
  WHERE head.shard <= want.last_shard
  UNION ALL
  SELECT lane.place, lane.service, lane.role, lane.wanted, lane.last_shard,
    head.shard, head.priority, head.tenant, head.due
  FROM lane
  CROSS JOIN LATERAL (
    SELECT coalesce(m.shard, 0) AS shard, m.priority, coalesce(m.tenant, '') AS tenant,
      coalesce(m.retry_at, m.created_at) AS due
    FROM agent_messages AS m
    WHERE m.status = 'queued' AND m.service = lane.service AND m.role = lane.role
      AND (coalesce(m.shard, 0), m.priority, coalesce(m.tenant, ''))
        > (lane.shard, lane.priority, lane.tenant)
    ORDER BY coalesce(m.shard, 0), m.priority, coalesce(m.tenant, ''),
      coalesce(m.retry_at, m.created_at)
    LIMIT 1
  ) AS head
  WHERE head.shard <= lane.last_shard
)"
    };
}

const LIST_DUE: &str = concat!(
    with_lanes!(),
    "
SELECT place, shard::bigint AS shard, priority::bigint AS priority, tenant, ",
    micros_of!("due"),
    " AS since
FROM lane
WHERE due <= now() AND (wanted IS NULL OR tenant = wanted)"
);

/// When the first task of any lane is due, in milliseconds from now.
const NEXT_DUE: &str = concat!(
    with_lanes!(),
    "
SELECT ceil(extract(epoch FROM
    min(least(greatest(due, '0001-01-01 UTC'), '9999-12-31 UTC')) - now()) * 1000
  )::bigint AS ms
FROM lane
WHERE wanted IS NULL OR tenant = wanted"
);

/// What makes two wants the same, however much room there is.
type Asked = (RouteKey, Option<i32>, Option<String>);

fn asked(want: &Want) -> Asked {
    (want.key.clone(), want.shard, want.tenant.clone())
}

/// What a look at the lanes of one want has shown.
struct Known {
    lanes: Vec<Lane>,
    /// Where there are none: those of the last look that showed any.
    last: Vec<Lane>,
    /// A guess took something since the look: there may be more, elsewhere too.
    guessed: bool,
    /// Below this due time a lane held nothing, in microseconds since 1970.
    since: HashMap<Lane, Option<i64>>,
    looked: Instant,
    /// How long the look took.
    cost: Duration,
}

/// The lanes that a guess comes to, of each want.
pub(super) type Guess = Vec<Vec<Lane>>;

/// Where a claim takes from.
#[derive(Clone, Copy)]
pub(super) enum At {
    /// Where something is known to wait.
    Known,
    /// Where something waited last.
    Last,
}

/// What this host remembers of the lanes, and whom it served last.
#[derive(Default)]
pub(in crate::store::postgres) struct Lanes {
    known: HashMap<Asked, Known>,
    turns: Turns,
    /// How long a look is trusted, where that is not for itself to say.
    trusted: Option<Duration>,
}

impl Lanes {
    pub(in crate::store::postgres) fn trust_for(&mut self, trusted: Duration) {
        self.trusted = Some(trusted.min(LONGEST));
    }

    fn is_stale(&self, want: &Want) -> bool {
        self.known.get(&asked(want)).is_none_or(|known| {
            let own = (known.cost * SHARE).clamp(SHORTEST, LONGEST);
            known.looked.elapsed() >= self.trusted.unwrap_or(own)
        })
    }

    pub(super) fn stops(&self, place: usize, want: &Want, room: u32, at: At) -> Vec<Stop<'_>> {
        let known = self.known.get(&asked(want));
        let lanes = known.map_or(&[][..], |known| match at {
            At::Known => known.lanes.as_slice(),
            At::Last => known.last.as_slice(),
        });
        self.turns.stops(place, want, room, lanes)
    }

    /// Where to guess, if nothing waited anywhere, so that a guess goes before
    /// nobody.
    pub(super) fn guess(&self, wants: &[Want], limit: u32) -> Option<Guess> {
        if self.trusted.is_some_and(|trusted| trusted.is_zero()) {
            return None;
        }
        let visited = wants.iter().map(|want| {
            let known = self.known.get(&asked(want));
            let known = known.filter(|known| known.lanes.is_empty() && !known.guessed)?;
            // With less room than lanes, a claim does not come to all of them.
            let room = usize::try_from(want.limit.min(limit)).unwrap_or(usize::MAX);
            let all = known.last.len() <= room;
            Some(if all { known.last.clone() } else { Vec::new() })
        });
        visited.collect()
    }

    /// Whether nothing is known to wait but where a guess has been in vain. What
    /// does is another claim's, so that the next one may guess again.
    pub(super) fn hold_no_more(&mut self, wants: &[Want], guess: Guess) -> bool {
        let all = wants.iter().zip(&guess).all(|(want, visited)| {
            let known = self.known.get(&asked(want));
            known.is_some_and(|known| known.lanes.iter().all(|lane| visited.contains(lane)))
        });
        for (want, visited) in wants.iter().zip(guess).filter(|_| all) {
            let known = self.known.get_mut(&asked(want));
            if let Some(known) = known.filter(|known| !known.lanes.is_empty()) {
                known.lanes.clear();
                known.since.clear();
                known.last = visited;
            }
        }
        all
    }

    /// Notes that a guess took something, so that a look comes before the next.
    pub(super) fn guessed(&mut self, wants: &[Want]) {
        for want in wants {
            if let Some(known) = self.known.get_mut(&asked(want)) {
                known.guessed = true;
            }
        }
    }

    pub(super) fn since(&self, want: &Want, lane: &Lane) -> Option<i64> {
        let known = self.known.get(&asked(want))?;
        known.since.get(lane).copied().flatten()
    }

    /// Notes a row that was taken: its lane held nothing older, for all we know.
    pub(super) fn taken(&mut self, want: &Want, lane: &Lane, since: Option<i64>) {
        self.turns.served(&want.key, lane.priority, &lane.tenant);
        let known = self.known.get_mut(&asked(want));
        if let Some(found) = known.and_then(|known| known.since.get_mut(lane)) {
            *found = since;
        }
    }
}

/// Looks where what is remembered is too old; whether that was everywhere.
pub(super) async fn look_again(store: &PostgresStore, wants: &[Want]) -> Step<bool> {
    let stale: Vec<Want> = {
        let lanes = store.lanes.lock();
        let stale = wants.iter().filter(|want| lanes.is_stale(want));
        stale.cloned().collect()
    };
    if !stale.is_empty() {
        look(store, &stale).await?;
    }
    Ok(stale.len() == wants.len())
}

/// Looks at all lanes of these wants.
pub(super) async fn look(store: &PostgresStore, wants: &[Want]) -> Step<()> {
    let begun = Instant::now();
    let columns = WantColumns::of(wants);
    let mut turn = store.connections.turn().await?;
    let query = columns.bind(turn.query(LIST_DUE));
    let rows = query.fetch_all(turn.conn()).await?;
    turn.finish().await?;
    let cost = begun.elapsed();
    let mut found: Vec<HashMap<Lane, Option<i64>>> = vec![HashMap::new(); wants.len()];
    for row in &rows {
        let cells = PgCells::of("agent_messages", row);
        let lane = Lane {
            priority: cells.int("priority")?.unwrap_or(0),
            tenant: cells.required_text("tenant")?,
            shard: cells.int32("shard")?,
        };
        if let Some(own) = found.get_mut(cells.place("place")?) {
            own.insert(lane, cells.int("since")?);
        }
    }
    let mut lanes = store.lanes.lock();
    for (want, since) in wants.iter().zip(found) {
        let before = lanes.known.remove(&asked(want));
        let last =
            before
                .filter(|_| since.is_empty())
                .map(|before| match before.lanes.is_empty() {
                    true => before.last,
                    false => before.lanes,
                });
        let known = Known {
            lanes: since.keys().cloned().collect(),
            last: last.unwrap_or_default(),
            guessed: false,
            since,
            looked: begun,
            cost,
        };
        lanes.known.insert(asked(want), known);
    }
    Ok(())
}

pub(in crate::store::postgres) async fn next_due(
    store: &PostgresStore,
    wants: &[Want],
) -> Step<Option<Duration>> {
    let columns = WantColumns::of(wants);
    let mut turn = store.connections.turn().await?;
    let query = columns.bind(turn.query(NEXT_DUE));
    let row = query.fetch_one(turn.conn()).await?;
    turn.finish().await?;
    let ms = PgCells::of("agent_messages", &row).int("ms")?;
    Ok(ms.map(|ms| Duration::from_millis(u64::try_from(ms).unwrap_or(0))))
}

columns! {
    struct WantCells;
    /// Wants, as [`with_lanes`] reads them.
    struct WantColumns {
        place: i64,
        service: &'a str,
        role: &'a str,
        shard: Option<i32>,
        tenant: Option<&'a str>,
    }
}

impl<'a> WantColumns<'a> {
    fn of(wants: &'a [Want]) -> Self {
        let mut columns = Self::default();
        for (place, want) in (0_i64..).zip(wants) {
            columns.push_row(WantCells {
                place,
                service: want.key.service(),
                role: want.key.role(),
                shard: want.shard,
                tenant: want.tenant.as_deref(),
            });
        }
        columns
    }
}
