-- The bus: tasks, events, attempts, artifacts, hosts.
--
-- Instants are text in UTC, `2026-01-31T12:00:00.000Z`, so that they sort as
-- they are; JSON is text. Statements are parted by blank lines.

-- Other programs insert here by naming only the columns they know. A row with a
-- null `lease_epoch` is such a row until its first claim.
CREATE TABLE agent_messages (
  id                  TEXT NOT NULL PRIMARY KEY DEFAULT (
    -- A random UUID, version 4.
    lower(hex(randomblob(4)) || '-' || hex(randomblob(2))
      || '-4' || substr(hex(randomblob(2)), 2)
      || '-' || substr('89AB', 1 + (random() & 3), 1) || substr(hex(randomblob(2)), 2)
      || '-' || hex(randomblob(6)))
  ) CHECK (
    id GLOB '????????-????-????-????-????????????'
    AND length(replace(id, '-', '')) = 32
    AND id NOT GLOB '*[^-0-9a-fA-F]*'
  ),
  created_at          TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
  service             TEXT NOT NULL,
  role                TEXT NOT NULL,
  shard               INTEGER NOT NULL DEFAULT 0 CHECK (shard BETWEEN -2147483648 AND 2147483647),
  tenant              TEXT,
  payload             TEXT NOT NULL DEFAULT '{}',
  status              TEXT NOT NULL DEFAULT 'queued'
                      CHECK (status IN ('queued', 'claimed', 'done', 'failed')),
  claimed_by          TEXT,
  claimed_at          TEXT,
  done_at             TEXT,
  error               TEXT,
  attempts            INTEGER NOT NULL DEFAULT 0,
  last_error_at       TEXT,
  retry_at            TEXT,
  result_snippet      TEXT,
  result_url          TEXT,
  trace_id            TEXT,
  task_id             TEXT,
  priority            INTEGER NOT NULL DEFAULT 0,
  max_attempts        INTEGER,
  unique_key          TEXT,
  lease_epoch         INTEGER,
  lease_expires_at    TEXT,
  cancel_requested_at TEXT,
  host_faults         INTEGER NOT NULL DEFAULT 0,
  rollout_side        TEXT,
  result              TEXT
) STRICT;

-- Brings what other programs write in another form of ISO 8601, or as an
-- upper-case UUID, into the form that everything here compares by. An instant
-- that SQLite cannot read becomes now.
CREATE TRIGGER agent_messages_normalise_insert
AFTER INSERT ON agent_messages
WHEN NEW.id GLOB '*[A-F]*'
  OR NEW.created_at NOT GLOB '????-??-??T??:??:??.???Z'
  OR coalesce(NEW.retry_at NOT GLOB '????-??-??T??:??:??.???Z', FALSE)
  OR coalesce(NEW.claimed_at NOT GLOB '????-??-??T??:??:??.???Z', FALSE)
  OR coalesce(NEW.done_at NOT GLOB '????-??-??T??:??:??.???Z', FALSE)
  OR coalesce(NEW.last_error_at NOT GLOB '????-??-??T??:??:??.???Z', FALSE)
BEGIN
  UPDATE agent_messages
  SET id = lower(id),
      created_at = coalesce(strftime('%Y-%m-%dT%H:%M:%fZ', created_at),
                            strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
      retry_at = iif(retry_at IS NULL, NULL,
                     coalesce(strftime('%Y-%m-%dT%H:%M:%fZ', retry_at),
                              strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))),
      claimed_at = iif(claimed_at IS NULL, NULL,
                       coalesce(strftime('%Y-%m-%dT%H:%M:%fZ', claimed_at),
                                strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))),
      done_at = iif(done_at IS NULL, NULL,
                    coalesce(strftime('%Y-%m-%dT%H:%M:%fZ', done_at),
                             strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))),
      last_error_at = iif(last_error_at IS NULL, NULL,
                          coalesce(strftime('%Y-%m-%dT%H:%M:%fZ', last_error_at),
                                   strftime('%Y-%m-%dT%H:%M:%fZ', 'now')))
  WHERE rowid = NEW.rowid;
END;

CREATE TRIGGER agent_messages_normalise_update
AFTER UPDATE OF created_at, retry_at, claimed_at, done_at, last_error_at ON agent_messages
WHEN NEW.created_at NOT GLOB '????-??-??T??:??:??.???Z'
  OR coalesce(NEW.retry_at NOT GLOB '????-??-??T??:??:??.???Z', FALSE)
  OR coalesce(NEW.claimed_at NOT GLOB '????-??-??T??:??:??.???Z', FALSE)
  OR coalesce(NEW.done_at NOT GLOB '????-??-??T??:??:??.???Z', FALSE)
  OR coalesce(NEW.last_error_at NOT GLOB '????-??-??T??:??:??.???Z', FALSE)
BEGIN
  UPDATE agent_messages
  SET created_at = coalesce(strftime('%Y-%m-%dT%H:%M:%fZ', created_at),
                            strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
      retry_at = iif(retry_at IS NULL, NULL,
                     coalesce(strftime('%Y-%m-%dT%H:%M:%fZ', retry_at),
                              strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))),
      claimed_at = iif(claimed_at IS NULL, NULL,
                       coalesce(strftime('%Y-%m-%dT%H:%M:%fZ', claimed_at),
                                strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))),
      done_at = iif(done_at IS NULL, NULL,
                    coalesce(strftime('%Y-%m-%dT%H:%M:%fZ', done_at),
                             strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))),
      last_error_at = iif(last_error_at IS NULL, NULL,
                          coalesce(strftime('%Y-%m-%dT%H:%M:%fZ', last_error_at),
                                   strftime('%Y-%m-%dT%H:%M:%fZ', 'now')))
  WHERE rowid = NEW.rowid;
END;

-- The claim's order. Shard and priority before the due time make lanes, each of
-- which is read from its oldest row on and no further than now.
CREATE INDEX agent_messages_due
ON agent_messages (service, role, shard, priority, coalesce(retry_at, created_at), id, tenant)
WHERE status = 'queued';

-- Leases of ours, by expiry.
CREATE INDEX agent_messages_lease
ON agent_messages (lease_expires_at)
WHERE status = 'claimed' AND lease_expires_at IS NOT NULL;

-- Claims without a lease belong to foreign workers.
CREATE INDEX agent_messages_foreign
ON agent_messages (service, role, coalesce(claimed_at, created_at))
WHERE status = 'claimed' AND lease_expires_at IS NULL;

CREATE INDEX agent_messages_cancelling
ON agent_messages (claimed_by)
WHERE status = 'claimed' AND cancel_requested_at IS NOT NULL;

-- When a waiting task's time to live runs out, in milliseconds of the Julian
-- day. The text search keeps tasks without an assignment out, cheaply; what is
-- no JSON, or no whole number, has no time to live.
CREATE INDEX agent_messages_expiry
ON agent_messages (
  CASE
    WHEN json_valid(payload) AND created_at GLOB '[0-9]*'
      AND json_type(payload, '$.__assignment.ttl_ms') = 'integer'
    THEN julianday(created_at) * 86400000.0 + json_extract(payload, '$.__assignment.ttl_ms')
  END
)
WHERE status = 'queued' AND instr(payload, '"__assignment"') > 0;

CREATE UNIQUE INDEX agent_messages_unique
ON agent_messages (unique_key)
WHERE unique_key IS NOT NULL AND status IN ('queued', 'claimed');

-- For gates over a window, and for retention.
CREATE INDEX agent_messages_ended
ON agent_messages (coalesce(done_at, last_error_at, created_at), status)
WHERE status IN ('done', 'failed');

CREATE INDEX agent_messages_trace
ON agent_messages (trace_id)
WHERE trace_id IS NOT NULL;

CREATE INDEX agent_messages_label
ON agent_messages (task_id)
WHERE task_id IS NOT NULL;

CREATE INDEX agent_messages_created
ON agent_messages (created_at);

-- Ids are never used again, so that a reader can follow by id.
CREATE TABLE bus_events (
  id         INTEGER PRIMARY KEY AUTOINCREMENT,
  created_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
  event_type TEXT NOT NULL,
  message_id TEXT,
  service    TEXT,
  role       TEXT,
  shard      INTEGER,
  tenant     TEXT,
  trace_id   TEXT,
  reason     TEXT,
  payload    TEXT NOT NULL DEFAULT '{}'
) STRICT;

CREATE INDEX bus_events_trace ON bus_events (trace_id);

CREATE INDEX bus_events_created ON bus_events (created_at);

CREATE INDEX bus_events_message ON bus_events (message_id);

-- One row for each attempt that ended; a rescue writes those that vanished.
CREATE TABLE executor_attempts (
  message_id        TEXT NOT NULL,
  lease_epoch       INTEGER NOT NULL,
  attempt           INTEGER NOT NULL,
  host              TEXT NOT NULL,
  plugin            TEXT,
  version           TEXT,
  digest            TEXT,
  kind              TEXT,
  stage             TEXT,
  why               TEXT,
  claimed_at        TEXT,
  ended_at          TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
  wait_ms           INTEGER NOT NULL DEFAULT 0,
  run_ms            INTEGER NOT NULL DEFAULT 0,
  outcome           TEXT NOT NULL,
  code              TEXT,
  blame             TEXT,
  usage             TEXT NOT NULL DEFAULT '{}',
  peak_memory_bytes INTEGER NOT NULL DEFAULT 0,
  outbound_requests INTEGER NOT NULL DEFAULT 0,
  spans             TEXT NOT NULL DEFAULT '[]',
  log               TEXT NOT NULL DEFAULT '[]',
  log_dropped       INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (message_id, lease_epoch)
) STRICT;

CREATE INDEX executor_attempts_ended ON executor_attempts (ended_at);

-- What settled attempts published; the bytes lie elsewhere, by their digest.
CREATE TABLE executor_artifacts (
  message_id   TEXT NOT NULL,
  lease_epoch  INTEGER NOT NULL,
  task_id      TEXT NOT NULL,
  trace_id     TEXT NOT NULL,
  path         TEXT NOT NULL,
  content_type TEXT NOT NULL,
  digest       TEXT NOT NULL,
  bytes        INTEGER NOT NULL,
  created_at   TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
  PRIMARY KEY (message_id, lease_epoch, path)
) STRICT;

CREATE INDEX executor_artifacts_label ON executor_artifacts (task_id, path, created_at);

-- The host processes that show themselves.
CREATE TABLE executor_hosts (
  holder     TEXT NOT NULL PRIMARY KEY,
  name       TEXT NOT NULL,
  stage      TEXT NOT NULL,
  version    TEXT NOT NULL,
  api        TEXT,
  started_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
  seen_at    TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
) STRICT;
