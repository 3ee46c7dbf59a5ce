//! What can be done, as the command to type and the API call that does the same.
//! Pages only show it.

/// A thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Action {
    pub(super) says: &'static str,
    pub(super) command: String,
    /// Such as `POST /api/tasks/ID/cancel`.
    pub(super) call: String,
    /// What the call carries.
    pub(super) body: Option<String>,
}

impl Action {
    pub(super) fn new(says: &'static str, command: Command, call: impl Into<String>) -> Self {
        Self {
            says,
            command: command.0,
            call: call.into(),
            body: None,
        }
    }

    pub(super) fn with(mut self, body: &serde_json::Value) -> Self {
        self.body = Some(body.to_string());
        self
    }
}

/// A command line as a shell takes it, whatever the words hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Command(String);

impl Command {
    /// `cogo-host` and words of our own.
    pub(super) fn new(words: &str) -> Self {
        Self(format!("cogo-host {words}"))
    }

    /// An option with a value.
    pub(super) fn option(mut self, name: &str, value: &str) -> Self {
        let between = if value.starts_with('-') { '=' } else { ' ' };
        self.0 = format!("{} {name}{between}{}", self.0, quoted(value));
        self
    }

    /// What the command is about; nothing may follow it.
    pub(super) fn about(mut self, value: &str) -> Self {
        let dashes = if value.starts_with('-') { "-- " } else { "" };
        self.0 = format!("{} {dashes}{}", self.0, quoted(value));
        self
    }
}

impl From<Command> for String {
    fn from(command: Command) -> Self {
        command.0
    }
}

fn quoted(word: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_./:@%+=,".contains(&b);
    if !word.is_empty() && word.bytes().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_stay_words_in_a_shell() {
        let shown = |word| String::from(Command::new("trace").about(word));
        for (word, line) in [
            ("a-b.c", "cogo-host trace a-b.c"),
            ("$(x)", "cogo-host trace '$(x)'"),
            ("it's", r"cogo-host trace 'it'\''s'"),
            ("-rf", "cogo-host trace -- -rf"),
            ("", "cogo-host trace ''"),
            ("a;b", "cogo-host trace 'a;b'"),
        ] {
            assert_eq!(shown(word), line);
        }
        let option = Command::new("task list").option("--trace", "-x");
        assert_eq!(String::from(option), "cogo-host task list --trace=-x");
    }
}
