//! Tidy: the house rules that a compiler does not hold, as tests.
//!
//! In: the files of the repository as they lie there. Out: every violation with its file and line, all at once.
//! Does not: parse Rust; it relies on the shape that rustfmt gives to code.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
/// Without unit tests.
const FILE_LINES_MAX: usize = 600;
const FUNCTION_LINES_MAX: usize = 120;
/// Files and functions that may be longer, each with its reason. To be kept empty.
const LONG_FILES: &[(&str, &str)] = &[];
const LONG_FUNCTIONS: &[(&str, &str)] = &[];
/// Words of the data's way that live in a folder of another name.
const OTHER_FOLDER: &[(&str, &str)] =
    &[("lane", "cell"), ("score", "model"), ("store", "online"), ("manifest", "commit"), ("chain", "commit")];
/// Folders that are not the repository's text.
const NOT_OURS: &[&str] = &["target", "out", "data", "node_modules", "__pycache__"];

/// A source file, with `/` in its path from the repository's root.
struct Source {
    path: String,
    text: String,
}

impl Source {
    /// Whether the file as a whole holds unit tests.
    fn is_test(&self) -> bool {
        let name = self.path.rsplit('/').next().unwrap_or_default();
        name == "tests.rs" || name.ends_with("_tests.rs") || self.path.contains("/tests/")
    }

    /// The lines before the unit tests; none for files that are tests as a whole.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines: Vec<&str> = self.text.lines().collect();
        let starts_tests = |at: &usize| {
            lines[*at] == "#[cfg(test)]" && lines.get(at + 1).is_some_and(|l| l.starts_with("mod ") && l.ends_with('{'))
        };
        let end = if self.is_test() { 0 } else { (0..lines.len()).find(starts_tests).unwrap_or(lines.len()) };
        self.text.lines().take(end).enumerate().map(|(index, line)| (index + 1, line))
    }

    /// The same without comments.
    fn statements(&self) -> impl Iterator<Item = (usize, &str)> {
        self.code().map(|(number, line)| (number, line.split("//").next().unwrap_or_default()))
    }
}

fn files(folder: &str, ending: &str) -> Vec<Source> {
    fn walk(folder: &Path, ending: &str, found: &mut Vec<PathBuf>) {
        let Ok(entries) = fs::read_dir(folder) else { return };
        for entry in entries.map(Result::unwrap) {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with('.') || NOT_OURS.contains(&name.as_str()) {
                continue;
            }
            match entry.file_type().unwrap().is_dir() {
                true => walk(&entry.path(), ending, found),
                false if name.ends_with(ending) => found.push(entry.path()),
                false => {}
            }
        }
    }
    let mut paths = Vec::new();
    walk(&Path::new(ROOT).join(folder), ending, &mut paths);
    paths.sort();
    let relative = |path: &PathBuf| path.strip_prefix(ROOT).unwrap().to_string_lossy().replace('\\', "/");
    paths.iter().map(|path| Source { path: relative(path), text: fs::read_to_string(path).unwrap() }).collect()
}

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(ROOT).join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn assert_none(rule: &str, violations: Vec<String>) {
    assert!(violations.is_empty(), "{rule}:\n  {}\n", violations.join("\n  "));
}

/// The cells of the first table whose header starts with `first`.
fn table(text: &str, first: &str) -> Vec<Vec<String>> {
    let header = format!("| {first} |");
    let rows = text.lines().skip_while(|line| !line.starts_with(&header)).skip(2);
    rows.take_while(|line| line.starts_with('|'))
        .map(|line| line.trim_matches('|').split('|').map(|cell| cell.trim().to_string()).collect())
        .collect()
}

fn quoted(cell: &str) -> Vec<String> {
    cell.split('`').skip(1).step_by(2).map(String::from).collect()
}

fn top_modules() -> BTreeSet<String> {
    let entries = fs::read_dir(Path::new(ROOT).join("src")).unwrap().map(Result::unwrap);
    let folders = entries.filter(|entry| entry.file_type().unwrap().is_dir());
    folders.map(|entry| entry.file_name().into_string().unwrap()).collect()
}

/// Which modules one module may import whole, and of which it may import the spec types.
#[derive(Debug, Default)]
struct Allowed {
    whole: BTreeSet<String>,
    specs: BTreeSet<String>,
}

/// The layering table: module -> what it may import.
fn layering() -> BTreeMap<String, Allowed> {
    let architecture = read("docs/ARCHITECTURE.md");
    let rows = table(&architecture, "layer");
    let layer_of = |row: &Vec<String>| row[0].chars().next().and_then(|c| c.to_digit(10)).expect("a layer's number");
    let modules: Vec<(u32, String)> = rows.iter().map(|row| (layer_of(row), quoted(&row[1]).remove(0))).collect();
    let in_layers = |text: &str| -> BTreeSet<String> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (first, last): (u32, u32) = (first.trim().parse().unwrap(), last.trim().parse().unwrap());
        modules.iter().filter(|(layer, _)| (first..=last).contains(layer)).map(|(_, module)| module.clone()).collect()
    };
    let mut allowed = BTreeMap::new();
    for (row, (_, module)) in rows.iter().zip(&modules) {
        let mut rule = Allowed::default();
        for part in row[3].split(',').map(str::trim).filter(|part| *part != "nothing") {
            let layers =
                part.trim_start_matches("specs of ").strip_prefix("layer").map(|rest| rest.trim_start_matches('s'));
            match layers {
                Some(layers) if part.starts_with("specs of ") => rule.specs.extend(in_layers(layers)),
                Some(layers) => rule.whole.extend(in_layers(layers)),
                None => rule.whole.extend(quoted(part)),
            }
        }
        assert!(allowed.insert(module.clone(), rule).is_none(), "{module} has two rows");
    }
    allowed
}

/// Every `crate::a::b` of a line, and those of a `use crate::{a::b, c::d};`, as (a, names after it).
fn crate_paths(statement: &str) -> Vec<(String, Vec<String>)> {
    let word = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let split = |path: &str| -> Option<(String, Vec<String>)> {
        let module = word(path);
        let rest = path[module.len()..].strip_prefix("::")?;
        let names = match rest.strip_prefix('{') {
            Some(group) => group.split('}').next()?.split(',').map(|name| word(name.trim())).collect(),
            None => vec![word(rest)],
        };
        Some((module, names))
    };
    let starts = statement.match_indices("crate::").map(|(at, found)| &statement[at + found.len()..]);
    starts
        .flat_map(|path| match path.strip_prefix('{') {
            // Groups at the root: each of their members is a path of its own.
            Some(group) => {
                let mut depth = 0;
                let member = |c: char| {
                    depth += (c == '{') as i32 - (c == '}') as i32;
                    c == ',' && depth == 0
                };
                group.split(member).filter_map(|path| split(path.trim())).collect::<Vec<_>>()
            }
            None => split(path).into_iter().collect(),
        })
        .collect()
}

#[test]
fn every_import_follows_the_layering_table() {
    let layering = layering();
    let modules = top_modules();
    let specs: BTreeMap<&String, String> = modules
        .iter()
        .map(|m| (m, fs::read_to_string(format!("{ROOT}/src/{m}/spec.rs")).unwrap_or_default()))
        .collect();
    let is_spec = |module: &str, name: &String| {
        let spec = specs.get(&module.to_string()).map_or("", String::as_str);
        ["struct", "enum", "type", "const", "fn"].iter().any(|kind| {
            let definition = format!("pub {kind} {name}");
            spec.match_indices(&definition).any(|(at, _)| {
                !spec[at + definition.len()..].starts_with(|next: char| next.is_alphanumeric() || next == '_')
            })
        })
    };
    let mut violations = Vec::new();
    for source in files("src", ".rs") {
        let parts: Vec<&str> = source.path.trim_end_matches(".rs").split('/').skip(1).collect();
        let [module, rest @ ..] = parts.as_slice() else { continue };
        if !modules.contains(*module) {
            continue;
        }
        let inner = format!("{module}::{}", rest.first().unwrap_or(&""));
        let (name, rule) = match (layering.get(&inner), layering.get(*module)) {
            (Some(rule), _) => (inner, rule),
            (None, Some(rule)) => (module.to_string(), rule),
            (None, None) => {
                violations.push(format!("src/{module} has no row in the table"));
                continue;
            }
        };
        // rustfmt breaks long lists of imports over lines: statements are joined up to their semicolon.
        let code: String = source.statements().map(|(_, line)| line.trim_start().to_string() + "\n").collect();
        let mut joined = String::new();
        let mut in_use = false;
        for line in code.lines() {
            in_use |= line.contains("use crate::");
            joined += line;
            in_use &= !line.contains(';');
            joined.push(if in_use { ' ' } else { '\n' });
        }
        for (used, names) in joined.lines().flat_map(crate_paths) {
            let to_itself = used == *module && !name.contains("::");
            if to_itself || !modules.contains(&used) || rule.whole.contains(&used) {
                continue;
            }
            for imported in names {
                let inner_allowed = rule.whole.contains(&format!("{used}::{imported}"));
                let own = name == format!("{used}::{imported}");
                let spec_allowed = rule.specs.contains(&used) && is_spec(&used, &imported);
                if !inner_allowed && !own && !spec_allowed {
                    violations.push(format!("{}: {name} may not import {used}::{imported}", source.path));
                }
            }
        }
    }
    assert_none("docs/ARCHITECTURE.md, Layers", violations);
}

#[test]
fn every_module_of_the_house_has_a_row_and_every_row_a_module() {
    let rows: BTreeSet<String> = layering().into_keys().filter(|module| !module.contains("::")).collect();
    assert_eq!(rows, top_modules());
}

#[test]
fn a_path_through_the_crate_is_found_however_it_is_written() {
    let names = |names: &[&str]| names.iter().map(|name| name.to_string()).collect::<Vec<_>>();
    assert_eq!(crate_paths("use crate::event::{Value, list_of};"), [("event".into(), names(&["Value", "list_of"]))]);
    assert_eq!(
        crate_paths("use crate::{event::Value, sink::{a, b}};"),
        [("event".into(), names(&["Value"])), ("sink".into(), names(&["a", "b"]))]
    );
    assert_eq!(crate_paths("let x = crate::join::Take::First;"), [("join".into(), names(&["Take"]))]);
    assert!(crate_paths("crate::invariant!(F1, true)").is_empty());
}

#[test]
fn every_module_starts_with_what_it_is() {
    let mut violations = Vec::new();
    for source in ["src", "tests", "benches"].iter().flat_map(|folder| files(folder, ".rs")) {
        if source.path.starts_with("src/") && source.is_test() {
            continue;
        }
        match source.text.lines().next() {
            Some(first) if first.starts_with("//! ") => {}
            _ => violations.push(source.path),
        }
    }
    assert_none("a file starts with a `//!` head that says what it is", violations);
}

#[test]
fn the_data_s_way_is_drawn_alike_everywhere_and_its_words_are_folders() {
    let architecture = read("docs/ARCHITECTURE.md");
    let drawing: Vec<&str> = architecture.lines().take_while(|line| !line.is_empty()).map(str::trim).collect();
    assert!(drawing.len() == 3, "docs/ARCHITECTURE.md starts with the data's way");
    for path in ["src/lib.rs", "README.md"] {
        let Ok(text) = fs::read_to_string(Path::new(ROOT).join(path)) else { continue };
        let found = text.lines().any(|line| line.trim_start_matches("//!").trim() == drawing[0]);
        assert!(found, "{path} does not show the data's way as docs/ARCHITECTURE.md does");
    }
    let modules = top_modules();
    let words = drawing.iter().flat_map(|line| line.split(|c: char| !c.is_ascii_lowercase()));
    for word in words.filter(|word| !word.is_empty()) {
        let folder = OTHER_FOLDER.iter().find(|(other, _)| *other == word).map_or(word, |(_, folder)| folder);
        assert!(modules.contains(folder), "{word} of the data's way is no folder of src/");
    }
}

#[test]
fn links_in_documents_lead_somewhere() {
    let mut violations = Vec::new();
    for document in files("", ".md") {
        let folder = Path::new(ROOT).join(&document.path).parent().unwrap().to_path_buf();
        for (number, line) in document.text.lines().enumerate() {
            for (at, _) in line.match_indices("](") {
                let target = line[at + 2..].split([')', ' ', '#']).next().unwrap_or_default();
                let outside = target.is_empty() || target.contains("://") || target.starts_with("mailto:");
                if !outside && !folder.join(target).exists() {
                    violations.push(format!("{}:{}: {target}", document.path, number + 1));
                }
            }
        }
    }
    assert_none("a link leads to a file that exists", violations);
}

#[test]
fn nothing_is_put_off() {
    // Put together here, so that this file does not find itself.
    let words: Vec<String> =
        [("TO", "DO"), ("FIX", "ME"), ("X", "XX"), ("to", "do!("), ("un", "implemented!("), ("for", " now")]
            .iter()
            .map(|(a, b)| format!("{a}{b}"))
            .collect();
    let mut violations = Vec::new();
    for source in ["src", "tests", "benches", "examples"].iter().flat_map(|folder| files(folder, ".rs")) {
        for (number, line) in source.text.lines().enumerate() {
            for word in words.iter().filter(|word| has_word(line, word)) {
                violations.push(format!("{}:{}: {word}", source.path, number + 1));
            }
        }
    }
    assert_none("what is not supported is refused with an error, not put off", violations);
}

fn has_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back().is_some_and(char::is_alphanumeric);
        let after = line[at + word.len()..].chars().next().is_some_and(char::is_alphanumeric);
        !before && (!after || word.ends_with('('))
    })
}

#[test]
fn files_and_functions_stay_short_enough_to_read() {
    let mut violations = Vec::new();
    for source in files("src", ".rs") {
        let lines: Vec<(usize, &str)> = source.code().collect();
        if lines.len() > FILE_LINES_MAX && LONG_FILES.iter().all(|(path, _)| *path != source.path) {
            violations.push(format!("{}: {} lines, at most {FILE_LINES_MAX}", source.path, lines.len()));
        }
        for (index, (number, line)) in lines.iter().enumerate() {
            let Some(name) = function_name(line) else { continue };
            let indent = &line[..line.len() - line.trim_start().len()];
            let signature = lines[index..].iter().find(|(_, l)| l.ends_with(['{', ';', '}']));
            if !signature.is_some_and(|(_, l)| l.ends_with('{')) {
                continue;
            }
            let end = lines[index..].iter().find(|(_, l)| *l == format!("{indent}}}"));
            let length = end.map_or(0, |(end, _)| end + 1 - number);
            let place = format!("{}::{name}", source.path);
            if length > FUNCTION_LINES_MAX && LONG_FUNCTIONS.iter().all(|(function, _)| *function != place) {
                violations.push(format!("{place}: {length} lines, at most {FUNCTION_LINES_MAX}"));
            }
        }
    }
    assert_none("split it where it says two things", violations);
}

fn function_name(line: &str) -> Option<&str> {
    let (before, after) = line.split_once("fn ")?;
    let qualifiers = before.trim().split(' ').filter(|word| !word.is_empty());
    let all_known = qualifiers
        .into_iter()
        .all(|word| word.starts_with("pub") || ["const", "async", "unsafe", "extern", "\"C\""].contains(&word));
    all_known.then(|| after.split(['(', '<']).next().unwrap_or_default())
}

#[test]
fn the_table_of_invariants_matches_the_code() {
    let rows = table(&read("docs/INVARIANTS.md"), "ID");
    let ids: Vec<&str> = rows.iter().map(|row| row[0].as_str()).collect();
    assert_eq!(ids, (1..=16).map(|n| format!("F{n}")).collect::<Vec<_>>(), "every ID has one row, in order");
    let sources: Vec<Source> = ["src", "tests"].iter().flat_map(|folder| files(folder, ".rs")).collect();
    let mut violations = Vec::new();
    for row in &rows {
        let (id, tests, status) = (&row[0], quoted(&row[3]), row[4].as_str());
        match status {
            "held" | "partly" if tests.is_empty() => violations.push(format!("{id} is {status}, but names no test")),
            "held" | "partly" => {}
            "later" if tests.is_empty() => {}
            _ => violations.push(format!("{id}: status {status:?} does not go with its tests")),
        }
        for test in tests {
            let definition = format!("fn {test}(");
            if !sources.iter().any(|source| source.text.contains(&definition)) {
                violations.push(format!("{id}: there is no test {test}"));
            }
        }
    }
    for source in files("src", ".rs") {
        // The ID may stand on the line after `invariant!(`.
        let code: Vec<&str> = source.statements().map(|(_, line)| line).collect();
        for rest in code.join("\n").split("invariant!(").skip(1) {
            let id: String = rest.trim_start().chars().take_while(|c| c.is_alphanumeric()).collect();
            if !id.is_empty() && !ids.contains(&id.as_str()) {
                violations.push(format!("{}: {id} is not in the table", source.path));
            }
        }
    }
    assert_none("docs/INVARIANTS.md", violations);
}

#[test]
fn the_table_of_faults_names_tests_that_exist() {
    let rows = table(&read("docs/FAULTS.md"), "#");
    let numbers: Vec<&str> = rows.iter().map(|row| row[0].as_str()).collect();
    assert_eq!(numbers, (1..=46).map(|n| n.to_string()).collect::<Vec<_>>(), "every fault has one row, in order");
    let sources: Vec<Source> = ["src", "tests"].iter().flat_map(|folder| files(folder, ".rs")).collect();
    let mut violations = Vec::new();
    for row in &rows {
        let (number, tests, reason) = (&row[0], quoted(&row[3]), &row[4]);
        if tests.is_empty() && reason.is_empty() {
            violations.push(format!("{number}: neither a test nor a reason why there is none"));
        }
        for test in tests {
            let definition = format!("fn {test}(");
            if !sources.iter().any(|source| source.text.contains(&definition)) {
                violations.push(format!("{number}: there is no test {test}"));
            }
        }
    }
    assert_none("docs/FAULTS.md", violations);
}

#[test]
fn every_guarantee_is_shown_by_tests_that_exist() {
    let sources: Vec<Source> = ["src", "tests"].iter().flat_map(|folder| files(folder, ".rs")).collect();
    let mut violations = Vec::new();
    for row in table(&read("docs/GUARANTEES.md"), "promise") {
        let tests = quoted(&row[1]);
        if tests.is_empty() {
            violations.push(format!("no test shows: {}", row[0]));
        }
        for test in tests {
            if !sources.iter().any(|source| source.text.contains(&format!("fn {test}("))) {
                violations.push(format!("{}: there is no test {test}", row[0]));
            }
        }
    }
    assert_none("docs/GUARANTEES.md", violations);
}

#[test]
fn banned_crates_are_not_in_the_tree() {
    let deny = read("deny.toml");
    let entries = deny.lines().filter(|line| line.trim_start().starts_with("{ name = ") && !line.contains("wrappers"));
    let banned: Vec<&str> = entries.filter_map(|line| line.split('"').nth(1)).collect();
    assert!(banned.contains(&"arrow2"), "the list was found");
    let lock = read("Cargo.lock");
    let present = banned.iter().filter(|name| lock.contains(&format!("name = \"{name}\"\n")));
    assert_none("deny.toml bans it and says why", present.map(|name| name.to_string()).collect());
}
