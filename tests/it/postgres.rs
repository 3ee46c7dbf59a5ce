//! What only a Postgres bus has: tables that were there before, hints, poolers,
//! values that nothing else knows. The rest is the conformance suite's.

mod connections;
mod examine;
mod hints;
mod lanes;
mod load;
mod migration;
mod rows;
mod supabase;
mod tls;
