//! What the stage makes of a version that passed every other check.
//!
//! Pure. A pin that does not match is refused by the loader.

use crate::ids::Digest;
use crate::stage::Stage;

/// What may become of a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admission {
    /// It serves at once.
    Serve,
    /// It is loaded, and serves once somebody decides so.
    Offer,
    Refuse,
}

/// What depends on the version itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rule {
    others: Admission,
    decided: Option<Digest>,
}

impl Admission {
    /// The rule of a stage for versions of a plugin, by its pin and by what the
    /// bus says to serve.
    pub(super) const fn of(stage: Stage, pin: Option<Digest>, decided: Option<Digest>) -> Rule {
        let others =
            match (stage, pin, decided) {
                (Stage::Development, _, _)
                | (Stage::Staging | Stage::Production, Some(_), None) => Self::Serve,
                (Stage::Staging, None, _)
                | (Stage::Staging | Stage::Production, Some(_), Some(_)) => Self::Offer,
                (Stage::Production, None, _) => Self::Refuse,
            };
        Rule { others, decided }
    }
}

impl Rule {
    pub(super) fn of_digest(self, digest: Digest) -> Admission {
        match (self.others, self.decided) {
            // Whoever decided it has admitted it.
            (Admission::Refuse, Some(decided)) if decided == digest => Admission::Offer,
            (others, _) => others,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_development_serves_what_nobody_pinned_or_decided() {
        use Admission::{Offer, Refuse, Serve};
        let (own, other) = (Digest::of(b"own"), Digest::of(b"other"));
        for (stage, pinned, free, decided_own, decided_other) in [
            (Stage::Development, Serve, Serve, Serve, Serve),
            (Stage::Staging, Serve, Offer, Offer, Offer),
            (Stage::Production, Serve, Refuse, Offer, Refuse),
        ] {
            let of = |pin, decided| Admission::of(stage, pin, decided).of_digest(own);
            assert_eq!(of(Some(own), None), pinned, "{stage}");
            assert_eq!(of(None, None), free, "{stage}");
            assert_eq!(of(None, Some(own)), decided_own, "{stage}");
            assert_eq!(of(None, Some(other)), decided_other, "{stage}");
            let both = of(Some(own), Some(other));
            assert_eq!(both == Serve, stage == Stage::Development, "{stage}");
        }
    }
}
