//! A bus to test on: the store, and a back door for what the store would never
//! do itself.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use cogo_host::ids::MessageId;
use cogo_host::store::Store;

use super::invariants::Watch;

/// One fresh, migrated bus.
pub struct Bed {
    pub store: Arc<dyn Store>,
    pub door: Box<dyn Backdoor>,
    pub watch: Watch,
}

/// SQL as another program would send it, in the words of either database.
#[async_trait]
pub trait Backdoor: Send + Sync {
    async fn execute(&self, sql: &str);

    /// The first column of the first row, as a number.
    async fn number(&self, sql: &str) -> i64;

    /// Whether a payload may be text that is no JSON.
    fn keeps_broken_json(&self) -> bool;

    /// Gives back what the bus took up, once its test has ended.
    async fn discard(&self) {}

    /// Moves an instant of the rows that `which` names into the past.
    async fn age(&self, table: &str, column: &str, by: Duration, which: &str);
}

impl Bed {
    /// A row by another program that names only the original columns.
    pub async fn foreign(&self, route: &str, payload: &str) -> MessageId {
        self.foreign_with(route, payload, "trace_id", "NULL").await
    }

    /// The same, with one more column.
    pub async fn foreign_with(
        &self,
        route: &str,
        payload: &str,
        column: &str,
        value: &str,
    ) -> MessageId {
        let (service, role) = route.split_once('/').unwrap();
        let id = MessageId::generate();
        let payload = payload.replace('\'', "''");
        let sql = format!(
            "INSERT INTO agent_messages (id, service, role, payload, status, {column})
             VALUES ('{id}', '{service}', '{role}', '{payload}', 'queued', {value})"
        );
        self.door.execute(&sql).await;
        id
    }

    /// Another worker claims the row, knowing only the original columns.
    pub async fn steal(&self, id: MessageId) {
        self.watch.meddled(id);
        let sql = format!(
            "UPDATE agent_messages SET status = 'claimed', claimed_by = 'ts-worker',
               claimed_at = created_at, attempts = attempts + 1
             WHERE id = '{id}'"
        );
        self.door.execute(&sql).await;
    }

    /// Lets a claimed task's lease be over.
    pub async fn end_lease(&self, id: MessageId) {
        let which = format!("id = '{id}'");
        let by = Duration::from_secs(3600);
        self.door
            .age("agent_messages", "lease_expires_at", by, &which)
            .await;
    }

    pub async fn age_task(&self, id: MessageId, column: &str, by: Duration) {
        let which = format!("id = '{id}'");
        self.door.age("agent_messages", column, by, &which).await;
    }

    /// Checks every invariant that the bus alone can show.
    pub async fn check(&self) {
        self.watch.check(&*self.store).await;
    }
}
