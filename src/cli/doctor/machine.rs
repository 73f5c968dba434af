//! What the kernel says of the machine in files, below a root that tests replace.
//!
//! What is not there, or not to be read, is `None` or empty: kernels differ, and containers hide much.
#![forbid(unsafe_code)]

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

pub struct Machine {
    root: PathBuf,
}

impl Machine {
    pub fn at(root: impl Into<PathBuf>) -> Machine {
        Machine { root: root.into() }
    }

    /// Without the white space around it.
    pub fn text(&self, path: &str) -> Option<String> {
        let mut bytes = Vec::new();
        File::open(self.path(path)).ok()?.take(TEXT_BYTES_MAX).read_to_end(&mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes).trim().to_string())
    }

    pub fn number(&self, path: &str) -> Option<u64> {
        self.text(path)?.parse().ok()
    }

    /// The names in a directory that begin so, in order: by their number where they end in one.
    pub fn names(&self, path: &str, beginning: &str) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.path(path)) else { return Vec::new() };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut names: Vec<String> = names.filter(|name| name.starts_with(beginning)).collect();
        names.sort_by(|a, b| numbered(a).cmp(&numbered(b)));
        names
    }

    /// `cpu0`, `cpu1`, and so on; nothing that only begins like these.
    pub fn numbered(&self, path: &str, beginning: &str) -> Vec<String> {
        let mut names = self.names(path, beginning);
        names.retain(|name| numbered(name).0 == beginning && numbered(name).1.is_some());
        names
    }

    /// The last part of where a link leads.
    pub fn link(&self, path: &str) -> Option<String> {
        let target = fs::read_link(self.path(path)).ok()?;
        Some(target.file_name()?.to_str()?.to_string())
    }

    pub fn has(&self, path: &str) -> bool {
        self.path(path).exists()
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.join(Path::new(path))
    }
}

/// The letters a name begins with, and the number it ends in.
fn numbered(name: &str) -> (&str, Option<u64>) {
    let letters = name.trim_end_matches(|c: char| c.is_ascii_digit());
    (letters, name[letters.len()..].parse().ok())
}

/// Nothing that is read here is longer.
const TEXT_BYTES_MAX: u64 = 1 << 20;

/// A machine of these files, for tests.
#[cfg(test)]
pub fn made_of(files: &[(&str, &str)]) -> (Machine, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = directory.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        match text.strip_prefix("-> ") {
            Some(target) => std::os::unix::fs::symlink(target, path).unwrap(),
            None => fs::write(path, text).unwrap(),
        }
    }
    (Machine::at(directory.path()), directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_is_nothing_and_numbers_are_in_their_order() {
        let files =
            [("a/cpu10/x", "7\n"), ("a/cpu9/x", "no"), ("a/cpufreq/x", ""), ("a/l", "-> ../b/driver")];
        let (machine, _directory) = made_of(&files);
        assert_eq!(machine.numbered("a", "cpu"), ["cpu9", "cpu10"]);
        assert_eq!((machine.number("a/cpu10/x"), machine.number("a/cpu9/x")), (Some(7), None));
        assert_eq!((machine.text("a/none"), machine.names("none", "").len()), (None, 0));
        assert_eq!(machine.link("a/l"), Some("driver".to_string()));
        assert!(machine.has("a/cpu9") && !machine.has("a/cpu8"));
    }
}
