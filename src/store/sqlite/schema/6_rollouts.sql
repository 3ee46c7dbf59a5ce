-- Rollouts of plugin versions, kept after they ended. Only who names the revision
-- that one has may change it.

CREATE TABLE executor_rollouts (
  id            TEXT NOT NULL PRIMARY KEY,
  route         TEXT NOT NULL,
  plugin        TEXT NOT NULL,
  candidate     TEXT NOT NULL,
  stable        TEXT,
  steps         TEXT NOT NULL,
  interval_ms   INTEGER NOT NULL,
  revision      INTEGER NOT NULL,
  state         TEXT NOT NULL CHECK (state IN
                  ('waiting', 'step', 'held', 'paused', 'promoted', 'rolled_back', 'aborted')),
  step          INTEGER,
  -- What ended before this is no evidence of the step.
  step_began_at TEXT,
  began_at      TEXT,
  why           TEXT,
  actor         TEXT,
  started_by    TEXT NOT NULL,
  reason        TEXT,
  trace_id      TEXT NOT NULL,
  started_at    TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
  changed_at    TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
) STRICT;

-- One at a time on a route, and one of a plugin.
CREATE UNIQUE INDEX executor_rollouts_route ON executor_rollouts (route)
WHERE state IN ('waiting', 'step', 'held', 'paused');

CREATE UNIQUE INDEX executor_rollouts_plugin ON executor_rollouts (plugin)
WHERE state IN ('waiting', 'step', 'held', 'paused');

CREATE INDEX executor_rollouts_started ON executor_rollouts (started_at);

-- The side that an attempt ran on, and its rollout: `candidate@ro-0123456789`.
ALTER TABLE executor_attempts ADD COLUMN rollout_side TEXT;

-- What rollouts look at: an attempt without one costs nothing here.
CREATE INDEX executor_attempts_rollout ON executor_attempts (rollout_side, ended_at)
WHERE rollout_side IS NOT NULL;
