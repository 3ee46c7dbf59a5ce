//! Who may do what: bearer tokens, and who is behind a request.
//!
//! **Invariants.** Tokens are kept as SHA-256 only and compared in constant
//! time. Guessing is slowed down by address. A denial never repeats what was
//! presented.

mod schemes;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use axum::http::{HeaderMap, header};
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConditionallySelectable as _, ConstantTimeEq as _};

use super::guard::Denied;
pub(super) use schemes::Schemes;

/// The name of a token that stands alone.
const DEFAULT_NAME: &str = "operator";
/// Who acts without a token.
const LOCAL: &str = "local";
/// The shortest token that is worth one, in bytes.
const TOKEN_MIN: usize = 16;
const TOKEN_MAX: usize = 512;
/// Wrong tokens that one address may present in one window.
const FAILURES_MAX: u32 = 10;
const FAILURE_WINDOW: Duration = Duration::from_secs(60);
/// Addresses remembered at once; the one longest ago gives way.
const ADDRESSES_MAX: usize = 1024;

/// Who acts, as audit records name them: a token's name, or `local`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor(String);

impl Actor {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Tokens and the names of those who hold them.
#[derive(Clone, Default)]
pub struct Tokens(Vec<Token>);

#[derive(Clone)]
struct Token {
    name: String,
    hash: [u8; 32],
}

/// A line of a token file that cannot be used. Never holds a token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of the tokens {problem}")]
pub struct InvalidTokens {
    pub line: usize,
    problem: &'static str,
}

impl Tokens {
    /// Reads one `name:token` or bare token a line; empty lines and those that
    /// begin with `#` are skipped. A bare token acts as `operator`.
    ///
    /// # Errors
    /// The first line that is none, or repeats a token of another name.
    pub fn parse(text: &str) -> Result<Self, InvalidTokens> {
        let mut tokens: Vec<Token> = Vec::new();
        for (at, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let token = Token::parse(line).and_then(|token| {
                if tokens.iter().any(|other| other.hash == token.hash) {
                    return Err("repeats the token of another line");
                }
                Ok(token)
            });
            tokens.push(token.map_err(|problem| InvalidTokens {
                line: at + 1,
                problem,
            })?);
        }
        Ok(Self(tokens))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The holder of a token. Takes equally long whichever it is, if any.
    fn holder(&self, presented: &str) -> Option<&str> {
        let hash: [u8; 32] = Sha256::digest(presented.as_bytes()).into();
        let mut found = u64::MAX;
        for (at, token) in (0_u64..).zip(&self.0) {
            let same: Choice = token.hash.ct_eq(&hash);
            found.conditional_assign(&at, same);
        }
        let token = self.0.get(usize::try_from(found).ok()?)?;
        Some(&token.name)
    }
}

impl Token {
    fn parse(line: &str) -> Result<Self, &'static str> {
        let (name, token) = line.split_once(':').unwrap_or((DEFAULT_NAME, line));
        let named = !name.is_empty()
            && name.len() <= 64
            && name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"._-@".contains(&b));
        if !named {
            return Err("has a name that is not of letters, digits, `.`, `_`, `-` or `@`");
        }
        if name == LOCAL {
            return Err("has the name `local`, which stands for no token at all");
        }
        if !token.bytes().all(|b| b.is_ascii_graphic()) {
            return Err("has a token with characters that a header cannot carry");
        }
        if !(TOKEN_MIN..=TOKEN_MAX).contains(&token.len()) {
            return Err("has a token of less than 16 or more than 512 bytes");
        }
        Ok(Self {
            name: name.to_owned(),
            hash: Sha256::digest(token.as_bytes()).into(),
        })
    }
}

/// What asks for a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protection {
    /// Nothing: loopback in development.
    Open,
    /// Whatever changes something.
    Writes,
    /// Everything but `/healthz`.
    All,
}

/// What a request is about to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Whether the process lives, which anybody may know.
    Liveness,
    Read,
    Write,
}

/// The host is reachable from elsewhere, and nobody would have to show a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the API would listen on {bind}, which others can reach, without any token")]
pub struct NoTokens {
    pub bind: IpAddr,
}

/// Decides on requests by what they present.
pub struct Auth {
    tokens: Tokens,
    protection: Protection,
    failures: Mutex<Failures>,
}

impl Auth {
    /// The protection that an address to listen on needs.
    ///
    /// # Errors
    /// [`NoTokens`] when others can reach it and there is no token.
    pub fn for_bind(
        bind: IpAddr,
        writes_need_token: bool,
        tokens: Tokens,
    ) -> Result<Self, NoTokens> {
        let protection = match (bind.to_canonical().is_loopback(), writes_need_token) {
            (false, _) if tokens.is_empty() => return Err(NoTokens { bind }),
            (false, _) => Protection::All,
            (true, true) => Protection::Writes,
            (true, false) => Protection::Open,
        };
        Ok(Self {
            tokens,
            protection,
            failures: Mutex::default(),
        })
    }

    pub const fn protection(&self) -> Protection {
        self.protection
    }

    /// Who is behind a request.
    ///
    /// # Errors
    /// When it needs a token and has none, or has a wrong one, or came from an
    /// address that presented too many of these.
    pub(super) fn admit(
        &self,
        headers: &HeaderMap,
        schemes: Schemes,
        access: Access,
        peer: IpAddr,
        now: Instant,
    ) -> Result<Actor, Denied> {
        let Some(value) = headers.get(header::AUTHORIZATION) else {
            return self.admit_unnamed(access);
        };
        if self.tokens.is_empty() {
            // There is nothing to compare with, so it says nothing.
            return self.admit_unnamed(access);
        }
        if let Some(left) = self.failures.lock().blocked(peer, now) {
            return Err(Denied::TooManyFailures { left });
        }
        let presented = value.to_str().ok().and_then(|value| schemes.token(value));
        match presented.and_then(|token| self.tokens.holder(&token)) {
            Some(name) => Ok(Actor(name.to_owned())),
            None => {
                self.failures.lock().note(peer, now);
                Err(Denied::WrongToken)
            }
        }
    }

    fn admit_unnamed(&self, access: Access) -> Result<Actor, Denied> {
        let needed = match (self.protection, access) {
            (_, Access::Liveness) | (Protection::Open, _) => false,
            (Protection::Writes, access) => access == Access::Write,
            (Protection::All, _) => true,
        };
        match (needed, self.tokens.is_empty()) {
            (false, _) => Ok(Actor(LOCAL.to_owned())),
            (true, false) => Err(Denied::TokenMissing),
            (true, true) => Err(Denied::NoTokenConfigured),
        }
    }
}

/// Wrong tokens by address, in windows of a minute.
#[derive(Default)]
struct Failures(HashMap<IpAddr, Window>);

struct Window {
    since: Instant,
    count: u32,
}

impl Failures {
    /// How long an address has to wait, if it has to.
    fn blocked(&self, peer: IpAddr, now: Instant) -> Option<Duration> {
        let window = self.0.get(&network(peer))?;
        let left = FAILURE_WINDOW.checked_sub(now.saturating_duration_since(window.since))?;
        (window.count >= FAILURES_MAX && !left.is_zero()).then_some(left)
    }

    fn note(&mut self, peer: IpAddr, now: Instant) {
        let peer = network(peer);
        if !self.0.contains_key(&peer) {
            self.make_room(now);
        }
        let fresh = Window {
            since: now,
            count: 0,
        };
        let window = self.0.entry(peer).or_insert(fresh);
        if now.saturating_duration_since(window.since) >= FAILURE_WINDOW {
            window.since = now;
            window.count = 0;
        }
        window.count = window.count.saturating_add(1);
    }

    fn make_room(&mut self, now: Instant) {
        if self.0.len() < ADDRESSES_MAX {
            return;
        }
        let current =
            |window: &Window| now.saturating_duration_since(window.since) < FAILURE_WINDOW;
        self.0.retain(|_, window| current(window));
        if self.0.len() < ADDRESSES_MAX {
            return;
        }
        let oldest = self.0.iter().min_by_key(|(_, window)| window.since);
        if let Some(peer) = oldest.map(|(peer, _)| *peer) {
            self.0.remove(&peer);
        }
    }
}

/// What one guesser controls: an IPv4 address, or an IPv6 /64.
fn network(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use base64::prelude::{BASE64_STANDARD, Engine as _};

    use super::*;

    const TOKEN: &str = "0123456789abcdef";

    fn auth(bind: &str, writes_need_token: bool, tokens: &str) -> Auth {
        let tokens = Tokens::parse(tokens).unwrap();
        Auth::for_bind(bind.parse().unwrap(), writes_need_token, tokens).unwrap()
    }

    fn admit(auth: &Auth, header: Option<&str>, access: Access, now: Instant) -> Option<String> {
        let schemes = match access {
            Access::Write => Schemes::Bearer,
            Access::Liveness | Access::Read => Schemes::BearerOrBasic,
        };
        let mut headers = HeaderMap::new();
        if let Some(value) = header {
            headers.insert(header::AUTHORIZATION, value.parse().unwrap());
        }
        let peer = "10.0.0.1".parse().unwrap();
        let actor = auth.admit(&headers, schemes, access, peer, now).ok()?;
        Some(actor.as_str().to_owned())
    }

    #[test]
    fn a_token_file_names_its_holders() {
        let text = format!("# who\n\nci:{TOKEN}1\n {TOKEN}2 \n");
        let tokens = Tokens::parse(&text).unwrap();
        assert_eq!(tokens.holder(&format!("{TOKEN}1")), Some("ci"));
        assert_eq!(tokens.holder(&format!("{TOKEN}2")), Some("operator"));
        assert_eq!(tokens.holder(TOKEN), None);
        for (bad, line) in [
            ("short", 1),
            (&*format!("\n:{TOKEN}"), 2),
            (&*format!("local:{TOKEN}"), 1),
            (&*format!("a:{TOKEN}\nb:{TOKEN}"), 2),
            (&*format!("a:{TOKEN} x"), 1),
        ] {
            let error = Tokens::parse(bad).err().unwrap();
            assert_eq!(error.line, line, "{error}");
            assert!(!error.to_string().contains(TOKEN), "{error}");
        }
    }

    #[test]
    fn what_needs_a_token() {
        let now = Instant::now();
        let good = format!("bearer {TOKEN}");
        let tokens = format!("ci:{TOKEN}");
        // (auth, access, admitted without a token)
        let table = [
            (auth("127.0.0.1", false, &tokens), Access::Write, true),
            (auth("127.0.0.1", true, &tokens), Access::Read, true),
            (auth("127.0.0.1", true, &tokens), Access::Write, false),
            (auth("::1", true, &tokens), Access::Write, false),
            (auth("0.0.0.0", false, &tokens), Access::Read, false),
            (auth("0.0.0.0", false, &tokens), Access::Liveness, true),
        ];
        for (auth, access, open) in table {
            let local = open.then(|| "local".to_owned());
            assert_eq!(admit(&auth, None, access, now), local, "{access:?}");
            assert_eq!(
                admit(&auth, Some(&good), access, now).as_deref(),
                Some("ci")
            );
            for bad in ["Bearer wrong", "Basic abc", &*format!("Bearer {TOKEN}x")] {
                assert_eq!(admit(&auth, Some(bad), access, now), None, "{bad}");
            }
        }
        let none = auth("127.0.0.1", true, "");
        assert_eq!(admit(&none, Some(&good), Access::Write, now), None);
        let reachable = "0.0.0.0".parse().unwrap();
        assert!(Auth::for_bind(reachable, false, Tokens::default()).is_err());
    }

    fn basic(pair: &str) -> String {
        format!("Basic {}", BASE64_STANDARD.encode(pair))
    }

    #[test]
    fn a_browser_reads_with_the_token_as_password_and_never_writes() {
        let now = Instant::now();
        let auth = auth("0.0.0.0", false, &format!("ci:{TOKEN}"));
        for (pair, name) in [
            (format!("anybody:{TOKEN}"), Some("ci")),
            (format!(":{TOKEN}"), Some("ci")),
            (format!("ci:x:{TOKEN}"), None),
            (format!("{TOKEN}:"), None),
            (TOKEN.to_owned(), None),
        ] {
            let header = basic(&pair);
            let admitted = admit(&auth, Some(&header), Access::Read, now);
            assert_eq!(admitted.as_deref(), name, "{pair}");
            assert_eq!(admit(&auth, Some(&header), Access::Write, now), None);
        }
    }

    #[test]
    fn guessing_as_a_browser_is_slowed_down_alike() {
        let auth = auth("127.0.0.1", false, &format!("ci:{TOKEN}"));
        let (wrong, right) = (basic("x:wrong"), basic(&format!("x:{TOKEN}")));
        let now = Instant::now();
        for _ in 0..FAILURES_MAX {
            assert!(admit(&auth, Some(&wrong), Access::Read, now).is_none());
        }
        assert!(admit(&auth, Some(&right), Access::Read, now).is_none());
        let bearer = format!("Bearer {TOKEN}");
        assert!(admit(&auth, Some(&bearer), Access::Read, now).is_none());
    }

    #[test]
    fn ten_wrong_tokens_a_minute_block_the_address() {
        let auth = auth("127.0.0.1", false, &format!("ci:{TOKEN}"));
        let good = format!("Bearer {TOKEN}");
        let start = Instant::now();
        for _ in 0..FAILURES_MAX {
            assert!(admit(&auth, Some(&good), Access::Read, start).is_some());
            assert!(admit(&auth, Some("Bearer x"), Access::Read, start).is_none());
        }
        assert!(admit(&auth, Some(&good), Access::Read, start).is_none());
        assert!(admit(&auth, None, Access::Read, start).is_some());
        let later = start + FAILURE_WINDOW;
        assert!(admit(&auth, Some(&good), Access::Read, later).is_some());
    }

    #[test]
    fn remembered_addresses_are_bounded() {
        let mut failures = Failures::default();
        let now = Instant::now();
        for n in 0..2 * ADDRESSES_MAX {
            let low = u16::try_from(n).unwrap();
            let peer = Ipv6Addr::new(1, 2, 3, low, 0, 0, 0, 9);
            failures.note(peer.into(), now);
        }
        assert!(failures.0.len() <= ADDRESSES_MAX);
        let same = |low| IpAddr::V6(Ipv6Addr::new(9, 9, 9, 9, 0, 0, 0, low));
        for low in 0..10 {
            failures.note(same(low), now);
        }
        assert!(failures.blocked(same(77), now).is_some());
    }
}
