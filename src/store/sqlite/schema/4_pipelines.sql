-- Runs of the pipeline, by the label of their task: what they wait for are tasks
-- like any other. Only who names the revision that a run has may change it.
CREATE TABLE executor_pipelines (
  task_id             TEXT NOT NULL PRIMARY KEY,
  trace_id            TEXT NOT NULL,
  state               TEXT NOT NULL
    CHECK (state IN ('codegen', 'build-test', 'done', 'cancelled')),
  revision            INTEGER NOT NULL,
  request             TEXT NOT NULL,
  actor               TEXT NOT NULL,
  codegen_id          TEXT,
  build_test_id       TEXT,
  cancel_requested_at TEXT,
  cancelled_by        TEXT,
  error               TEXT,
  decision            TEXT,
  created_at          TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
  updated_at          TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
  ended_at            TEXT
) STRICT;

CREATE INDEX executor_pipelines_open ON executor_pipelines (updated_at) WHERE ended_at IS NULL;

CREATE INDEX executor_pipelines_created ON executor_pipelines (created_at);

CREATE INDEX executor_pipelines_ended ON executor_pipelines (ended_at) WHERE ended_at IS NOT NULL;
