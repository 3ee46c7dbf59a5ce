//! What every page has around its content: where it is, where one can go, and
//! where the same facts are had without a browser.

use super::action::{Action, Command};
use super::assets;
use crate::api::Shared;

/// The pages that the navigation leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Section {
    Overview,
    Tasks,
    Plugins,
    Rollouts,
    Events,
    /// None of them.
    Elsewhere,
}

/// A line of the navigation.
pub(super) struct Place {
    pub(super) label: &'static str,
    pub(super) href: &'static str,
    /// Pressed after `g`.
    pub(super) key: char,
    pub(super) here: bool,
}

/// All around a page's content.
pub(super) struct Frame {
    pub(super) title: String,
    pub(super) places: Vec<Place>,
    /// Stage and name of the host; not for those who were not let in.
    pub(super) host: Option<(&'static str, String)>,
    /// The latest event that the content may know of, for following from there.
    pub(super) after: Option<i64>,
    /// Paths of the API that answer with the same facts.
    pub(super) paths: Vec<String>,
    /// Commands that print them.
    pub(super) commands: Vec<String>,
    pub(super) actions: Vec<Action>,
}

impl Frame {
    pub(super) fn new(shared: &Shared, section: Section, title: impl Into<String>) -> Self {
        let stage = shared.api.facts.stage().as_str();
        Self {
            places: places(section),
            host: Some((stage, shared.api.bus.holder().to_string())),
            ..Self::bare(title)
        }
    }

    /// Around what says nothing of this host.
    pub(super) fn bare(title: impl Into<String>) -> Self {
        Self {
            title: title.into(),
            places: places(Section::Elsewhere),
            host: None,
            after: None,
            paths: Vec::new(),
            commands: Vec::new(),
            actions: Vec::new(),
        }
    }

    /// The content was read after this event was written.
    pub(super) const fn after(mut self, event: i64) -> Self {
        self.after = Some(event);
        self
    }

    pub(super) fn path(mut self, path: impl Into<String>) -> Self {
        self.paths.push(path.into());
        self
    }

    pub(super) fn command(mut self, command: Command) -> Self {
        self.commands.push(command.into());
        self
    }

    pub(super) fn actions(mut self, actions: impl IntoIterator<Item = Action>) -> Self {
        self.actions.extend(actions);
        self
    }

    pub(super) const fn version(&self) -> &'static str {
        env!("CARGO_PKG_VERSION")
    }

    pub(super) fn style(&self) -> &'static str {
        assets::style().url()
    }

    pub(super) fn script(&self) -> &'static str {
        assets::script().url()
    }

    pub(super) fn icon(&self) -> &'static str {
        assets::icon().url()
    }
}

fn places(section: Section) -> Vec<Place> {
    let place = |of, label, href, key| Place {
        label,
        href,
        key,
        here: of == section,
    };
    vec![
        place(Section::Overview, "Overview", "/", 'o'),
        place(Section::Tasks, "Tasks", "/ui/tasks", 't'),
        place(Section::Plugins, "Plugins", "/ui/plugins", 'p'),
        place(Section::Rollouts, "Rollouts", "/ui/rollouts", 'r'),
        place(Section::Events, "Events", "/ui/events", 'e'),
    ]
}
