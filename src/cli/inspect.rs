//! `mako inspect`: what the bytes of a log or a checkpoint say, and where they first stop making sense.
//!
//! Reads only, and takes no lock: of a running node it may see a tail that is still being written. What is
//! damage and what a torn tail is `wal`'s to say.
#![forbid(unsafe_code)]

use std::fmt::Display;
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, ValueEnum};

use crate::bounds::{CHECKPOINT_CHUNK_BYTES, WAL_BLOCK_BYTES, WAL_SEGMENT_BYTES};
use crate::cli::{FAILED, complain};
use crate::disk::{VOTES_NAME, inspect_votes, is_checkpoint, number_of};
use crate::wal::checkpoint::{CheckpointHeader, CheckpointReader, CheckpointSummary, Piece};
use crate::wal::{Damage, RecordKind, RecordView, Replay, Replayed, RunView, SegmentHeader};

/// What the bytes of a log or a checkpoint say.
///
/// Prints them as text, and reports the first damage with its offset; exits 1 when there is any.
#[derive(Args, Clone, PartialEq, Eq, Debug)]
#[command(
    after_help = "Example:\n  mako inspect wal data/n1/core-0\n  mako inspect checkpoint data/n1/core-0/00003.checkpoint"
)]
pub struct InspectArgs {
    /// What PATH holds.
    #[arg(value_name = "wal|checkpoint")]
    pub what: Inspected,
    /// A segment, a checkpoint, or the directory of a core.
    #[arg(value_name = "PATH")]
    pub path: PathBuf,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Inspected {
    Wal,
    Checkpoint,
}

/// Why an inspection ended before its end.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("it cannot be read ({}): {source}; name a file or directory that can", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("there is nothing to inspect ({}): {missing}; name another path", path.display())]
    Nothing { path: PathBuf, missing: &'static str },
    #[error("damaged ({}, offset {offset}): {why}; rebuild this replica from its peers", path.display())]
    Damaged { path: PathBuf, offset: u64, why: String },
    /// Whoever has closed standard output does not want to read on.
    #[error("the output cannot be written (standard output): {0}; redirect it elsewhere")]
    Output(#[from] io::Error),
}

pub(super) fn run(args: &InspectArgs) -> ExitCode {
    let mut out = BufWriter::new(io::stdout().lock());
    let inspected = match args.what {
        Inspected::Wal => inspect_wal(&args.path, &mut out),
        Inspected::Checkpoint => inspect_checkpoints(&args.path, &mut out),
    };
    match inspected.and_then(|()| Ok(out.flush()?)) {
        Err(Refused::Output(closed)) if closed.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(refused) => {
            // What was read before comes first, whether or not anybody reads it.
            drop(out.flush());
            complain(&refused, FAILED)
        }
        Ok(()) => ExitCode::SUCCESS,
    }
}

fn inspect_wal(path: &Path, out: &mut impl Write) -> Result<(), Refused> {
    let segments = if path.is_dir() {
        numbered(path)?
    } else {
        // Whatever its name, its header tells the number.
        vec![(read_head(path)?.number, path.to_owned())]
    };
    if segments.is_empty() {
        return Err(Refused::Nothing { path: path.to_owned(), missing: "it holds no segment" });
    }
    let SegmentHeader { identity, segment_bytes, .. } = read_head(&segments[0].1)?;
    let bytes_max = usize::try_from(segment_bytes).unwrap_or(usize::MAX);
    if bytes_max > SEGMENT_BYTES_MAX {
        let why = format!("it calls itself {segment_bytes} B long");
        return Err(Refused::Damaged { path: segments[0].1.clone(), offset: 0, why });
    }
    let (node, core) = (identity.node.0, identity.core.0);
    writeln!(out, "log of node {node}, core {core}, cluster {:016x}", identity.cluster)?;
    if path.is_dir() {
        inspect_votes_of(path, out)?;
    }
    let mut replay = Replay::new(identity, bytes_max);
    for (number, path) in &segments {
        replay.on_head(*number, &read(path, Replay::HEAD_BYTES)?);
    }
    let path_of = |segment: u64| {
        let found = segments.iter().find(|(number, _)| *number == segment);
        found.map_or_else(|| path.to_owned(), |(_, path)| path.clone())
    };
    for (number, path) in &segments {
        writeln!(out, "segment {number}: {}", path.display())?;
        let bytes = read(path, bytes_max + 1)?;
        let mut written = Ok(());
        let replayed = replay.on_segment_runs(*number, &bytes, &mut |piece| {
            if written.is_ok() {
                written = match piece {
                    Replayed::Run(run) => print_run(out, &run, segment_bytes),
                    Replayed::Record(view) => print_record(out, &view, segment_bytes),
                };
            }
        });
        written?;
        replayed.map_err(|Damage { segment, offset, why }| Refused::Damaged {
            path: path_of(segment),
            offset,
            why: why.to_string(),
        })?;
    }
    let end = replay.finish();
    if let Some(Damage { segment, offset, why }) = end.torn {
        writeln!(out, "{}: {}, offset {offset}: {why}", why.as_tail(), path_of(segment).display())?;
    }
    writeln!(out, "end: lsn {}; no damage", end.end.0)?;
    Ok(())
}

fn print_run(out: &mut impl Write, run: &RunView, segment_bytes: u64) -> io::Result<()> {
    let RunView { position, bytes, records, settled, .. } = run;
    let offset = position.0 % segment_bytes;
    writeln!(out, "  run at {offset}: {records} records, {bytes} B, settled lsn {}", settled.0)
}

fn print_record(out: &mut impl Write, view: &RecordView<'_>, segment_bytes: u64) -> io::Result<()> {
    let RecordView { lsn, record } = view;
    let kind = match record.kind {
        RecordKind::Vote => "vote",
        RecordKind::Accept => "accept",
        RecordKind::Chosen => "chosen",
        RecordKind::Peer => "peer",
    };
    let (partition, slot, bytes) = (record.partition.0, record.slot.0, record.payload.len());
    let end = lsn.0 % segment_bytes;
    writeln!(
        out,
        "    to {end}: {kind} partition {partition} ballot {:?} slot {slot}, {bytes} B",
        record.ballot
    )
}

fn inspect_votes_of(directory: &Path, out: &mut impl Write) -> Result<(), Refused> {
    let path = directory.join(VOTES_NAME);
    let bytes = read(&path, WAL_SEGMENT_BYTES)?;
    let copies = inspect_votes(&bytes);
    for (number, copy) in copies.iter().enumerate() {
        match copy {
            Ok((_, generation, _)) => writeln!(out, "votes, copy {number}: generation {generation}")?,
            Err(why) => writeln!(out, "votes, copy {number}: {why}")?,
        }
    }
    let newest = copies.iter().flatten().max_by_key(|(_, generation, _)| *generation);
    let Some((_, _, votes)) = newest else {
        let why = "both copies of the votes are corrupt".to_owned();
        return Err(Refused::Damaged { path, offset: 0, why });
    };
    for (partition, ballot) in votes.iter() {
        writeln!(out, "  partition {} has promised ballot {ballot:?}", partition.0)?;
    }
    Ok(())
}

fn inspect_checkpoints(path: &Path, out: &mut impl Write) -> Result<(), Refused> {
    if !path.is_dir() {
        return inspect_checkpoint(path, out);
    }
    let names: Vec<PathBuf> =
        names_in(path)?.into_iter().filter(|name| is_checkpoint(name)).map(|name| path.join(name)).collect();
    if names.is_empty() {
        return Err(Refused::Nothing { path: path.to_owned(), missing: "it holds no checkpoint" });
    }
    names.iter().try_for_each(|path| inspect_checkpoint(path, out))
}

fn inspect_checkpoint(path: &Path, out: &mut impl Write) -> Result<(), Refused> {
    let mut file = File::open(path).map_err(|source| unreadable(path, source))?;
    let mut reader = CheckpointReader::of_anyone();
    let mut bytes = vec![0; CHECKPOINT_CHUNK_BYTES];
    let mut printed = Ok(());
    let damaged = |offset: u64, why: &dyn Display| Refused::Damaged {
        path: path.to_owned(),
        offset,
        why: why.to_string(),
    };
    loop {
        let read = file.read(&mut bytes).map_err(|source| unreadable(path, source))?;
        if read == 0 {
            break;
        }
        let fed = reader.feed(&bytes[..read], &mut |piece| {
            if let Piece::Header(header) = piece {
                printed = print_header(out, path, header);
            }
        });
        fed.map_err(|damage| damaged(damage.offset, &damage.why))?;
    }
    printed?;
    let summary = reader.finish().map_err(|damage| damaged(damage.offset, &damage.why))?;
    let CheckpointSummary { chunks, rows, tombstones, bytes } = summary;
    writeln!(out, "  {rows} rows, {tombstones} of them deletes, in {chunks} chunks, {bytes} B; no damage")?;
    Ok(())
}

fn print_header(out: &mut impl Write, path: &Path, header: &CheckpointHeader) -> io::Result<()> {
    let CheckpointHeader { cluster, partition, slot, applied, closed, extra } = header;
    writeln!(out, "checkpoint: {}", path.display())?;
    writeln!(out, "  partition {}, cluster {cluster:016x}", partition.0)?;
    let (epoch, promise) = (applied.epoch, applied.timestamp.0);
    writeln!(out, "  replay from slot {}; epoch {epoch:?}, promise {promise}", slot.0)?;
    for (stamp, last) in closed {
        let (shard, epoch) = (stamp.shard.0, stamp.epoch);
        writeln!(out, "  shard {shard}, epoch {epoch:?} closed at {}", last.0)?;
    }
    writeln!(out, "  {} closed epochs, {} B of extra", closed.len(), extra.len())
}

/// The segments of a directory, by number.
fn numbered(directory: &Path) -> Result<Vec<(u64, PathBuf)>, Refused> {
    let names = names_in(directory)?;
    let numbered = |name: &String| Some((number_of(name)?, directory.join(name)));
    let mut segments: Vec<_> = names.iter().filter_map(numbered).collect();
    segments.sort_unstable();
    // `1.wal` beside `0001.wal` is nothing a node makes.
    segments.dedup_by_key(|(number, _)| *number);
    Ok(segments)
}

/// What is in a directory, in the order of names.
fn names_in(directory: &Path) -> Result<Vec<String>, Refused> {
    let list =
        || fs::read_dir(directory)?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>();
    let names = list().map_err(|source| unreadable(directory, source))?;
    let mut names: Vec<String> = names.into_iter().filter_map(|name| name.into_string().ok()).collect();
    names.sort_unstable();
    Ok(names)
}

fn read_head(path: &Path) -> Result<SegmentHeader, Refused> {
    let head = read(path, WAL_BLOCK_BYTES)?;
    SegmentHeader::decode(&head).map_err(|why| Refused::Damaged {
        path: path.to_owned(),
        offset: 0,
        why: why.to_string(),
    })
}

/// The beginning of a file, or all of it.
fn read(path: &Path, bytes_max: usize) -> Result<Vec<u8>, Refused> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|source| unreadable(path, source))?;
    file.take(bytes_max as u64).read_to_end(&mut bytes).map_err(|source| unreadable(path, source))?;
    Ok(bytes)
}

fn unreadable(path: &Path, source: io::Error) -> Refused {
    Refused::Unreadable { path: path.to_owned(), source }
}

/// Longer than any segment we make; a header that claims more is not believed.
const SEGMENT_BYTES_MAX: usize = 16 * WAL_SEGMENT_BYTES;

#[cfg(test)]
mod tests;
