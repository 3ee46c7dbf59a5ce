//! The worker that the adapter calls. Nothing is asked of it: a connection is
//! all that can be tried without running something there.

use std::time::Duration;

use tokio::net::TcpStream;

use crate::config::Config;
use crate::finding::{Check, Finding, Severity};

const WORKER: Check = Check {
    id: "worker.reachable",
    title: "worker",
    severity: Severity::Error,
    fix: "start the worker, or correct COGO_WORKER_URL",
};

const PATIENCE: Duration = Duration::from_secs(3);

pub(super) async fn reachable(config: &Config) -> Finding {
    let Some(text) = &config.worker_url else {
        return WORKER.unknown("COGO_WORKER_URL is not set");
    };
    let Ok(url) = text.parse::<url::Url>() else {
        return WORKER.bad("COGO_WORKER_URL is no URL");
    };
    let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default()) else {
        return WORKER.bad("COGO_WORKER_URL names no host");
    };
    // As a resolver wants it: an IPv6 address without its brackets.
    let address = (host.trim_matches(['[', ']']), port);
    match tokio::time::timeout(PATIENCE, TcpStream::connect(address)).await {
        Ok(Ok(_)) => WORKER.pass(format!("{host}:{port} accepts connections")),
        Ok(Err(cause)) => WORKER.bad(format!("{host}:{port}: {cause}")),
        Err(_) => WORKER.bad(format!(
            "{host}:{port}: no answer within {} s",
            PATIENCE.as_secs()
        )),
    }
}
