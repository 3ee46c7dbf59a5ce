//! What attempts came to, by plugin: how they ended, what they took and what they
//! asked of the network.

use std::collections::BTreeMap;

use super::Page;
use crate::bus::{Figures, PluginFigures};
use crate::ids::PluginName;

impl Page {
    pub(super) fn attempts(&mut self, figures: &Figures) {
        let plugins = &figures.plugins;
        self.family(
            "cogo_attempts_total",
            "counter",
            "Attempts that ended, by plugin and outcome; without a plugin, those that ended before one was chosen.",
        );
        for (name, plugin) in plugins {
            self.by(
                "cogo_attempts_total",
                Some(name),
                "outcome",
                &plugin.outcomes,
            );
        }
        self.by("cogo_attempts_total", None, "outcome", &figures.unassigned);
        self.family(
            "cogo_plugin_traps_total",
            "counter",
            "Attempts whose guest did not return, by what ended it.",
        );
        for (name, plugin) in plugins {
            self.by("cogo_plugin_traps_total", Some(name), "code", &plugin.ends);
        }
        self.family(
            "cogo_attempt_run_seconds",
            "histogram",
            "How long attempts ran by the clock on the wall.",
        );
        for (name, plugin) in plugins {
            let labels = [("plugin", name.as_str())];
            self.histogram("cogo_attempt_run_seconds", &labels, &plugin.run_seconds);
        }
        type Figure = (
            &'static str,
            &'static str,
            &'static str,
            fn(&PluginFigures) -> u64,
        );
        const FIGURES: [Figure; 2] = [
            (
                "cogo_plugin_peak_memory_bytes",
                "gauge",
                "The most memory that an attempt had since the host began.",
                |plugin| plugin.peak_memory_bytes,
            ),
            (
                "cogo_guest_log_dropped_total",
                "counter",
                "Lines that went over the log's limits.",
                |plugin| plugin.log_dropped,
            ),
        ];
        for (family, kind, help, figure) in FIGURES {
            self.family(family, kind, help);
            for (name, plugin) in plugins {
                self.sample(family, &[("plugin", name.as_str())], figure(plugin));
            }
        }
        self.guests(plugins);
    }

    /// What guests took, and what they asked of the network.
    fn guests(&mut self, plugins: &BTreeMap<PluginName, PluginFigures>) {
        self.family(
            "cogo_guest_busy_seconds_total",
            "counter",
            "How long attempts kept a thread busy; what they waited for is not in it.",
        );
        for (name, plugin) in plugins {
            let labels = [("plugin", name.as_str())];
            let busy = plugin.busy.as_secs_f64();
            self.sample("cogo_guest_busy_seconds_total", &labels, busy);
        }
        self.family(
            "cogo_outbound_requests_total",
            "counter",
            "Requests of attempts that went out, and those that did not, by why.",
        );
        for (name, plugin) in plugins {
            let labels = [("plugin", name.as_str()), ("result", "allowed")];
            let allowed = plugin.outbound_allowed;
            self.sample("cogo_outbound_requests_total", &labels, allowed);
            let denied = &plugin.outbound_denied;
            self.by("cogo_outbound_requests_total", Some(name), "result", denied);
        }
    }

    fn by(
        &mut self,
        family: &str,
        plugin: Option<&PluginName>,
        label: &str,
        counts: &BTreeMap<&'static str, u64>,
    ) {
        let plugin = plugin.map_or("", PluginName::as_str);
        for (value, count) in counts {
            self.sample(family, &[("plugin", plugin), (label, value)], count);
        }
    }
}
