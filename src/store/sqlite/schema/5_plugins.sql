-- Which version of a plugin serves on every host, where that is decided on the
-- bus; and what each host could run at once.

CREATE TABLE executor_serving (
  plugin     TEXT NOT NULL PRIMARY KEY,
  digest     TEXT NOT NULL,
  cause      TEXT NOT NULL CHECK (cause IN ('promotion', 'rollback')),
  actor      TEXT NOT NULL,
  reason     TEXT,
  trace_id   TEXT NOT NULL,
  changed_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
) STRICT;

ALTER TABLE executor_hosts ADD COLUMN digests TEXT NOT NULL DEFAULT '[]';
