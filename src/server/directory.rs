//! The data directory of a node, beside those of its cores: whose it is, and how far a rebuild has come.
//!
//! One small file, `node.toml`, replaced as a whole at every start, with a checksum of all that follows in its first
//! line. What a core keeps is `disk`'s.
//!
//! Invariants:
//!   1. A directory is used only by the node, cluster, cores and durability it was made for: with other cores
//!      a replica would look for its log in the wrong place, and take itself for one that never promised.
//!   2. Incarnations grow from start to start, even when the wall clock was set back between them.
//!   3. That its cores have logs is noted before any of them votes: a log that is not there has been lost then.
//!   4. A directory that is made, and one that is rebuilt, is another disk to the peers than any before it; and is
//!      that as soon as what was there is to be forgotten.
//!   5. A rebuild is noted before anything is forgotten, and until every replica votes again: a crash in
//!      between must not bring back a replica that believes it forgot nothing.
#![forbid(unsafe_code)]

use super::StartError;
use crate::clock;
use crate::config::Config;
use crate::disk::{CoreDirectory, DiskError, VOTES_NAME, number_of};
use crate::types::{CoreId, DiskId, NodeId};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

pub(super) struct NodeDirectory {
    path: PathBuf,
    written: Written,
    /// Held as long as the node runs.
    _lock: CoreDirectory,
}

/// How a node is to start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Start {
    FromDisk,
    /// Forget what the logs hold, and learn it from the peers.
    Rebuild,
}

/// How far a rebuild has come. Only forward, and then to `None`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Rebuild {
    /// Logs are to be removed, or are being removed.
    Forget,
    /// They are gone, and not every replica has learned enough to vote.
    Learn,
}

/// The file, as it is on disk.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    version: u32,
    cluster: String,
    node: String,
    number: u16,
    durability: String,
    /// By core: the partitions it runs.
    cores: Vec<Vec<u16>>,
    /// Of the last start.
    incarnation: u64,
    /// What peers know the directory by.
    disk: u64,
    /// Its cores have had logs.
    opened: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    rebuild: Option<Rebuild>,
}

impl NodeDirectory {
    /// Makes the directory, or sees that it is this node's; notes this start in it.
    pub fn open(config: &Config, id: NodeId, start: Start) -> Result<NodeDirectory, StartError> {
        let node = &config.nodes[usize::from(id.0)];
        let failed = |source| StartError::Log { node: node.name.clone(), dir: node.data.clone(), source };
        let lock = CoreDirectory::lock(&node.data).map_err(failed)?;
        let mut written = Written::of(config, id);
        match read(&node.data).map_err(failed)? {
            Found::Nothing => {}
            Found::Logs if start == Start::Rebuild => {}
            Found::Logs => {
                let why = format!("it holds logs and no {NAME}: what they have seen since is not known");
                return Err(StartError::Lost { node: node.name.clone(), dir: node.data.clone(), why });
            }
            Found::Unreadable(why) if start == Start::FromDisk => {
                return Err(StartError::Lost { node: node.name.clone(), dir: node.data.clone(), why });
            }
            // What is not readable does not say how high incarnations were. The clock has to do.
            Found::Unreadable(_) => {}
            Found::OtherVersion(version) => {
                let age = if version < VERSION { "older" } else { "newer" };
                let why =
                    format!("{NAME} is of format {version}, {age} than {VERSION}, that of this program");
                return Err(StartError::Foreign { node: node.name.clone(), dir: node.data.clone(), why });
            }
            Found::Written(before) => {
                if let Some(why) = before.differs(&written) {
                    return Err(StartError::Foreign { node: node.name.clone(), dir: node.data.clone(), why });
                }
                written.incarnation = written.incarnation.max(before.incarnation + 1);
                (written.opened, written.rebuild) = (before.opened, before.rebuild);
                written.disk = before.disk;
            }
        }
        if start == Start::Rebuild {
            written.rebuild = Some(Rebuild::Forget);
            written.disk = NEW_DISK;
        }
        if written.disk == NEW_DISK {
            written.disk = draw_disk().map_err(failed)?;
        }
        let directory = NodeDirectory { path: node.data.clone(), written, _lock: lock };
        directory.write().map_err(failed)?;
        Ok(directory)
    }

    /// Grows with every start.
    pub fn incarnation(&self) -> u64 {
        self.written.incarnation
    }

    pub fn rebuild(&self) -> Option<Rebuild> {
        self.written.rebuild
    }

    pub fn set_rebuild(&mut self, rebuild: Option<Rebuild>) -> Result<(), DiskError> {
        if self.written.rebuild != rebuild {
            self.written.rebuild = rebuild;
            self.write()?;
        }
        Ok(())
    }

    pub fn disk(&self) -> DiskId {
        DiskId(self.written.disk)
    }

    pub fn has_opened(&self) -> bool {
        self.written.opened
    }

    /// Every core has its log.
    pub fn note_opened(&mut self) -> Result<(), DiskError> {
        if !self.written.opened {
            self.written.opened = true;
            self.write()?;
        }
        Ok(())
    }

    fn write(&self) -> Result<(), DiskError> {
        let text = toml::to_string(&self.written).expect("names and numbers can be written");
        let text = format!("{}{text}", first_line(&text));
        let (path, new) = (self.path.join(NAME), self.path.join(NAME_NEW));
        let replace = || {
            let mut file = File::create(&new)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            File::open(&self.path)?.sync_all()
        };
        replace().map_err(|source| DiskError::Io { what: "writing", path: path.clone(), source })
    }
}

impl Written {
    fn of(config: &Config, id: NodeId) -> Written {
        let hosted = |core| config.hosted(id, CoreId(core)).iter().map(|partition| partition.0).collect();
        Written {
            version: VERSION,
            cluster: config.name.clone(),
            node: config.nodes[usize::from(id.0)].name.clone(),
            number: id.0,
            durability: config.durability.to_string(),
            cores: (0..).take(config.cores(id)).map(hosted).collect(),
            incarnation: clock::now().0,
            disk: NEW_DISK,
            opened: false,
            rebuild: None,
        }
    }

    /// What keeps a node described by `now` from using what this describes.
    fn differs(&self, now: &Written) -> Option<String> {
        let differs = |what: &str, then: &str, now: &str| {
            (then != now).then(|| format!("it was made for {what} {then}, and this is {what} {now}"))
        };
        let numbered = |number: u16| format!("number {number} of the cluster file");
        differs("cluster", &self.cluster, &now.cluster)
            .or_else(|| differs("node", &self.node, &now.node))
            .or_else(|| differs("node", &numbered(self.number), &numbered(now.number)))
            .or_else(|| differs("durability", &self.durability, &now.durability))
            .or_else(|| differs("partitions by core", &by_core(&self.cores), &by_core(&now.cores)))
    }
}

fn by_core(cores: &[Vec<u16>]) -> String {
    format!("{cores:?}")
}

enum Found {
    Nothing,
    /// Of cores, and nobody says whose.
    Logs,
    Unreadable(String),
    /// Of a program before or after this one.
    OtherVersion(u32),
    Written(Written),
}

fn read(data: &Path) -> Result<Found, DiskError> {
    let path = data.join(NAME);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(absent) if absent.kind() == io::ErrorKind::NotFound => {
            let listed = has_logs(data);
            let logs =
                listed.map_err(|source| DiskError::Io { what: "listing", path: data.into(), source })?;
            return Ok(if logs { Found::Logs } else { Found::Nothing });
        }
        Err(garbled) if garbled.kind() == io::ErrorKind::InvalidData => {
            return Ok(Found::Unreadable(format!("{NAME} is not text")));
        }
        Err(source) => return Err(DiskError::Io { what: "reading", path, source }),
    };
    // First of all: a flipped bit must not make the file another's.
    let first = text.split_inclusive('\n').next().unwrap_or_default();
    let rest = &text[first.len()..];
    if first != first_line(rest) {
        // The first formats had no checksum, and began so.
        let version = first.strip_prefix("version = ").and_then(|version| version.trim_end().parse().ok());
        return Ok(match version {
            Some(version) if version < VERSION => Found::OtherVersion(version),
            _ => Found::Unreadable(format!("the checksum of {NAME} does not match")),
        });
    }
    Ok(match (toml::from_str(rest), toml::from_str(rest)) {
        (_, Ok(Versioned { version })) if version != VERSION => Found::OtherVersion(version),
        (Ok(written), _) => Found::Written(written),
        (Err(error), _) => Found::Unreadable(format!("{NAME} cannot be read: {}", error.message())),
    })
}

/// What every version of the file says.
#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

/// One that nobody has drawn before. The file knows no larger numbers.
fn draw_disk() -> Result<u64, DiskError> {
    let mut bytes = [0; 8];
    let drawn = File::open(RANDOM).and_then(|mut random| random.read_exact(&mut bytes));
    drawn.map_err(|source| DiskError::Io { what: "reading", path: RANDOM.into(), source })?;
    Ok((u64::from_le_bytes(bytes) >> 1).max(NEW_DISK + 1))
}

fn first_line(rest: &str) -> String {
    format!("crc32c = \"{:08x}\"\n", crc32c::crc32c(rest.as_bytes()))
}

fn has_logs(data: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(data)? {
        let entry = entry?;
        if !entry.file_type()?.is_dir() || !entry.file_name().to_string_lossy().starts_with(CORE) {
            continue;
        }
        for file in fs::read_dir(entry.path())? {
            let name = file?.file_name();
            let name = name.to_string_lossy();
            if name == VOTES_NAME || number_of(&name).is_some() {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Where a core keeps its log.
pub(super) fn of_core(data: &Path, core: CoreId) -> PathBuf {
    data.join(format!("{CORE}{}", core.0))
}

const NAME: &str = "node.toml";
const NAME_NEW: &str = "node.toml.new";
const CORE: &str = "core-";
const RANDOM: &str = "/dev/urandom";
/// Not drawn yet.
const NEW_DISK: u64 = 0;
/// Of the file and of the layout of the directory.
const VERSION: u32 = 3;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Durability, LocalCluster};

    fn config(data: &Path, change: impl FnOnce(&mut LocalCluster)) -> Config {
        let data = data.to_owned();
        let mut flags = LocalCluster { cpus: 2, partitions: 2, data, ..LocalCluster::default() };
        change(&mut flags);
        Config::local(&flags).unwrap()
    }

    fn open(config: &Config) -> Result<NodeDirectory, StartError> {
        NodeDirectory::open(config, NodeId(1), Start::FromDisk)
    }

    /// Peers take a node that comes back under an old incarnation for a late packet of its former life.
    #[test]
    fn incarnations_grow_though_the_clock_goes_back() {
        let data = tempfile::tempdir().unwrap();
        let config = config(data.path(), |_| {});
        let mut directory = open(&config).map_err(|error| error.to_string()).unwrap();
        let ahead = clock::now().0 + 1_000_000_000_000_000;
        directory.written.incarnation = ahead;
        directory.write().unwrap();
        drop(directory);
        for start in 1..4 {
            let directory = open(&config).map_err(|error| error.to_string()).unwrap();
            assert_eq!(directory.incarnation(), ahead + start);
        }
    }

    /// With other cores a replica finds no log where it looks for one, and votes as if it had never voted; and
    /// in another durability it counts on acceptances that nobody wrote down.
    #[test]
    fn a_directory_made_for_something_else_is_refused_and_says_for_what() {
        let data = tempfile::tempdir().unwrap();
        drop(open(&config(data.path(), |_| {})).map_err(|error| error.to_string()).unwrap());
        type Change = fn(&mut LocalCluster);
        let table: [(&str, Change); 3] = [
            ("partitions by core [[0, 2], [1, 3]], and", |flags| flags.cpus = 1),
            ("partitions by core [[0, 2], [1, 3]], and", |flags| flags.partitions = 3),
            ("durability quorum-disk, and", |flags| flags.durability = Durability::Memory),
        ];
        for (expected, change) in table {
            let error = open(&config(data.path(), change)).map(drop).unwrap_err().to_string();
            assert!(error.contains(expected) && error.contains("; "), "{error}");
        }
        assert!(open(&config(data.path(), |_| {})).is_ok());
    }

    /// Without its file a directory tells neither whose it is nor whether a rebuild was under way.
    #[test]
    fn logs_that_nobody_claims_are_only_good_for_a_rebuild() {
        let data = tempfile::tempdir().unwrap();
        let config = config(data.path(), |_| {});
        let core = of_core(&config.nodes[1].data, CoreId(0));
        fs::create_dir_all(&core).unwrap();
        assert!(open(&config).is_ok(), "nothing is lost yet");
        for text in [None, Some("version = ")] {
            fs::write(core.join(VOTES_NAME), b"whatever").unwrap();
            let file = config.nodes[1].data.join(NAME);
            fs::remove_file(&file).unwrap();
            text.into_iter().for_each(|text| fs::write(&file, text).unwrap());
            let error = open(&config).map(drop).unwrap_err().to_string();
            assert!(error.contains(NAME) && error.contains("--rebuild"), "{error}");
            let directory = NodeDirectory::open(&config, NodeId(1), Start::Rebuild);
            assert_eq!(directory.map(|directory| directory.rebuild()).ok().flatten(), Some(Rebuild::Forget));
        }
    }

    /// Called damaged, it would be rebuilt and lose what an older program can read.
    #[test]
    fn a_file_of_another_format_is_called_that_and_left_alone() {
        let data = tempfile::tempdir().unwrap();
        let config = config(data.path(), |_| {});
        drop(open(&config).map_err(|error| error.to_string()).unwrap());
        let file = config.nodes[1].data.join(NAME);
        let now = fs::read_to_string(&file).unwrap();
        let (_, body) = now.split_once('\n').unwrap();
        let newer = body.replacen("version = 3", "version = 4\nnews = true", 1);
        let older = body.replacen("version = 3", "version = 2", 1);
        let table = [
            (older.clone(), "format 2, older than 3"),
            (format!("{}{older}", first_line(&older)), "format 2, older than 3"),
            (format!("{}{newer}", first_line(&newer)), "format 4, newer than 3"),
        ];
        for (text, expected) in table {
            fs::write(&file, &text).unwrap();
            for start in [Start::FromDisk, Start::Rebuild] {
                let error = NodeDirectory::open(&config, NodeId(1), start).map(drop).unwrap_err();
                assert!(
                    matches!(error, StartError::Foreign { .. }) && error.to_string().contains(expected),
                    "{error}"
                );
            }
            assert_eq!(fs::read_to_string(&file).unwrap(), text);
        }
    }

    /// Invariant 4: kept, a new disk would be turned away, and one that was emptied taken for what it was.
    #[test]
    fn a_directory_that_is_emptied_or_rebuilt_is_another_disk_and_no_other_is() {
        let data = tempfile::tempdir().unwrap();
        let config = config(data.path(), |_| {});
        let disk = |start| NodeDirectory::open(&config, NodeId(1), start).map(|it| it.disk()).ok().unwrap();
        let mut disks = vec![disk(Start::FromDisk)];
        assert_eq!(disk(Start::FromDisk), disks[0]);
        for _ in 0..2 {
            disks.push(disk(Start::Rebuild));
            assert_eq!(Some(&disk(Start::FromDisk)), disks.last());
            fs::remove_dir_all(&config.nodes[1].data).unwrap();
            disks.push(disk(Start::FromDisk));
        }
        disks.sort_by_key(|disk| disk.0);
        disks.dedup();
        assert_eq!(disks.len(), 5, "{disks:?}");
    }

    /// Invariant 3, across starts.
    #[test]
    fn that_the_cores_have_opened_stays_noted() {
        let data = tempfile::tempdir().unwrap();
        let config = config(data.path(), |_| {});
        for opened in [false, true, true] {
            let mut directory = open(&config).map_err(|error| error.to_string()).unwrap();
            assert_eq!(directory.has_opened(), opened);
            directory.note_opened().unwrap();
        }
        let rebuilt = NodeDirectory::open(&config, NodeId(1), Start::Rebuild);
        assert_eq!(rebuilt.map(|directory| directory.has_opened()).ok(), Some(true));
    }

    /// A bit that flipped in a name makes it another node's, which nothing could bring back.
    #[test]
    fn a_flipped_bit_in_the_file_is_no_other_node_and_a_rebuild_helps() {
        let data = tempfile::tempdir().unwrap();
        let ours = config(data.path(), |_| {});
        drop(open(&ours).map_err(|error| error.to_string()).unwrap());
        let file = ours.nodes[1].data.join(NAME);
        let sound = fs::read(&file).unwrap();
        for bit in 0..sound.len() * 8 {
            let mut flipped = sound.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            fs::write(&file, flipped).unwrap();
            let found = open(&ours).map(drop);
            assert!(matches!(found, Err(StartError::Lost { .. })), "bit {bit}");
            assert!(matches!(read(file.parent().unwrap()), Ok(Found::Unreadable(_))), "bit {bit}");
        }
        assert!(NodeDirectory::open(&ours, NodeId(1), Start::Rebuild).is_ok());
        let other = config(data.path(), |flags| flags.durability = Durability::Memory);
        let other = NodeDirectory::open(&other, NodeId(1), Start::Rebuild).map(drop);
        assert!(matches!(other, Err(StartError::Foreign { .. })), "another's is not ours to forget");
    }

    /// Invariant 5: a crash while it learns must not turn it into a replica that forgot nothing.
    #[test]
    fn a_rebuild_stays_noted_until_it_is_over() {
        let data = tempfile::tempdir().unwrap();
        let config = config(data.path(), |_| {});
        drop(NodeDirectory::open(&config, NodeId(1), Start::Rebuild).map_err(|error| error.to_string()));
        let steps = [Some(Rebuild::Forget), Some(Rebuild::Learn), None];
        for (at, step) in steps.into_iter().enumerate() {
            let mut directory = open(&config).map_err(|error| error.to_string()).unwrap();
            assert_eq!(directory.rebuild(), step);
            directory.set_rebuild(*steps.get(at + 1).unwrap_or(&None)).unwrap();
        }
    }
}
