//! What the compiler cannot hold: the layer order, the unsafe rooms, heads, sizes and names of files.
//!
//! Reads every file of the tree, so a new file is held to the rules without being listed. Each rule is one
//! function from a file to its findings, in the table below; each is tried on bad text at the foot.
//! Not here: what clippy and the compiler find by themselves.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// The layers of `src`, lowest first. A module names only modules of lines above its own; modules that
/// share a line do not know each other.
const LAYERS: &[&[&str]] = &[
    &["types"],
    &["bounds"],
    &["rules"],
    &["stats"],
    &["memory"],
    &["wire"],
    &["config"],
    &["rpc", "paxos", "watermark", "tree", "txn", "wal"],
    &["partition"],
    &["nic"],
    &["disk"],
    &["clock"],
    &["reactor"],
    &["sim"],
    &["server"],
    &["resp"],
    &["http"],
    &["client"],
    &["cli"],
    &["fuzz"],
];

/// Pairs (who, whom) that may know each other in spite of sharing a line.
const SIBLINGS: &[(&str, &str)] = &[("txn", "tree")];

/// The only files and directories in which `unsafe` may be written.
const UNSAFE_ROOMS: &[&str] = &[
    "src/memory/",
    "src/nic/udp.rs",
    "src/nic/udp/",
    "src/nic/dpdk/",
    "src/disk/uring.rs",
    "src/disk/uring/",
    "src/reactor/ring.rs",
    "src/reactor/ring/",
    "src/reactor/wait.rs",
    "src/reactor/affinity.rs",
    "bench/rpc/raw.rs",
];

/// Longer files hide more than one noun.
const LINES_MAX: usize = 1_000;

/// Names that say nothing, and so attract everything.
const NAMELESS: &[&str] = &["utils.rs", "util.rs", "helpers.rs", "common.rs", "misc.rs"];

/// Where paths of one particular machine begin. In halves, or this file would find itself.
const MACHINE_PATHS: &[&str] =
    &[concat!("/ho", "me/"), concat!("/ro", "ot/"), concat!("/wo", "rk/"), concat!("/Us", "ers/")];

type Rule = fn(&File) -> Vec<Finding>;

const RULES: &[Rule] =
    &[check_layers, check_unsafe, check_head, check_size, check_name, check_sleep, check_machine_paths];

struct File {
    /// From the root of the repository, with slashes.
    path: String,
    text: String,
    /// The text of a Rust file with comments and literals blanked out; lines and columns stay.
    code: String,
}

/// The line, and what is wrong there.
type Finding = (usize, String);

impl File {
    fn new(path: &str, text: &str) -> File {
        let code = if path.ends_with(".rs") { blank(text) } else { String::new() };
        File { path: path.to_string(), text: text.to_string(), code }
    }

    fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// The names that lead to this file from the crate's root; `None` outside `src` and for the roots.
    fn module(&self) -> Option<Vec<&str>> {
        let path = self.path.strip_prefix("src/")?.strip_suffix(".rs")?;
        let path = path.strip_suffix("/mod").unwrap_or(path);
        let is_root = path == "lib" || path == "main";
        (!is_root).then(|| path.split('/').collect())
    }
}

#[test]
fn the_tree_is_tidy() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    read_tree(root, root, &mut files);
    assert!(files.iter().any(|file| file.path == "tests/tidy.rs"), "the tree was not read");
    let mut complaints: Vec<String> = files.iter().flat_map(complaints).collect();
    complaints.extend(shim_complaints(&files));
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

fn complaints(file: &File) -> Vec<String> {
    let findings = RULES.iter().flat_map(|rule| rule(file));
    findings.map(|(line, what)| format!("{}:{line}: {what}", file.path)).collect()
}

fn read_tree(root: &Path, directory: &Path, files: &mut Vec<File>) {
    let entries = fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    for entry in entries {
        let entry = entry.expect("a directory entry can be read");
        let (path, name) = (entry.path(), entry.file_name());
        let kind = entry.file_type().expect("a directory entry has a type");
        if kind.is_dir() && !["target", ".git", "out"].iter().any(|skipped| name == *skipped) {
            read_tree(root, &path, files);
        } else if let (true, Ok(text)) = (kind.is_file(), fs::read_to_string(&path)) {
            let relative = path.strip_prefix(root).expect("entries are below the root");
            files.push(File::new(&relative.to_string_lossy().replace('\\', "/"), &text));
        }
    }
}

/// A module names only modules of lower layers.
fn check_layers(file: &File) -> Vec<Finding> {
    let Some(module) = file.module() else { return Vec::new() };
    let Some(own) = layer(module[0]) else {
        return vec![(1, format!("module {} has no layer: give it a line in LAYERS", module[0]))];
    };
    let allowed = |named: &str| {
        let lower = layer(named).is_none_or(|layer| layer < own);
        lower || named == module[0] || SIBLINGS.contains(&(module[0], named))
    };
    let wrong = crate_names(&file.code, module.len()).into_iter().filter(|(_, named)| !allowed(named));
    wrong
        .map(|(line, named)| (line, format!("{} may not name {named}, which is not below it", module[0])))
        .collect()
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|line| line.contains(&module))
}

/// The modules of the crate's root that the code names, with the line of each: `crate::a`, `crate::{a, b}`,
/// and `super::a` with as many `super` as lead out of a module `depth` deep.
fn crate_names(code: &str, depth: usize) -> Vec<(usize, String)> {
    let mut names = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        names.extend(names_after(code, at + "crate::".len()));
    }
    let climb = "super::".repeat(depth);
    for (at, _) in code.match_indices(&climb) {
        let rest = code[at..].trim_start_matches("super::");
        let named = names_after(code, code.len() - rest.len());
        names.extend(named.into_iter().filter(|(_, name)| layer(name).is_some()));
    }
    names
}

/// The first names of the path or the braced group that begins at `at`.
fn names_after(code: &str, at: usize) -> Vec<(usize, String)> {
    let mut names = Vec::new();
    let mut depth = 0;
    let mut fresh = true;
    let mut rest = at;
    while let Some(c) = code[rest..].chars().next() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => fresh = true,
            c if (c.is_alphabetic() || c == '_') && fresh => {
                let name: String = code[rest..].chars().take_while(|c| is_word(*c)).collect();
                rest += name.len() - 1;
                names.push((line_of(code, rest), name));
                fresh = false;
            }
            c if c.is_whitespace() || depth > 0 => {}
            _ => break,
        }
        if depth == 0 && (c == '}' || !fresh) {
            break;
        }
        rest += code[rest..].chars().next().map_or(1, char::len_utf8);
    }
    names
}

/// `unsafe` only in the rooms; every other file of `src` forbids it, or denies it when a room is below.
fn check_unsafe(file: &File) -> Vec<Finding> {
    if !file.is_rust() || UNSAFE_ROOMS.iter().any(|room| file.path.starts_with(room)) {
        return Vec::new();
    }
    let mut findings: Vec<Finding> = words(&file.code, "unsafe")
        .map(|line| (line, "unsafe outside the rooms: move it into one, behind a safe type".to_string()))
        .collect();
    let forbids = file.code.contains("#![forbid(unsafe_code)]");
    let denies = file.code.contains("#![deny(unsafe_code)]");
    if file.path.starts_with("src/") && !forbids && !(denies && is_above_a_room(&file.path)) {
        findings.push((1, "#![forbid(unsafe_code)] is missing".to_string()));
    }
    findings
}

/// A `forbid` in a parent would bind the room as well.
fn is_above_a_room(path: &str) -> bool {
    let directory = path.strip_suffix("mod.rs").map(str::to_string).or_else(|| {
        let stem = path.strip_suffix(".rs")?;
        Some(if stem == "src/lib" { "src/".to_string() } else { format!("{stem}/") })
    });
    directory.is_some_and(|directory| UNSAFE_ROOMS.iter().any(|room| room.starts_with(&directory)))
}

fn check_head(file: &File) -> Vec<Finding> {
    let read =
        ["src/", "bench/", "tests/"].iter().any(|top| file.path.starts_with(top)) || file.path == "build.rs";
    let bare = file.is_rust() && read && !file.text.starts_with("//! ");
    bare.then(|| (1, "the file does not begin by saying what it is (//!)".to_string())).into_iter().collect()
}

fn check_size(file: &File) -> Vec<Finding> {
    let lines = file.text.lines().count();
    let long = file.is_rust() && lines > LINES_MAX;
    long.then(|| (lines, format!("{lines} lines, at most {LINES_MAX}: which noun wants out?")))
        .into_iter()
        .collect()
}

fn check_name(file: &File) -> Vec<Finding> {
    let name = file.path.rsplit('/').next().unwrap_or_default();
    let nameless = NAMELESS.contains(&name);
    nameless.then(|| (1, format!("{name} says nothing: name the file for its noun"))).into_iter().collect()
}

/// A test that sleeps is slow when it passes and wrong when the machine is slower.
fn check_sleep(file: &File) -> Vec<Finding> {
    let all_tests = file.path.starts_with("tests/") || file.path.ends_with("/tests.rs");
    let from = if all_tests { 1 } else { line_where(&file.code, "#[cfg(test)]").unwrap_or(usize::MAX) };
    let sleeps = file.code.match_indices("thread::sleep").map(|(at, _)| line_of(&file.code, at));
    sleeps
        .filter(|line| *line >= from)
        .map(|line| (line, "a test sleeps: wait for the event".to_string()))
        .collect()
}

fn check_machine_paths(file: &File) -> Vec<Finding> {
    let mut findings = Vec::new();
    for path in MACHINE_PATHS {
        for (at, _) in file.text.match_indices(path) {
            // `a/b` in the middle of a longer path is not the root's.
            let before = file.text[..at].chars().next_back();
            if !before.is_some_and(|c| is_word(c) || "./-}*$".contains(c)) {
                findings.push((line_of(&file.text, at), format!("{path} is a path of one machine")));
            }
        }
    }
    findings
}

/// The functions the C shim declares are those its Rust side names: a symbol on one side only is dead, or
/// fails at link time on the one machine that has the hardware.
fn shim_complaints(files: &[File]) -> Vec<String> {
    let text = |path: &str| files.iter().find(|file| file.path == path).map(|file| file.text.as_str());
    let (Some(header), Some(bindings)) = (text("ffi/dpdk_shim.h"), text("src/nic/dpdk/sys.rs")) else {
        return Vec::new();
    };
    let [declared, named] = [header, bindings].map(shim_symbols);
    let differ = declared.symmetric_difference(&named);
    differ
        .map(|symbol| format!("{symbol} is in only one of ffi/dpdk_shim.h and src/nic/dpdk/sys.rs"))
        .collect()
}

fn shim_symbols(text: &str) -> BTreeSet<&str> {
    text.split(|c| !is_word(c)).filter(|word| word.starts_with("mako_")).collect()
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Lines on which `word` stands by itself.
fn words<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let whole = move |at: &usize| {
        let before = code[..*at].chars().next_back();
        let after = code[at + word.len()..].chars().next();
        !before.is_some_and(is_word) && !after.is_some_and(is_word)
    };
    code.match_indices(word).map(|(at, _)| at).filter(whole).map(|at| line_of(code, at))
}

fn line_of(text: &str, at: usize) -> usize {
    text[..at].matches('\n').count() + 1
}

fn line_where(text: &str, part: &str) -> Option<usize> {
    text.find(part).map(|at| line_of(text, at))
}

/// Replaces comments and the insides of string and character literals by spaces, so that what they say is
/// not taken for code.
fn blank(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let length = literal_length(rest, code.chars().next_back()).unwrap_or(0);
        let taken = if length > 0 { length } else { c.len_utf8() };
        if length > 0 {
            code.extend(rest[..taken].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        } else {
            code.push(c);
        }
        rest = &rest[taken..];
    }
    code
}

/// How many bytes the comment or literal at the start of `text` takes; `None` when there is neither.
fn literal_length(text: &str, before: Option<char>) -> Option<usize> {
    if text.starts_with("//") {
        return Some(text.find('\n').unwrap_or(text.len()));
    }
    if text.starts_with("/*") {
        return Some(block_comment_length(text));
    }
    if text.starts_with('"') {
        return Some(quoted_length(text, '"'));
    }
    if text.starts_with('\'') {
        // `'a'` and `'\n'` are characters; `'a` alone is a lifetime.
        let mut chars = text.chars().skip(1);
        let (first, second) = (chars.next()?, chars.next());
        return (first == '\\' || second == Some('\'')).then(|| quoted_length(text, '\''));
    }
    if before.is_some_and(is_word) {
        return None;
    }
    let raw = text.strip_prefix("br").or_else(|| text.strip_prefix('r'))?;
    let hashes = raw.len() - raw.trim_start_matches('#').len();
    let inside = raw[hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    let length = inside.find(&end).map_or(inside.len(), |at| at + end.len());
    Some(text.len() - inside.len() + length)
}

fn quoted_length(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// Block comments nest.
fn block_comment_length(text: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < text.len() {
        if text[at..].starts_with("/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if text[at..].starts_with("*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                break;
            }
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    at
}

/// Each rule finds what it is for, and lets its neighbour pass: a rule that finds nothing looks like order.
#[test]
fn bad_text_is_reported_and_good_text_is_not() {
    const OK: &str = "//! Head.\n#![forbid(unsafe_code)]\n";
    let table: &[(&str, &str, &[&str])] = &[
        ("src/paxos/mod.rs", "use crate::types::Slot;", &[]),
        ("src/paxos/mod.rs", "use crate::paxos::learner;", &[]),
        (
            "src/paxos/learner.rs",
            "use crate::wal::Wal;",
            &["3: paxos may not name wal, which is not below it"],
        ),
        ("src/txn/mod.rs", "use crate::tree::Tree;", &[]),
        ("src/tree/mod.rs", "use crate::txn::Txn;", &["3: tree may not name txn, which is not below it"]),
        (
            "src/bounds.rs",
            "const A: u8 = crate::server::A;",
            &["3: bounds may not name server, which is not below it"],
        ),
        (
            "src/wire/mod.rs",
            "use crate::{\n    bounds::{A, B},\n    sim::C,\n    types,\n};",
            &["5: wire may not name sim, which is not below it"],
        ),
        ("src/wal/mod.rs", "use super::disk::Disk;", &["3: wal may not name disk, which is not below it"]),
        ("src/wal/segment.rs", "use super::disk::Disk;", &[]),
        (
            "src/wal/segment.rs",
            "use super::super::disk;",
            &["3: wal may not name disk, which is not below it"],
        ),
        ("src/cli/mod.rs", "use crate::{config, server::Node, sim};", &[]),
        ("src/gossip.rs", "", &["1: module gossip has no layer: give it a line in LAYERS"]),
        ("src/lib.rs", "use crate::server::Node;", &[]),
        ("src/types.rs", "// crate::server\nconst S: &str = \"crate::server\"; const C: char = '\"';", &[]),
        ("src/types.rs", "const R: &str = r#\"\"crate::sim\"#; fn f<'a>(c: &'a str) {}", &[]),
        (
            "src/types.rs",
            "const C: char = '\\''; use crate::sim::S;",
            &["3: types may not name sim, which is not below it"],
        ),
        (
            "src/types.rs",
            "unsafe { read() }",
            &["3: unsafe outside the rooms: move it into one, behind a safe type"],
        ),
        ("src/types.rs", "/* unsafe /* */ unsafe */ // unsafe\nfn f(unsafely: u8) {}", &[]),
        ("src/disk/uring.rs", "unsafe { push() }", &[]),
        (
            "tests/paper.rs",
            "unsafe { read() }",
            &["3: unsafe outside the rooms: move it into one, behind a safe type"],
        ),
        ("tests/paper.rs", "std::thread::sleep(second);", &["3: a test sleeps: wait for the event"]),
        ("src/types.rs", "fn f() { thread::sleep(x) }\n#[cfg(test)]\nmod tests {}", &[]),
        (
            "src/types.rs",
            "#[cfg(test)]\nmod tests {\n    fn f() { thread::sleep(x) }\n}",
            &["5: a test sleeps: wait for the event"],
        ),
        ("src/wal/helpers.rs", "", &["1: helpers.rs says nothing: name the file for its noun"]),
        (
            "src/types.rs",
            concat!("// see /ho", "me/ann/x"),
            &[concat!("3: /ho", "me/ is a path of one machine")],
        ),
        ("src/types.rs", concat!("// see a/ho", "me/x"), &[]),
    ];
    for (path, text, expected) in table {
        let found = complaints(&File::new(path, &format!("{OK}{text}\n")));
        let expected: Vec<String> = expected.iter().map(|finding| format!("{path}:{finding}")).collect();
        assert_eq!(found, expected, "{text}");
    }
}

#[test]
fn heads_sizes_and_forbids_are_demanded() {
    let forbid = "#![forbid(unsafe_code)]\n";
    let table = [
        ("src/types.rs", "//! Head.\n".to_string(), "src/types.rs:1: #![forbid(unsafe_code)] is missing"),
        (
            "src/types.rs",
            "//! Head.\n#![deny(unsafe_code)]\n".to_string(),
            "src/types.rs:1: #![forbid(unsafe_code)] is missing",
        ),
        ("src/disk/mod.rs", "//! Head.\n#![deny(unsafe_code)]\n".to_string(), ""),
        ("src/lib.rs", "//! Head.\n#![deny(unsafe_code)]\n".to_string(), ""),
        (
            "src/disk/ram.rs",
            "//! Head.\n// #![forbid(unsafe_code)]\n".to_string(),
            "src/disk/ram.rs:1: #![forbid(unsafe_code)] is missing",
        ),
        (
            "src/types.rs",
            forbid.to_string(),
            "src/types.rs:1: the file does not begin by saying what it is (//!)",
        ),
        (
            "bench/main.rs",
            "fn main() {}\n".to_string(),
            "bench/main.rs:1: the file does not begin by saying what it is (//!)",
        ),
        ("src/types.rs", format!("//! Head.\n{forbid}{}", "\n".repeat(998)), ""),
        (
            "src/types.rs",
            format!("//! Head.\n{forbid}{}", "\n".repeat(999)),
            "src/types.rs:1001: 1001 lines, at most 1000: which noun wants out?",
        ),
    ];
    for (path, text, expected) in table {
        assert_eq!(complaints(&File::new(path, &text)).join("\n"), expected, "{path}");
    }
}

#[test]
fn a_symbol_on_one_side_of_the_shim_is_reported() {
    let header = File::new("ffi/dpdk_shim.h", "int mako_start(void);\nvoid mako_stop(void);\n");
    let bindings = File::new("src/nic/dpdk/sys.rs", "pub use bindings::{mako_start, mako_poll};\n");
    assert_eq!(shim_complaints(&[header, bindings]).len(), 2);
}
