//! The conformance suite: what a bus must do, whatever database is below.
//!
//! A case is an async function over a [`Bed`]; [`conformance`] makes one test
//! of it for each backend, and after each the invariants are checked.

use crate::support::bed::Bed;

/// Expands cases for every backend.
macro_rules! conformance {
    ($($case:ident),+ $(,)?) => {
        mod sqlite {
            $(
                #[tokio::test]
                async fn $case() {
                    crate::store::run(crate::support::sqlite::bed().await, super::$case).await;
                }
            )+
        }

        mod postgres {
            $(
                #[tokio::test]
                async fn $case() {
                    crate::store::run(crate::support::postgres::bed().await, super::$case).await;
                }
            )+
        }

        mod pooled_postgres {
            $(
                #[tokio::test]
                async fn $case() {
                    let bed = crate::support::postgres::pooled_bed().await;
                    crate::store::run(bed, super::$case).await;
                }
            )+
        }
    };
}

mod breakers;
mod claims;
mod decisions;
mod differential;
mod enqueues;
mod fairness;
mod foreign;
mod histories;
mod pipelines;
mod races;
mod reads;
mod rollouts;
mod settles;
mod shadows;
mod sqlite_file;
mod sweeps;

/// Runs one case and checks the invariants at its end.
async fn run(bed: Bed, case: impl AsyncFnOnce(&Bed)) {
    case(&bed).await;
    bed.check().await;
    bed.store.close().await.unwrap();
    bed.door.discard().await;
}
