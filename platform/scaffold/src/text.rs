//! Where a line belongs in a file of this repository. Pure: text in, text out.
//!
//! Order within imports and modules is left to rustfmt, which runs over every changed file.

use anyhow::{Context, ensure};

/// Imports `path`, such as `auctions::PlaceBid`, from `krate`, beside what is imported from there already.
pub(crate) fn import(text: &str, krate: &str, path: &str) -> anyhow::Result<String> {
    let start = format!("use {krate}::");
    let Some(at) = line_starting(text, &start) else {
        return Ok(import_line(text, &format!("use {krate}::{path};\n")));
    };
    let rest = text.get(at + start.len()..).unwrap_or_default();
    let (before, _) = rest.split_once(';').context("an import does not end")?;
    let mut entries = match before.trim().strip_prefix('{').and_then(|tree| tree.strip_suffix('}')) {
        Some(inner) => split(inner),
        None => vec![before.trim().to_owned()],
    };
    add_path(&mut entries, path);
    let tree = match entries.as_slice() {
        [one] => one.clone(),
        several => format!("{{{}}}", several.join(", ")),
    };
    Ok(replace(text, at + start.len(), before.len(), &tree))
}

/// `a::B` beside `a::C` becomes `a::{B, C}`.
fn add_path(entries: &mut Vec<String>, path: &str) {
    let Some((module, name)) = path.split_once("::") else {
        if !entries.iter().any(|entry| entry == path) {
            entries.push(path.to_owned());
        }
        return;
    };
    let inside = format!("{module}::");
    let Some(entry) = entries.iter_mut().find(|entry| entry.starts_with(&inside)) else {
        entries.push(path.to_owned());
        return;
    };
    let names = entry.strip_prefix(&inside).unwrap_or_default();
    let mut names = match names.strip_prefix('{').and_then(|names| names.strip_suffix('}')) {
        Some(inner) => split(inner),
        None => vec![names.to_owned()],
    };
    if !names.iter().any(|one| one == name) {
        names.push(name.to_owned());
    }
    *entry = format!("{module}::{{{}}}", names.join(", "));
}

/// A first import from a crate, in the group of the crates.
fn import_line(text: &str, line: &str) -> String {
    let is_import = |line: &str| line.starts_with("use ");
    let is_own = |line: &str| line.starts_with("use crate") || line.starts_with("use super");
    let is_std = |line: &str| line.starts_with("use std");
    let at = |wanted: &dyn Fn(&str) -> bool| position(text, wanted);
    if let Some(at) = at(&|line| is_import(line) && !is_own(line) && !is_std(line)) {
        return insert(text, at, line);
    }
    if let Some(at) = at(&is_own) {
        return insert(text, at, &format!("{line}\n"));
    }
    let after = after_heading(text);
    insert(text, after, &format!("{}{line}", if after > 0 { "\n" } else { "" }))
}

/// Declares a module beside the others, or below the heading when it is the first.
pub(crate) fn module(text: &str, name: &str) -> String {
    let line = format!("pub mod {name};\n");
    let is_module = |line: &str| {
        let line = line.strip_prefix("pub ").unwrap_or(line);
        line.strip_prefix("mod ").is_some_and(|rest| rest.trim_end().ends_with(';'))
    };
    match position(text, &is_module) {
        // Behind it, not in front: an attribute of the first must stay with the first.
        Some(at) => insert(text, line_end(text, at), &line),
        None => insert(text, after_heading(text), &format!("\n{line}")),
    }
}

/// The modules that the menu of a domain names, in its order.
pub(crate) fn menu(text: &str) -> anyhow::Result<Vec<String>> {
    let (_, menu) = menu_place(text)?;
    let modules = split(menu).into_iter().filter_map(|entry| {
        // Comments may stand above an entry.
        let entry = entry.lines().map(str::trim).find(|line| !line.starts_with("//"))?.to_owned();
        entry.split_once("::").map(|(module, _)| module.to_owned())
    });
    Ok(modules.collect())
}

/// Adds a function to the menu of a domain, at its end; what tells of outcomes stays the last.
pub(crate) fn add_to_menu(text: &str, module: &str, last: &str) -> anyhow::Result<String> {
    let (at, menu) = menu_place(text)?;
    let last = format!("{last}::function()");
    if let Some(before) = menu.find(&last) {
        return Ok(insert(text, at + before, &format!("{module}::function(), ")));
    }
    let kept = menu.trim_end().trim_end_matches(',').len();
    let comma = if menu.trim().is_empty() { "" } else { ", " };
    Ok(insert(text, at + kept, &format!("{comma}{module}::function()")))
}

fn menu_place(text: &str) -> anyhow::Result<(usize, &str)> {
    let missing = "there is no `pub fn functions() -> Vec<Function>` with a `vec![..]`";
    let start = text.find("pub fn functions()").context(missing)?;
    let open =
        start + text.get(start..).and_then(|body| body.find("vec![")).context(missing)? + "vec![".len();
    let rest = text.get(open..).unwrap_or_default();
    let close = closing(rest).context(missing)?;
    Ok((open, rest.get(..close).unwrap_or_default()))
}

/// Lists a binary in a manifest: behind that of `after`, in the same way, else before that of `before`, else last.
pub(crate) fn bin(text: &str, name: &str, after: Option<&str>, before: &str) -> String {
    let entry = |name: &str| format!("[[bin]]\nname = \"{name}\"\n");
    if let Some((after, at)) = after.and_then(|after| Some((after, text.find(&entry(after))?))) {
        let block = text.get(at..).unwrap_or_default();
        let block = block.split_once("\n\n").map_or(block.trim_end(), |(block, _)| block);
        let twin = block.replacen(&format!("\"{after}\""), &format!("\"{name}\""), 1);
        return insert(text, at + block.len(), &format!("\n\n{twin}"));
    }
    let block = format!("{}test = false\n", entry(name));
    match text.find(&entry(before)) {
        Some(at) => insert(text, at, &format!("{block}\n")),
        None => format!("{}\n\n{block}", text.trim_end()),
    }
}

/// Adds a crate of the workspace to a section of a manifest, in its alphabetical place.
pub(crate) fn dependency(text: &str, section: &str, name: &str) -> anyhow::Result<String> {
    if depends(text, section, name) {
        return Ok(text.to_owned());
    }
    let heading = format!("[{section}]\n");
    let at =
        line_starting(text, &heading).with_context(|| format!("there is no [{section}]"))? + heading.len();
    let lines = text.get(at..).unwrap_or_default().split_inclusive('\n');
    let smaller = lines.take_while(|line| !line.trim().is_empty() && crate_of(line) < name);
    let place = at + smaller.map(str::len).sum::<usize>();
    Ok(insert(text, place, &format!("{name}.workspace = true\n")))
}

/// Whether a manifest names a crate in a section.
pub(crate) fn depends(text: &str, section: &str, name: &str) -> bool {
    let heading = format!("[{section}]");
    let lines = text.lines().skip_while(|line| *line != heading).skip(1);
    lines.take_while(|line| !line.starts_with('[')).any(|line| crate_of(line) == name)
}

/// `tokio` of `tokio.workspace = true` and of `tokio = { .. }`.
fn crate_of(line: &str) -> &str {
    line.split(['.', ' ', '=']).next().unwrap_or_default()
}

/// Puts a line behind the last line for which `is_alike` holds.
pub(crate) fn line_after_last(text: &str, is_alike: impl Fn(&str) -> bool, line: &str) -> Option<String> {
    let mut at = 0;
    let mut place = None;
    for one in text.split_inclusive('\n') {
        at += one.len();
        if is_alike(one) {
            place = Some(at);
        }
    }
    Some(insert(text, place?, line))
}

/// Adds `call` to the list that a function of `functions/outcry` puts together, behind the last of its kind.
pub(crate) fn add_to_list(text: &str, function: &str, kind: &str, call: &str) -> anyhow::Result<String> {
    let start =
        text.find(&format!("pub fn {function}()")).with_context(|| format!("there is no {function}()"))?;
    let body = text.get(start..).unwrap_or_default();
    let body = body.get(..body.find("\n}").unwrap_or(body.len())).unwrap_or_default();
    let last = body.rfind(kind).with_context(|| format!("{function}() lists no {kind}"))? + kind.len();
    Ok(insert(text, start + last, &format!(", {call}")))
}

/// Adds a message to the words of a domain: behind the last one that a function answers, else at the end.
pub(crate) fn message(text: &str, message: &str) -> String {
    let is_answered =
        |line: &str| line.starts_with("impl Command for ") || line.starts_with("impl Query for ");
    let mut at = 0;
    let mut place = None;
    let mut open = false;
    for line in text.split_inclusive('\n') {
        at += line.len();
        open |= is_answered(line);
        if open && line.trim_end().ends_with('}') && (line.starts_with('}') || is_answered(line)) {
            place = Some(at);
            open = false;
        }
    }
    // An answer that was written with its message stays with it.
    while let Some(start) = place {
        let rest = text.get(start..).unwrap_or_default();
        let answer = rest.strip_prefix("\n/// The answer to [`").and_then(|_| rest.find("\n}\n"));
        let Some(end) = answer else { break };
        place = Some(start + end + "\n}\n".len());
    }
    match place {
        Some(place) => insert(text, place, &format!("\n{message}")),
        None => format!("{}\n\n{message}", text.trim_end()),
    }
}

/// The heading of the README's table of functions.
const TABLE: &str = "| function | what wakes it | over HTTP |";

/// Adds a row to the README's table: behind those of `siblings`, else last. `None` when there is no such table.
pub(crate) fn row(text: &str, siblings: &[String], row: &str) -> Option<String> {
    let start = line_starting(text, TABLE)?;
    let mut at = start;
    let mut place = None;
    for line in text.get(start..)?.split_inclusive('\n').take_while(|line| line.starts_with('|')) {
        at += line.len();
        let name = line.trim_start_matches(['|', ' ', '`']).split('`').next().unwrap_or_default();
        if siblings.iter().any(|sibling| sibling == name) {
            place = Some(at);
        }
    }
    Some(insert(text, place.unwrap_or(at), row))
}

/// A line of the edge's table.
pub(crate) struct Route<'a> {
    /// `ask` or `send`.
    pub(crate) verb: &'a str,
    pub(crate) path: &'a str,
    /// The message it sends.
    pub(crate) message: &'a str,
    /// Behind the message.
    pub(crate) adverb: &'a str,
    pub(crate) domain: &'a str,
}

/// Adds a line to the edge's table: behind those of the same domain, else last, under a heading of its own.
pub(crate) fn route(text: &str, route: &Route<'_>) -> anyhow::Result<String> {
    let Route { verb, path, message, adverb, domain } = route;
    let line = format!("        {verb}::<{message}>([\"{path}\"]){adverb},\n");
    let siblings = imported(text, "contracts", domain);
    let is_sibling = |line: &str| siblings.iter().any(|message| line.contains(&format!("::<{message}>(")));
    let text = import(text, "contracts", &format!("{domain}::{message}"))?;
    let text = import(&text, "crate::exchange", verb)?;
    if let Some(text) = line_after_last(&text, is_sibling, &line) {
        return Ok(text);
    }
    let start = text.find("fn table()").context("there is no table()")?;
    let end = start
        + text.get(start..).and_then(|table| table.find("\n    ]")).context("table() does not end")?
        + 1;
    Ok(insert(&text, end, &format!("        // {domain}\n{line}")))
}

/// Checks that a path fits beside those that are there: the router refuses others only when it starts.
pub(crate) fn check_route(text: &str, verb: &str, path: &str) -> anyhow::Result<()> {
    let is_parameter = |part: &str| part.starts_with('{') && part.ends_with('}');
    let plain = |part: &str| {
        let word = if is_parameter(part) { part.trim_matches(['{', '}']) } else { part };
        !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
    };
    let parts = |path: &str| path.split('/').skip(1).map(str::to_owned).collect::<Vec<_>>();
    let wanted = parts(path);
    ensure!(
        path.starts_with('/') && wanted.iter().all(|part| plain(part)),
        "{path:?} is no path of a route: expected one such as /api/v1/items/{{item_id}}/watch"
    );
    for line in text.lines().filter(|line| line.contains("([\"")) {
        let is_same_verb = line.trim_start().starts_with(&format!("{verb}::<"));
        // What stands between quotation marks.
        for there in line.split('"').skip(1).step_by(2).filter(|there| there.starts_with('/')) {
            ensure!(!(is_same_verb && there == path), "{path} is taken: {}", line.trim());
            for (part, other) in wanted.iter().zip(parts(there)) {
                ensure!(
                    *part == other || !(is_parameter(part) && is_parameter(&other)),
                    "{part} is called {other} in {there}: one place has one name"
                );
                if *part != other {
                    break;
                }
            }
        }
    }
    Ok(())
}

/// The names that are imported from a module of a crate.
fn imported(text: &str, krate: &str, module: &str) -> Vec<String> {
    let start = format!("use {krate}::");
    let Some(at) = line_starting(text, &start) else { return Vec::new() };
    let tree =
        text.get(at + start.len()..).and_then(|rest| rest.split(';').next()).unwrap_or_default().trim();
    let entries = match tree.strip_prefix('{').and_then(|tree| tree.strip_suffix('}')) {
        Some(inner) => split(inner),
        None => vec![tree.to_owned()],
    };
    let names =
        entries.into_iter().filter_map(|entry| entry.strip_prefix(&format!("{module}::")).map(str::to_owned));
    names.flat_map(|names| split(names.trim_matches(['{', '}']))).collect()
}

/// Whether the code, comments apart, has this word.
pub(crate) fn has_word(text: &str, word: &str) -> bool {
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    code.flat_map(|line| line.split(|c: char| !c.is_alphanumeric() && c != '_')).any(|one| one == word)
}

/// The parts between commas that stand in no bracket.
fn split(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut depth = 0_usize;
    for c in text.chars() {
        match c {
            '{' | '(' | '[' => depth += 1,
            '}' | ')' | ']' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(String::new());
                continue;
            }
            _ => {}
        }
        if let Some(part) = parts.last_mut() {
            part.push(c);
        }
    }
    parts.into_iter().map(|part| part.trim().to_owned()).filter(|part| !part.is_empty()).collect()
}

/// Where the bracket closes that was open before the text.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 0_usize;
    for (at, c) in text.char_indices() {
        match c {
            '[' | '(' | '{' => depth += 1,
            ']' | ')' | '}' if depth == 0 => return Some(at),
            ']' | ')' | '}' => depth -= 1,
            _ => {}
        }
    }
    None
}

/// Behind the documentation of the file and an empty line.
fn after_heading(text: &str) -> usize {
    text.split_inclusive('\n').take_while(|line| line.starts_with("//!")).map(str::len).sum()
}

fn line_starting(text: &str, start: &str) -> Option<usize> {
    if text.starts_with(start) { Some(0) } else { text.find(&format!("\n{start}")).map(|at| at + 1) }
}

fn position(text: &str, wanted: &dyn Fn(&str) -> bool) -> Option<usize> {
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        if wanted(line) {
            return Some(at);
        }
        at += line.len();
    }
    None
}

fn line_end(text: &str, at: usize) -> usize {
    text.get(at..).and_then(|rest| rest.find('\n')).map_or(text.len(), |end| at + end + 1)
}

fn insert(text: &str, at: usize, new: &str) -> String {
    replace(text, at, 0, new)
}

fn replace(text: &str, at: usize, length: usize, new: &str) -> String {
    let (before, after) = (text.get(..at).unwrap_or_default(), text.get(at + length..).unwrap_or_default());
    [before, new, after].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_import_joins_those_of_its_crate() {
        for (text, path, joined) in [
            ("use platform::Message;\n", "Query", "use platform::{Message, Query};\n"),
            ("use platform::{Cx, Query};\n", "Query", "use platform::{Cx, Query};\n"),
            ("use platform::a::B;\n", "a::C", "use platform::a::{B, C};\n"),
            ("use platform::{\n    a::{B, D},\n    C,\n};\n", "a::E", "use platform::{a::{B, D, E}, C};\n"),
            ("use platform::{a::B, C};\n", "d::E", "use platform::{a::B, C, d::E};\n"),
            ("//! Doc.\n", "Cx", "//! Doc.\n\nuse platform::Cx;\n"),
            (
                "use std::fmt;\n\nuse serde::Serialize;\n",
                "Cx",
                "use std::fmt;\n\nuse platform::Cx;\nuse serde::Serialize;\n",
            ),
            ("//! Doc.\n\nuse crate::X;\n", "Cx", "//! Doc.\n\nuse platform::Cx;\n\nuse crate::X;\n"),
        ] {
            assert_eq!(import(text, "platform", path).unwrap(), joined);
        }
    }

    #[test]
    fn the_menu_grows_at_its_end_and_outcomes_stay_the_last() {
        let menu_of =
            |entries: &str| format!("pub fn functions() -> Vec<Function> {{\n    vec![{entries}]\n}}\n");
        for (entries, grown) in [
            ("", "b::function()"),
            ("a::function()", "a::function(), b::function()"),
            ("\n a::function(),\n", "\n a::function(), b::function(),\n"),
            (
                "a::function().lanes(1, 2), x_outcome::function()",
                "a::function().lanes(1, 2), b::function(), x_outcome::function()",
            ),
        ] {
            assert_eq!(add_to_menu(&menu_of(entries), "b", "x_outcome").unwrap(), menu_of(grown));
        }
        assert_eq!(menu(&menu_of("a::function().lanes(1, 2),\n// why\nb::function()")).unwrap(), ["a", "b"]);
        assert!(add_to_menu("fn main() {}", "b", "x_outcome").is_err());
    }

    #[test]
    fn a_binary_is_listed_like_its_neighbour() {
        let text =
            "[[bin]]\nname = \"a\"\ntest = false\ndoc = false\n\n[[bin]]\nname = \"x-relay\"\ntest = false\n";
        let first = "[[bin]]\nname = \"a\"\ntest = false\ndoc = false\n\n";
        let relay = "[[bin]]\nname = \"x-relay\"\ntest = false\n";

        let behind = bin(text, "b", Some("a"), "x-relay");
        let before = bin(text, "b", None, "x-relay");
        let last = bin(text, "b", Some("unknown"), "y-relay");

        assert_eq!(behind, format!("{first}[[bin]]\nname = \"b\"\ntest = false\ndoc = false\n\n{relay}"));
        assert_eq!(before, format!("{first}[[bin]]\nname = \"b\"\ntest = false\n\n{relay}"));
        assert_eq!(last, format!("{first}{relay}\n[[bin]]\nname = \"b\"\ntest = false\n"));
    }

    #[test]
    fn a_crate_is_named_once_and_in_order() {
        let text = "[dependencies]\nanyhow.workspace = true\nsqlx = { workspace = true }\n\n[dev-dependencies]\ntesting.workspace = true\n";
        let with = |name| dependency(text, "dependencies", name).unwrap();

        assert_eq!(with("sqlx"), text);
        assert!(with("platform").contains("anyhow.workspace = true\nplatform.workspace = true\nsqlx"));
        assert!(with("uuid").contains("}\nuuid.workspace = true\n\n[dev-"));
        assert!(
            dependency(text, "dev-dependencies", "a").unwrap().contains("[dev-dependencies]\na.workspace")
        );
        assert!(dependency(text, "build-dependencies", "a").is_err());
        assert!(depends("[a]\n# one\nx = 1\n\n# two\ny-z.version = 2\n[b]\nw = 1\n", "a", "y-z"));
        assert!(!depends("[a]\nx = 1\n[b]\nw = 1\n", "a", "w"));
    }

    #[test]
    fn a_row_stands_with_those_of_its_domain() {
        let table =
            format!("{TABLE}\n|---|---|---|\n| `a` | x | - |\n| `b` | x | - |\n\n| `c` | another table |\n");
        let with = |siblings: &[&str]| {
            row(&table, &siblings.iter().map(|one| (*one).to_owned()).collect::<Vec<_>>(), "| `n` |\n")
        };

        assert!(with(&["a"]).unwrap().contains("| `a` | x | - |\n| `n` |\n| `b` |"));
        assert!(with(&["c"]).unwrap().contains("| `b` | x | - |\n| `n` |\n\n"));
        assert_eq!(row("| method and path | who | function |\n", &[], "| `n` |\n"), None);
    }

    #[test]
    fn a_module_stands_below_the_heading_when_it_is_the_first() {
        assert_eq!(module("//! Doc.\n\nuse a::B;\n", "m"), "//! Doc.\n\npub mod m;\n\nuse a::B;\n");
        assert_eq!(
            module("mod a;\n#[cfg(test)]\nmod b;\n", "m"),
            "mod a;\npub mod m;\n#[cfg(test)]\nmod b;\n"
        );
    }

    #[test]
    fn a_message_stands_behind_the_messages() {
        let text = "use a::B;\n\nimpl Command for A {\n    fn key() {}\n}\n\nimpl Query for B {}\n\n/// The answer to [`B`].\npub struct C {\n}\n\nfn help() {}\n";

        assert!(message(text, "new\n").contains("pub struct C {\n}\n\nnew\n\nfn help"));
        assert!(message(&text.replace("answer", "figures"), "new\n").contains("for B {}\n\nnew\n\n/// The"));
        assert!(
            message("impl Command for A {\n    fn key() {}\n}\n\nfn help() {}\n", "new\n")
                .contains("}\n}\n\nnew\n\nfn")
        );
        assert_eq!(message("//! Doc.\n", "new\n"), "//! Doc.\n\nnew\n");
    }

    #[test]
    fn a_path_that_the_router_would_refuse_is_refused() {
        let table = "        ask::<A>([\"/items/{item_id}/bids\", \"/bids\"]),\n";
        let check = |verb, path| check_route(table, verb, path).map_err(|error| error.to_string());

        assert_eq!(check("send", "/bids"), Ok(()));
        assert_eq!(check("ask", "/items/{item_id}/bookmark"), Ok(()));
        assert_eq!(check("ask", "/items/mine/{id}"), Ok(()));
        assert!(check("ask", "/bids").unwrap_err().contains("/bids is taken: ask::<A>"));
        assert!(check("ask", "/items/{id}").unwrap_err().contains("{id} is called {item_id}"));
        for path in ["bids", "/", "/bids/", "//bids", "/b ids", "/bids?x=1", "/{}", "/a\"b", "/{a}{b}"] {
            assert!(check("ask", path).unwrap_err().contains("is no path"), "{path}");
        }
    }
}
