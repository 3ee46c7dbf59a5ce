//! Tenants of one route take turns.

use cogo_host::ids::MessageId;
use cogo_host::store::Want;
use cogo_host::task::{Claim, NewTask};

use crate::support::bed::Bed;
use crate::support::hand::{DOCS, Hand, done, task, want};

conformance!(
    a_flood_of_one_tenant_keeps_no_other_waiting,
    a_batch_is_shared_and_none_of_it_is_left_over,
    priority_comes_before_turns,
    a_tenant_that_comes_later_gets_its_turn,
    a_narrow_want_is_not_held_up_by_other_tenants,
    a_tenant_is_one_queue_over_its_shards,
);

/// Older than anything else, and more than anybody will get through.
async fn flood(bed: &Bed, tenant: &str, n: usize) {
    bed.door
        .execute(&format!(
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {n})
             INSERT INTO agent_messages (service, role, tenant, payload, status, created_at)
             SELECT 'docs', 'render', '{tenant}', '{{}}', 'queued', '2020-01-01T00:00:00.000Z'
             FROM n"
        ))
        .await;
}

fn tasks_of(tenant: Option<&str>, n: usize) -> Vec<NewTask> {
    (0..n)
        .map(|_| {
            let mut new = task(DOCS);
            new.route.tenant = tenant.map(str::to_owned);
            new
        })
        .collect()
}

fn tenants(claims: &[Claim]) -> Vec<&str> {
    let each = claims.iter().map(|claim| &claim.route.tenant);
    each.map(|tenant| tenant.as_deref().unwrap_or("")).collect()
}

async fn a_flood_of_one_tenant_keeps_no_other_waiting(bed: &Bed) {
    flood(bed, "flood", 100_000).await;
    let hand = Hand::new();
    // Whose turn it is has been settled by claims before.
    for _ in 0..3 {
        let claim = hand.claim_one(&*bed.store, DOCS).await;
        hand.end(&*bed.store, &claim, done()).await;
    }
    let small = tasks_of(Some("small"), 4);
    let nobody = tasks_of(None, 4);
    bed.store.enqueue(&small).await.unwrap();
    bed.store.enqueue(&nobody).await.unwrap();
    for _ in 0..4 {
        let mut served = Vec::new();
        for _ in 0..3 {
            let claim = hand.claim_one(&*bed.store, DOCS).await;
            served.push(claim.route.tenant.clone().unwrap_or_default());
            hand.end(&*bed.store, &claim, done()).await;
        }
        // Three wait, so each is served by one claim of any three.
        served.sort_unstable();
        assert_eq!(served, ["", "flood", "small"]);
    }
}

async fn a_batch_is_shared_and_none_of_it_is_left_over(bed: &Bed) {
    flood(bed, "a flood", 50).await;
    bed.store
        .enqueue(&tasks_of(Some("small"), 2))
        .await
        .unwrap();
    let hand = Hand::new();
    let claims = hand.claim(&*bed.store, DOCS, 10).await;
    let expected = [vec!["a flood"; 5], vec!["small"; 2], vec!["a flood"; 3]].concat();
    assert_eq!(tenants(&claims), expected);
    let mut ids: Vec<MessageId> = claims.iter().map(|claim| claim.id).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 10);
}

async fn priority_comes_before_turns(bed: &Bed) {
    let mut urgent = tasks_of(Some("flood"), 5);
    for task in &mut urgent {
        task.priority = 9;
    }
    bed.store.enqueue(&urgent).await.unwrap();
    bed.store
        .enqueue(&tasks_of(Some("small"), 2))
        .await
        .unwrap();
    let hand = Hand::new();
    let claims = hand.claim(&*bed.store, DOCS, 6).await;
    let expected = [vec!["flood"; 5], vec!["small"]].concat();
    assert_eq!(tenants(&claims), expected);
}

async fn a_tenant_that_comes_later_gets_its_turn(bed: &Bed) {
    bed.store.enqueue(&tasks_of(Some("b"), 9)).await.unwrap();
    let hand = Hand::new();
    assert_eq!(tenants(&hand.claim(&*bed.store, DOCS, 2).await), ["b", "b"]);
    // Before and after the one that was served last.
    bed.store.enqueue(&tasks_of(Some("a"), 1)).await.unwrap();
    bed.store.enqueue(&tasks_of(Some("c"), 1)).await.unwrap();
    let mut served = Vec::new();
    for _ in 0..4 {
        let claims = hand.claim(&*bed.store, DOCS, 1).await;
        served.push(tenants(&claims)[0].to_owned());
    }
    assert_eq!(served, ["c", "a", "b", "b"]);
}

async fn a_narrow_want_is_not_held_up_by_other_tenants(bed: &Bed) {
    flood(bed, "flood", 500).await;
    bed.store
        .enqueue(&tasks_of(Some("small"), 3))
        .await
        .unwrap();
    let narrow = Want {
        tenant: Some("small".to_owned()),
        ..want(DOCS)
    };
    let claims = Hand::new().claim_wants(&*bed.store, vec![narrow], 9).await;
    assert_eq!(tenants(&claims), ["small"; 3]);
}

async fn a_tenant_is_one_queue_over_its_shards(bed: &Bed) {
    let mut new = tasks_of(Some("a"), 4);
    new.extend(tasks_of(Some("b"), 1));
    new[0].route.shard = 2;
    new[3].route.shard = 1;
    for (i, task) in (0_u64..).zip(&new) {
        bed.store.enqueue(std::slice::from_ref(task)).await.unwrap();
        let by = std::time::Duration::from_secs(100 - 10 * i);
        bed.age_task(task.id, "created_at", by).await;
    }
    let claims = Hand::new().claim(&*bed.store, DOCS, 5).await;
    let ids: Vec<MessageId> = claims.iter().map(|claim| claim.id).collect();
    // Two of each as the share, then what is left.
    assert_eq!(ids, [0, 1, 4, 2, 3].map(|i| new[i].id));
}
