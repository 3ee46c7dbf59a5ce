//! Why a component is not loaded: codes `P…`.

use super::{Entry, entry};

pub(super) const ENTRIES: &[Entry] = &[
    entry(
        "P100",
        "a file in the plugins directory has a name that no plugin can have",
        "the host takes `NAME.wasm` for the plugin NAME, which is lower-case kebab",
        "rename the file to the name that the plugin gives itself",
    ),
    entry(
        "P101",
        "the component has more than 32 MiB",
        "debug information, or an interpreter with its whole library",
        "build in release mode and strip debug information; `cogo-host plugin build` does",
    ),
    entry(
        "P102",
        "the component's file cannot be read",
        "it does not exist, is a directory, or this user must not read it",
        "check the path and the permissions; `cogo-host plugin build DIR` writes one",
    ),
    entry(
        "P103",
        "the component is not the one that the operator pinned",
        "`[plugin.NAME] digest` names another digest than the file has",
        "put the pinned file back, or pin the digest that the message shows",
    ),
    entry(
        "P104",
        "the component is not pinned, and this stage wants it to be",
        "production runs only digests that the operator wrote down",
        "set `digest` in `[plugin.NAME]` to the digest that the message shows; what a trusted key signed becomes a candidate",
    ),
    entry(
        "P105",
        "the component is not signed, and this stage wants every plugin signed",
        "`signed_stages` names this stage, and there is no NAME.wasm.minisig beside the file",
        "sign it with `minisign -Sm NAME.wasm`, or publish it with --signature",
    ),
    entry(
        "P106",
        "the component's signature does not count",
        "it is of other bytes, of a key that `trusted_keys` does not name, or damaged",
        "the message says which; copy both files again, or sign what is meant to run",
    ),
    entry(
        "P107",
        "the bus holds other bytes than were published",
        "somebody changed the table `executor_published` by hand",
        "retract the version and publish a new one",
    ),
    entry(
        "P110",
        "the file is no component",
        "a core module was not wrapped, or the file is text, machine code or empty",
        "build it with `cogo-host plugin build`, which wraps the module",
    ),
    entry(
        "P111",
        "the file is damaged",
        "it was read while it was being written, or broke on its way",
        "copy it again, and put it in place by renaming",
    ),
    entry(
        "P120",
        "the component does not fit the world `executor-plugin`",
        "it was built against another version of the contract, lacks an export, or imports what no plugin gets",
        "`cogo-host plugin check FILE` shows the difference as WIT; rebuild against this host's `wit/`, and drop the imports it names",
    ),
    entry(
        "P121",
        "an import or export has the right name and another type",
        "the component was built against a changed copy of `executor.wit`",
        "rebuild it against this host's `wit/`; records and functions must be as they are there",
    ),
    entry(
        "P130",
        "the component uses WebAssembly that this host does not run",
        "gc, threads, memory64, exceptions or stack switching are switched on in its build",
        "switch the proposal off in the compiler; a plugin has one thread and 32-bit memory",
    ),
    entry(
        "P131",
        "the compiler gave up on the component",
        "it went over the memory that compiling may take",
        "make the component smaller; do not load one whose author you do not know",
    ),
    entry(
        "P132",
        "compiling the component took too long",
        "it is very large, or made to be slow to compile",
        "make the component smaller; do not load one whose author you do not know",
    ),
    entry(
        "P133",
        "the compiled component cannot be kept",
        "the cache directory is full, belongs to somebody else, or is open to others",
        "give the cache a directory of mode 0700 with room: COGO_CACHE_DIR",
    ),
    entry(
        "P140",
        "the plugin failed while it was asked what it is",
        "`describe` trapped; it runs without configuration, network and task",
        "return constants from `describe`",
    ),
    entry(
        "P141",
        "the plugin did not say what it is in time",
        "`describe` computes or waits; it has five seconds, an interpreter's start included",
        "return constants from `describe`",
    ),
    entry(
        "P142",
        "the plugin's descriptor has an unusable field",
        "a name that is not lower-case kebab, a version that is no SemVer, a route that is not `service/role`, or a list that is too long",
        "correct the field that the message names, and rebuild",
    ),
    entry(
        "P143",
        "the plugin calls itself something else than its file",
        "`NAME.wasm` must hold the plugin NAME, or one plugin would stand in for another",
        "rename the file to the plugin's own name",
    ),
    entry(
        "P150",
        "an entry in the operator's `allow` is no grant",
        "it is not `http://host[:port]`, `https://*.example.com`, a network or `config:KEY`",
        "correct the entry in `[plugin.NAME] allow`",
    ),
    entry(
        "P151",
        "an entry in the plugin's `egress` is no grant",
        "the descriptor holds a malformed origin, or `config:KEY` refers to a value that is no URL",
        "correct the descriptor and rebuild, or correct the configured value",
    ),
    entry(
        "P160",
        "the version was rolled back and is not loaded again",
        "an operator went back from exactly this file",
        "put another version there, or remove the file and put it back if it is meant to run",
    ),
    entry(
        "P161",
        "an operator decided for a version that this host does not have",
        "the decision is on the bus, the version's file is on other hosts only",
        "publish that version with `cogo-host plugin publish FILE`, or put its file into COGO_PLUGINS_DIR of this host",
    ),
    entry(
        "P190",
        "the host cannot load any plugin",
        "the engine does not start, or its child process cannot be made",
        "run `cogo-host doctor`; look at the limits on memory and processes",
    ),
];
