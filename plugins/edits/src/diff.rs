//! The form of a unified diff of one file. Whether it applies, only the tree
//! can tell.

/// How much of a line a complaint repeats, in characters.
const SHOWN: usize = 80;

/// Says what is wrong with a diff that is none of the file `path`.
pub(crate) fn check(text: &str, path: &str) -> Result<(), String> {
    let text = text.strip_suffix('\n').unwrap_or(text);
    let mut lines = text.split('\n').enumerate().peekable();
    while let Some((at, line)) = lines.next_if(|(_, line)| !line.starts_with("@@")) {
        check_preamble(at, line, path)?;
    }
    if lines.peek().is_none() {
        return Err(
            "the diff has no hunk, which begins with @@ -LINE,COUNT +LINE,COUNT @@".to_owned(),
        );
    }
    while let Some((at, line)) = lines.next() {
        let head = Head::read(line).ok_or_else(|| {
            format!(
                "line {} of the diff is no head of a hunk: {}",
                at + 1,
                shown(line)
            )
        })?;
        if head.old > 0 && head.start == 0 {
            return Err(format!(
                "line {} of the diff: lines are counted from 1",
                at + 1
            ));
        }
        check_hunk(&head, &mut lines)?;
    }
    Ok(())
}

fn check_preamble(at: usize, line: &str, path: &str) -> Result<(), String> {
    let named = line
        .strip_prefix("--- ")
        .or_else(|| line.strip_prefix("+++ "));
    let Some(named) = named else {
        if line.starts_with("diff --git ") || line.starts_with("index ") {
            return Ok(());
        }
        let shown = shown(line);
        return Err(format!(
            "line {} of the diff is no part of a unified diff: {shown}",
            at + 1
        ));
    };
    let name = named.split('\t').next().unwrap_or_default();
    if name == "/dev/null" {
        return Err(
            "the diff creates or deletes a file; that takes `content` or `delete`".to_owned(),
        );
    }
    let plain = name.strip_prefix("a/").or_else(|| name.strip_prefix("b/"));
    if name == path || plain == Some(path) {
        Ok(())
    } else {
        Err(format!(
            "line {} of the diff names another file, {}",
            at + 1,
            shown(name)
        ))
    }
}

fn check_hunk<'a>(
    head: &Head,
    lines: &mut std::iter::Peekable<impl Iterator<Item = (usize, &'a str)>>,
) -> Result<(), String> {
    let (mut old, mut new) = (head.old, head.new);
    while old > 0 || new > 0 {
        let Some((at, line)) = lines.next() else {
            return Err(format!(
                "the last hunk is {} lines short of its head",
                old.max(new)
            ));
        };
        let (takes, gives) = match line.chars().next() {
            Some(' ') => (1, 1),
            Some('-') => (1, 0),
            Some('+') => (0, 1),
            _ => {
                return Err(format!(
                    "line {} of the diff begins with neither space, - nor +, or the hunk above it is shorter than its head says: {}",
                    at + 1,
                    shown(line)
                ));
            }
        };
        let longer = || {
            format!(
                "line {} of the diff: the hunk is longer than its head says",
                at + 1
            )
        };
        old = old.checked_sub(takes).ok_or_else(longer)?;
        new = new.checked_sub(gives).ok_or_else(longer)?;
        // "\ No newline at end of file"
        lines.next_if(|(_, line)| line.starts_with('\\'));
    }
    Ok(())
}

/// The line `@@ -START,OLD +START,NEW @@ anything`.
struct Head {
    start: u32,
    old: u32,
    new: u32,
}

impl Head {
    fn read(line: &str) -> Option<Self> {
        let (ranges, rest) = line.strip_prefix("@@ -")?.split_once(" @@")?;
        if !rest.is_empty() && !rest.starts_with(' ') {
            return None;
        }
        let (before, after) = ranges.split_once(" +")?;
        let (start, old) = range(before)?;
        let (_, new) = range(after)?;
        Some(Self { start, old, new })
    }
}

/// `START` or `START,COUNT`.
fn range(text: &str) -> Option<(u32, u32)> {
    let number = |digits: &str| {
        let plain = (1..=9).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
        digits.parse().ok().filter(|_| plain)
    };
    match text.split_once(',') {
        Some((start, count)) => Some((number(start)?, number(count)?)),
        None => Some((number(text)?, 1)),
    }
}

fn shown(line: &str) -> String {
    let cut: String = line.chars().take(SHOWN).collect();
    format!("{cut:?}")
}
