//! The cluster file as written: its sections and keys, each value read on its own.
//!
//! Finds every mistake that one value shows by itself: a key that is unknown, missing or of the wrong
//! type, a word that means nothing. What values mean together is `check`'s affair.
//!
//! Invariants:
//!   1. The [`schema`] is the only list of keys: reading, the messages and their suggestions share it.
//!   2. A value is `None` only when it may be, or when a mistake was reported for it.
//!   3. Total on hostile text: no input panics, and work is linear in its length.
#![forbid(unsafe_code)]

mod schema;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::Routing;
use super::mistake::{Mistake, Place, Refusal};
use super::units::{parse_duration_ns, parse_size_bytes};
use super::values::{CoreLayout, Durability, NicKind, Poll, Subnet};
use crate::bounds::{CLUSTER_FILE_BYTES_MAX, CORES_MAX, CPUS_MAX};
use schema::{CLUSTER, LINK, NODE, ROOT, SHARD, Schema, TABLE};

/// The file, value by value. `config::local` fills one in without a file.
#[derive(Default)]
pub(super) struct File {
    pub cluster: ClusterSection,
    pub nodes: Vec<NodeSection>,
    pub shards: Vec<ShardSection>,
    pub tables: Vec<TableSection>,
    pub links: Vec<LinkSection>,
}

/// A value and the line it stands on; no line when no file was read.
#[derive(Clone, Debug)]
pub(super) struct At<T> {
    pub value: T,
    pub line: Line,
}

pub(super) type Line = Option<usize>;

#[derive(Default)]
pub(super) struct ClusterSection {
    pub line: Line,
    pub name: Option<At<String>>,
    pub durability: Option<At<Durability>>,
    pub key_file: Option<At<PathBuf>>,
    pub plaintext: Option<At<bool>>,
    pub election_timeout_ns: Option<At<u64>>,
    pub heartbeat_interval_ns: Option<At<u64>>,
    pub exchange_interval_ns: Option<At<u64>>,
    pub batch_bytes: Option<At<u64>>,
    pub batch_delay_ns: Option<At<u64>>,
    pub max_speculation_ns: Option<At<u64>>,
    pub spin_ns: Option<At<u64>>,
    pub log_bytes: Option<At<u64>>,
}

#[derive(Default)]
pub(super) struct NodeSection {
    pub line: Line,
    pub name: Option<At<String>>,
    pub zone: Option<At<String>>,
    pub listen: Option<At<SocketAddr>>,
    pub cores: Option<At<CoreLayout>>,
    pub nic: Option<At<NicKind>>,
    pub subnet: Option<At<Subnet>>,
    pub gateway: Option<At<Ipv4Addr>>,
    pub poll: Option<At<Poll>>,
    pub data: Option<At<PathBuf>>,
    pub resp: Option<At<SocketAddr>>,
    pub http: Option<At<SocketAddr>>,
}

#[derive(Default)]
pub(super) struct ShardSection {
    pub line: Line,
    pub replicas: Option<At<Vec<String>>>,
    pub partitions: Option<At<u64>>,
}

#[derive(Default)]
pub(super) struct TableSection {
    pub name: Option<At<String>>,
    pub routing: Option<At<Routing>>,
}

#[derive(Default)]
pub(super) struct LinkSection {
    pub between: Option<At<Vec<String>>>,
    pub delay_ns: Option<At<u64>>,
    pub jitter_ns: Option<At<u64>>,
    pub loss: Option<At<f64>>,
}

impl File {
    /// Reads what can be read, and appends a mistake for everything else. `None` when it is not TOML: what
    /// the parser skipped would be reported as missing, and mislead.
    pub fn read(text: &str, origin: &str, mistakes: &mut Vec<Mistake>) -> Option<File> {
        let mut reader = Reader { text, origin, lines: line_starts(text), mistakes };
        if text.len() > CLUSTER_FILE_BYTES_MAX {
            let why = format!("a cluster file has at most {CLUSTER_FILE_BYTES_MAX} bytes");
            reader.report(format!("{} bytes", text.len()), None, &why, "name a cluster file");
            return None;
        }
        let (root, errors) = DeTable::parse_recoverable(text);
        for error in &errors {
            let line = error.span().and_then(|span| reader.line(span.start));
            let what = error.message().lines().next().unwrap_or_default().to_string();
            reader.report(what, line, "the file is not TOML here", "mend the line");
        }
        if !errors.is_empty() {
            return None;
        }
        let mut root = Section::open(&mut reader, &ROOT, root.get_ref(), Some(1));
        Some(File {
            cluster: root.tables("cluster", &CLUSTER, read_cluster).pop().unwrap_or_default(),
            nodes: root.tables("node", &NODE, read_node),
            shards: root.tables("shard", &SHARD, read_shard),
            tables: root.tables("table", &TABLE, read_table),
            links: root.tables("link", &LINK, read_link),
        })
    }
}

fn read_cluster(mut section: Section<'_, '_>) -> ClusterSection {
    ClusterSection {
        line: section.line,
        name: section.text("name"),
        durability: section.parsed("durability", str::parse),
        key_file: section.path("key_file"),
        plaintext: section.flag("plaintext"),
        election_timeout_ns: section.parsed("election_timeout", parse_duration_ns),
        heartbeat_interval_ns: section.parsed("heartbeat_interval", parse_duration_ns),
        exchange_interval_ns: section.parsed("exchange_interval", parse_duration_ns),
        batch_bytes: section.parsed("batch", parse_size_bytes),
        batch_delay_ns: section.parsed("batch_delay", parse_duration_ns),
        max_speculation_ns: section.parsed("max_speculation", parse_duration_ns),
        spin_ns: section.parsed("spin", parse_duration_ns),
        log_bytes: section.parsed("log", parse_size_bytes),
    }
}

fn read_node(mut section: Section<'_, '_>) -> NodeSection {
    NodeSection {
        line: section.line,
        name: section.text("name"),
        zone: section.text("zone"),
        listen: section.parsed("listen", parse_address),
        cores: section.cores("cores"),
        nic: section.parsed("nic", str::parse),
        subnet: section.parsed("subnet", str::parse),
        gateway: section.parsed("gateway", parse_gateway),
        poll: section.parsed("poll", str::parse),
        data: section.path("data"),
        resp: section.parsed("resp", parse_address),
        http: section.parsed("http", parse_address),
    }
}

fn read_shard(mut section: Section<'_, '_>) -> ShardSection {
    ShardSection {
        line: section.line,
        replicas: section.texts("replicas"),
        partitions: section.count("partitions"),
    }
}

fn read_table(mut section: Section<'_, '_>) -> TableSection {
    TableSection { name: section.text("name"), routing: section.parsed("routing", str::parse) }
}

fn read_link(mut section: Section<'_, '_>) -> LinkSection {
    LinkSection {
        between: section.texts("between"),
        delay_ns: section.parsed("delay", parse_duration_ns),
        jitter_ns: section.parsed("jitter", parse_duration_ns),
        loss: section.fraction("loss"),
    }
}

fn parse_address(text: &str) -> Result<SocketAddr, Refusal> {
    // Names are not looked up: nodes must agree on addresses, and a resolver may tell each another.
    let parsed = text.parse().ok();
    parsed.ok_or_else(|| {
        Refusal::new("an address is an IP address and a port", "write it like 127.0.0.1:7400 or [::1]:7400")
    })
}

fn parse_gateway(text: &str) -> Result<Ipv4Addr, Refusal> {
    let why = "a gateway is an IPv4 address of the subnet";
    text.parse().map_err(|_| Refusal::new(why, "write it like 10.0.0.254"))
}

/// Where mistakes go, and how an offset in the text becomes a line.
struct Reader<'a> {
    text: &'a str,
    origin: &'a str,
    /// Offset of the first byte of each line.
    lines: Vec<usize>,
    mistakes: &'a mut Vec<Mistake>,
}

impl Reader<'_> {
    fn line(&self, offset: usize) -> Line {
        Some(self.lines.partition_point(|start| *start <= offset))
    }

    /// The value as it was typed; long ones are cut, for they are on the line that is named.
    fn typed(&self, value: &Spanned<DeValue<'_>>) -> String {
        const SHOWN_CHARS_MAX: usize = 60;
        let typed = self.text.get(value.span()).unwrap_or_default();
        let shown: String = typed.chars().take(SHOWN_CHARS_MAX).filter(|c| !c.is_control()).collect();
        if shown.len() < typed.len() { format!("{shown}…") } else { shown }
    }

    fn report(&mut self, what: String, line: Line, why: &str, remedy: &str) {
        let place = Place { origin: self.origin.to_string(), line };
        self.mistakes.push(Mistake { what, place, why: why.to_string(), remedy: remedy.to_string() });
    }
}

fn line_starts(text: &str) -> Vec<usize> {
    let after_newlines = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(i, _)| i + 1);
    std::iter::once(0).chain(after_newlines).collect()
}

/// One table of the file. Opening it reports the keys it should not have and those it lacks.
struct Section<'r, 'a> {
    reader: &'r mut Reader<'a>,
    schema: &'static Schema,
    table: &'r DeTable<'r>,
    line: Line,
}

impl<'r, 'a> Section<'r, 'a> {
    fn open(
        reader: &'r mut Reader<'a>,
        schema: &'static Schema,
        table: &'r DeTable<'r>,
        line: Line,
    ) -> Section<'r, 'a> {
        for key in table.keys().filter(|key| !schema.keys.iter().any(|known| known.name == key.get_ref())) {
            let why = format!("{} has the keys {}", schema.written, schema.names().join(", "));
            let remedy = match schema.nearest(key.get_ref()) {
                Some(nearest) => format!("write {nearest}, or remove it"),
                None => "remove it".to_string(),
            };
            let at = reader.line(key.span().start);
            let name: String = key.get_ref().chars().take(64).collect();
            reader.report(format!("{}{} is unknown", schema.prefix, name.escape_debug()), at, &why, &remedy);
        }
        for key in schema.keys.iter().filter(|key| !table.contains_key(key.name)) {
            if let Some(why) = key.needed {
                let remedy = format!("add {}", key.example);
                reader.report(format!("{}{} is missing", schema.prefix, key.name), line, why, &remedy);
            }
        }
        Section { reader, schema, table, line }
    }

    fn value(&self, key: &str) -> Option<(&'r Spanned<DeValue<'r>>, Line)> {
        assert!(self.schema.keys.iter().any(|known| known.name == key), "{key} is not in the schema");
        let value = self.table.get(key)?;
        Some((value, self.reader.line(value.span().start)))
    }

    /// The value was read but will not do.
    fn refuse(&mut self, key: &str, value: &Spanned<DeValue<'_>>, refusal: &Refusal) {
        let what = format!("{}{key} = {}", self.schema.prefix, self.reader.typed(value));
        let line = self.reader.line(value.span().start);
        self.reader.report(what, line, &refusal.why, &refusal.remedy);
    }

    fn refuse_type<T>(&mut self, key: &str, value: &Spanned<DeValue<'_>>, expected: &str) -> Option<T> {
        let example =
            self.schema.keys.iter().find(|known| known.name == key).map_or("", |known| known.example);
        let why = format!("the value is {expected}");
        self.refuse(key, value, &Refusal::new(why, format!("write it like {example}")));
        None
    }

    fn parsed<T>(&mut self, key: &str, parse: impl Fn(&str) -> Result<T, Refusal>) -> Option<At<T>> {
        let (value, line) = self.value(key)?;
        let Some(text) = value.get_ref().as_str() else {
            return self.refuse_type(key, value, "a string");
        };
        match parse(text) {
            Ok(value) => Some(At { value, line }),
            Err(refusal) => {
                self.refuse(key, value, &refusal);
                None
            }
        }
    }

    fn text(&mut self, key: &str) -> Option<At<String>> {
        self.parsed(key, |text| Ok(text.to_string()))
    }

    fn path(&mut self, key: &str) -> Option<At<PathBuf>> {
        self.parsed(key, |text| match text {
            "" => Err(Refusal::new("a path names a file or directory", "write its name")),
            _ => Ok(PathBuf::from(text)),
        })
    }

    fn count(&mut self, key: &str) -> Option<At<u64>> {
        let (value, line) = self.value(key)?;
        match unsigned(value.get_ref()) {
            Some(value) => Some(At { value, line }),
            None => self.refuse_type(key, value, "a whole number, 0 or more"),
        }
    }

    fn flag(&mut self, key: &str) -> Option<At<bool>> {
        let (value, line) = self.value(key)?;
        match value.get_ref().as_bool() {
            Some(value) => Some(At { value, line }),
            None => self.refuse_type(key, value, "true or false"),
        }
    }

    fn fraction(&mut self, key: &str) -> Option<At<f64>> {
        let (value, line) = self.value(key)?;
        let typed = match value.get_ref() {
            DeValue::Float(float) => float.as_str().parse::<f64>().ok(),
            DeValue::Integer(integer) => integer.as_str().parse::<f64>().ok(),
            _ => None,
        };
        match typed {
            Some(value) => Some(At { value, line }),
            None => self.refuse_type(key, value, "a number"),
        }
    }

    fn texts(&mut self, key: &str) -> Option<At<Vec<String>>> {
        let (value, line) = self.value(key)?;
        let texts = value.get_ref().as_array().and_then(|array| {
            array.iter().map(|item| item.get_ref().as_str().map(str::to_string)).collect::<Option<Vec<_>>>()
        });
        match texts {
            Some(value) => Some(At { value, line }),
            None => self.refuse_type(key, value, "a list of strings"),
        }
    }

    /// A list of CPUs to pin, or a number of threads.
    fn cores(&mut self, key: &str) -> Option<At<CoreLayout>> {
        let (value, line) = self.value(key)?;
        let number = |value: &DeValue<'_>| unsigned(value).and_then(|number| usize::try_from(number).ok());
        let layout = match value.get_ref() {
            DeValue::Array(array) => {
                let cpus = array.iter().map(|cpu| number(cpu.get_ref()).filter(|cpu| *cpu < CPUS_MAX));
                cpus.collect::<Option<Vec<_>>>().map(CoreLayout::Pinned)
            }
            other => number(other).map(CoreLayout::Threads),
        };
        match layout {
            Some(value) if (1..=CORES_MAX).contains(&value.cores()) => Some(At { value, line }),
            _ => {
                let expected = format!(
                    "1 to {CORES_MAX} CPUs in a list, each below {CPUS_MAX}, or a number of threads \
                     up to {CORES_MAX}"
                );
                self.refuse_type(key, value, &expected)
            }
        }
    }

    /// The tables under `key`: `[[key]]` any number of times, or `[key]` once, as the schema says.
    fn tables<T>(&mut self, key: &str, schema: &'static Schema, read: fn(Section<'_, '_>) -> T) -> Vec<T> {
        let Some((value, line)) = self.value(key) else {
            return Vec::new();
        };
        match (value.get_ref(), schema.repeated) {
            (DeValue::Table(table), false) => vec![read(Section::open(self.reader, schema, table, line))],
            (DeValue::Array(array), true) if is_tables(array) => {
                let tables = array.iter().filter_map(|item| Some((item.get_ref().as_table()?, item.span())));
                let sections = tables.map(|(table, span)| {
                    let line = self.reader.line(span.start);
                    read(Section::open(self.reader, schema, table, line))
                });
                sections.collect()
            }
            _ => {
                let why = format!("it is written {}", schema.written);
                let remedy = format!("begin it with {} on a line of its own", schema.written);
                self.reader.report(format!("{key} is of the wrong kind"), line, &why, &remedy);
                Vec::new()
            }
        }
    }
}

fn is_tables(array: &DeArray<'_>) -> bool {
    !array.is_empty() && array.iter().all(|item| item.get_ref().is_table())
}

fn unsigned(value: &DeValue<'_>) -> Option<u64> {
    let integer = value.as_integer()?;
    u64::from_str_radix(integer.as_str(), integer.radix()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A wrong line sends the reader to innocent code, at the edges most easily.
    #[test]
    fn offsets_become_the_lines_an_editor_shows() {
        let mut mistakes = Vec::new();
        let text = "a\nbc\n\nd";
        let reader = Reader { text, origin: "", lines: line_starts(text), mistakes: &mut mistakes };
        let lines = [0, 1, 2, 4, 5, 6, 7].map(|offset| reader.line(offset));
        assert_eq!(lines, [1, 1, 2, 2, 3, 4, 4].map(Some));
    }
}
