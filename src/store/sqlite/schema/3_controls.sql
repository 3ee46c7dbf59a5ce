-- What operators and the hosts decided about routes while they run: flags,
-- pauses, approvals of the fallback, breakers. A route is `service/role`.

CREATE TABLE executor_flags (
  route      TEXT NOT NULL PRIMARY KEY,
  enabled    INTEGER NOT NULL CHECK (enabled IN (0, 1)),
  actor      TEXT NOT NULL,
  reason     TEXT,
  changed_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
) STRICT;

CREATE TABLE executor_pauses (
  route     TEXT NOT NULL PRIMARY KEY,
  actor     TEXT NOT NULL,
  reason    TEXT,
  paused_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
) STRICT;

-- Kept after they ended, for whoever asks later who allowed a mock.
CREATE TABLE executor_approvals (
  id         TEXT NOT NULL PRIMARY KEY,
  route      TEXT NOT NULL,
  reason     TEXT NOT NULL,
  approver   TEXT NOT NULL,
  created_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
  expires_at TEXT NOT NULL,
  revoked_at TEXT,
  revoked_by TEXT
) STRICT;

CREATE INDEX executor_approvals_expiry ON executor_approvals (expires_at)
WHERE revoked_at IS NULL;

CREATE INDEX executor_approvals_created ON executor_approvals (created_at);

-- One row for each real path, a plugin on a route, that was ever down. Only who
-- names the revision that it has may change it.
CREATE TABLE executor_breakers (
  plugin        TEXT NOT NULL,
  route         TEXT NOT NULL,
  revision      INTEGER NOT NULL,
  state         TEXT NOT NULL CHECK (state IN ('closed', 'open', 'probing')),
  cause         TEXT,
  failed_probes INTEGER NOT NULL DEFAULT 0,
  probe_at      TEXT,
  probe_holder  TEXT,
  probe_until   TEXT,
  -- What began before this is no evidence.
  closed_at     TEXT,
  changed_at    TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
  PRIMARY KEY (plugin, route)
) STRICT;

-- The attempts that a worker is to blame for, which breakers look at: few, so
-- that an attempt which ends well costs nothing here.
CREATE INDEX executor_attempts_worker ON executor_attempts (ended_at)
WHERE blame = 'worker';
