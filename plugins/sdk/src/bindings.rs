//! What `wit-bindgen` makes of `wit/executor.wit`. Nothing else in the crate is
//! generated, and nothing here is meant to be named by a plugin: the crate root
//! re-exports the types, and [`crate::Host`] stands for the functions.

#![allow(missing_docs, clippy::all, clippy::pedantic, clippy::restriction)]

wit_bindgen::generate!({
    path: "../../wit",
    world: "executor-plugin",
    generate_all,
    additional_derives: [PartialEq],
    // Holds a resource, and resources have no equality.
    additional_derives_ignore: ["stream-error"],
    pub_export_macro: true,
    export_macro_name: "__export_component",
    default_bindings_module: "cogo_executor::bindings",
});
