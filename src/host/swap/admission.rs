//! What the stage makes of a version, before anything of it is parsed.
//!
//! Pure.

use crate::ids::Digest;
use crate::stage::Stage;

/// What may become of a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admission {
    /// It serves at once.
    Serve,
    /// It is loaded, and serves once somebody decides so.
    Offer,
    /// Nobody vouches for it.
    Unpinned,
    /// The operator wants another version.
    NotPinned(Digest),
}

/// What it depends on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Known {
    pub(super) stage: Stage,
    pub(super) pin: Option<Digest>,
    /// What the bus says to serve.
    pub(super) decided: Option<Digest>,
    /// Whether somebody whom the operator trusts signed it.
    pub(super) signed: bool,
}

impl Admission {
    pub(super) fn of(digest: Digest, known: Known) -> Self {
        let Known {
            stage,
            pin,
            decided,
            signed,
        } = known;
        let development = stage == Stage::Development;
        match (pin, decided) {
            (Some(pin), Some(_)) if pin == digest && !development => Self::Offer,
            (Some(pin), _) if pin == digest => Self::Serve,
            // Whoever decided it has admitted it.
            (_, Some(decided)) if decided == digest && !development => Self::Offer,
            (Some(_), _) if signed && !development => Self::Offer,
            (Some(pin), _) => Self::NotPinned(pin),
            (None, _) => match stage {
                Stage::Development => Self::Serve,
                Stage::Staging => Self::Offer,
                Stage::Production if signed => Self::Offer,
                Stage::Production => Self::Unpinned,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_table() {
        let (own, other) = (Digest::of(b"own"), Digest::of(b"other"));
        let mut table = String::new();
        for stage in Stage::ALL {
            for (pinned, pin) in [("-", None), ("own", Some(own)), ("other", Some(other))] {
                for (decision, decided) in [("-", None), ("own", Some(own)), ("other", Some(other))]
                {
                    for signed in [false, true] {
                        let known = Known {
                            stage,
                            pin,
                            decided,
                            signed,
                        };
                        let admission = match Admission::of(own, known) {
                            Admission::NotPinned(_) => "NotPinned".to_owned(),
                            admission => format!("{admission:?}"),
                        };
                        table += &format!(
                            "{stage} pin={pinned} decided={decision} signed={signed}: {admission}\n"
                        );
                    }
                }
            }
        }
        insta::assert_snapshot!(table);
    }
}
