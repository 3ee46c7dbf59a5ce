-- The plugin versions that every host is to have. What is here never changes but
-- for a retraction; the bytes come last, so that nothing else reads over them.

CREATE TABLE executor_published (
  digest       TEXT NOT NULL PRIMARY KEY,
  name         TEXT NOT NULL,
  version      TEXT NOT NULL,
  bytes        INTEGER NOT NULL,
  signature    TEXT,
  actor        TEXT NOT NULL,
  reason       TEXT,
  published_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
  retracted_at TEXT,
  retracted_by TEXT,
  component    BLOB NOT NULL,
  UNIQUE (name, version)
) STRICT;

CREATE INDEX executor_published_latest ON executor_published (published_at)
WHERE retracted_at IS NULL;
