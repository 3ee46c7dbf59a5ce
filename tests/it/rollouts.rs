//! Rolling versions out: what the verdicts are worth, and hosts that do it.

mod hosts;
mod shadows;
mod simulation;
