//! What is needed of a row to change its state outside of a claim, and what
//! becomes of one whose lease ran out.
//!
//! Reads rows of any database and writes none: how rows are found and changed is
//! for each store to say.

use std::borrow::Cow;

use super::Rescued;
use super::audit::{self, ForeignLabels, Rescue, Vacant};
use super::cells::{Cells, Columns, Step};
use super::rows;
use crate::event::{NewEvent, Subject};
use crate::ids::{MessageId, TraceId};
use crate::route::Route;
use crate::task::Status;

pub(super) struct Head {
    pub(super) id: MessageId,
    pub(super) route: Route,
    pub(super) trace_id: TraceId,
    pub(super) task_id: Option<String>,
    epoch: i64,
    holder: Option<String>,
    attempts: u32,
    max_attempts: Option<u32>,
    cancel_requested: bool,
    adoption: Option<Adoption>,
}

/// What a row needs that nobody adopted yet, besides its labels.
pub(super) struct Adoption {
    /// Absent where only its trace id was of no use.
    pub(super) event: Option<NewEvent>,
}

/// What becomes of a row whose lease ran out.
pub(super) struct TakenBack {
    pub(super) error: Cow<'static, str>,
    pub(super) events: Vec<NewEvent>,
    pub(super) rescued: Rescued,
}

impl Head {
    pub(super) fn read<R: Columns>(cells: &Cells<'_, R>) -> Step<Self> {
        let id = cells.id("id")?;
        let route = rows::route(cells)?;
        let epoch = cells.int("lease_epoch")?;
        let task_column = cells.text("task_id")?;
        let trace_column = cells.text("trace_id")?;
        let usable = trace_column.as_deref().and_then(|text| text.parse().ok());
        let (trace_id, task_id, adoption) = match (epoch, usable) {
            (Some(_), Some(trace_id)) => (trace_id, task_column, None),
            (epoch, _) => {
                let payload = cells.text("payload")?.unwrap_or_default();
                let (trace_payload, task_payload) = audit::payload_labels(&payload);
                let adopted = ForeignLabels {
                    trace_column,
                    trace_payload,
                    task_column,
                    task_payload,
                }
                .adopt();
                let event = epoch.is_none().then(|| adopted.enqueued(id, &route));
                (adopted.trace_id, adopted.task_id, Some(Adoption { event }))
            }
        };
        Ok(Self {
            id,
            route,
            trace_id,
            task_id,
            epoch: epoch.unwrap_or(0),
            holder: cells.text("claimed_by")?,
            attempts: cells.count32("attempts")?,
            max_attempts: cells.count32_opt("max_attempts")?,
            cancel_requested: cells.flag("cancel_requested")?,
            adoption,
        })
    }

    pub(super) fn subject(&self) -> Subject<'_> {
        Subject {
            id: self.id,
            route: &self.route,
            trace_id: &self.trace_id,
            task_id: self.task_id.as_deref(),
        }
    }

    /// What is to be written before anything else of this task, once; none where
    /// the row was adopted before.
    pub(super) const fn take_adoption(&mut self) -> Option<Adoption> {
        self.adoption.take()
    }

    /// Takes the row from a holder that is gone. `deaths` counts those that went
    /// like this one, before it.
    pub(super) fn take_back(&self, deaths: u32, default_max_attempts: u32) -> TakenBack {
        let vacant = Vacant {
            holder: self.holder.clone(),
            epoch: self.epoch,
            attempts: self.attempts,
            max_attempts: self.max_attempts.unwrap_or(default_max_attempts),
            deaths,
            cancel_requested: self.cancel_requested,
        };
        let rescue = vacant.rescue();
        let events = vacant.events(&self.subject(), &rescue);
        let (status, error) = match rescue {
            Rescue::Queued => (Status::Queued, audit::lost_error()),
            Rescue::Failed(problem) => (Status::Failed, audit::error_text(&problem)),
        };
        let rescued = Rescued {
            id: self.id,
            holder: vacant.holder,
            status,
        };
        TakenBack {
            error,
            events,
            rescued,
        }
    }
}
