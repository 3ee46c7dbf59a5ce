//! What of WASI a component is linked with.
//!
//! Two profiles. `minimal` is what the contract's world needs: polling, streams,
//! clocks and outgoing HTTP. `wasi` is all of Preview 2, for components whose
//! language brings it along, with nothing behind it: no directory is opened, no
//! variable set, no argument given, no socket allowed. Standard output and
//! standard error go into the attempt's log.

use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use tokio::io::AsyncWrite;
use wasmtime::Engine;
use wasmtime::component::{HasData, HasSelf, Linker, ResourceTable};
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::bindings::{clocks, io};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};
use wasmtime_wasi::{WasiCtx, clocks::WasiClocks, clocks::WasiClocksView};

use crate::attempt::LogLevel;
use crate::plugin::bindings::cogo::executor::{contract, host};
use crate::plugin::host::State;
use crate::plugin::journal::Journal;

/// Which imports a component gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    Minimal,
    Wasi,
}

impl Profile {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Minimal => "minimal",
            Self::Wasi => "wasi",
        }
    }
}

/// A linker with everything that the profile offers.
pub(crate) fn linker(engine: &Engine, profile: Profile) -> wasmtime::Result<Linker<State>> {
    let mut linker = Linker::new(engine);
    let l = &mut linker;
    contract::add_to_linker::<State, HasSelf<State>>(l, |state| state)?;
    host::add_to_linker::<State, HasSelf<State>>(l, |state| state)?;
    match profile {
        Profile::Minimal => {
            io::error::add_to_linker::<State, HasTable>(l, |state| &mut state.table)?;
            io::poll::add_to_linker::<State, HasTable>(l, |state| &mut state.table)?;
            io::streams::add_to_linker::<State, HasTable>(l, |state| &mut state.table)?;
            clocks::wall_clock::add_to_linker::<State, WasiClocks>(l, State::clocks)?;
            clocks::monotonic_clock::add_to_linker::<State, WasiClocks>(l, State::clocks)?;
        }
        Profile::Wasi => wasmtime_wasi::p2::add_to_linker_async(l)?,
    }
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(l)?;
    Ok(linker)
}

/// Polling and streams need the table of resources and nothing else.
struct HasTable;

impl HasData for HasTable {
    type Data<'a> = &'a mut ResourceTable;
}

/// The WASI context of an attempt, behind which there is nothing.
pub(crate) fn context(journal: &Arc<Journal>) -> WasiCtx {
    let output = |level| LogOutput {
        journal: Arc::clone(journal),
        level,
    };
    WasiCtx::builder()
        .allow_tcp(false)
        .allow_udp(false)
        .allow_ip_name_lookup(false)
        .stdout(output(LogLevel::Info))
        .stderr(output(LogLevel::Warn))
        .build()
}

/// What a guest can write at once; more is asked of it in pieces.
const WRITE_BYTES: usize = 64 * 1024;
/// A line without end is broken here.
const LINE_BYTES: usize = 8 * 1024;

/// A standard stream that ends in the attempt's log, line by line.
struct LogOutput {
    journal: Arc<Journal>,
    level: LogLevel,
}

impl IsTerminal for LogOutput {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for LogOutput {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        // Only later previews of WASI ask for this kind; none is linked.
        Box::new(tokio::io::sink())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(LogStream {
            journal: Arc::clone(&self.journal),
            level: self.level,
            line: Vec::new(),
        })
    }
}

struct LogStream {
    journal: Arc<Journal>,
    level: LogLevel,
    line: Vec<u8>,
}

impl LogStream {
    fn end_line(&mut self) {
        let line = String::from_utf8_lossy(&self.line).into_owned();
        self.line.clear();
        self.journal.log(self.level, line);
    }
}

impl OutputStream for LogStream {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, ends) = match piece.strip_suffix(b"\n") {
                Some(text) => (text, true),
                None => (piece, false),
            };
            for text in text.chunks(LINE_BYTES) {
                if self.line.len() + text.len() > LINE_BYTES {
                    self.end_line();
                }
                self.line.extend_from_slice(text);
            }
            if ends {
                self.end_line();
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(WRITE_BYTES)
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for LogStream {
    async fn ready(&mut self) {}
}

impl Drop for LogStream {
    fn drop(&mut self) {
        if !self.line.is_empty() {
            self.end_line();
        }
    }
}
