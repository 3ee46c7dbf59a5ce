//! Whole plugins for the usual purposes, to begin with. Each is compiled and
//! tested with the crate.

#[doc = include_str!("../guides/rest_adapter.md")]
pub mod rest_adapter {}

#[doc = include_str!("../guides/codegen_delegate.md")]
pub mod codegen_delegate {}

#[doc = include_str!("../guides/test_double.md")]
pub mod test_double {}
