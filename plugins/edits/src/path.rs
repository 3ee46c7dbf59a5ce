//! Paths of edits: inside the tree, whatever file system it lies on.

/// The longest path, in characters.
const MAX_CHARS: usize = 1_024;
/// The most parts of a path.
const MAX_PARTS: usize = 40;
/// How much of a path a complaint repeats, in characters.
const SHOWN: usize = 200;

/// Says what is wrong with a path that is not plainly inside the tree.
pub(crate) fn check(path: &str) -> Result<(), String> {
    let shown = || path.chars().take(SHOWN).collect::<String>();
    let chars = path.chars().count();
    if !(1..=MAX_CHARS).contains(&chars) {
        return Err(format!(
            "path has {chars} characters; expected 1 to {MAX_CHARS}"
        ));
    }
    let climbing = path.split('/').any(|part| ["", ".", ".."].contains(&part));
    let deep = path.split('/').count() > MAX_PARTS;
    if climbing || deep || path.contains('\\') || !path.chars().all(is_printable) {
        return Err(format!(
            "{:?} is not a plain path inside the project",
            shown()
        ));
    }
    // Some file systems drop the dots and spaces at the end of a name.
    let hidden = |part: &str| {
        let name = part.trim_end_matches(['.', ' ']);
        name.eq_ignore_ascii_case(".git")
    };
    if path.split('/').any(hidden) {
        return Err(format!(
            "{:?} is in .git, which is not part of the project",
            shown()
        ));
    }
    Ok(())
}

/// As Unicode has it: no control, format or private character, and no space but
/// the usual one. A debug form escapes the others, and quotation marks; behind a
/// letter it leaves accents alone.
fn is_printable(c: char) -> bool {
    let behind_a_letter: String = ['x', c].iter().collect();
    matches!(c, '\'' | '"') || behind_a_letter.escape_debug().count() == 2
}
