-- Shadows: versions that run tasks again beside what serves, for comparison.

CREATE TABLE executor_shadows (
  id           TEXT NOT NULL PRIMARY KEY,
  route        TEXT NOT NULL,
  plugin       TEXT NOT NULL,
  candidate    TEXT NOT NULL,
  share        INTEGER NOT NULL,
  side_effects TEXT NOT NULL CHECK (side_effects IN ('refuse', 'allow')),
  started_by   TEXT NOT NULL,
  reason       TEXT,
  trace_id     TEXT NOT NULL,
  started_at   TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
  -- Tasks that it did not run since nothing was spare.
  dropped      INTEGER NOT NULL DEFAULT 0,
  ended_at     TEXT,
  ended_by     TEXT
) STRICT;

-- One at a time on a route.
CREATE UNIQUE INDEX executor_shadows_route ON executor_shadows (route)
WHERE ended_at IS NULL;

CREATE INDEX executor_shadows_started ON executor_shadows (started_at);

-- What they came to, kept as long as their tasks. `run` is all of it; what stands
-- beside it is what is asked for.
CREATE TABLE executor_shadow_runs (
  message_id     TEXT NOT NULL,
  shadow         TEXT NOT NULL,
  route          TEXT NOT NULL,
  digest         TEXT NOT NULL,
  outcome        TEXT NOT NULL,
  run_ms         INTEGER NOT NULL,
  stable_outcome TEXT NOT NULL,
  stable_run_ms  INTEGER NOT NULL,
  agrees         INTEGER,
  differences    TEXT NOT NULL,
  run            TEXT NOT NULL,
  ended_at       TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
  PRIMARY KEY (message_id, shadow)
) STRICT;

CREATE INDEX executor_shadow_runs_shadow ON executor_shadow_runs (shadow, ended_at);

-- What a rollout of the same version asks for.
CREATE INDEX executor_shadow_runs_version ON executor_shadow_runs (digest, route, ended_at)
WHERE agrees IS NOT NULL;
