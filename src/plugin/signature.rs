//! Who vouches for a component: ed25519 signatures in minisign's format, checked
//! against the operator's keys.
//!
//! **Invariant:** a signature that is there and cannot be checked never counts as
//! none, as long as the operator trusts any key. Only prehashed signatures count,
//! as every minisign of the last years makes them.

use std::fmt;
use std::sync::Arc;

use minisign_verify::{Error, PublicKey, Signature};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::plugin::text;

/// Which keys are trusted, and whether one of them must have signed.
#[derive(Debug, Clone, Default)]
pub struct Trust {
    keys: Arc<[TrustedKey]>,
    required: bool,
}

#[derive(Debug)]
struct TrustedKey {
    key: PublicKey,
    signer: Signer,
}

/// The public key that vouched for a component, as it is configured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Signer(String);

impl fmt::Display for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a key cannot be trusted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTrust {
    #[error("`{0}` is no public key of minisign")]
    Key(String),
    #[error("signatures are required, and no key is trusted")]
    NoKey,
}

/// Why a signature does not count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    #[error("it is not signed, and this installation wants every plugin signed")]
    Missing,
    #[error("its signature is not in the format of minisign")]
    Malformed,
    #[error("its signature is of minisign's old kind, which signs without a hash")]
    Legacy,
    #[error("it is signed with a key that nobody trusts here")]
    UnknownKey,
    #[error("its signature is not of these bytes: one of the two was changed")]
    Wrong,
}

impl SignatureError {
    /// What can be done about it.
    pub const fn hint(&self) -> &'static str {
        match self {
            Self::Missing => {
                "sign it with `minisign -Sm NAME.wasm` and put NAME.wasm.minisig beside it, or publish it with --signature"
            }
            Self::Malformed => "hand in the whole .minisig file as minisign wrote it",
            Self::Legacy => "sign it again with `minisign -H`, or with a newer minisign",
            Self::UnknownKey => {
                "add the signer's public key to `trusted_keys`, or have it signed with a key that is there"
            }
            Self::Wrong => {
                "copy the component and its signature again, or sign what is meant to run"
            }
        }
    }
}

impl Trust {
    /// Reads public keys as minisign prints them, `RW…`.
    ///
    /// # Errors
    /// When one is no key, or signatures are required of nobody.
    pub fn parse(keys: &[String], required: bool) -> Result<Self, InvalidTrust> {
        let parse = |text: &String| match PublicKey::from_base64(text) {
            Ok(key) => Ok(TrustedKey {
                key,
                signer: Signer(text.clone()),
            }),
            Err(_) => Err(InvalidTrust::Key(text::cut(text.clone(), 80))),
        };
        let keys: Arc<[TrustedKey]> = keys.iter().map(parse).collect::<Result<_, _>>()?;
        if required && keys.is_empty() {
            return Err(InvalidTrust::NoKey);
        }
        Ok(Self { keys, required })
    }

    /// Who vouches for these bytes; nobody, where nothing says so and nothing
    /// needs to.
    ///
    /// # Errors
    /// [`SignatureError`] when a signature is missing or does not count.
    pub fn check(
        &self,
        bytes: &[u8],
        signature: Option<&str>,
    ) -> Result<Option<Signer>, SignatureError> {
        let Some(signature) = signature.filter(|_| !self.keys.is_empty()) else {
            return match self.required {
                true => Err(SignatureError::Missing),
                false => Ok(None),
            };
        };
        let signature = Signature::decode(signature).map_err(|_| SignatureError::Malformed)?;
        for trusted in &*self.keys {
            match trusted.key.verify(bytes, &signature, false) {
                Ok(()) => return Ok(Some(trusted.signer.clone())),
                Err(Error::UnexpectedKeyId) => {}
                Err(Error::UnexpectedAlgorithm) => return Err(SignatureError::Legacy),
                Err(_) => return Err(SignatureError::Wrong),
            }
        }
        Err(SignatureError::UnknownKey)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use minisign::{KeyPair, PublicKey, SecretKey};

    use super::*;

    fn key() -> (PublicKey, SecretKey) {
        let KeyPair { pk, sk } = KeyPair::generate_unencrypted_keypair().unwrap();
        (pk, sk)
    }

    fn sign(key: &(PublicKey, SecretKey), bytes: &[u8]) -> String {
        let signed = minisign::sign(Some(&key.0), &key.1, Cursor::new(bytes), None, None);
        signed.unwrap().into_string()
    }

    fn trust(keys: &[&(PublicKey, SecretKey)], required: bool) -> Trust {
        let keys: Vec<String> = keys.iter().map(|key| key.0.to_base64()).collect();
        Trust::parse(&keys, required).unwrap()
    }

    #[test]
    fn what_a_trusted_key_signed_counts_and_nothing_else_does() {
        let (one, two, stranger) = (key(), key(), key());
        let trust = trust(&[&one, &two], false);
        for known in [&one, &two] {
            let signer = trust.check(b"x", Some(&sign(known, b"x"))).unwrap();
            assert_eq!(signer.unwrap().to_string(), known.0.to_base64());
        }
        let check =
            |bytes: &[u8], signature: &str| trust.check(bytes, Some(signature)).unwrap_err();
        let good = sign(&one, b"x");
        assert_eq!(check(b"y", &good), SignatureError::Wrong);
        let unknown = sign(&stranger, b"x");
        assert_eq!(check(b"x", &unknown), SignatureError::UnknownKey);
        for text in [
            "",
            "\n\n\n\n",
            "hello",
            &good[..good.len() / 2],
            &good[1..9],
        ] {
            assert_eq!(check(b"x", text), SignatureError::Malformed, "{text}");
        }
        // The comment that people read is signed, too.
        let renamed = good.replace("timestamp:", "timestamp:9");
        assert_ne!(renamed, good);
        assert_eq!(check(b"x", &renamed), SignatureError::Wrong);
    }

    #[test]
    fn every_changed_byte_of_a_signature_is_noticed() {
        let key = key();
        let trust = trust(&[&key], true);
        let good = sign(&key, b"x");
        assert!(trust.check(b"x", Some(&good)).unwrap().is_some());
        let signed: Vec<(usize, char)> = good.char_indices().collect();
        let mut tampered = 0;
        // What the first line says is nobody's word.
        let first_line = good.find('\n').unwrap();
        for (at, old) in signed.into_iter().filter(|(at, _)| *at > first_line) {
            let new = if old == 'A' { 'B' } else { 'A' };
            let mut text = good.clone();
            text.replace_range(at..at + old.len_utf8(), &new.to_string());
            assert!(trust.check(b"x", Some(&text)).is_err(), "byte {at}: {text}");
            tampered += 1;
        }
        assert!(tampered > 200, "{tampered}");
    }

    #[test]
    fn a_signature_is_missed_only_where_it_is_required() {
        let key = key();
        let good = sign(&key, b"x");
        let required = trust(&[&key], true);
        assert_eq!(required.check(b"x", None), Err(SignatureError::Missing));
        assert_eq!(trust(&[&key], false).check(b"x", None), Ok(None));
        // Nobody is trusted: a signature says nothing.
        assert_eq!(Trust::default().check(b"x", Some(&good)), Ok(None));
        assert_eq!(Trust::parse(&[], true).unwrap_err(), InvalidTrust::NoKey);
        let broken = Trust::parse(&["RWnothing".to_owned()], false).unwrap_err();
        assert_eq!(broken, InvalidTrust::Key("RWnothing".to_owned()));
    }
}
