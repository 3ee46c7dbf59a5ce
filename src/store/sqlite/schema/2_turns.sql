-- Tenants take turns within a priority: each has a lane of its own, which is
-- read from its oldest row on and no further than now.
CREATE INDEX agent_messages_turn
ON agent_messages (
  service, role, shard, priority, coalesce(tenant, ''), coalesce(retry_at, created_at), id
)
WHERE status = 'queued';

-- What came before it.
DROP INDEX agent_messages_due;
