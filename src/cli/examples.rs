//! An example for every command whose own page brings none: what `--help` ends
//! with. A test types each of them.

use clap::Command;

/// By the words of the command.
const EXAMPLES: [(&[&str], &[&str]); 40] = [
    (
        &["run"],
        &["cogo-host run", "cogo-host run --port 0 --until-idle"],
    ),
    (
        &["demo"],
        &[
            "cogo-host demo --exit",
            "cogo-host demo --exit --repo ./my-project",
        ],
    ),
    (
        &["pipeline", "start"],
        &[
            "cogo-host pipeline start --task-id t-1 --repo ./my-project --spec 'what to write' --wait",
        ],
    ),
    (&["pipeline", "status"], &["cogo-host pipeline status t-1"]),
    (&["pipeline", "list"], &["cogo-host pipeline list"]),
    (&["pipeline", "cancel"], &["cogo-host pipeline cancel t-1"]),
    (
        &["task", "list"],
        &[
            "cogo-host task list",
            "cogo-host task list --status failed --json",
        ],
    ),
    (
        &["task", "show"],
        &["cogo-host task show 018f0000-0000-7000-8000-000000000000"],
    ),
    (
        &["task", "cancel"],
        &["cogo-host task cancel 018f0000-0000-7000-8000-000000000000"],
    ),
    (
        &["task", "retry"],
        &["cogo-host task retry 018f0000-0000-7000-8000-000000000000"],
    ),
    (
        &["trace"],
        &["cogo-host trace 680c07caa44d483f80df1b643f9b36d4"],
    ),
    (
        &["gate"],
        &[
            "cogo-host gate --trace 680c07caa44d483f80df1b643f9b36d4",
            "cogo-host gate --window-min 60 --require-real --format junit",
        ],
    ),
    (&["plugin", "list"], &["cogo-host plugin list"]),
    (
        &["plugin", "inspect"],
        &[
            "cogo-host plugin inspect my-plugin.wasm",
            "cogo-host plugin inspect mock --wit",
        ],
    ),
    (
        &["plugin", "publish"],
        &[
            "cogo-host plugin publish my-plugin.wasm --reason 'reads larger answers'",
            "cogo-host plugin publish my-plugin.wasm --signature my-plugin.minisig",
        ],
    ),
    (
        &["plugin", "retract"],
        &[
            "cogo-host plugin retract sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 --reason 'loses reports'",
        ],
    ),
    (
        &["plugin", "rollback"],
        &[
            "cogo-host plugin rollback my-plugin --reason 'loses reports'",
            "cogo-host plugin rollback my-plugin --to sha256:304dc9d5",
        ],
    ),
    (&["flag", "list"], &["cogo-host flag list"]),
    (
        &["flag", "set"],
        &[
            "cogo-host flag set code/build-test on --reason 'the worker is ready'",
            "cogo-host flag set code/build-test default",
        ],
    ),
    (&["route", "list"], &["cogo-host route list"]),
    (
        &["route", "pause"],
        &["cogo-host route pause code/build-test --reason 'the worker moves'"],
    ),
    (
        &["route", "resume"],
        &["cogo-host route resume code/build-test"],
    ),
    (
        &["rollout", "start"],
        &[
            "cogo-host rollout start --route code/build-test --candidate cogo-worker@sha256:304dc9d5 --steps 5,25,50,100 --interval 10m --reason 'reads larger answers'",
        ],
    ),
    (&["rollout", "status"], &["cogo-host rollout status -w"]),
    (&["rollout", "list"], &["cogo-host rollout list"]),
    (
        &["rollout", "promote"],
        &["cogo-host rollout promote --reason 'compared by hand'"],
    ),
    (
        &["rollout", "pause"],
        &["cogo-host rollout pause --reason 'over the weekend'"],
    ),
    (&["rollout", "resume"], &["cogo-host rollout resume"]),
    (
        &["rollout", "abort"],
        &["cogo-host rollout abort --reason 'loses reports'"],
    ),
    (
        &["shadow", "start"],
        &[
            "cogo-host shadow start --route code/build-test --candidate cogo-worker@sha256:304dc9d5 --reason 'before its rollout'",
        ],
    ),
    (&["shadow", "stop"], &["cogo-host shadow stop"]),
    (&["shadow", "list"], &["cogo-host shadow list"]),
    (&["shadow", "report"], &["cogo-host shadow report"]),
    (
        &["fallback", "approve"],
        &[
            "cogo-host fallback approve --route code/build-test --reason 'the worker is down' --ttl 30m",
        ],
    ),
    (
        &["fallback", "revoke"],
        &["cogo-host fallback revoke --route code/build-test"],
    ),
    (&["fallback", "list"], &["cogo-host fallback list --all"]),
    (
        &["migrate"],
        &[
            "cogo-host migrate --dry-run",
            "cogo-host migrate --supabase",
        ],
    ),
    (
        &["config", "show"],
        &["cogo-host config show --all --origin"],
    ),
    (
        &["config", "validate"],
        &["cogo-host config validate --config cogo.toml"],
    ),
    (
        &["config", "schema"],
        &["cogo-host config schema > cogo.schema.json"],
    ),
];

/// The command line with an example on every page that had none.
pub fn added(command: Command) -> Command {
    EXAMPLES.iter().fold(command, |command, (words, lines)| {
        add(command, words, lines)
    })
}

fn add(command: Command, words: &[&'static str], lines: &[&str]) -> Command {
    match words {
        [] => {
            let text = format!("Examples:\n  {}", lines.join("\n  "));
            command.after_help(text)
        }
        [first, rest @ ..] => command.mut_subcommand(first, |below| add(below, rest, lines)),
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, error::ErrorKind};

    use super::super::Cli;
    use super::*;

    /// Every command that does something, with its words.
    fn leaves(command: &Command, words: &[String]) -> Vec<(Vec<String>, Command)> {
        let below: Vec<&Command> = command
            .get_subcommands()
            .filter(|below| !below.is_hide_set() && below.get_name() != "help")
            .collect();
        if below.is_empty() {
            return vec![(words.to_vec(), command.clone())];
        }
        let named = |below: &Command| [words, &[below.get_name().to_owned()]].concat();
        let leaves = below.into_iter().map(|below| leaves(below, &named(below)));
        leaves.flatten().collect()
    }

    /// The words of a line as a shell takes them apart, up to a remark or to what
    /// it does with the output.
    fn words(line: &str) -> Vec<String> {
        let line = line.split("   ").next().unwrap_or(line);
        let mut words = vec![String::new()];
        let mut quote = None;
        for c in line.chars() {
            match (c, quote) {
                (c, Some(end)) if c == end => quote = None,
                ('\'' | '"', None) => quote = Some(c),
                (' ', None) => words.push(String::new()),
                ('>', None) => break,
                (c, _) => words.last_mut().unwrap().push(c),
            }
        }
        words.retain(|word| !word.is_empty());
        words
    }

    #[test]
    fn every_command_has_an_example_and_each_can_be_typed() {
        let whole = added(Cli::command());
        for (path, command) in leaves(&whole, &[]) {
            let help = command.get_after_help().map(ToString::to_string);
            let help = help.unwrap_or_default();
            let typed = help.lines().filter_map(|line| {
                let line = line.trim();
                let line = line.rsplit_once(" | ").map_or(line, |(_, last)| last);
                line.starts_with("cogo-host ").then_some(line)
            });
            let mut own = 0;
            for line in typed {
                let words = words(line);
                let parsed = whole.clone().try_get_matches_from(&words);
                if let Err(error) = parsed {
                    assert_eq!(error.kind(), ErrorKind::DisplayHelp, "{line}: {error}");
                }
                own += usize::from(words[1..].starts_with(&path));
            }
            assert!(own > 0, "{path:?} has no example of its own: {help}");
        }
    }

    /// The commands in the shell blocks of a text, with values for what stands for
    /// one.
    fn commands_of(text: &str) -> Vec<String> {
        let blocks = text.split("```sh\n").skip(1);
        let blocks = blocks.filter_map(|block| block.split("```").next());
        let lines: String = blocks.collect::<String>().replace("\\\n ", "");
        let digest = format!("sha256:{}", "0".repeat(64));
        let mut found = Vec::new();
        for line in lines.lines().filter(|line| line.starts_with("cogo-host ")) {
            let line = line.split(" #").next().unwrap_or(line).trim_end();
            let line = line.trim_end_matches('&');
            let line = line.replace("sha256:…", &digest).replace(" NAME", " name");
            // One word for several commands.
            let several = line.split(' ').find(|word| word.contains('|'));
            match several.map(str::to_owned) {
                None => found.push(line),
                Some(word) => found.extend(word.split('|').map(|one| line.replacen(&word, one, 1))),
            }
        }
        found
    }

    #[test]
    fn the_commands_of_the_documentation_can_be_typed() {
        let whole = added(Cli::command());
        let documents = [
            ("README.md", include_str!("../../README.md"), 30),
            (
                "examples/cogo-worker/README.md",
                include_str!("../../examples/cogo-worker/README.md"),
                0,
            ),
            (
                "plugins/README.md",
                include_str!("../../plugins/README.md"),
                0,
            ),
        ];
        for (document, text, least) in documents {
            let commands = commands_of(text);
            assert!(commands.len() >= least, "{document}: {commands:?}");
            for line in commands {
                if let Err(error) = whole.clone().try_get_matches_from(words(&line)) {
                    panic!("{document}: {line}: {error}");
                }
            }
        }
    }

    #[test]
    fn what_a_command_is_about_is_said() {
        for (path, command) in leaves(&Cli::command(), &[]) {
            for argument in command.get_positionals() {
                assert!(argument.get_help().is_some(), "{path:?}: {argument}");
            }
        }
    }
}
