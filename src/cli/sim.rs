//! The flags of `mako sim`: which seeds, how large a cluster, which faults.
#![forbid(unsafe_code)]

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;

use crate::config::Refusal;
use crate::sim::Faults;

/// Deterministic simulation of a whole cluster in one thread.
///
/// Prints one line for each failing seed, with the command that replays it, and `N seeds, N failed`;
/// exits 1 when any failed. How far it is it says on standard error.
#[derive(Args, Clone, PartialEq, Eq, Debug)]
#[command(
    after_help = "Example:\n  mako sim --seeds 0..500 --faults all\n  mako sim --seed 17 --faults loss,ghost"
)]
pub struct SimArgs {
    /// One seed: replays one run exactly.
    #[arg(long, value_name = "N", conflicts_with = "seeds")]
    seed: Option<u64>,
    /// Seeds A up to B, B itself left out.
    #[arg(long, value_name = "A..B", default_value_t = Seeds { first: 0, end: 100 })]
    seeds: Seeds,
    /// Shards of the simulated cluster.
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub shards: usize,
    /// Replicas of each shard: 1, 3, 5 or 7.
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub replicas: usize,
    /// Partitions of each shard.
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub partitions: usize,
    /// Transactions in each run.
    #[arg(long, value_name = "N", default_value_t = 2_000)]
    pub ops: usize,
    /// all, none, or a list such as loss,ghost; the names are loss, delay, duplicate, reorder, partition,
    /// skew, disk, slow, isolate, stall, crash, power, eio, full, rot, ghost, misdirect, lost, jump, core, replay,
    /// flap, wipe and handover.
    #[arg(long, value_name = "LIST", default_value_t = Faults::ALL)]
    pub faults: Faults,
    /// Also write the result here.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

impl SimArgs {
    pub fn seeds(&self) -> impl Iterator<Item = u64> + use<> {
        let Range { start, end } = self.seeds.first..self.seeds.end;
        let one = self.seed;
        one.into_iter().chain((start..end).filter(move |_| one.is_none()))
    }
}

/// `A..B`: not empty.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seeds {
    pub first: u64,
    pub end: u64,
}

impl FromStr for Seeds {
    type Err = Refusal;

    fn from_str(text: &str) -> Result<Seeds, Refusal> {
        let ends = text.split_once("..").and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
        match ends {
            Some((first, end)) if first < end => Ok(Seeds { first, end }),
            _ => Err(Refusal::new("seeds are A..B with A below B", "write them like 0..500")),
        }
    }
}

impl fmt::Display for Seeds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.first, self.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use crate::sim::FAULTS;
    use clap::{CommandFactory, Parser};

    fn sim(words: &str) -> SimArgs {
        let cli = Cli::try_parse_from(words.split_whitespace()).unwrap_or_else(|error| panic!("{error}"));
        let Command::Sim(args) = cli.command else { panic!("{cli:?}") };
        args
    }

    #[test]
    fn one_seed_replaces_the_range_and_the_range_leaves_out_its_end() {
        assert!(sim("mako sim --seed 18446744073709551615").seeds().eq([u64::MAX]));
        assert!(sim("mako sim --seeds 3..6").seeds().eq([3, 4, 5]));
        assert_eq!(sim("mako sim").seeds().count(), 100);
    }

    #[test]
    fn seeds_that_hold_none_are_refused() {
        for text in ["", "5", "3..3", "4..3", "..", "1..", "-1..2", "1...2", "1..=2"] {
            assert!(text.parse::<Seeds>().is_err(), "{text}");
        }
    }

    /// A misspelt fault that is passed over silently is a simulation that proves nothing.
    #[test]
    fn faults_are_read_as_they_are_written_and_nothing_else_is() {
        for text in ["all", "none", "loss", "loss,ghost", "reorder,partition,disk"] {
            assert_eq!(text.parse::<Faults>().map(|faults| faults.to_string()), Ok(text.to_string()));
        }
        for text in ["", "loss,", "rain", "loss,all", "Loss", "loss ghost"] {
            assert!(text.parse::<Faults>().is_err(), "{text}");
        }
        assert!(
            FAULTS.iter().all(|(_, fault)| Faults::ALL.contains(*fault) && !Faults::NONE.contains(*fault))
        );
    }

    #[test]
    fn help_names_every_fault() {
        let mut command = Cli::command();
        let help = command.find_subcommand_mut("sim").map(|sim| sim.render_long_help().to_string()).unwrap();
        assert!(FAULTS.iter().all(|(name, _)| help.contains(name)), "{help}");
    }
}
