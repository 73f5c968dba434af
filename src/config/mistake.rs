//! What is wrong with a configuration, in the one form every command prints.
//!
//! `error: WHAT (WHERE): WHY; REMEDY`, one line each, so that a person can mend all of them in one pass
//! and a script can split them. Nothing here judges; `file`, `check` and `local` do.
#![forbid(unsafe_code)]

use std::fmt;

/// Everything wrong with one configuration. Never empty when it is an error. `Display` prints one line
/// for each, the word `error:` included.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mistakes(pub Vec<Mistake>);

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mistake {
    /// The key and the value it has.
    pub what: String,
    pub place: Place,
    /// The bound or rule that is broken.
    pub why: String,
    pub remedy: String,
}

/// Where a value was written: a file and its line, or a flag.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Place {
    pub origin: String,
    /// Counted from 1; `None` for what has no lines.
    pub line: Option<usize>,
}

/// Why one value cannot be read, and what to write instead: a [`Mistake`] that does not yet know its place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    pub why: String,
    pub remedy: String,
}

impl Refusal {
    pub fn new(why: impl Into<String>, remedy: impl Into<String>) -> Refusal {
        Refusal { why: why.into(), remedy: remedy.into() }
    }
}

impl Mistakes {
    /// From the top of the file to its end; mistakes of one line stay in the order they were found.
    pub(super) fn in_reading_order(mut mistakes: Vec<Mistake>) -> Mistakes {
        mistakes.sort_by_key(|mistake| mistake.place.line);
        Mistakes(mistakes)
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, mistake) in self.0.iter().enumerate() {
            let end = if i == 0 { "" } else { "\n" };
            write!(f, "{end}{mistake}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {} ({}): {}; {}", self.what, self.place, self.why, self.remedy)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}", self.origin),
            None => f.write_str(&self.origin),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.why, self.remedy)
    }
}

impl std::error::Error for Mistakes {}
impl std::error::Error for Refusal {}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scripts split this line; people read it top to bottom.
    #[test]
    fn mistakes_are_printed_one_a_line_in_the_order_of_the_file() {
        let mistake = |line, what: &str| Mistake {
            what: what.into(),
            place: Place { origin: "c.toml".into(), line },
            why: "why".into(),
            remedy: "remedy".into(),
        };
        let mistakes = vec![mistake(Some(9), "c"), mistake(Some(2), "a"), mistake(Some(2), "b")];
        let expected = "error: a (c.toml:2): why; remedy\nerror: b (c.toml:2): why; remedy\n\
            error: c (c.toml:9): why; remedy";
        assert_eq!(Mistakes::in_reading_order(mistakes).to_string(), expected);
        assert_eq!(mistake(None, "a").to_string(), "error: a (c.toml): why; remedy");
    }
}
